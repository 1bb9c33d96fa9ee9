"""A hub's cache, a registry.json, a configuration, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from tests.models.making import make_gguf
from tests.models.registry.fixtures import HERE, Run, make_mlx


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The cache of the hub with the files of the fixtures: small ones of the same formats."""
    folder = tmp_path / "hub"
    for number, name in (
        (1, "gpt-oss-120b-MXFP4-Q4"),
        (2, "Qwen3-235B-A22B-Instruct-2507-4bit"),
        (3, "gemma-3-27b-it-qat-4bit"),
    ):
        repo = folder / f"models--mlx-community--{name}"
        make_mlx(repo / "snapshots" / (str(number) * 40))
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(str(number) * 40)
    make_mlx(folder / "models--someone--Night-Owl-12B-v2-6bit" / "snapshots" / ("4" * 40))
    (folder / "night-owl.jinja").write_text("{{ messages }}")
    (folder / "gguf").mkdir()
    make_gguf(folder / "gguf" / "qwen2.5-0.5b-instruct-q4_k_m.gguf")
    return folder


@pytest.fixture
def registry(cache: Path) -> Callable[..., Path]:
    """registry("v2", edit) → the fixture as a file of this test, its JSON changed by `edit(data)`."""

    def write(name: str = "v2", edit: Callable[[Any], object] | None = None) -> Path:
        text = (HERE / f"{name}.json").read_text().replace("@CACHE@", str(cache))
        if edit:
            data = json.loads(text)
            edit(data)
            text = json.dumps(data, indent=2)
        path = cache.parent / "registry.json"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration of one local host on a CPU."""
    made = tmp_path / "config"
    (made / "profiles").mkdir(parents=True)
    (made / "hosts.toml").write_text('[hosts.local]\nbackend = "cpu"\n')
    return made


@pytest.fixture
def run(home: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("import", FILE, …) → (exit code, envelope)."""

    def call(*words: object) -> tuple[int, dict[str, Any]]:
        code = main(["--json", "--config-dir", str(folder), "registry", *map(str, words)])
        return code, json.loads(capsys.readouterr().out)

    return call
