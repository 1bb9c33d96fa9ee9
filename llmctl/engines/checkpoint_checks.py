"""What must hold of a checkpoint, whatever library computes it."""

from __future__ import annotations

import json
from typing import Any

from llmctl.domain import EngineSpec, Tokenizer
from llmctl.engines.checkpoint import Checkpoint
from llmctl.errors import LoadFailed, Unsupported

VERIFY = "verify its files with `llmctl models verify`"
INDEX = "model.safetensors.index.json"


def read_config(spec: EngineSpec, checkpoint: Checkpoint, kind: Any, model_type: str) -> Any:
    """The checkpoint's configuration as transformers' class `kind`; Unsupported when it makes no sense."""
    try:
        return kind.from_dict({**checkpoint.config, "model_type": model_type})
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise Unsupported(f"{spec.model}: its config.json cannot be used: {why}"[:500]) from error


def whole(spec: EngineSpec, checkpoint: Checkpoint) -> None:
    """LoadFailed when a file that the index names is not there."""
    try:
        named = json.loads((checkpoint.path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        absent = sorted({str(name) for name in named} - {file.name for file in checkpoint.weights})
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadFailed(f"{spec.model}: {INDEX} cannot be read: {error}", hint=VERIFY) from error
    if absent:
        raise LoadFailed(f"{spec.model}: {absent[0]} is missing", hint=VERIFY)


def speaks(spec: EngineSpec, tokenizer: Tokenizer, vocab: int) -> None:
    """LoadFailed for a tokenizer with words that the model has no weights for; unused special tokens are common."""
    beyond = [id for id in range(vocab, tokenizer.vocab) if id not in tokenizer.specials]
    if beyond:
        raise LoadFailed(
            f"{spec.model}: its tokenizer has {tokenizer.vocab} tokens, the model {vocab}",
            hint="the tokenizer is another model's; pull it again",
        )
