"""A host's share of a model whose slot is on another host: does on its part what comes by stdin.

    python -m llmctl.runner.rank

Lines of JSON, as in `engines.spread_rank`. The process ends when its stdin does, or when nothing came for too long.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from llmctl import spread as members
from llmctl.domain import EngineSpec, StepEngine, build
from llmctl.engines import spread
from llmctl.engines.jobs import as_error
from llmctl.engines.spread_calls import COMPUTE, perform
from llmctl.engines.spread_place import Held
from llmctl.engines.spread_rank import BEAT, LOADING, SILENCE
from llmctl.errors import LlmctlError, LoadFailed

Say = Callable[[Mapping[str, Any]], None]


class Line:
    """The connection with the first host. Nothing but `say` writes to it: what a library prints goes to stderr."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._saying = threading.Lock()
        self._heard, self.patience = time.monotonic(), LOADING
        self.heads: SimpleQueue[dict[str, Any]] = SimpleQueue()
        for task in (self._read, self._beat, self._watch):
            threading.Thread(target=task, daemon=True).start()

    def say(self, head: Mapping[str, Any]) -> None:
        data = json.dumps(head, separators=(",", ":")).encode() + b"\n"
        with self._saying:
            while data:
                data = data[os.write(self._out, data) :]

    def _read(self) -> None:
        """The end of stdin is the end of the process."""
        try:
            for line in sys.stdin:
                self._heard = time.monotonic()
                head = json.loads(line)
                if head["t"] != "beat":
                    self.heads.put(head)
        finally:
            os._exit(0)

    def _beat(self) -> None:
        while True:
            self.say({"t": "beat"})
            time.sleep(BEAT)

    def _watch(self) -> None:
        while time.monotonic() - self._heard < self.patience:
            time.sleep(BEAT)
        print(f"nothing came from the first host for {self.patience:.0f} s", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> int:
    line = Line()
    try:
        steps = load(line)
    except LlmctlError as error:
        line.say({"t": "failed", "error": error.to_dict()})
        return 1
    except Exception as error:
        traceback.print_exc()
        line.say({"t": "failed", "error": LoadFailed(f"{type(error).__name__}: {error}").to_dict()})
        return 1
    line.patience = SILENCE
    line.say({"t": "ready"})
    while True:
        problem = obey(steps, line.heads.get())
        if problem is not None:
            line.say(problem)


def load(line: Line) -> StepEngine:
    """This host's share, as the first lines say."""
    head = line.heads.get()
    spec, rank = build(EngineSpec, head["spec"]), int(head["rank"])
    spread.check(spec)
    held = Held(members.of(spec.spread)[rank].address)
    line.say({"t": "here", "place": held.place})
    places = [(str(address), int(port)) for address, port in line.heads.get()["places"]]
    return spread.load_share(spec, rank, places, held, lambda stage, done, total: None)


def obey(steps: StepEngine, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """Make one call; what to answer when it did not go as on the first host, or may not have."""
    name = str(head["name"])
    try:
        result = perform(steps, name, head["args"])
        if name not in COMPUTE and result != head["is"]:
            raise LlmctlError(f"out of step: {name} gave {result}, and {head['is']} on the first host")
    except Exception as error:
        return {"t": "raised", "n": head["n"], "error": as_error(error).to_dict()}
    return None


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
