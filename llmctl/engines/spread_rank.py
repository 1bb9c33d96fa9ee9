"""Another host's part of a model as the first host sees it: a process there, at the other end of an ssh connection.

Lines of JSON go both ways. The connection is the lifeline of both: the rank ends when its stdin does or is silent, and
what ends the rank, or silences it, ends the model here.

    → {"t": "spec", "spec", "rank", "of"} · {"t": "join", "places"} · {"t": "call", "n", "name", "args", "is"} · beat
    ← {"t": "here", "place"} · {"t": "ready"} · {"t": "raised", "n", "error"} · {"t": "failed", "error"} · beat
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from llmctl.errors import LlmctlError, Unreachable, from_dict
from llmctl.spread import Member, refusal, unreached

BEAT = 1.0
SILENCE = 10.0
"""Seconds without a line after which the other end counts as gone; it says something every BEAT."""
LOADING = 60.0
"""The same while it starts and loads: a library that is being imported lets nothing else run."""
WORDS = 5

OnEnd = Callable[["Rank", LlmctlError], None]


class Rank:
    """One of the other hosts. `told` is called with each of its answers, `ended` once, by the threads that listen."""

    def __init__(
        self, member: Member, first: str, words: Sequence[str], told: Callable[[Rank, Mapping[str, Any]], None],
        ended: OnEnd,
    ) -> None:  # fmt: skip
        self.member = member
        self._first, self._told, self._ended = first, told, ended
        self._said: deque[str] = deque(maxlen=WORDS)
        self._writing, self._closing, self._over = threading.Lock(), False, threading.Event()
        self._heard, self._patience = time.monotonic(), LOADING
        self._process = subprocess.Popen(
            member.argv(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        self._listeners = [threading.Thread(target=each, daemon=True) for each in self._tasks()]
        for thread in self._listeners:
            thread.start()

    def send(self, head: Mapping[str, Any]) -> None:
        """One line; a rank that is gone takes none, and says so by its end."""
        pipe = self._process.stdin
        assert pipe
        with self._writing, suppress(BrokenPipeError, ValueError):
            pipe.write(json.dumps(head, separators=(",", ":")) + "\n")
            pipe.flush()

    def close(self, within: float) -> None:
        """Let it end: its stdin closes."""
        self._closing = True
        assert self._process.stdin
        try:
            if not self._writing.acquire(timeout=within):  # nobody reads there
                raise subprocess.TimeoutExpired("ssh", within)
            with suppress(OSError):
                self._process.stdin.close()
            self._writing.release()
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._over.set()
        for thread, pipe in zip(self._listeners, (self._process.stdout, self._process.stderr), strict=False):
            thread.join()
            assert pipe
            pipe.close()

    def _tasks(self) -> Sequence[Callable[[], None]]:
        return self._listen, self._overhear, self._beat, self._watch

    # ── threads ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        """Its answers, until it ends."""
        assert self._process.stdout
        for line in self._process.stdout:
            self._heard = time.monotonic()
            try:
                head = json.loads(line)
            except ValueError:
                head = None
            if not isinstance(head, dict):
                continue  # a login shell may say something first
            if "llmctl" in head:  # an envelope: the program there refused
                self._end(refusal(self.member, head))
            elif head.get("t") == "failed":
                error = from_dict(head["error"])
                error.host = self.member.host
                self._end(error)
            elif head.get("t") != "beat":
                if head.get("t") == "ready":
                    self._patience = SILENCE
                self._told(self, head)
        self._listeners[1].join(2.0)  # what it wrote last says why
        self._end(None)

    def _overhear(self) -> None:
        """What it and ssh write to stderr goes into the slot's log."""
        assert self._process.stderr
        for line in self._process.stderr:
            self._said.append(line.rstrip())
            print(f"{self.member.host}: {line}", end="", file=sys.stderr, flush=True)

    def _beat(self) -> None:
        """Say that we are here; this may wait for ever where nobody reads."""
        while not self._over.wait(BEAT):
            self.send({"t": "beat"})

    def _watch(self) -> None:
        """Notice when it is not."""
        while not self._over.wait(BEAT):
            if time.monotonic() - self._heard > self._patience:
                self._end(Unreachable(f"nothing was heard for {self._patience:.0f} s", host=self.member.host))

    def _end(self, error: LlmctlError | None) -> None:
        """It is over; the first that knows why says so."""
        if self._closing or self._over.is_set():
            return
        self._over.set()
        if error is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            error = unreached(self.member, self._first, list(self._said), self._process.returncode)
        self._ended(self, error)
