"""Image-text models on torch: any that keeps to transformers' interfaces, each sequence with a cache of its own.

The model's own attention and cache class run here, so that image tokens that see each other, rotary positions in two
dimensions and whatever else a family does come out as in transformers itself.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.domain import IMAGE, TEXT, EngineSpec, GenerateRequest, Identity, Progress, Tokenizer
from llmctl.engines import torch_load, torch_vision_load
from llmctl.engines.checkpoint import read_checkpoint
from llmctl.engines.processor_pictures import Pictures, Seen
from llmctl.engines.talk import words
from llmctl.engines.torch_logits import TorchLogits
from llmctl.engines.torch_vision_proof import prove
from llmctl.engines.vision_tokenizer import load_chat_tokenizer, speaking
from llmctl.errors import RequestError, Unsupported

LOAD_PATH = "image-text"
STATES = ("rope_deltas",)
"""What some models keep in their modules of the sequence they last computed: how its positions differ from a count."""


def load_steps(spec: EngineSpec, progress: Progress) -> VisionEngine:
    """The StepEngine of an image-text checkpoint; Unsupported when its answers are not the model's own."""
    checkpoint = read_checkpoint(spec)
    wanted = torch_vision_load.model_class(spec, checkpoint)
    if wanted is None:
        raise Unsupported(f"{spec.model}: architecture {checkpoint.architecture!r} takes no images")
    found, config = wanted
    processor = torch_vision_load.load_processor(spec, checkpoint, config)
    inner = load_chat_tokenizer(spec, checkpoint, processor)
    loaded = torch_load.read_model(spec, checkpoint, progress, found, config)
    model = loaded.model
    text = config.get_text_config()
    identity = Identity(
        model=spec.model,
        engine="torch",
        architecture=checkpoint.architecture,
        context=torch_load.usable_context(spec.context, text),
        vocab=text.vocab_size,
        parallel=spec.parallel,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        chat=inner.chats,
        memory_bytes=loaded.bytes,
        capabilities=("fork", "logprobs", "logit_bias", "mask", "seed", *words(inner)),
        inputs=(TEXT, IMAGE),
        load_path=LOAD_PATH,
        residency=loaded.residency,
    )
    tokenizer = speaking(inner)
    takes = tuple(inspect.signature(model.forward).parameters)
    engine = VisionEngine(model, tokenizer, Pictures(processor, tokenizer, identity), identity, takes)
    prove(engine, model)
    return engine


@dataclass
class Line:
    """One sequence: what the model keeps of it, and what its first tokens are to be computed with."""

    seen: Seen | None = None
    cache: Any = None
    states: list[Any] = field(default_factory=list)


class VisionEngine:
    """The StepEngine over an image-text model, its processor and its own caches."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, pictures: Pictures, identity: Identity, takes: Sequence[str]
    ) -> None:
        self.identity = identity
        self.tokenizer = tokenizer
        self.prefill_chunk = 256 if identity.device == "cpu" else 2048
        self._model, self._pictures, self._takes = model, pictures, takes
        self._lines: dict[int, Line] = {}
        self._next = 0
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._stateful = [(m, name) for m in model.modules() for name in STATES if hasattr(m, name)]

    def see(self, request: GenerateRequest) -> tuple[list[int], Seen]:
        """The prompt of a chat with images, and what the model is given with it."""
        ids, seen = self._pictures.prompt(request)
        return ids, seen.only(self._takes).to(self._model.device, self._model.dtype)

    def open(self, *, adapter: str | None = None, seen: Seen | None = None) -> int:
        if adapter is not None:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        return self._add(Line(seen, states=[None for _ in self._stateful]))

    def prefill(self, seq: int, tokens: Sequence[int]) -> TorchLogits:
        line = self._lines[seq]
        seen, line.seen = line.seen, None
        return TorchLogits(self._forward(line, tokens, seen.inputs if seen else {}))

    def step(self, feed: Mapping[int, int]) -> TorchLogits:
        import torch

        rows = [self._forward(self._lines[seq], [token], {}) for seq, token in feed.items()]
        return TorchLogits(torch.cat(rows), range(len(rows)))

    def fork(self, seq: int) -> int:
        line = self._lines[seq]
        return self._add(Line(line.seen, copy.deepcopy(line.cache), list(line.states)))

    def free(self, seq: int) -> None:
        if self._lines.pop(seq, None) is not None and not self._lines:
            torch_load.release(self.identity.device)

    def close(self) -> None:
        self._lines = {}
        self._model = None

    def _add(self, line: Line) -> int:
        self._next += 1
        self._lines[self._next] = line
        return self._next

    def _forward(self, line: Line, tokens: Sequence[int], inputs: Mapping[str, Any]) -> Any:
        """Append tokens to a sequence; the logits after the last of them, [1, vocab]."""
        import torch

        for (module, name), value in zip(self._stateful, line.states, strict=True):
            setattr(module, name, value)
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([list(tokens)], device=self._model.device),
                past_key_values=line.cache,
                use_cache=True,
                **self._last_only,
                **inputs,
            )
        line.cache = output.past_key_values
        line.states = [getattr(module, name) for module, name in self._stateful]
        return output.logits[:, -1]
