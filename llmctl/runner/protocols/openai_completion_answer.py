"""Chunks as OpenAI's text completions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmctl.domain import Chunk, TokenLogprob
from llmctl.runner.protocols.asked import Asked
from llmctl.runner.protocols.openai_answers import LOWEST, OpenAIAnswer


class CompletionAnswer(OpenAIAnswer):
    """/v1/completions: n choices for each of the prompts, those of the first prompt first."""

    object, chunk_object = "text_completion", "text_completion"

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._offsets = [0] * self._count  # characters that the logprobs sent so far cover
        self._marks_echo = self.request.echo and self.request.logprobs is not None
        self._begun = [False] * self._count

    def _sequences(self) -> int:
        return self.request.n * len(self.asked.options or (self.request,))

    def add(self, chunks: Sequence[Chunk]) -> None:
        super().add(self._marked(chunks) if self._marks_echo else chunks)

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        return super().events(self._marked(chunks) if self._marks_echo else chunks)

    def _marked(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The echoed prompt as one token whose logprob nobody knows: engines compute those of new tokens only."""
        return [self._mark(chunk) for chunk in chunks]

    def _mark(self, chunk: Chunk) -> Chunk:
        is_first, self._begun[chunk.index] = not self._begun[chunk.index], True
        if not is_first or chunk.logprobs or not chunk.text:
            return chunk
        return replace(chunk, logprobs=(TokenLogprob(chunk.text, -1, math.nan),))

    def _whole_choice(self, index: int, text: str) -> dict[str, Any]:
        return {"text": text}

    def _delta(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _show_logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self.request.logprobs is None:
            return None
        offsets = []
        for one in logprobs:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(one.text)
        return {
            "tokens": [one.text for one in logprobs],
            "token_logprobs": [None if math.isnan(one.logprob) else max(one.logprob, LOWEST) for one in logprobs],
            "top_logprobs": [{text: max(p, LOWEST) for text, _, p in one.top} if one.top else None for one in logprobs],
            "text_offset": offsets,
        }
