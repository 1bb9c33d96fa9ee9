"""The verdicts over answers, with answers made up: what our own slot server would never send."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmctl.checks import compare, memory, slot_checks
from llmctl.checks.slot_checks import FAIL, PASS, SKIP, Subject, Verdict
from llmctl.checks.slot_http import Said, SlotHttp, Token
from llmctl.domain import EngineSpec, Probe, SlotSpec
from llmctl.slots.verbs import SlotStatus

PIECES = ("The ", "sea ", "is ", "wide ", "and ", "deep ", "and ", "blue.")
SPEC = SlotSpec(EngineSpec("torch", "alpha", "/none", "safetensors", context=100))


def said(pieces: Sequence[str] = PIECES, gap: float = 9.0, **more: Any) -> Said:
    tokens = tuple(Token(piece, -0.5, gap) for piece in pieces)
    return replace(Said("alpha", "".join(pieces), "stop", 0.1, len(pieces), tokens), **more)


class Made(SlotHttp):
    """A slot that says what it is told to."""

    def __init__(self, whole: Said, streamed: Said, models: Sequence[str] = ("alpha",)) -> None:
        super().__init__("127.0.0.1", 1, None, 1.0)
        self.answers, self.known = (whole, streamed), list(models)

    def models(self) -> list[str]:
        return self.known

    def modalities(self) -> Mapping[str, Sequence[str]]:
        return {"input": ["text"], "output": ["text"]}

    def whole(self, prompt: str, max_tokens: int, **fields: Any) -> Said:
        return self.answers[0]

    def streamed(self, prompt: str, max_tokens: int, **fields: Any) -> Said:
        return self.answers[1]


def subject(whole: Said, streamed: Said | None = None, pid: int | None = None, **more: Any) -> Subject:
    row = SlotStatus("here", 1, pid=os.getpid() if pid is None else pid or None)
    return Subject(SPEC, "cpu", Made(whole, streamed or whole, **more), lambda: row, [said()])


def test_identity_is_of_the_models_of_the_answer_and_of_the_process() -> None:
    assert slot_checks.identity(subject(said())) == Verdict(PASS, "alpha")
    other = slot_checks.identity(subject(said(model="beta")))
    assert other == Verdict(FAIL, "alpha is desired, beta answered")
    assert slot_checks.identity(subject(said(), models=())).status == FAIL
    assert slot_checks.identity(subject(said(), pid=0)) == Verdict(FAIL, "it has no living engine process")
    assert slot_checks.identity(subject(said(), pid=2**22 + 1)).status == FAIL


def test_a_stream_that_ends_for_another_reason_is_found() -> None:
    assert slot_checks.stream(subject(said())).status == PASS
    found = slot_checks.stream(subject(said(), said(finish="length")))
    assert found == Verdict(FAIL, "the stream ended by 'length', the whole answer by 'stop'")


def test_a_stop_that_is_not_the_reason_is_found() -> None:
    string = compare.stop_string(said().text)
    assert string
    until = said().text[: said().text.find(string)]
    assert slot_checks.stop(subject(said(text=until))).status == PASS
    found = slot_checks.stop(subject(said(text=until, finish="length")))
    assert found.status == FAIL and "gives 'length' as the reason" in found.why
    assert slot_checks.stop(subject(said(text=until[:-1]))).status == FAIL


def test_another_token_is_allowed_only_where_the_call_was_close() -> None:
    other = "The sea is wide and blue."
    assert compare.difference(said(), said().text) is None
    assert "instead of" in (compare.difference(said(gap=compare.CLOSE * 2), other) or "")
    assert compare.difference(said(gap=compare.CLOSE / 2), other) is None
    close = tuple(Token(piece, -0.5, 0.01 if i == 5 else 9.0) for i, piece in enumerate(PIECES))
    assert compare.difference(said(tokens=close), other) is None
    elsewhere = tuple(Token(piece, -0.5, 0.01 if i == 4 else 9.0) for i, piece in enumerate(PIECES))
    assert compare.difference(said(tokens=elsewhere), other)
    assert compare.difference(said(), said().text + " And cold.")


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (said(), said(), None),
        (said(), said(["Other"]), "two greedy generations differ"),
        (said(["a"] * 9), said(["a"] * 9), "token 0 is 9 of 9"),
        (said(["a", "b"]), said(["a", "b"]), "only 2 tokens"),
        (said(tokens=(Token("a", float("nan"), 1.0),)), said(), "not finite"),
        (said(["\ufffd"] * 9, text="日本語"), said(["\ufffd"] * 9, text="日本語"), None),
    ],
)
def test_what_is_sane(first: Said, second: Said, why: str | None) -> None:
    found = compare.insane(Probe("?"), first, second)
    assert found is None if why is None else why in (found or "")


def test_a_right_answer_may_be_short() -> None:
    short = said(["Paris"])
    assert compare.insane(Probe("capital of France?", "paris"), short, short) is None
    assert compare.insane(Probe("capital of France?", "rome"), short, short)


@pytest.mark.parametrize("text", ["", "a", "abc", "aaaaaaaa"])
def test_an_answer_too_short_or_too_plain_is_not_stopped(text: str) -> None:
    assert compare.stop_string(text) is None
    skipped = Subject(SPEC, "cpu", Made(said(), said()), lambda: SlotStatus("here", 1), [said(text=text)])
    assert slot_checks.stop(skipped).status == SKIP


def test_memory_is_compared_with_what_is_held_from_the_start() -> None:
    grows = memory.Expected(most=1_000_000_000, least=600_000_000)
    assert memory.fault(grows, 1_140_000_000) is None and memory.fault(grows, 520_000_000) is None
    assert "+16%" in (memory.fault(grows, 1_160_000_000) or "")
    assert "at least 0.60 GB" in (memory.fault(grows, 500_000_000) or "")
    with pytest.raises(memory.NotMeant, match="cuda"):
        memory.expected(SPEC, "cuda")
