"""What a checkpoint on disk is, from its headers and configuration files alone: no weights, no ML library.

`checkpoint_gguf` and `checkpoint_folder` read the two kinds there are. Everything read is untrusted: sizes are
capped, numbers checked, and an error names the path and what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.errors import BadCheckpoint, Unsupported

FULL, SLIDING, RECURRENT = "full", "sliding", "recurrent"
LAYERS_LIMIT, NUMBER_LIMIT = 10_000, 2**40
# Families whose files do not say which layers slide: every n-th layer is full (llama.cpp's and transformers' rule).
SLIDING_PATTERN = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt_oss": 2, "cohere2": 4}


@dataclass(frozen=True)
class Checkpoint:
    """One model in one format. Sizes in bytes; `context` 0 when the files do not say.

    `layer_types` holds FULL, SLIDING or RECURRENT per layer, `kv_widths` the key and value elements one token adds
    there. `needs_code` lists what would run code of the checkpoint's author (reliability.md, trap 7). `sees`: there is
    a vision tower among its weights.
    """

    path: Path
    format: str
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocab: int
    context: int
    sliding_window: int | None
    layer_types: tuple[str, ...]
    kv_widths: tuple[int, ...]
    weights_bytes: int
    parameters: int
    dtype: str
    quantization: str | None
    tokenizer: str
    has_chat_template: bool
    eos_ids: tuple[int, ...]
    needs_code: tuple[str, ...] = ()
    sees: bool = False


def inspect(path: str | Path) -> Checkpoint:
    """Read the checkpoint at `path`, a folder or a .gguf file; BadCheckpoint says what is missing or malformed."""
    from llmctl.models import checkpoint_folder, checkpoint_gguf  # they need Checkpoint

    path = Path(path).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file():
            return checkpoint_folder.inspect(path)
        return checkpoint_gguf.inspect(checkpoint_gguf.find(path))
    if not path.is_file():
        raise BadCheckpoint(f"{path}: there is no such file or folder")
    if path.suffix != ".gguf":
        raise BadCheckpoint(f"{path}: neither a folder nor a .gguf file")
    return checkpoint_gguf.inspect(path)


def trusted(found: Checkpoint, model: str, allow_code: bool) -> Checkpoint:
    """`found`; Unsupported when it would run code that the entry of `model` does not allow."""
    if found.needs_code and not allow_code:
        raise Unsupported(
            f"{model} at {found.path} would run code of its author: {', '.join(found.needs_code)}",
            hint=f'if you trust it, set allow_code = true in [models."{model}"] of models.toml',
        )
    return found


def number(value: Any) -> int:
    """A plausible non-negative count from an untrusted file, else 0."""
    return value if type(value) is int and 0 <= value < NUMBER_LIMIT else 0


def layer_count(path: Path, value: Any) -> int:
    """The number of layers, which sizes what is built per layer; BadCheckpoint unless it is plausible."""
    if not 0 < number(value) <= LAYERS_LIMIT:
        raise BadCheckpoint(f"{path}: the number of layers is missing or implausible: {value!r}"[:300])
    return number(value)


def layer_types(architecture: str, window: int, pattern: Any, kv_heads: Sequence[int]) -> tuple[str, ...]:
    """FULL, SLIDING or RECURRENT per layer.

    `pattern` is a bool per layer, or n for "every n-th layer is full", or None for the family's own rule. A family
    whose rule is not known counts as FULL, which never estimates too little.
    """
    layers = len(kv_heads)
    every = number(pattern) or SLIDING_PATTERN.get(architecture.replace("-", "_"), 1)
    if isinstance(pattern, (list, tuple)) and len(pattern) >= layers:
        slides = [bool(p) for p in pattern[:layers]]
    else:
        slides = [(i + 1) % every != 0 for i in range(layers)]
    return tuple(RECURRENT if kv_heads[i] == 0 else SLIDING if window and slides[i] else FULL for i in range(layers))
