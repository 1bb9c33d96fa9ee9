"""scripts/fuzz for a moment on each target, and that its checks notice what they are for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.decoding import calls
from llmctl.decoding.detokenize import Detokenizer
from llmctl.decoding.pieces import Call
from llmctl.decoding.stops import StopMatcher
from llmctl.engines import pictures
from llmctl.runner.media import gather, picture
from scripts.fuzzing.main import NO_ENVIRONMENT
from scripts.fuzzing.targets import TARGETS
from tests.runner.pictures import drawn

HERMES = b'well, <tool_call>{"name": "f"}</tool_call> then'
SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz"


def test_a_moment_of_fuzzing_breaks_nothing() -> None:
    ran = subprocess.run(
        [SCRIPT, "--seconds", "2", *TARGETS, "http-scripted"], capture_output=True, text=True, timeout=300
    )
    if ran.returncode == NO_ENVIRONMENT:
        pytest.skip(ran.stderr.strip().splitlines()[0])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert all(f"{name}: Done " in ran.stdout for name in TARGETS) and "nothing broke" in ran.stdout


class Data:
    """Of Atheris' FuzzedDataProvider what the targets use, answering from lists."""

    def __init__(self, *numbers: int, texts: tuple[str, ...] = (), data: bytes = b"") -> None:
        self.numbers, self.texts, self.data = list(numbers), list(texts), data

    def ConsumeIntInRange(self, low: int, high: int) -> int:
        return self.numbers.pop(0)

    def ConsumeBool(self) -> bool:
        return bool(self.numbers.pop(0))

    def ConsumeUnicodeNoSurrogates(self, size: int) -> str:
        return self.texts.pop(0)

    def ConsumeBytes(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def remaining_bytes(self) -> int:
        return len(self.data)


@pytest.mark.parametrize(
    ("target", "make", "broken", "name", "instead"),
    [
        ("stops", lambda: Data(1, 2, texts=("ab", "xy", "za")), StopMatcher, "flush", lambda self: ""),
        ("stops", lambda: Data(1, 2, texts=("ab", "xa", "b")), StopMatcher, "push", lambda self, text: text),
        ("detokenizer", lambda: Data(0, 2, 1, 1, data="é".encode()), Detokenizer, "push", lambda self, i: "?"),
        ("calls", lambda: Data(0, 0, 0, *[5] * 8, data=HERMES), calls, "begun", lambda text, marker: 0),
        ("calls", lambda: Data(0, 0, 0, *[5] * 8, data=HERMES), calls, "calls_in", lambda *args: [Call("f", "[]")]),
        ("images", lambda: Data(data=drawn(size=(1001, 1000))), picture, "check", lambda *args: None),
        ("images", lambda: Data(data=drawn(mode="L")), pictures, "_rgb", lambda image: image),
        ("sources", lambda: Data(1, data=b"AAAA"), gather, "decode", lambda at, text: b""),
    ],
)
def test_a_target_notices_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch, target: str, make: Callable[[], Any], broken: Any, name: str, instead: Any
) -> None:
    TARGETS[target].prepare()(make())
    monkeypatch.setattr(broken, name, instead)
    with pytest.raises(AssertionError):
        TARGETS[target].prepare()(make())
