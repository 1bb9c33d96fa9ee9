"""LoRA adapters (2106.09685) for GGUF models, as GGUF files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmctl.engines.llamacpp_library import Library
from llmctl.errors import LoadFailed, Unsupported


def load_adapters(adapters: Mapping[str, str], library: Library, model: int) -> dict[str, int]:
    """Each adapter in memory; they are freed with the model."""
    found = {}
    for name, path in adapters.items():
        file = adapter_file(name, Path(path))
        library.log.clear()
        loaded = library.adapter_lora_init(model, str(file).encode())
        if not loaded:
            lines = list(library.log)
            cause = next((line.rpartition(": ")[2].strip() for line in lines if "failed" in line), "no reason given")
            raise LoadFailed(f"adapter {name} ({file}): llama.cpp: {cause}", details={"log": lines})
        found[name] = loaded
    return found


def adapter_file(name: str, path: Path) -> Path:
    """The GGUF file of an adapter: its path, or the only one in that folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    if len(files) != 1:
        raise Unsupported(
            f"adapter {name}: {path} holds {len(files) or 'no'} GGUF files; llama.cpp takes one",
            hint="llama.cpp's convert_lora_to_gguf.py makes one of adapter_model.safetensors",
        )
    with open(files[0], "rb") as file:
        if file.read(4) != b"GGUF":
            raise Unsupported(f"adapter {name}: {files[0]} is not a GGUF file")
    return files[0]
