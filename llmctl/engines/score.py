"""Scores a token set: python -m llmctl.engines.score TASK.json OUT, a process of its own with one model.

OUT/logits.f32 gets the logits at each scored position (little-endian float32, [positions, vocab]), OUT/score.json the
token set and what was loaded. stdout gets one JSON object a line: {"stage", "done", "total"} while it goes on, and
{"error"} (`LlmctlError.to_dict()`) when it fails. The process ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice, zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TextIO, cast

from llmctl.decoding.families import Speech
from llmctl.domain import EngineSpec, StepEngine, Tokenizer, build
from llmctl.engines import adapter, llamacpp
from llmctl.engines.jobs import as_error
from llmctl.engines.tokenizer import load_tokenizer
from llmctl.errors import LlmctlError, Unsupported

CHUNK = 64  # positions whose logits are in memory at once
SHORTEST = 16  # tokens; the rest of a passage that is shorter is left out


class NoTokenizer(Unsupported):
    """The checkpoint's tokenizer cannot be read, so that it can only score ids of another's."""

    code = "no_tokenizer"


class Scorer(StepEngine, Protocol):
    """An engine that gives the logits of every position."""

    def prefill_all(self, seq: int, tokens: Sequence[int]) -> Any:
        """Append prompt tokens; the logits after each of them, a float32 numpy array of shape [tokens, vocab]."""


class Tokenless:
    """Stands for a tokenizer that cannot be read, where ids are given."""

    eos_ids: frozenset[int] = frozenset()
    vocab = 0
    chats = False
    specials: Mapping[int, str] = MappingProxyType({})
    speech: Any = Speech()
    fim: tuple[int, int, int] | None = None

    def encode(self, text: str, *, special: bool = False, bos: bool = True) -> list[int]:
        raise NoTokenizer("this checkpoint has no tokenizer")

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def token_bytes(self, id: int) -> bytes:
        return b""

    def chat(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> list[int]:
        raise NoTokenizer("this checkpoint has no tokenizer")


Told = Callable[[str, int, int], None]


def score(task: Mapping[str, Any], out: Path, tell: Told) -> None:
    """Do one task: `spec`, `skip`, and either `windows` (lists of ids) or `passages`, `chats`, `count` and `length`."""
    spec = build(EngineSpec, task["spec"])
    started = time.monotonic()
    engine = load(spec, tell, ids_given=task.get("windows") is not None)
    windows = task.get("windows") or cut(task, engine)
    longest = max(map(len, windows), default=0)
    if longest > engine.identity.context:
        raise Unsupported(
            f"{spec.model}: windows of {longest} tokens do not fit {engine.identity.engine}'s context for it of "
            f"{engine.identity.context}"
        )
    vocab, rows = 0, 0
    with open(out / "logits.f32", "wb") as file:
        for number, window in enumerate(windows):
            tell("score", number, len(windows))
            for logits in positions(engine, window[:-1], task["skip"]):
                file.write(logits.astype("<f4", copy=False).tobytes())
                vocab, rows = logits.shape[1], rows + len(logits)
    tell("score", len(windows), len(windows))
    used = sorted({id for window in windows for id in window})
    tokenizer = engine.tokenizer
    result = {
        "windows": windows,
        "vocab": vocab,
        "rows": rows,
        "tokenizer_vocab": tokenizer.vocab,
        "pieces": {id: tokenizer.token_bytes(id).hex() for id in used},
        "identity": asdict(engine.identity),
        "seconds": time.monotonic() - started,
    }
    (out / "score.json").write_text(json.dumps(result))


def load(spec: EngineSpec, tell: Told, *, ids_given: bool) -> Scorer:
    """The engine of `spec`; with `ids_given` a tokenizer that cannot be read does not matter."""
    if spec.engine == "llamacpp":
        llamacpp.check(spec)
        return llamacpp.load_steps(spec, tell)
    tokenizer: Tokenizer
    try:
        tokenizer = load_tokenizer(spec.path, allow_code=spec.allow_code)
    except Unsupported as error:
        if not ids_given:
            raise NoTokenizer(error.message) from error
        tokenizer = Tokenless()
    module: Any = adapter(spec.engine)
    module.check(spec)
    return cast(Scorer, module.load_steps(spec, tell, tokenizer))


def cut(task: Mapping[str, Any], engine: Scorer) -> list[list[int]]:
    """The first `count` windows of `length` ids: a first one of every chat and passage, then a second of each.

    Every window of a passage begins as a prompt does (BOS, where the model wants one).
    """
    tokenizer, length = engine.tokenizer, task["length"]
    bos = tokenizer.encode("", bos=True)
    texts = [pieces(chat_ids(chat, tokenizer), length) for chat in task["chats"]]
    for passage in task["passages"]:
        texts.append([bos + piece for piece in pieces(tokenizer.encode(passage, bos=False), length - len(bos))])
    turns = zip_longest(*texts)
    return list(islice((window for turn in turns for window in turn if window), task["count"]))


def chat_ids(said: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """What user and assistant say in turn, in the model's own template, or as lines where there is none."""
    if not tokenizer.chats:
        return tokenizer.encode("\n".join(said))
    roles = ("user", "assistant")
    return tokenizer.chat([{"role": roles[turn % 2], "content": text} for turn, text in enumerate(said)])


def pieces(ids: list[int], length: int) -> list[list[int]]:
    """`ids` in pieces of `length`; a last one shorter than SHORTEST is left out."""
    found = [ids[at : at + length] for at in range(0, len(ids), length)]
    return [piece for piece in found if len(piece) >= min(SHORTEST, length)]


def positions(engine: Scorer, tokens: Sequence[int], skip: int) -> Iterator[Any]:
    """The logits after each token but the first `skip`, in chunks, teacher-forced by the serving forward pass."""
    seq = engine.open()
    for at in range(0, len(tokens), CHUNK):
        logits = engine.prefill_all(seq, tokens[at : at + CHUNK])
        if len(kept := logits[max(0, skip - at) :]):
            yield kept
    engine.free(seq)


def main(argv: list[str]) -> int:
    threading.Thread(target=end_with_stdin, name="lifeline", daemon=True).start()
    stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    tell = teller(stdout)
    try:
        score(json.loads(Path(argv[0]).read_text()), Path(argv[1]), tell)
    except Exception as error:
        if not isinstance(error, LlmctlError):
            traceback.print_exc()
        print(json.dumps({"error": as_error(error).to_dict()}), file=stdout)
        return 1
    return 0


def teller(stdout: TextIO) -> Told:
    """Writes progress, a new stage or a tenth of a second at a time."""
    last = ("", 0.0)

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] >= 0.1:
            last = (stage, now)
            print(json.dumps({"stage": stage, "done": done, "total": total}), file=stdout)

    return tell


def end_with_stdin() -> None:
    """The parent holds the other end: when it is gone, however it went, so is this process."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # the libraries' own teardown takes up to a second, and there is nothing left to save
