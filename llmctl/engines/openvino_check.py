"""Which GGUF files OpenVINO computes right, told from their headers."""

from __future__ import annotations

from pathlib import Path

from llmctl.errors import BadCheckpoint, Unsupported
from llmctl.models import gguf_header
from llmctl.models.gguf_header import GGUFHeader

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""GenAI 2026.4.1 builds a graph for these; Mistral's files say `llama`."""
TYPES = ("F16", "Q8_0", "Q4_0", "Q6_K")
"""Types of matrices that it reads as they are; what has one dimension is F32. It takes Q4_K and Q4_1 as well, but
rounds each block's minimum to a multiple of its scale, an error as large as the quantization's own."""
LLAMACPP = "load it with --engine llamacpp"


def checked(model: str, path: Path) -> GGUFHeader:
    """The header of the file at `path`; Unsupported, with the reason, for what would not be computed right."""
    if "-of-" in path.name:
        raise Unsupported(f"{model}: OpenVINO reads no split GGUF files", hint=LLAMACPP)
    header = gguf_header.read(path)
    if why := _obstacle(header):
        raise Unsupported(f"{model}: {why}", hint=LLAMACPP)
    if why := _lie(header):
        raise BadCheckpoint(f"{path}: {why}", hint="verify its files with `llmctl models verify`")
    return header


def _obstacle(header: GGUFHeader) -> str | None:
    architecture = header.architecture
    if header.metadata.get("general.type", "model") != "model":
        return f"{header.path.name} is no language model but a {header.metadata['general.type']}"
    if architecture not in ARCHITECTURES:
        return f"architecture {architecture!r} is not supported by the openvino engine"
    if header.get("expert_count"):
        return f"mixtures of experts are not supported by the openvino engine ({architecture})"
    if header.get("pooling_type"):
        return "models that embed are not supported by the openvino engine"
    return _positions(header) or _types(header)


def _types(header: GGUFHeader) -> str | None:
    others = sorted({tensor.type_name for tensor in header.tensors if len(tensor.shape) > 1} - set(TYPES))
    return f"OpenVINO does not read {', '.join(others)} weights exactly" if others else None


def _positions(header: GGUFHeader) -> str | None:
    """GenAI's graph has one rotation over whole heads and attends to everything before a token."""
    width = _width(header)
    kind = header.get("rope.scaling.type", "none")
    if kind != "none" and header.get("rope.scaling.factor", 1.0) != 1.0:
        return f"its {kind} scaling of positions is ignored by OpenVINO's reader"
    if any(tensor.name.startswith("rope_") for tensor in header.tensors):
        return "its scaling of positions (rope_freqs) is ignored by OpenVINO's reader"
    if header.get("rope.dimension_count", width) != width:
        return "rotations of a part of each head are not supported by OpenVINO's reader"
    if header.get("attention.sliding_window"):
        return "its sliding window is ignored by OpenVINO's reader"
    return None


def _width(header: GGUFHeader) -> int:
    """Elements of one head's key."""
    width = header.get("attention.key_length") or header.get("embedding_length", 0) // (_heads(header) or 1)
    return width if isinstance(width, int) else 0


def _heads(header: GGUFHeader) -> int:
    heads = header.get("attention.head_count")
    return heads if isinstance(heads, int) else 0


def _lie(header: GGUFHeader) -> str | None:
    """What the header says that its weights do not: the graph would be computed, and every answer would be wrong."""
    hidden, heads = header.get("embedding_length"), _heads(header)
    keys = header.get("attention.head_count_kv", heads)
    if not (isinstance(hidden, int) and isinstance(keys, int)):
        return f"its sizes are no numbers: embedding_length {hidden!r}, head_count_kv {keys!r}"
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    rows = {"attn_q": heads * _width(header), "attn_k": keys * _width(header)}
    for layer in range(header.get("block_count", 0)):
        for name, expected in rows.items():
            found = shapes.get(f"blk.{layer}.{name}.weight")
            if found != (hidden, expected):
                return f"blk.{layer}.{name}.weight has the shape {found}, its header says {(hidden, expected)}"
    return None
