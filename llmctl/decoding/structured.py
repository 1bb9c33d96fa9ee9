"""Structured output: masks over a model's tokens that make a whole answer match a grammar, by llguidance.

Grammars are compiled off the engine's thread. The first one also waits until llguidance knows the vocabulary, which
takes up to a second for a large one. Compiled grammars are kept, and copied for each sequence.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from llmctl.decoding.grammars import Grammar, refused
from llmctl.decoding.sampling import NothingAllowed
from llmctl.decoding.trial import LIMITS, Trial, summary
from llmctl.domain import Tokenizer

SLOWEST = 0.25
"""Seconds of CPU time for one mask; more would hold up everyone's tokens."""
KEPT = 32
"""Compiled grammars that are kept."""


class Masks:
    """Makes masks for one model: `size` is the length of a row of its logits."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.size = size
        self._tokenizer = tokenizer
        self._vocabulary: Any = None
        self._compiled: OrderedDict[str, Future[Any]] = OrderedDict()
        self._trial = Trial()
        self._thread = ThreadPoolExecutor(1, "grammars")

    def mask(self, parts: list[Grammar], param: str) -> GrammarMask:
        """A new mask for an answer that matches the first of `parts`, which may name the others."""
        try:
            key = json.dumps({"grammars": parts})
        except RecursionError:
            raise refused("it is nested too deeply", param) from None
        if key not in self._compiled:
            self._compiled[key] = self._thread.submit(self._compile, key, param)
            for old in list(self._compiled)[:-KEPT]:
                del self._compiled[old]
        self._compiled.move_to_end(key)
        return GrammarMask(self._compiled[key], self.size, ends(self._tokenizer, self.size))

    def close(self) -> None:
        self._thread.submit(self._trial.close)
        self._thread.shutdown(wait=False)

    def _compile(self, key: str, param: str) -> Any:
        """A matcher that has computed its first mask: the rest of it may be as costly as the grammar."""
        import llguidance

        if wrong := self._trial.verdict(key):
            raise refused(wrong, param)
        if self._vocabulary is None:
            self._vocabulary = vocabulary(self._tokenizer, self.size)
        limits = llguidance.LLParserLimits(**LIMITS)
        matcher = llguidance.LLMatcher(self._vocabulary, key, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise refused(summary(matcher.get_error()), param)
        return matcher


class GrammarMask:
    """The LogitsMask of one sequence."""

    def __init__(self, compiled: Future[Any], size: int, ends: Sequence[int]) -> None:
        self._compiled, self._size, self._ends = compiled, size, list(ends)
        self._matcher: Any = None
        self._bits = np.zeros((size + 31) // 32, dtype=np.int32)

    def ready(self) -> bool:
        if self._matcher is None and self._compiled.done():
            self._matcher = self._compiled.result().deep_copy()
        return self._matcher is not None

    def allowed(self) -> Any:
        begun = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        if time.thread_time() - begun > SLOWEST:
            raise NothingAllowed("the answer's format is too costly to go on with")
        found = np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=self._size).view(bool)
        found[self._ends] |= found[self._ends[0]]
        return found

    def accept(self, token: int) -> None:
        self._matcher.consume_token(self._ends[0] if token in self._ends else token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise NothingAllowed(f"the answer's format cannot go on here: {summary(self._matcher.get_error())}")


class Vocabulary:
    """A tokenizer as llguidance wants it: every token's bytes; special ones are no text, and only end an answer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.tokens = [tokenizer.token_bytes(id) if id < tokenizer.vocab else b"" for id in range(size)]
        self.special_token_ids = [id for id, data in enumerate(self.tokens) if not data]
        self.eos_token_id = ends(tokenizer, size)[0]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        """Ids of a text that follows another: SentencePiece would put a space before it."""
        text = text if isinstance(text, str) else text.decode("utf-8", "replace")
        before, whole = (self._tokenizer.encode(t, bos=False) for t in ("\n", "\n" + text))
        cut = len(before)
        return whole[cut:] if whole[:cut] == before else self._tokenizer.encode(text, bos=False)


def vocabulary(tokenizer: Tokenizer, size: int) -> Any:
    """What llguidance knows of a model's tokens, up to `size`."""
    import llguidance

    tokens: Any = Vocabulary(tokenizer, size)
    return llguidance.LLTokenizer(tokens)


def ends(tokenizer: Tokenizer, size: int) -> list[int]:
    """The tokens that end an answer. llguidance knows the first; the others stand for it."""
    found = sorted(id for id in tokenizer.eos_ids if id < size)
    if not found:
        raise refused("the model has no token that ends an answer")
    return found
