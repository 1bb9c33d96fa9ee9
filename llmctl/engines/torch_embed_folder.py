"""What a checkpoint folder says of embedding or reranking: sentence-transformers' files, else its architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.domain import EMBED, RERANK, EngineSpec
from llmctl.engines.checkpoint import Checkpoint
from llmctl.errors import Unsupported

MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}
OWN = "sentence_transformers."
"""Where the modules of sentence-transformers itself lie; another one is code of the checkpoint's own."""


@dataclass(frozen=True)
class Recipe:
    """What to do with a model's hidden states; `pooling` is of an EMBED.

    `dense` are the folders of linear layers behind the pooling, `prompt` is what goes before every text, `longest` the
    most tokens of an input (0: as many as the model takes).
    """

    verb: str
    pooling: str = ""
    normalize: bool = True
    dense: tuple[Path, ...] = ()
    prompt: str = ""
    lower: bool = False
    longest: int = 0


def recipe(spec: EngineSpec, checkpoint: Checkpoint) -> Recipe | None:
    """The recipe of a checkpoint that embeds or reranks; None for one that generates."""
    modules = _json(checkpoint.path / "modules.json", list)
    if modules:
        return _sentence_transformer(spec, checkpoint.path, modules)
    named = str(next(iter(checkpoint.config.get("architectures") or ()), ""))
    if named.endswith("ForSequenceClassification") and _labels(checkpoint.config) == 1:
        return Recipe(RERANK)
    if named.endswith(("ForMaskedLM", "ForPreTraining", "Model")) and _looks_both_ways(checkpoint.architecture):
        return Recipe(EMBED, "mean")
    return None


def _sentence_transformer(spec: EngineSpec, folder: Path, modules: list[Any]) -> Recipe:
    pooling, normalize, dense = "", False, list[Path]()
    for module in modules:
        kind, path = (str(module.get(key, "")) for key in ("type", "path")) if isinstance(module, dict) else ("", "")
        name = kind.rpartition(".")[2]
        if not kind.startswith(OWN) or name not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise Unsupported(
                f"{spec.model}: modules.json has a {kind or module!r}, which the torch engine does not know"
            )
        if name == "Transformer" and path:
            raise Unsupported(f"{spec.model}: its transformer lies in {path}, not beside modules.json")
        if name == "Pooling":
            pooling = _pooling(spec, _json(folder / path / "config.json", dict))
        elif name == "Dense":
            dense.append(folder / path)
        elif name == "Normalize":
            normalize = True
    if not pooling:
        raise Unsupported(f"{spec.model}: modules.json has no pooling")
    said = _json(folder / "config_sentence_transformers.json", dict)
    settings: Mapping[str, Any] = next((_json(f, dict) for f in sorted(folder.glob("sentence_*_config.json"))), {})
    return Recipe(
        EMBED,
        pooling,
        normalize,
        tuple(dense),
        prompt=str((said.get("prompts") or {}).get(said.get("default_prompt_name")) or ""),
        lower=bool(settings.get("do_lower_case")),
        longest=int(settings.get("max_seq_length") or 0),
    )


def _pooling(spec: EngineSpec, config: Mapping[str, Any]) -> str:
    """The one way of pooling of 1_Pooling/config.json, written as a name or as switches."""
    named = config.get("pooling_mode")
    ways = (
        [named]
        if isinstance(named, str)
        else [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    )
    ways = [{"lasttoken": "last"}.get(way, MODES.get(way, way)) for way in ways]
    if len(ways) != 1 or ways[0] not in MODES.values():
        raise Unsupported(
            f"{spec.model}: it pools by {' and '.join(map(str, ways)) or 'nothing'}; cls, mean and last are known"
        )
    if config.get("include_prompt") is False:
        raise Unsupported(f"{spec.model}: it leaves its prompt out of the pooling")
    return ways[0]


def _looks_both_ways(model_type: str) -> bool:
    """Whether the model has a form that fills masks: one that only generates sees nothing behind a token."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _labels(config: Mapping[str, Any]) -> int:
    if "id2label" in config:
        return len(config["id2label"] or ())
    return int(config.get("num_labels", 2))


def _json(file: Path, kind: type) -> Any:
    """An optional file's value; Unsupported when it is there and is not of this kind."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as error:
        raise Unsupported(f"{file}: {error}") from error
    if not isinstance(value, kind):
        raise Unsupported(f"{file} is not a JSON {'object' if kind is dict else 'array'}")
    return value
