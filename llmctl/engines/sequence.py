"""One sequence being generated: how its next token is chosen, and the chunks that its tokens become."""

from __future__ import annotations

from llmctl.decoding.detokenize import Detokenizer
from llmctl.decoding.output import Output, ParsedOutput, Said, TextOutput
from llmctl.decoding.pieces import Parser
from llmctl.decoding.sampling import Choice, Sampler
from llmctl.domain import LENGTH, STOP, TOOLS, Chunk, GenerateRequest, Tokenizer, TokenLogprob

NOTHING = Said()


class Sequence:
    """The `index`-th of a request's n sequences. `made` counts its tokens, at most `budget`; `last` is the newest."""

    def __init__(
        self,
        request: GenerateRequest,
        index: int,
        sampler: Sampler,
        tokenizer: Tokenizer,
        budget: int,
        parser: Parser | None = None,
    ) -> None:
        self.sampler = sampler
        self.budget = budget
        self.made = 0
        self.last = -1
        self._request, self._index, self._tokenizer = request, index, tokenizer
        endless = request.ignore_eos and request.format is None  # a format has an end of its own
        self._ends = frozenset(request.stop_ids) | (frozenset() if endless else tokenizer.eos_ids)
        self._output = _output(request, tokenizer, parser)
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
        said = self._output.push(choice.token, self._logprob(choice))
        if self._output.complete:
            return self._chunk(said, STOP)
        if self.made >= self.budget:
            return self.end(LENGTH, said)
        return self._chunk(said) if said else None

    def end(self, finish: str, said: Said = NOTHING) -> Chunk:
        """The last chunk: what was held back, and why it ends."""
        rest = self._output.finish()
        return self._chunk(said.then(rest), STOP if self._output.matched is not None else finish)

    def _chunk(self, said: Said, finish: str | None = None) -> Chunk:
        tokens, self._reported = self.made - self._reported, self.made
        matched = self._output.matched if finish else None
        if finish == STOP and self._output.calls:
            finish = TOOLS
        text, logprobs, reasoning, calls = said
        return Chunk(
            self._request.id, self._index, text, tokens, finish, matched, logprobs, None, reasoning, calls
        )  # fmt: skip

    def _logprob(self, choice: Choice) -> TokenLogprob | None:
        if choice.logprob is None:
            return None
        top = tuple((self._text(id), id, logprob) for id, logprob in choice.top)
        return TokenLogprob(self._text(choice.token), choice.token, choice.logprob, top)

    def _text(self, id: int) -> str:
        return self._tokenizer.token_bytes(id).decode("utf-8", "replace")


def _output(request: GenerateRequest, tokenizer: Tokenizer, parser: Parser | None) -> Output:
    """What makes text of the tokens. No space is dropped from an answer that goes on, nor from a masked one, which
    begins as its format says."""
    begins = request.messages is not None and not (request.continue_last and request.messages[-1].get("content"))
    strip = begins and request.format is None and adds_space(tokenizer)
    if parser is None:
        return TextOutput(Detokenizer(tokenizer.token_bytes, strip_space=strip), request.stop)
    shown = {id: text.encode() for id, text in tokenizer.specials.items() if text in parser.markers}
    detokenizer = Detokenizer(lambda id: shown.get(id) or tokenizer.token_bytes(id), strip_space=strip)
    return ParsedOutput(detokenizer, request.stop, parser, one_call=not request.parallel_tools)


def adds_space(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts a space before a text's first word, as SentencePiece does."""
    return tokenizer.decode(tokenizer.encode("a", bos=False)).startswith(" ")
