"""Which GGUF files OpenVINO computes right, told from their headers."""

from __future__ import annotations

from pathlib import Path

from llmctl.errors import Unsupported
from llmctl.models import gguf_header
from llmctl.models.gguf_header import GGUFHeader

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""GenAI 2026.4.1 builds a graph for these; Mistral's files say `llama`."""
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q6_K")
"""Tensor types that it reads as they are. It takes Q4_K and Q4_1 as well, but rounds each block's minimum to a
multiple of its scale, an error as large as the quantization's own."""
LLAMACPP = "load it with --engine llamacpp"


def checked(model: str, path: Path) -> GGUFHeader:
    """The header of the file at `path`; Unsupported, with the reason, for what would not be computed right."""
    if "-of-" in path.name:
        raise Unsupported(f"{model}: OpenVINO reads no split GGUF files", hint=LLAMACPP)
    header = gguf_header.read(path)
    if why := _obstacle(header):
        raise Unsupported(f"{model}: {why}", hint=LLAMACPP)
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
    others = sorted({tensor.type_name for tensor in header.tensors} - set(TYPES))
    return f"OpenVINO does not read {', '.join(others)} weights exactly" if others else None


def _positions(header: GGUFHeader) -> str | None:
    """GenAI's graph has one rotation over whole heads and attends to everything before a token."""
    heads = header.get("attention.head_count")
    width = header.get("attention.key_length") or header.get("embedding_length", 0) // (heads or 1)
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
