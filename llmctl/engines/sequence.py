"""One sequence being generated: how its next token is chosen, and the chunks that its tokens become."""

from __future__ import annotations

from llmctl.decoding.detokenize import Detokenizer
from llmctl.decoding.output import TextOutput
from llmctl.decoding.sampling import Choice, Sampler
from llmctl.domain import LENGTH, STOP, Chunk, GenerateRequest, Tokenizer, TokenLogprob


class Sequence:
    """The `index`-th of a request's n sequences. `made` counts its tokens, at most `budget`; `last` is the newest."""

    def __init__(
        self, request: GenerateRequest, index: int, sampler: Sampler, tokenizer: Tokenizer, budget: int
    ) -> None:
        self.sampler = sampler
        self.budget = budget
        self.made = 0
        self.last = -1
        self._request, self._index, self._tokenizer = request, index, tokenizer
        endless = request.ignore_eos and request.format is None  # a format has an end of its own
        self._ends = frozenset(request.stop_ids) | (frozenset() if endless else tokenizer.eos_ids)
        strip = request.messages is not None and adds_space(tokenizer)
        self._output = TextOutput(Detokenizer(tokenizer.token_bytes, strip_space=strip), request.stop)
        self._reported = 0  # tokens that chunks have counted

    def echo(self, prompt: list[int]) -> Chunk:
        """The prompt as the sequence's first text."""
        text = self._request.prompt if isinstance(self._request.prompt, str) else self._tokenizer.decode(prompt)
        return Chunk(self._request.id, self._index, text)

    def accept(self, choice: Choice) -> Chunk | None:
        """Take the chosen token; the chunk to send, if any. With `finish` it is the last one."""
        self.last = choice.token
        self.made += 1
        self.sampler.accept(choice.token)
        if choice.token in self._ends:
            return self.end(STOP)
        text, logprobs = self._output.push(choice.token, self._logprob(choice))
        if self._output.matched is not None:
            return self._chunk(text, logprobs, STOP)
        if self.made >= self.budget:
            return self.end(LENGTH, text, logprobs)
        return self._chunk(text, logprobs) if text else None

    def end(self, finish: str, text: str = "", logprobs: tuple[TokenLogprob, ...] = ()) -> Chunk:
        """The last chunk: what was held back, and why it ends."""
        rest, more = self._output.finish()
        finish = STOP if self._output.matched is not None else finish
        return self._chunk(text + rest, logprobs + more, finish)

    def _chunk(self, text: str, logprobs: tuple[TokenLogprob, ...], finish: str | None = None) -> Chunk:
        tokens, self._reported = self.made - self._reported, self.made
        matched = self._output.matched
        return Chunk(self._request.id, self._index, text, tokens, finish, matched if finish else None, logprobs)

    def _logprob(self, choice: Choice) -> TokenLogprob | None:
        if choice.logprob is None:
            return None
        top = tuple((self._text(id), id, logprob) for id, logprob in choice.top)
        return TokenLogprob(self._text(choice.token), choice.token, choice.logprob, top)

    def _text(self, id: int) -> str:
        return self._tokenizer.token_bytes(id).decode("utf-8", "replace")


def adds_space(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts a space before a text's first word, as SentencePiece does."""
    return tokenizer.decode(tokenizer.encode("a", bos=False)).startswith(" ")
