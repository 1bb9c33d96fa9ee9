"""Image-text models on MLX: mlx-vlm's models and processors, each sequence with a cache of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from llmctl.domain import IMAGE, TEXT, EngineSpec, GenerateRequest, Identity, Tokenizer
from llmctl.engines.checkpoint import Checkpoint
from llmctl.engines.mlx_logits import MlxLogits
from llmctl.engines.processor_pictures import Pictures, Seen
from llmctl.engines.tokenizer import CheckpointTokenizer
from llmctl.engines.vision_tokenizer import speaking
from llmctl.errors import RequestError, Unsupported

LOAD_PATH = "image-text"
KEPT = ("rope_deltas", "cross_attention_states", "encoder_outputs")
"""What a model makes of a prompt with images and wants again with each later token."""


def takes_images(checkpoint: Checkpoint) -> bool:
    """Whether this is an image-text checkpoint, and mlx-vlm is here and knows it."""
    if "vision_config" not in checkpoint.config or find_spec("mlx_vlm") is None:
        return False
    from mlx_vlm.utils import get_model_type

    name = get_model_type(checkpoint.config) or ""
    return name.isidentifier() and find_spec(f"mlx_vlm.models.{name}") is not None


def load_model(spec: EngineSpec, checkpoint: Checkpoint) -> tuple[Any, Any]:
    """The model and its processor. The model first: its module brings processors that need no torch."""
    from mlx_vlm.utils import load_model, load_processor

    model = load_model(checkpoint.path, trust_remote_code=spec.allow_code)
    processor = load_processor(checkpoint.path, add_detokenizer=False, trust_remote_code=spec.allow_code)
    if not hasattr(processor, "image_processor"):
        raise Unsupported(f"{spec.model}: there is no image processor in its checkpoint")
    return model, processor


def engine(model: Any, own: CheckpointTokenizer, processor: Any, identity: Identity) -> MlxVisionEngine:
    """The StepEngine over a loaded model; `own` is the checkpoint's tokenizer, `identity` that of the text part."""
    identity = replace(identity, inputs=(TEXT, IMAGE), load_path=LOAD_PATH)
    tokenizer = speaking(own)
    return MlxVisionEngine(model, tokenizer, Pictures(processor, tokenizer, identity, tensors="np"), identity)


@dataclass
class Line:
    """One sequence: its cache, what its first tokens are to be computed with, and what goes with each later one."""

    cache: Any
    seen: Seen | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    begun: bool = False


class MlxVisionEngine:
    """The StepEngine over an mlx-vlm model. Sequences of one step run one after another."""

    def __init__(self, model: Any, tokenizer: Tokenizer, pictures: Pictures, identity: Identity) -> None:
        self.identity = identity
        self.tokenizer = tokenizer
        self.prefill_chunk = 64 if identity.device == "cpu" else 512
        self._model, self._pictures = model, pictures
        self._lines: dict[int, Line] = {}
        self._next = 0

    def see(self, request: GenerateRequest) -> tuple[list[int], Seen]:
        """The prompt of a chat with images, and what the model is given with it."""
        return self._pictures.prompt(request)

    def open(self, *, adapter: str | None = None, seen: Seen | None = None) -> int:
        from mlx_lm.models.cache import make_prompt_cache

        if adapter is not None:
            raise RequestError(f"no adapter {adapter!r} is loaded", status=404, param="adapter")
        return self._add(Line(make_prompt_cache(self._model.language_model), seen))

    def prefill(self, seq: int, tokens: Sequence[int]) -> MlxLogits:
        line = self._lines[seq]
        return MlxLogits([self._later(line, tokens) if line.begun else self._first(line, tokens)])

    def step(self, feed: Mapping[int, int]) -> MlxLogits:
        return MlxLogits([self._later(self._lines[seq], [token]) for seq, token in feed.items()])

    def fork(self, seq: int) -> int:
        line = self._lines[seq]
        return self._add(replace(line, cache=copy.deepcopy(line.cache), kept=dict(line.kept)))

    def free(self, seq: int) -> None:
        import mlx.core as mx

        if self._lines.pop(seq, None) is not None and not self._lines:
            mx.clear_cache()

    def close(self) -> None:
        self._lines.clear()
        self._model = None

    def _add(self, line: Line) -> int:
        self._next += 1
        self._lines[self._next] = line
        return self._next

    def _first(self, line: Line, tokens: Sequence[int]) -> Any:
        """The first tokens of a sequence, with its pictures; the logits after the last of them, [1, vocab]."""
        import mlx.core as mx

        line.begun = True
        seen, line.seen = line.seen, None
        inputs = {name: mx.array(value) for name, value in seen.inputs.items()} if seen else {}
        ids = mx.array([list(tokens)])
        found = self._model.get_input_embeddings(ids, inputs.pop("pixel_values", None), mask=None, **inputs)
        given = {name: value for name, value in found.to_dict().items() if value is not None}
        line.kept = {name: given[name] for name in KEPT if name in given}
        return self._run(line, ids, given)

    def _later(self, line: Line, tokens: Sequence[int]) -> Any:
        import mlx.core as mx

        return self._run(line, mx.array([list(tokens)]), line.kept)

    def _run(self, line: Line, ids: Any, given: Mapping[str, Any]) -> Any:
        output = self._model.language_model(ids, cache=line.cache, **given)
        for name in KEPT[1:]:
            if getattr(output, name, None) is not None:
                line.kept[name] = getattr(output, name)
        return output.logits[:, -1]
