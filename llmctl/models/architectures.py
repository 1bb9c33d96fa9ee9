"""Which architectures the engines of this host take: read from their libraries' files, without importing them."""

from __future__ import annotations

import ast
import functools
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.environments import installed
from llmctl.models.choice import BETTER, READS, RUNS_ON

MAPPINGS = tuple(f"MODEL_FOR_{kind}_MAPPING_NAMES" for kind in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MASKED_LM"))
"""transformers' tables of the models that generate, from text and from images, and of those that embed."""
LIBRARIES = {"mlx": "mlx_lm", "torch": "transformers", "llamacpp": "xllamacpp", "openvino": "openvino_genai"}


def engines_for(format: str, backend: str) -> tuple[str, ...]:
    """The engines that read this format on this backend."""
    return tuple(e for e in LIBRARIES if format in READS[e] and backend in RUNS_ON[e])


def support(architecture: str, format: str, backend: str) -> Mapping[str, bool | None]:
    """Whether each engine for `format` knows `architecture`; None where its library is not installed here."""
    return {engine: takes(engine, architecture) for engine in engines_for(format, backend)}


def takes(engine: str, architecture: str) -> bool | None:
    """Whether this engine's library knows `architecture`; None when it cannot be told here."""
    folder = installed.package(engine, LIBRARIES[engine])
    if folder is None:
        return None
    try:
        return _KNOWN[engine](folder, architecture.lower())
    except (OSError, ValueError, SyntaxError):  # another release that is laid out differently
        return None


def _mlx(folder: Path, architecture: str) -> bool | None:
    """mlx-lm has one module for each model type."""
    name = _constant(folder / "utils.py", "MODEL_REMAPPING").get(architecture, architecture)
    return name.isidentifier() and (folder / "models" / f"{name}.py").is_file()


def _torch(folder: Path, architecture: str) -> bool | None:
    """transformers has tables of the model types for each purpose."""
    file = folder / "models" / "auto" / "modeling_auto.py"
    known = set[str]()
    for name in MAPPINGS:
        table = _constant(file, name)
        known |= {kind.lower() for kind in table}
        known |= {
            re.sub(r"(forcausallm|lmheadmodel|forconditionalgeneration|formaskedlm)$", "", str(c).lower())
            for c in table.values()
        }
    return architecture in known


def _llamacpp(folder: Path, architecture: str) -> bool | None:
    """llama.cpp compares with names that lie in its binary as C strings."""
    found = list(folder.glob("*.so"))
    for path in found:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if mapped.find(architecture.encode() + b"\0") >= 0:
                return True
    return False if found else None


def _openvino(folder: Path, architecture: str) -> bool | None:
    """GenAI's reader says in no file what it knows."""
    return architecture in BETTER["cpu", "openvino"].architectures


_KNOWN = {"mlx": _mlx, "torch": _torch, "llamacpp": _llamacpp, "openvino": _openvino}


@functools.cache
def _constant(path: Path, name: str) -> dict[str, Any]:
    """A table that stands in a module as a literal, or as the literal pairs of an OrderedDict."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = node.value  # type: ignore[attr-defined]
            return dict(ast.literal_eval(value.args[0] if isinstance(value, ast.Call) else value))
    raise ValueError(f"{path} has no {name}")
