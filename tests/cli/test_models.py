"""`llmctl models fit|show|import|rm|gc` as an operator types them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.catalog import QualityLimit
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.files import write_json
from llmctl.models import manifest, store
from llmctl.models.manifest import FileEntry, Manifest
from llmctl.models.quality.report import Metrics, Report
from llmctl.processes import ProcessId
from llmctl.slots.state import Actual, Desired, SlotFolder
from tests.conftest import RunningSlot, eventually
from tests.models.making import make_folder, make_gguf

Run = Callable[..., tuple[int, dict[str, Any], list[dict[str, Any]]]]
Text = Callable[..., tuple[int, str, str]]
GB = 10**9


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with one CPU host of 10 GB, and an empty cache of huggingface-hub."""
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("llmctl.backends.cpu.fast_bf16", lambda: True)
    made = tmp_path / "config"
    made.mkdir()
    (made / "hosts.toml").write_text('[hosts.here]\nbackend = "cpu"\nmemory_budget = "10GB"\n')
    (made / "models.toml").write_text(
        '[models.absent]\nartifacts = [{ format = "safetensors", quantization = "bf16", source = "org/absent",'
        ' bytes = 60_000_000_000 }, { format = "gguf", quantization = "q4_0", source = "org/absent-GGUF",'
        " bytes = 2_000_000_000 }]\n[models.small]\nparameters = 1_000_000_000\n"
        'artifacts = [{ format = "gguf", quantization = "q8_0", source = "org/small" }]\n'
    )
    return made


@pytest.fixture
def run(home: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("models", …) → (exit code, data, errors), with --json."""

    def call(*argv: object) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        code = main([*map(str, argv), "--json"])
        envelope = json.loads(capsys.readouterr().out)
        return code, envelope["data"], envelope["errors"]

    return call


@pytest.fixture
def text(home: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> Text:
    """text("models", …) → (exit code, stdout, stderr)."""

    def call(*argv: object) -> tuple[int, str, str]:
        code = main([*map(str, argv)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def imported(run: Run, tmp_path: Path) -> str:
    """A folder of the store's model `plain`; its path."""
    code, data, _ = run("models", "import", make_folder(tmp_path / "plain"))
    assert code == 0
    return str(data["path"])


def use(home: Path, port: int, path: str, *, desired: bool = True) -> None:
    """A slot that should run, or could go back to, the model at `path`."""
    spec = SlotSpec(EngineSpec("torch", "plain", path, "safetensors"))
    folder = SlotFolder(home, port)
    folder.write_desired(Desired(spec if desired else None))
    folder.write_actual(Actual(last_known_good=spec))


# ── fit ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fit_tells_bytes_engine_and_room(run: Run, imported: str) -> None:
    code, data, _ = run("models", "fit", "plain", "--context", 1000, "--parallel", 2)
    (row,) = data["fits"]
    assert code == 0
    assert (row["host"], row["format"], row["quantization"], row["path"]) == ("here", "safetensors", "bf16", imported)
    assert (row["engine"], row["fits"], row["verdict"], row["basis"]) == ("torch", True, "fits", "header")
    assert row["total"] == row["weights"] + row["kv"] + row["compute"] + row["process"]
    assert row["weights"] == 300 * 64 * 2 + 2 * 32 * 64 * 2 and row["kv"] == 2 * (2 * 2 * 32) * 2 * 1024
    assert (row["budget"], row["reserved"], row["largest_context"], row["longest"]) == (10 * GB, 0, 2048, 2048)
    assert row["free"] > 0 and row["short"] == 0
    assert set(row["why_not"]) == {"llamacpp", "mlx", "openvino", "upstream", "scripted"} and row["why"]


def test_fit_counts_what_slots_have_reserved(run: Run, home: Path, imported: str) -> None:
    owner = ProcessId.of(os.getpid()).__dict__
    write_json(home / "ledger.json", {"x": {"port": 8101, "bytes": 9_639_000_000, "owner": owner}})
    code, data, _ = run("models", "fit", "plain", "--parallel", 1)
    (row,) = data["fits"]
    assert (code, row["reserved"], row["verdict"], row["fits"]) == (1, 9_639_000_000, "too large", False)
    write_json(home / "ledger.json", {"x": {"port": 8101, "bytes": 9_200_000_000, "owner": owner}})
    code, data, _ = run("models", "fit", "plain", "--parallel", 4096)
    (row,) = data["fits"]
    assert (code, row["verdict"]) == (1, "less context") and 0 < row["largest_context"] < 2048
    assert row["short"] == row["total"] - (10 * GB - 9_200_000_000)
    less = run("models", "fit", "plain", "--parallel", 4096, "--context", row["largest_context"])
    more = run("models", "fit", "plain", "--parallel", 4096, "--context", row["largest_context"] + 1)
    assert (less[0], more[0]) == (0, 1)


def test_fit_of_what_is_not_here_is_marked(run: Run, text: Text) -> None:
    code, data, _ = run("models", "fit", "absent")
    large, small = data["fits"]
    assert code == 0 and {large["basis"], small["basis"]} == {"catalog"}
    assert (large["verdict"], large["weights"], large["kv"], large["path"]) == ("too large", 60 * GB, None, None)
    assert (small["engine"], small["fits"], small["largest_context"]) == ("llamacpp", True, None)
    assert run("models", "fit", "small")[1]["fits"][0]["weights"] == GB
    shown = text("models", "fit", "absent")[1]
    assert "an estimate by the catalog's figures" in shown and "its weights alone: does not fit, short by" in shown


def test_fit_of_another_artifact_by_the_one_that_is_here(run: Run, tmp_path: Path) -> None:
    assert run("models", "import", make_folder(tmp_path / "a"), "--as", "absent")[0] == 0
    here, gguf = run("models", "fit", "absent", "--context", 512)[1]["fits"]
    assert (here["basis"], gguf["basis"], gguf["format"]) == ("header", "catalog", "gguf")
    assert gguf["weights"] == 2 * GB and gguf["kv"] == here["kv"] and gguf["largest_context"] == 2048


def test_fit_where_it_fits_nowhere_is_a_finding(run: Run) -> None:
    assert run("models", "fit", "absent", "--quantization", "BF16")[0] == 1


def test_fit_beyond_the_models_context_names_both_numbers(run: Run, imported: str) -> None:
    code, _, (error,) = run("models", "fit", "plain", "--context", 4096)
    assert (code, error["message"], error["hint"]) == (
        2, "plain has a context of 2048 tokens, not 4096", "--context 2048",
    )  # fmt: skip


def test_fit_of_an_artifact_with_a_shorter_context(run: Run, tmp_path: Path, imported: str) -> None:
    assert run("models", "import", make_gguf(tmp_path / "x-Q4_0.gguf", context=512), "--as", "plain")[0] == 0
    code, data, _ = run("models", "fit", "plain", "--context", 1024)
    rows = {row["format"]: row for row in data["fits"]}
    assert code == 0 and rows["safetensors"]["fits"]
    assert (rows["gguf"]["fits"], rows["gguf"]["problem"]) == (False, "its context ends at 512 tokens")


def test_fit_says_why_an_artifact_cannot_be_run(run: Run, tmp_path: Path, imported: str) -> None:
    (tmp_path / "plain" / "model.safetensors").unlink()
    code, data, _ = run("models", "fit", "plain")
    assert (code, data["fits"][0]["verdict"]) == (1, "not run")
    assert "model.safetensors is missing" in data["fits"][0]["problem"]


def test_fit_of_an_architecture_that_the_engine_does_not_know(run: Run, tmp_path: Path) -> None:
    assert run("models", "import", make_folder(tmp_path / "odd", {"model_type": "nonesuch"}))[0] == 0
    code, data, _ = run("models", "fit", "odd")
    assert (code, data["fits"][0]["problem"]) == (1, "torch does not know the architecture 'nonesuch'")


def test_fit_with_the_engine_that_was_asked_for(run: Run, imported: str) -> None:
    assert run("models", "fit", "plain", "--engine", "mlx")[1]["fits"][0]["engine"] == "mlx"
    code, data, _ = run("models", "fit", "plain", "--engine", "llamacpp")
    assert (code, data["fits"][0]["engine"], data["fits"][0]["problem"]) == (1, None, "no engine runs it on cpu")


def test_fit_of_an_unknown_quantization(run: Run, imported: str) -> None:
    code, _, (error,) = run("models", "fit", "plain", "--quantization", "q9")
    assert code == 1 and "q9" in error["message"] and error["hint"] == "llmctl models show plain"


# ── show ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_show_tells_how_each_artifact_came(run: Run, text: Text, tmp_path: Path, imported: str) -> None:
    code, data, _ = run("models", "show", "plain")
    (local,) = data["local"]
    assert code == 0 and local["origin"]["by"] == "import" and local["files"] == 5
    assert (local["architecture"], local["context"], local["problems"]) == ("llama", 2048, [])
    assert f"import at {local['origin']['at']} · from {tmp_path / 'plain'}" in text("models", "show", "plain")[1]


def test_show_has_provenance_and_quality_of_a_conversion(run: Run, text: Text, home: Path) -> None:
    folder = home / "models" / "made" / "gguf-q8_0"
    folder.mkdir(parents=True)
    file = make_gguf(folder / "model.gguf")
    entry = FileEntry("model.gguf", file.stat().st_size, "0" * 64, file.stat().st_mtime_ns)
    origin = {
        "by": "convert", "at": "2026-01-01T00:00:00+00:00", "from": {"source": "org/repo"},
        "tools": {"llmctl": "0"}, "parameters": {"to": "gguf", "quantization": "q8_0"},
    }  # fmt: skip
    manifest.write(folder, Manifest("made", "gguf", "q8_0", (entry,), licence="mit", origin=origin))
    metrics = Metrics(2048, 0.0123, 0.1, 0.2, 0.987, 10.0, 10.5)
    report = Report(True, "", metrics, QualityLimit(8, 0.05, 0.95), "ab", 8, None, None, 1.0)
    write_json(folder / "quality.json", asdict(report))
    local = run("models", "show", "made")[1]["local"][0]
    assert (local["licence"], local["quality"]["metrics"]["mean_kl"]) == ("mit", 0.0123)
    shown = text("models", "show", "made")[1]
    for words in ("convert at 2026", "to gguf, quantization q8_0", "passed · mean KL 0.0123", "top-1 98.70%", "mit"):
        assert words in shown
    (folder / "quality.json").write_text("torn")
    assert "quality.json cannot be read" in run("models", "show", "made")[1]["local"][0]["problems"][0]


def test_show_of_a_damaged_artifact_is_an_answer(run: Run, tmp_path: Path, imported: str) -> None:
    (tmp_path / "plain" / "config.json").write_text("{")
    code, data, _ = run("models", "show", "plain")
    assert code == 0 and "not JSON" in data["local"][0]["problems"][0]


# ── import, rm, gc ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_import_and_again(run: Run, text: Text, tmp_path: Path, imported: str) -> None:
    assert run("models", "import", tmp_path / "plain")[1]["already"] is True
    assert "is there already, unchanged" in text("models", "import", tmp_path / "plain")[1]
    assert run("models", "list")[1]["models"][-1]["id"] == "plain"


def test_rm_asks_and_removes(run: Run, text: Text, tmp_path: Path, imported: str) -> None:
    code, _, (error,) = run("models", "rm", "plain")
    assert (code, error["hint"]) == (1, "add --yes") and Path(imported).exists()
    code, data, _ = run("models", "rm", "plain", "--dry-run")
    assert (code, data["removed"], data["folders"]) == (0, False, [imported]) and Path(imported).exists()
    assert "would remove" in text("models", "rm", "plain", "--dry-run")[1]
    code, data, _ = run("models", "rm", "plain", "--yes")
    assert (code, data["removed"]) == (0, True) and not Path(imported).parent.exists()
    assert (tmp_path / "plain" / "model.safetensors").exists()
    assert run("models", "rm", "plain", "--yes")[0] == 2  # it is no model any more


def test_rm_takes_only_what_is_named(run: Run, tmp_path: Path, imported: str) -> None:
    assert run("models", "import", make_gguf(tmp_path / "x-Q4_0.gguf"), "--as", "plain")[0] == 0
    assert run("models", "rm", "plain", "--format", "mlx", "--yes")[0] == 1
    code, data, _ = run("models", "rm", "plain", "--quantization", "Q4_0", "--yes")
    assert code == 0 and [Path(path).name for path in data["folders"]] == ["gguf-q4_0"] and Path(imported).exists()


@pytest.mark.parametrize("inside", ["", "model.safetensors"])
def test_rm_is_refused_while_a_slot_uses_it(run: Run, home: Path, imported: str, inside: str) -> None:
    use(home, 8101, str(Path(imported) / inside))
    code, _, (error,) = run("models", "rm", "plain", "--yes")
    assert (code, error["message"]) == (1, "port 8101 uses plain (safetensors-bf16)")
    assert (error["hint"], error["port"]) == ("llmctl unload 8101", 8101) and Path(imported).exists()
    use(home, 8101, str(Path(imported) / inside), desired=False)  # unloaded: nothing goes back to it
    assert run("models", "rm", "plain", "--yes")[0] == 0


def test_rm_is_refused_for_what_a_slot_would_go_back_to(run: Run, home: Path, tmp_path: Path, imported: str) -> None:
    use(home, 8101, imported)
    SlotFolder(home, 8101).write_desired(Desired(SlotSpec(EngineSpec("torch", "b", str(tmp_path), "safetensors"))))
    assert run("models", "rm", "plain", "--yes")[0] == 1 and Path(imported).exists()


def test_rm_waits_for_no_slot_that_is_changing(
    run: Run, imported: str, slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec]
) -> None:
    slot = slots(None)
    loading = threading.Thread(target=slot.change, args=("load", script("alpha", load=3.0)))
    loading.start()
    eventually(lambda: slot.status().operation)
    code, _, (error,) = run("models", "rm", "plain", "--yes")
    loading.join()
    assert (code, error["code"], error["port"]) == (1, "busy", slot.port) and Path(imported).exists()
    assert run("models", "rm", "plain", "--yes")[0] == 0


def test_rm_leaves_what_lies_outside_of_the_store(run: Run, config: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "own")
    entry = f'[models.own]\nartifacts = [{{ format = "safetensors", path = "{folder}" }}]\n'
    (config / "models.toml").write_text(entry)
    code, _, (error,) = run("models", "rm", "own", "--yes")
    assert code == 1 and "outside of llmctl's store" in error["message"] and (folder / "config.json").exists()


def test_gc_lists_and_removes(run: Run, text: Text, home: Path, imported: str) -> None:
    assert run("models", "gc", "--yes")[1]["leftovers"] == []
    dead = home / "models" / store.STAGING / "dead"
    failed = home / "models" / store.QUARANTINE / "plain" / "gguf-q4_0"
    for folder in (dead, failed):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(1000))
    code, data, _ = run("models", "gc", "--dry-run")
    assert (code, data["bytes"], data["removed"]) == (0, 1000, False) and dead.exists()
    assert run("models", "gc")[0] == 1  # it asks
    shown = text("models", "gc", "--yes")[1]
    assert f"removed staging {dead}" in shown and "in quarantine (--quarantine removes it)" in shown
    assert not dead.exists() and failed.exists() and Path(imported).exists()
    assert run("models", "gc", "--quarantine", "--yes")[1]["bytes"] == 1000 and not failed.exists()
