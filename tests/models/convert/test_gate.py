"""The quality gate at the end of a conversion, and the command line over all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmctl.errors import QualityFailed
from llmctl.files import read_json
from llmctl.models import manifest as manifests
from llmctl.models.convert import fetch

Convert = Callable[..., Mapping[str, Any]]
Llmctl = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.models
LOOSE = {"bits": 8, "max_kl": 0.05, "min_top1": 0.8, "seen_kl": None, "seen_top1": None}
STRICT = {**LOOSE, "max_kl": 1e-9}


def test_what_passes_is_published_with_its_report(
    tiny_models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    result = convert(tiny_models["tiny-qwen2"], "mlx", "8bit", limit=LOOSE)
    report = read_json(Path(result["path"]) / "quality.json")
    assert report and report == json.loads(json.dumps(result["quality"])) and report["passed"]
    assert 0 <= report["metrics"]["mean_kl"] < 0.05 and report["metrics"]["top1"] > 0.8
    kept = manifests.read(Path(result["path"]))
    assert kept and "quality.json" not in {entry.path for entry in kept.files}


def test_what_fails_is_kept_aside_and_never_published(
    tiny_models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    store = tmp_path / "models"
    place = store / ".quarantine" / "it" / "mlx-3bit"
    place.mkdir(parents=True)
    (place / "of-an-earlier-failure").touch()
    with pytest.raises(QualityFailed, match="lost too much: the mean KL divergence") as error:
        convert(tiny_models["tiny-qwen2"], "mlx", "3bit", limit=STRICT)
    assert not (place / "of-an-earlier-failure").exists()
    assert error.value.details["path"] == str(place) and str(place) in (error.value.hint or "")
    assert "--max-kl" in (error.value.hint or "")
    assert error.value.details["report"]["metrics"]["mean_kl"] > 1e-9
    assert manifests.read(place) and not (read_json(place / "quality.json") or {})["passed"]
    assert not (store / "it").exists() and not list(store.glob(".staging/tmp*"))


@pytest.fixture
def llmctl(tiny_models: dict[str, Path], home: Path, archive: Path, tmp_path: Path) -> Iterator[Llmctl]:
    """llmctl(words…) → the envelope of a command over a catalog with tiny models."""
    (tmp_path / "hosts.toml").write_text("[hosts.here]\nbackend = 'cpu'\n")
    tiny = tiny_models["tiny-qwen2"]
    entries = (
        f"[models.walker]\nartifacts = [{{ format = 'safetensors', path = '{tiny}' }}]\n"
        "[models.absent]\nartifacts = [{ format = 'safetensors', source = 'org/absent' }]\n"
    )
    (tmp_path / "models.toml").write_text(entries)
    (home / "converters").mkdir()
    os.link(archive, home / "converters" / fetch.SOURCE.archive)
    environment = {**os.environ, "LLMCTL_CONFIG": str(tmp_path), "LLMCTL_HOME": str(home), "OMP_NUM_THREADS": "1"}

    def run(*words: str, text: bool = False) -> dict[str, Any]:
        argv = [sys.executable, "-m", "llmctl", *(() if text else ("--json",)), *words]
        done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        if text:
            return {"exit_code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        envelope: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == envelope["exit_code"], done.stderr
        assert "Traceback" not in done.stderr
        return envelope

    yield run


def test_the_command_from_plan_to_report(llmctl: Llmctl, home: Path) -> None:
    planned = llmctl("convert", "walker", "--to", "gguf", "--dry-run")["data"]["conversion"]
    assert planned["quantization"] == "q4_k_m" and planned["needed_bytes"] > planned["bytes"]
    assert planned["limit"]["bits"] == 4 and not Path(planned["path"]).exists()
    made = llmctl("convert", "Walker", "--to", "gguf", "--quantization", "Q8_0")
    assert made["status"] == "success" and made["data"]["quality"]["passed"]
    assert Path(made["data"]["path"]).parent.name == "walker"
    again = llmctl("convert", "walker", "--to", "gguf", "--quantization", "q8_0")["data"]
    assert not again["made"]
    below = llmctl("convert", "walker", "--to", "gguf", "--quantization", "q4_0", "--max-kl", "0")
    assert below["exit_code"] == 1 and below["errors"][0]["code"] == "quality_failed"
    assert "--max-kl" in below["errors"][0]["hint"]
    shown = llmctl("convert", "walker", "--to", "gguf", "--quantization", "q4_0", "--max-kl", "0", text=True)
    assert shown["exit_code"] == 1 and "  |   mean KL divergence, nats" in shown["stderr"] and not shown["stdout"]
    ungated = llmctl("convert", "walker", "--to", "torch", "--quantization", "fp16", "--no-gate")["data"]
    assert ungated["made"] and ungated["quality"] is None


@pytest.mark.parametrize(
    ("words", "exit_code", "hint"),
    [
        (("absent", "--to", "mlx"), 1, "llmctl pull absent --format safetensors"),
        (("walker", "--to", "mlx", "--quantization", "7bit"), 2, "mxfp4"),
        (("walker", "--to", "onnx"), 2, "--to mlx or gguf or torch"),
        (("walker", "--to", "torch", "--quantization", "fp32"), 1, "llmctl pull walker"),
        (("walker", "--to", "mlx", "--from", "gguf/q4_0"), 1, "llmctl models show walker"),
        (("nobody", "--to", "mlx"), 2, "llmctl models list"),
    ],
)
def test_what_cannot_be_says_what_to_type(llmctl: Llmctl, words: tuple[str, ...], exit_code: int, hint: str) -> None:
    answer = llmctl("convert", *words)
    assert answer["exit_code"] == exit_code
    assert hint in answer["errors"][0]["hint"]


def test_s06_only_the_catalog_allows_code(llmctl: Llmctl, tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    import shutil

    coded = tmp_path / "coded"
    shutil.copytree(tiny_models["tiny-qwen2"], coded)
    config = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "it.Config"}}))
    entry = f"[models.coded]\nartifacts = [{{ format = 'safetensors', path = '{coded}' }}]\n"
    (tmp_path / "models.toml").write_text(entry)
    refused = llmctl("convert", "coded", "--to", "torch")
    assert refused["exit_code"] == 1 and "allow_code" in refused["errors"][0]["hint"]
    (tmp_path / "models.toml").write_text(entry + "allow_code = true\n")
    assert llmctl("convert", "coded", "--to", "torch", "--no-gate")["data"]["made"]
