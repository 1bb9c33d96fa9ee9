"""Image-text models on MLX: mlx-vlm's models and processors over the caches of the text engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from llmctl.domain import EngineSpec, GenerateRequest
from llmctl.engines.checkpoint import Checkpoint
from llmctl.engines.mlx_steps import MlxEngine
from llmctl.engines.processor_pictures import Pictures, Seen
from llmctl.errors import Unsupported

LOAD_PATH = "image-text"
DELTAS = "rope_deltas"
KEPT = (DELTAS, "cross_attention_states", "encoder_outputs")
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


@dataclass
class Sight:
    """One sequence's: what its first tokens are to be computed with, and what goes with each later one."""

    seen: Seen | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    begun: bool = False


class MlxVisionEngine(MlxEngine):
    """The StepEngine over an mlx-vlm model. What begins a sequence is computed alone, what goes on with the others.

    A sequence with images leaves nothing for others: the same tokens may stand for other images.
    """

    most_logits = sys.maxsize  # what begins a sequence stays in one piece

    def __init__(self, model: Any, pictures: Pictures, *arguments: Any, together: bool) -> None:
        super().__init__({None: model.language_model}, *arguments, together=together)
        self._whole, self._pictures = model, pictures
        self._sights: dict[int, Sight] = {}

    def see(self, request: GenerateRequest) -> tuple[list[int], Seen]:
        """The prompt of a chat with images, and what the model is given with it."""
        return self._pictures.prompt(request)

    def open(self, *, adapter: str | None = None, seen: Seen | None = None) -> int:
        seq = super().open(adapter=adapter)
        self._sights[seq] = Sight(seen)
        self._lines[seq].shared = seen is None
        return seq

    def reuse(self, seq: int, prompt: Sequence[int]) -> int:
        shared = super().reuse(seq, prompt)
        self._sights[seq].begun = shared > 0
        return shared

    def fork(self, seq: int) -> int:
        new, sight = super().fork(seq), self._sights[seq]
        self._sights[new] = replace(sight, kept=dict(sight.kept))
        self._lines[new].shared = self._lines[seq].shared
        return new

    def free(self, seq: int) -> None:
        super().free(seq)
        self._sights.pop(seq, None)

    def close(self) -> None:
        super().close()
        self._sights.clear()
        self._whole = None

    def _parts(self, feed: Collection[int]) -> list[list[int]]:
        joining = [seq for seq in feed if self.together and self._joins(self._sights[seq])]
        return [[seq] for seq in feed if seq not in joining] + ([joining] if joining else [])

    def _joins(self, sight: Sight) -> bool:
        deltas = sight.kept.get(DELTAS)
        return sight.begun and not set(sight.kept) - {DELTAS} and (deltas is None or deltas.shape == (1, 1))

    def _model_of(self, seqs: Sequence[int]) -> Callable[..., Any]:
        sights = [self._sights[seq] for seq in seqs]
        return partial(self._later, sights) if sights[0].begun else partial(self._first, sights[0])

    def _first(self, sight: Sight, ids: Any, cache: Any) -> Any:
        """The logits of a sequence's first tokens, with its pictures."""
        import mlx.core as mx

        inputs = {name: mx.array(value) for name, value in sight.seen.inputs.items()} if sight.seen else {}
        found = self._whole.get_input_embeddings(ids, inputs.pop("pixel_values", None), mask=None, **inputs)
        given = {name: value for name, value in found.to_dict().items() if value is not None}
        sight.seen, sight.begun = None, True
        sight.kept = {name: given[name] for name in KEPT if name in given}
        return self._compute([sight], ids, cache, given)

    def _later(self, sights: Sequence[Sight], ids: Any, cache: Any) -> Any:
        import mlx.core as mx

        given = dict(sights[0].kept) if len(sights) == 1 else {}
        if hasattr(self._whole.language_model, "get_rope_index"):  # else it goes on with another sequence's
            deltas = [sight.kept.get(DELTAS) for sight in sights]
            given[DELTAS] = mx.concatenate([mx.zeros((1, 1), mx.int32) if d is None else d for d in deltas])
        return self._compute(sights, ids, cache, given)

    def _compute(self, sights: Sequence[Sight], ids: Any, cache: Any, given: Mapping[str, Any]) -> Any:
        output = self._whole.language_model(ids, cache=cache, **given)
        for name in KEPT[1:]:
            if getattr(output, name, None) is not None:
                sights[0].kept[name] = getattr(output, name)  # with such a thing a sequence is computed alone
        return output.logits
