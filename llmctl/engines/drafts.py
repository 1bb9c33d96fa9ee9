"""Speculative decoding (2211.17192): who proposes tokens, and how many of them for whom.

The model computes all proposed tokens in one pass and chooses at each as it would without them, so the text is the
same, with any sampling; only the number of passes differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from llmctl.domain import NGRAM, EngineSpec, StepEngine
from llmctl.engines.jobs import Job, Running
from llmctl.engines.pace import Pace
from llmctl.errors import Unsupported

SEQUENCES = 4
"""With more running at once nothing is proposed: a pass is then bound by arithmetic, and wrong tokens cost as much as
right ones."""
FIRST, MOST = 4, 16
LONGEST_GRAM, SHORTEST_GRAM = 4, 2


class Drafter(Protocol):
    """Proposes how texts go on."""

    def propose(self, texts: Mapping[int, Sequence[int]], most: Mapping[int, int]) -> dict[int, list[int]]:
        """For each handle at most that many tokens behind its text; without an entry where there is no guess."""

    def forget(self, handle: int) -> None:
        """This text has ended, or never was."""

    def close(self) -> None: ...


def drafter(spec: EngineSpec, load: Callable[[EngineSpec], StepEngine], vocab: int) -> Drafter | None:
    """What `spec.draft` asks for; `load` loads the smaller model, which must have the vocabulary of `vocab` tokens."""
    if spec.draft is None:
        return None
    if spec.draft == NGRAM:
        return Ngrams()
    small = EngineSpec(
        spec.engine, f"{spec.model}'s draft", spec.draft, spec.format, spec.context,
        min(spec.parallel, SEQUENCES), spec.device, spec.dtype, spec.threads, spec.allow_code,
    )  # fmt: skip
    engine = load(small)
    if engine.identity.vocab != vocab:
        engine.close()
        raise Unsupported(
            f"the draft {spec.draft} has {engine.identity.vocab} tokens, {spec.model} has {vocab}",
            hint=f"a draft must have the model's vocabulary; draft = {NGRAM!r} needs no second model",
        )
    return DraftModel(engine)


class Drafts:
    """The proposals for a batch. Each sequence gets as many as lately came true, up to MOST."""

    def __init__(self, drafter: Drafter | None) -> None:
        self._drafter = drafter
        self._pace: dict[int, int] = {}

    def history(self, job: Job) -> list[int] | None:
        """Where a new sequence's tokens are to be kept; None where nothing is proposed for it."""
        return list(job.prompt) if self._drafter and job.seen is None else None

    def propose(self, running: Sequence[Running]) -> dict[int, list[int]]:
        """Tokens by handle; a sequence without a guess has no entry."""
        if self._drafter is None or not 0 < len(running) <= SEQUENCES:
            return {}
        texts, most = {}, {}
        for one in running:
            room = one.sequence.budget - one.sequence.made - 1
            if one.history is not None and room > 0:
                texts[one.handle] = one.history
                most[one.handle] = min(room, self._pace.get(one.handle, FIRST))
        return {handle: tokens for handle, tokens in self._drafter.propose(texts, most).items() if tokens}

    def judge(self, running: Running, proposed: int, agreed: int) -> None:
        """Learn from what came of a proposal."""
        if proposed:
            longer = agreed == proposed
            pace = self._pace.get(running.handle, FIRST)
            self._pace[running.handle] = min(MOST, 2 * pace) if longer else max(1, (pace + agreed) // 2)

    def forget(self, handle: int) -> None:
        self._pace.pop(handle, None)
        if self._drafter:
            self._drafter.forget(handle)

    def close(self) -> None:
        if self._drafter:
            self._drafter.close()


@dataclass
class Grams:
    """Where each run of SHORTEST_GRAM to LONGEST_GRAM tokens of a text was last followed by something."""

    read: int = 0
    ends: dict[tuple[int, ...], int] = field(default_factory=dict)


class Ngrams:
    """Prompt lookup (2304.04487): what followed the text's last tokens when they stood in it before."""

    def __init__(self) -> None:
        self._grams: dict[int, Grams] = {}

    def propose(self, texts: Mapping[int, Sequence[int]], most: Mapping[int, int]) -> dict[int, list[int]]:
        found = {}
        for handle, text in texts.items():
            grams = self._grams.setdefault(handle, Grams())
            for end in range(grams.read, len(text)):  # a gram that ends the text itself has no continuation yet
                for size in range(SHORTEST_GRAM, min(LONGEST_GRAM, end) + 1):
                    grams.ends[tuple(text[end - size : end])] = end
            grams.read = len(text)
            for size in range(min(LONGEST_GRAM, len(text)), SHORTEST_GRAM - 1, -1):
                at = grams.ends.get(tuple(text[len(text) - size :]))
                if at is not None:
                    found[handle] = list(text[at : at + most[handle]])
                    break
        return found

    def forget(self, handle: int) -> None:
        self._grams.pop(handle, None)

    def close(self) -> None:
        self._grams.clear()


@dataclass
class Shadow:
    """A text as the smaller model has it: its sequence there, and the tokens that this holds."""

    seq: int
    tokens: list[int] = field(default_factory=list)


class DraftModel:
    """A smaller model with the same vocabulary, which goes on greedily."""

    def __init__(self, engine: StepEngine) -> None:
        self._engine = engine
        self._forward: Callable[..., object] = engine.forward  # type: ignore[attr-defined]
        self._rewind: Callable[[int, int], None] = engine.rewind  # type: ignore[attr-defined]
        self._reuse: Callable[[int, Sequence[int]], int] = getattr(engine, "reuse", lambda seq, prompt: 0)
        self._shadows: dict[int, Shadow] = {}
        self._pace = Pace()

    def propose(self, texts: Mapping[int, Sequence[int]], most: Mapping[int, int]) -> dict[int, list[int]]:
        context = self._engine.identity.context
        able = {handle: text for handle, text in texts.items() if len(text) + most[handle] <= context}
        feed = {handle: self._missing(handle, text) for handle, text in able.items()}
        left = self._pace.most(self._engine.prefill_chunk, len(feed), 0)
        if sum(map(len, feed.values())) > left:  # a prompt: catch up with some of it, and propose next time
            for handle, tokens in feed.items():
                if piece := tokens[:left]:
                    began = time.monotonic()
                    self._append({handle: piece})
                    self._pace.saw(len(piece), time.monotonic() - began)
                    left -= len(piece)
            return {}
        found: dict[int, list[int]] = {handle: [] for handle in feed}
        while feed:
            for handle, token in self._append(feed).items():
                found[handle].append(token)
            feed = {handle: [tokens[-1]] for handle, tokens in found.items() if len(tokens) < most[handle]}
        return found

    def forget(self, handle: int) -> None:
        if shadow := self._shadows.pop(handle, None):
            self._engine.free(shadow.seq)

    def close(self) -> None:
        self._shadows.clear()
        self._engine.close()

    def _missing(self, handle: int, text: Sequence[int]) -> list[int]:
        """Cut the shadow of a text to what both begin with; what is missing there, at least the last token."""
        shadow = self._shadows.get(handle)
        if shadow is None:
            shadow = self._shadows[handle] = Shadow(self._engine.open())
            shadow.tokens += text[: self._reuse(shadow.seq, text)]
        pairs = zip(shadow.tokens, text[:-1], strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(shadow.tokens), len(text) - 1))
        if common < len(shadow.tokens):
            self._rewind(shadow.seq, common)
            del shadow.tokens[common:]
        return list(text[common:])

    def _append(self, feed: Mapping[int, list[int]]) -> dict[int, int]:
        """Append tokens to shadows; the likeliest next one of each."""
        for handle, tokens in feed.items():
            self._shadows[handle].tokens += tokens
        logits = self._forward({self._shadows[handle].seq: tokens for handle, tokens in feed.items()}, frozenset())
        ids, _ = logits.argmax()  # type: ignore[attr-defined]
        return {handle: int(id) for handle, id in zip(feed, ids, strict=True)}
