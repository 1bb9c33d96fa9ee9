"""The prompt of a chat with images: the model's processor places them in the text and prepares their pixels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmctl.domain import GenerateRequest, Identity
from llmctl.engines import pictures
from llmctl.engines.requests import bounded, offered, template_arguments
from llmctl.engines.tokenizer import CheckpointTokenizer
from llmctl.errors import RequestError

OURS = ("input_ids", "attention_mask")
"""What a forward pass makes itself, from the tokens: a sequence is never padded."""


@dataclass(frozen=True)
class Seen:
    """What a model's `forward` is given with the tokens of a prompt: pixels, and what goes with them."""

    inputs: Mapping[str, Any]

    def only(self, names: Collection[str]) -> Seen:
        """What of it a `forward` with arguments of these names takes."""
        return Seen({name: value for name, value in self.inputs.items() if name in names})

    def to(self, device: Any, dtype: Any) -> Seen:
        """torch's tensors on a device, their fractions in the model's type."""
        kinds = {name: dtype if value.is_floating_point() else value.dtype for name, value in self.inputs.items()}
        return Seen({name: value.to(device, kinds[name]) for name, value in self.inputs.items()})

    def first(self, tokens: int, of: int) -> Seen:
        """The same for the first `tokens` of a prompt of `of`; the rest must have no image."""
        cut = {name: v[:, :tokens] if tuple(v.shape[:2]) == (1, of) else v for name, v in self.inputs.items()}
        return Seen(cut)


class Literal:
    """The tokenizer that a processor calls: what a client wrote stays text, also where it looks like an image token."""

    def __init__(self, inner: Any, tokenizer: CheckpointTokenizer) -> None:
        self._inner, self._tokenizer = inner, tokenizer
        self.marks: Mapping[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, text: str | Sequence[str], **options: Any) -> Any:
        from transformers import BatchEncoding

        texts = [text] if isinstance(text, str) else text
        ids = [self._tokenizer.literal(one, self.marks) for one in texts]
        return BatchEncoding({"input_ids": ids, "attention_mask": [[1] * len(one) for one in ids]})


class Pictures:
    """Makes prompts with images for a model. `tensors` is what its processor is to make: "pt" or "np"."""

    def __init__(self, processor: Any, tokenizer: CheckpointTokenizer, identity: Identity, tensors: str = "pt") -> None:
        self._processor, self._tokenizer, self._identity, self._tensors = processor, tokenizer, identity, tensors
        self._literal = processor.tokenizer = Literal(processor.tokenizer, tokenizer)

    def prompt(self, request: GenerateRequest) -> tuple[list[int], Seen]:
        """Token ids, and what goes with them, on the CPU; RequestError 400 for what cannot be read."""
        if request.messages is None:
            raise RequestError("images go into the messages of a chat", param="prompt", code="unsupported_content")
        bounded(request, self._identity)
        images = pictures.decoded(request.media)
        text, self._literal.marks = self._tokenizer.rendered(
            request.messages,
            tools=offered(request),
            continue_last=request.continue_last,
            arguments=template_arguments(request),
        )
        try:
            made = self._processor(text=[text], images=images, add_special_tokens=False, return_tensors=self._tensors)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())[:300]
            raise RequestError(f"the model cannot read these images: {why}", param="messages") from error
        return made["input_ids"][0].tolist(), Seen({k: v for k, v in made.items() if k not in OURS})
