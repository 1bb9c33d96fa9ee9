"""A store and a state folder of the test's own, with the converter's archive that made the tiny models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmctl.jobs.context import Context, Silent
from llmctl.models.convert import fetch, run

Convert = Callable[..., Mapping[str, Any]]


@pytest.fixture(scope="session")
def archive(tiny_models: dict[str, Path]) -> Path:
    """The pinned archive, as scripts/tiny-models fetched it."""
    return tiny_models["tiny-qwen2"].parents[1] / "converters" / fetch.SOURCE.archive


@pytest.fixture(scope="session")
def converters(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder in which the converter is unpacked, by llmctl itself."""
    home = tmp_path_factory.mktemp("home")
    (home / "converters").mkdir()
    os.link(archive, home / "converters" / fetch.SOURCE.archive)
    fetch.converter(home, Silent())
    return home


@pytest.fixture
def convert(converters: Path, tmp_path: Path) -> Convert:
    """convert(path, "mlx", "4bit", …) → the job's result; the store is tmp_path / "models"."""
    return lambda source, to, quantization, **more: converted(
        source, to, quantization, models_dir=tmp_path / "models", home=converters, **more
    )


def arguments(source: Path, to: str, quantization: str, models_dir: Path, home: Path, **more: Any) -> dict[str, Any]:
    """The job's arguments, as the command line makes them."""
    format = "gguf" if source.suffix == ".gguf" else "safetensors"
    described = {"path": str(source), "format": format, "quantization": None, "source": None, "revision": None}
    told = {"model": "it", "source": described, "to": to, "quantization": quantization}
    return {**told, "models_dir": str(models_dir), "home": str(home), **more}


def converted(
    source: Path, to: str, quantization: str, models_dir: Path, home: Path, job: Context | None = None, **more: Any
) -> Mapping[str, Any]:
    return run(arguments(source, to, quantization, models_dir, home, **more), job or Silent())
