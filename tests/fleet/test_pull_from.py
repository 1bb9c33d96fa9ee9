"""Models from host to host: over real ssh, cut in the middle, wrong at the source, without room at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.cli import copy_ends
from llmctl.fleet import copying
from llmctl.models import receiving
from tests.testbed.cutting_proxy import DOWN, UP, CuttingProxy
from tests.testbed.sshd import SshHost, needs_sshd, ssh_hosts

pytestmark = needs_sshd
MODELS = ("tiny-llama", "tiny-llama-gguf")
Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Iterator[list[SshHost]]:
    """h1 with two models, and h2 with none; each with llmctl."""
    with ssh_hosts(tmp_path_factory.mktemp("hosts"), ("h1", "h2")) as found:
        for host in found:
            host.install()
            host.configure(f"[hosts.{host.name}]\n")
        for name in MODELS:
            made = tmp_path_factory.mktemp("made") / name
            source = tiny_models[name]
            shutil.copytree(source if source.is_dir() else source.parent, made)
            imported(found[0], made, name)
        yield found


def imported(host: SshHost, path: Path, name: str) -> None:
    """`llmctl models import` on the host: links into `path`, and a manifest."""
    words = [str(host.home / ".llmctl/bin/llmctl"), "models", "import", str(path), "--as", name]
    environment = {"HOME": str(host.home), "PATH": os.environ["PATH"]}
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def operator(home: Path, tmp_path: Path, hosts: list[SshHost], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's configuration: this machine as `here`, h1 and h2; what an earlier test brought is gone."""
    for host in hosts[1:]:
        shutil.rmtree(host.home / ".llmctl" / "models", ignore_errors=True)
    configure(tmp_path, home, hosts)
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))
    return tmp_path


def configure(folder: Path, home: Path, hosts: list[SshHost], **ports: int) -> None:
    """hosts.toml and known_hosts; `ports` are other ssh ports, of proxies, by the host's name."""
    entries, known = ['default = "here"\n[hosts.here]\n'], []
    for host in hosts:
        port = ports.get(host.name, host.port)
        entries.append(host.entry().replace(f"ssh_port = {host.port}", f"ssh_port = {port}"))
        known.append(host.known().replace(f":{host.port} ", f":{port} "))
    (folder / "hosts.toml").write_text("".join(entries))
    home.mkdir(exist_ok=True)
    (home / "known_hosts").write_text("".join(known))


@pytest.fixture
def run(operator: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def models(home: Path) -> Path:
    return home / "models"


def visible(models_dir: Path) -> list[str]:
    return sorted(path.name for path in models_dir.glob("*/") if not path.name.startswith("."))


# ── it comes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_comes_from_a_host_to_here(run: Run, home: Path, hosts: list[SshHost]) -> None:
    code, envelope = run("pull", "tiny-llama", "--from", "h1")
    assert code == 0, envelope
    row = envelope["data"]["copied"][0]
    assert row["host"] == "here" and row["from"] == "h1" and row["received"] == row["bytes"] > 3_000_000
    folder = Path(row["path"])
    files = [path for path in folder.iterdir() if path.name != "manifest.json"]
    assert {path.name for path in files} >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert not any(path.is_symlink() for path in files)
    assert (hosts[0].home / ".llmctl/models/tiny-llama/safetensors-f32/model.safetensors").is_symlink()
    assert not list((models(home) / ".staging").glob("*.partial"))
    assert run("models", "verify", "tiny-llama")[0] == 0
    code, envelope = run("pull", "tiny-llama", "--from", "h1")
    assert code == 0 and envelope["data"]["copied"][0]["already"] and envelope["data"]["copied"][0]["received"] == 0


def test_what_came_can_be_loaded(run: Run, home: Path) -> None:
    assert run("pull", "tiny-llama-gguf", "--from", "h1")[0] == 0
    code, envelope = run("debug-inference", "--model", "tiny-llama-gguf")
    assert code == 0 and envelope["data"]["tokens"] > 0


def test_a_model_comes_from_host_to_host(run: Run, home: Path, hosts: list[SshHost]) -> None:
    code, envelope = run("pull", "tiny-llama-gguf", "--from", "h1", "--host", "h2", "--host", "here")
    assert code == 0, envelope
    assert [row["host"] for row in envelope["data"]["copied"]] == ["here", "h2"]
    there = hosts[1].home / ".llmctl" / "models"
    assert visible(there) == ["tiny-llama-gguf"] and not list((there / ".staging").glob("*.partial"))
    assert not list((home / "spool").iterdir())
    assert run("models", "verify", "tiny-llama-gguf", "--host", "h2")[0] == 0


def test_a_model_goes_from_here_to_a_host(
    run: Run, home: Path, hosts: list[SshHost], tiny_models: dict[str, Path]
) -> None:
    assert run("models", "import", str(tiny_models["tiny-qwen2"]), "--as", "mine")[0] == 0
    code, envelope = run("pull", "mine", "--from", "here", "--host", "h2")
    assert code == 0, envelope
    assert visible(hosts[1].home / ".llmctl" / "models") == ["mine"] and not (home / "spool").exists()


# ── it is cut ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_f07_a_copy_that_is_cut_goes_on_where_it_was(
    run: Run, operator: Path, home: Path, hosts: list[SshHost]
) -> None:
    with CuttingProxy(hosts[0].port, after_bytes=2_000_000, direction=DOWN) as proxy:
        configure(operator, home, hosts, h1=proxy.port)
        code, envelope = run("pull", "tiny-llama", "--from", "h1")
    assert code == 4 and envelope["errors"][0]["code"] == "unknown", envelope
    assert visible(models(home)) == []
    kept = sum(path.stat().st_size for path in (models(home) / ".staging").glob("*.partial"))
    assert kept > 1_000_000
    configure(operator, home, hosts)
    code, envelope = run("pull", "tiny-llama", "--from", "h1")
    row = envelope["data"]["copied"][0]
    assert code == 0 and row["received"] == row["bytes"] - kept
    assert run("models", "verify", "tiny-llama")[0] == 0


@pytest.mark.parametrize(("end", "direction"), [("h1", DOWN), ("h2", UP)])
def test_f07_a_copy_between_hosts_that_is_cut_at_either_end_goes_on(
    run: Run,
    operator: Path,
    home: Path,
    hosts: list[SshHost],
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    direction: str,
) -> None:
    monkeypatch.setattr(copying, "PIECE", 2**19)
    target, there = hosts[end == "h2"].port, hosts[1].home / ".llmctl" / "models"
    with CuttingProxy(target, after_bytes=2_000_000, direction=direction) as proxy:
        configure(operator, home, hosts, **{end: proxy.port})
        code, envelope = run("pull", "tiny-llama", "--from", "h1", "--host", "h2")
    assert code == 4, envelope
    assert visible(there) == []
    rests = (home / "spool") if end == "h1" else there / ".staging"
    kept = sum(path.stat().st_size for path in rests.iterdir() if path.is_file())
    assert kept > 1_000_000
    with CuttingProxy(target) as proxy:
        configure(operator, home, hosts, **{end: proxy.port})
        code, envelope = run("pull", "tiny-llama", "--from", "h1", "--host", "h2")
    assert code == 0 and visible(there) == ["tiny-llama"], envelope
    assert proxy.passed[direction] < envelope["data"]["copied"][0]["bytes"] - kept + 100_000
    configure(operator, home, hosts)
    assert run("models", "verify", "tiny-llama", "--host", "h2")[0] == 0


# ── it is wrong ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("to", ["here", "h2"])
def test_f07_a_file_that_is_not_what_its_manifest_says_is_never_visible(
    run: Run, home: Path, hosts: list[SshHost], tmp_path: Path, tiny_models: dict[str, Path], to: str
) -> None:
    made = tmp_path / f"bad-{to}"
    shutil.copytree(tiny_models["tiny-llama"], made)
    imported(hosts[0], made, made.name)
    weights = made / "model.safetensors"
    stat = weights.stat()
    with open(weights, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"\xff")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code, envelope = run("pull", made.name, "--from", "h1", "--host", to)
    assert code == 1 and envelope["errors"][0]["code"] == "bad_checkpoint", envelope
    assert "model.safetensors" in envelope["errors"][0]["message"]
    assert envelope["errors"][0]["hint"].endswith(f"llmctl models verify {made.name} --host h1")
    for folder in (models(home), hosts[1].home / ".llmctl" / "models"):
        assert visible(folder) == []
        assert not [p for p in (folder / ".staging").glob("*.partial") if p.stat().st_size > 3_000_000]


def test_f06_a_copy_that_does_not_fit_is_refused_before_a_byte_comes(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "free_bytes", lambda path: 4_000_000)
    code, envelope = run("pull", "tiny-llama", "--from", "h1")
    assert code == 1 and envelope["errors"][0]["code"] == "no_space"
    assert envelope["data"]["needed"] > 4_000_000
    assert not list((models(home)).glob("**/*.partial"))


def test_an_unknown_model_names_what_there_is(run: Run) -> None:
    for name in ("tiny-lama", "gpt-oss-120b"):
        code, envelope = run("pull", name, "--from", "h1")
        assert code == 1 and envelope["errors"][0]["code"] == "refused", envelope
        assert "tiny-llama" in envelope["errors"][0]["hint"]
    code, envelope = run("pull", "tiny-llama", "--from", "h1", "--format", "mlx")
    assert code == 1 and "h1 has tiny-llama as safetensors" in envelope["errors"][0]["message"]


def test_a_model_without_a_manifest_is_not_copied(run: Run, operator: Path, tiny_models: dict[str, Path]) -> None:
    path = tiny_models["tiny-qwen2"]
    entry = f'[models.bare]\n[[models.bare.artifacts]]\nformat = "safetensors"\npath = "{path}"\n'
    (operator / "models.toml").write_text(entry)
    code, envelope = run("pull", "bare", "--from", "here", "--host", "h2")
    assert code == 1 and f"llmctl models import {path}" in envelope["errors"][0]["hint"]


@pytest.mark.parametrize(
    "words",
    [
        ("pull", "tiny-llama", "--from", "nowhere"),
        ("pull", "tiny-llama", "--from", "h1", "--host", "h1"),
        ("pull", "tiny-llama", "--from", "h1", "--detach"),
        ("pull", "tiny-llama", "--from", "h1", "--revision", "main"),
        ("host", "incoming", "dance"),
    ],
)
def test_bad_words(run: Run, words: tuple[str, ...]) -> None:
    code, envelope = run(*words)
    assert code == 2 and envelope["errors"][0]["hint"], envelope


def test_s05_a_manifest_cannot_lead_out_of_its_folder(home: Path) -> None:
    good = {"path": "a.gguf", "bytes": 1, "sha256": "0" * 64, "mtime_ns": 0}
    for bad in (
        {"path": "../a"}, {"path": "/etc/a"}, {"path": "manifest.json"}, {"path": ""}, {"path": "a\0b"}, {"path": 1},
        {"sha256": "../../x"}, {"sha256": "0" * 63 + "/"}, {"bytes": -1}, {"bytes": "1"},
    ):  # fmt: skip
        manifest = {"model": "m", "format": "gguf", "quantization": None, "files": [{**good, **bad}]}
        with pytest.raises(Exception, match="not the manifest of an artifact"):
            receiving.read_manifest(manifest)
    for bad in ({"model": "../m"}, {"format": "../x"}, {"quantization": "../x"}, {"files": []}, {"files": None}):
        with pytest.raises(Exception, match=r"not the manifest|is not a"):
            receiving.read_manifest({"model": "m", "format": "gguf", "quantization": None, "files": [good], **bad})
    for broken in (None, [], "x", {}):
        with pytest.raises(Exception, match="not the manifest of an artifact"):
            receiving.read_manifest(broken)
    assert copy_ends.STEPS == ("plan", "take", "publish")
