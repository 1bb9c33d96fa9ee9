"""What the tests of registry.json share: the fixtures' slugs, and small things to make and to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.models.making import make_folder

HERE = Path(__file__).parents[1] / "registries"
GPT, QWEN, GEMMA, OWL, GGUF = (
    "mlx-gpt-oss-120b-mxfp4-q4", "mlx-qwen3-235b-4bit-a22b-instruct-2507", "mlx-gemma-3-27b-4bit-it-qat",
    "mlx-night-owl-12b-v2-6bit", "qwen2-5-0-5b-instruct-q4-k-m",
)  # fmt: skip
Run = Callable[..., tuple[int, dict[str, Any]]]


def make_mlx(folder: Path) -> Path:
    return make_folder(folder, {"quantization": {"bits": 4, "group_size": 64}, "max_position_embeddings": 262144})


def files_of(*folders: Path) -> dict[str, bytes]:
    """Every file below, but locks."""
    found = (path for top in folders for path in top.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): path.read_bytes() for path in found}


def change(path: str, value: Any) -> Callable[[Any], None]:
    """An edit that sets (or, with `...`, removes) the value at a path of keys."""

    def edit(data: Any) -> None:
        *keys, last = path.split(".")
        for key in keys:
            data = data[key]
        if value is ...:
            del data[last]
        else:
            data[last] = value

    return edit
