"""Embedding and reranking with transformers' encoders, and with causal models whose folder says how to pool.

An input alone, in a batch, or beside others gives the same vector: rows are padded behind their end, the model is told
so by its mask, and the pooling leaves the padding out.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmctl.decoding.sampling import nonfinite
from llmctl.domain import RERANK, Emit, Engine, EngineSpec, Identity, Progress
from llmctl.engines import torch_load
from llmctl.engines.checkpoint import Checkpoint, read_checkpoint
from llmctl.engines.checkpoint_checks import read_config
from llmctl.engines.embedding import sigmoid, sized
from llmctl.engines.tasks import TaskEngine, Work, checked, fits
from llmctl.engines.tokenizer import CheckpointTokenizer, load_tokenizer
from llmctl.engines.torch_embed_folder import Recipe, recipe
from llmctl.errors import LoadFailed, RequestError, Unsupported

PIECE = {"cpu": 1024}
"""Tokens of one forward pass, padding included; an input that is longer goes alone."""
PIECE_ELSEWHERE = 16384

Tensor = Any
Row = tuple[list[int], list[int]]
"""Ids and types of one input."""


def embeds(spec: EngineSpec) -> bool:
    """Whether the folder of `spec` holds a model that embeds or reranks instead of generating."""
    return recipe(spec, read_checkpoint(spec)) is not None


def check(spec: EngineSpec) -> None:
    """Unsupported, by name, before any weights are read."""
    checkpoint = read_checkpoint(spec)
    model_class(spec, checkpoint, _wanted(spec, checkpoint))


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine:
    """Load the checkpoint of `spec`; its engine answers tasks only."""
    return TaskEngine(load_encoder(spec, progress), emit)


def load_encoder(spec: EngineSpec, progress: Progress) -> TorchEncoder:
    """The model that answers the tasks."""
    checkpoint = read_checkpoint(spec)
    wanted = _wanted(spec, checkpoint)
    found, config = model_class(spec, checkpoint, wanted)
    loaded = torch_load.read_model(spec, checkpoint, progress, found, config, spare="pooler.")
    model = loaded.model
    dense = [Dense(folder, model) for folder in wanted.dense]
    tokenizer = load_tokenizer(checkpoint.path, allow_code=spec.allow_code)
    identity = Identity(
        model=spec.model,
        engine="torch",
        architecture=checkpoint.architecture,
        context=usable_context(spec, checkpoint, wanted),
        vocab=config.vocab_size,
        parallel=spec.parallel,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        chat=False,
        memory_bytes=loaded.bytes,
        capabilities=(wanted.verb,),
        outputs=(),
        load_path="encoder",
        residency=loaded.residency,
    )
    return TorchEncoder(model, tokenizer, identity, wanted, dense)


def _wanted(spec: EngineSpec, checkpoint: Checkpoint) -> Recipe:
    wanted = recipe(spec, checkpoint)
    assert wanted is not None, "asked of a checkpoint that generates"
    return wanted


def model_class(spec: EngineSpec, checkpoint: Checkpoint, wanted: Recipe) -> tuple[Any, Any]:
    """The transformers model class and configuration; Unsupported by the architecture's name."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification if wanted.verb == RERANK else AutoModel
    if spec.allow_code and checkpoint.config.get("auto_map"):
        return auto, AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=True)
    name = checkpoint.architecture
    known = name in CONFIG_MAPPING
    config = read_config(spec, checkpoint, CONFIG_MAPPING[name], name) if known else None
    if (
        config is None
        or config.is_encoder_decoder
        or type(config) not in auto._model_mapping
        or not hasattr(config, "vocab_size")
    ):
        raise Unsupported(f"{spec.model}: the torch engine has no {wanted.verb}ing with architecture {name!r}")
    return auto._model_mapping[type(config)], config


def usable_context(spec: EngineSpec, checkpoint: Checkpoint, wanted: Recipe) -> int:
    """The asked context, at most what the model has positions for and its folder allows."""
    most = int(checkpoint.config.get("max_position_embeddings") or 0)
    if checkpoint.architecture in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        most -= int(checkpoint.config.get("pad_token_id") or 0) + 1  # positions begin behind the padding's
    return min(n for n in (spec.context, most, wanted.longest) if n > 0)


class TorchEncoder:
    """Answers EMBED or RERANK with one model."""

    def __init__(
        self, model: Any, tokenizer: CheckpointTokenizer, identity: Identity, wanted: Recipe, dense: Sequence[Dense]
    ) -> None:
        self.identity = identity
        self.tokenizer: CheckpointTokenizer = tokenizer
        self._model, self._recipe, self._dense = model, wanted, dense
        self._piece = PIECE.get(identity.device, PIECE_ELSEWHERE)
        known = inspect.signature(model.forward).parameters
        self._typed = "token_type_ids" in tokenizer.inputs and "token_type_ids" in known

    def close(self) -> None:
        self._model = None

    def embed(self, inputs: Sequence[str | Sequence[int]], pooling: str | None = None) -> Work:
        """A vector for each input; ids are taken as they are, texts get the model's prompt and special tokens."""
        way = pooling or self._recipe.pooling
        if way not in POOLING:
            raise RequestError(f"no pooling {way!r}: {', '.join(POOLING)}", param="pooling")
        rows = []
        for text in inputs:
            rows.append(self._row(text))
            yield
        width = self._dense[-1].width if self._dense else self._model.config.hidden_size
        sized(len(rows), width)
        vectors: list[list[float]] = [[] for _ in rows]
        for group in groups(rows, self._piece):
            hidden, mask = self._forward([rows[i] for i in group])
            for i, vector in zip(group, self._vectors(hidden, mask, way), strict=True):
                vectors[i] = vector
            yield
        return {"vectors": vectors, "tokens": sum(len(ids) for ids, _ in rows)}

    def rerank(self, query: str, documents: Sequence[str]) -> Work:
        """How well each document answers the query, between 0 and 1: the sigmoid of the model's one label."""
        rows = []
        for document in documents:
            fits((query, document), "documents", self)
            ids, types = self.tokenizer.whole(query, document)
            rows.append((checked(ids, "documents", self), types))
            yield
        scores = [0.0] * len(rows)
        for group in groups(rows, self._piece):
            logits, _ = self._forward([rows[i] for i in group])
            for i, logit in zip(group, logits[:, 0].tolist(), strict=True):
                scores[i] = sigmoid(logit)
            yield
        return {"scores": scores, "tokens": sum(len(ids) for ids, _ in rows)}

    def _row(self, given: str | Sequence[int]) -> Row:
        if not isinstance(given, str):
            return checked(given, "input", self), [0] * len(given)
        text = self._recipe.prompt + given
        fits((text,), "input", self)
        ids, types = self.tokenizer.whole(text.lower() if self._recipe.lower else text)
        return checked(ids, "input", self), types

    def _forward(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The hidden states (or logits) of rows padded to the longest, and which tokens are no padding."""
        import torch

        longest, device = max(len(ids) for ids, _ in rows), self._model.device
        filled = [[*ids, *[self.tokenizer.pad] * (longest - len(ids))] for ids, _ in rows]
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows], device=device)
        given = {"input_ids": torch.tensor(filled, device=device), "attention_mask": mask}
        if self._typed:
            types = [[*types, *[0] * (longest - len(types))] for _, types in rows]
            given["token_type_ids"] = torch.tensor(types, device=device)
        with torch.inference_mode():
            out = self._model(**given)
        return (out.logits if self._recipe.verb == RERANK else out.last_hidden_state), mask

    def _vectors(self, hidden: Tensor, mask: Tensor, way: str) -> list[list[float]]:
        import torch

        with torch.inference_mode():
            vectors = POOLING[way](hidden, mask)
            for layer in self._dense:
                vectors = layer(vectors)
            vectors = vectors.float()
            if self._recipe.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
            if not bool(vectors.isfinite().all()):
                raise nonfinite()
        listed: list[list[float]] = vectors.tolist()
        return listed


class Dense:
    """A linear layer of sentence-transformers behind the pooling, with its activation."""

    def __init__(self, folder: Path, like: Any) -> None:
        import torch
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "model.safetensors", device=str(like.device))
            self._weight = weights["linear.weight"].to(like.dtype)
            self._bias = weights["linear.bias"].to(like.dtype) if "linear.bias" in weights else None
            activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
            self._activation: Callable[[Tensor], Tensor] = {"Tanh": torch.tanh, "Identity": lambda x: x}[activation]
        except (OSError, ValueError, KeyError) as error:
            raise LoadFailed(f"{folder}: this layer cannot be used: {error}") from error
        self.width: int = self._weight.shape[0]

    def __call__(self, vectors: Tensor) -> Tensor:
        from torch.nn.functional import linear

        return self._activation(linear(vectors, self._weight, self._bias))


def groups(rows: Sequence[Row], tokens: int) -> Iterator[list[int]]:
    """The places of rows, the longest first, as many at once as make `tokens` with their padding."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    while order:
        count = max(1, tokens // len(rows[order[0]][0]))
        group, order = order[:count], order[count:]
        yield group


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def last(hidden: Tensor, mask: Tensor) -> Tensor:
    import torch

    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]


POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "cls": lambda hidden, mask: hidden[:, 0],
    "last": last,
}
