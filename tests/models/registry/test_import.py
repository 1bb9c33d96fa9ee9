"""registry.json is brought over in one command, and nothing is downloaded again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl import catalog, config
from llmctl.__main__ import main
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.slots.state import Actual, Desired, SlotFolder
from tests.models.registry.fixtures import GEMMA, GGUF, GPT, OWL, QWEN, Run, change, files_of, make_mlx


def test_an_operator_moves_over_in_one_command(
    run: Run, registry: Callable[..., Path], folder: Path, home: Path
) -> None:
    code, answer = run("import", registry())
    assert (code, answer["data"]["findings"]) == (0, [])
    known = catalog.load(folder)
    assert {slug: known.resolve(slug).id for slug in (GPT, QWEN, GEMMA, OWL, GGUF)} == {
        GPT: "gpt-oss-120b", QWEN: "qwen3-235b-a22b", GEMMA: "gemma-3-27b-qat", OWL: "night-owl-12b-v2",
        GGUF: "qwen2.5-0.5b",
    }  # fmt: skip
    found = config.profile(config.load(folder), known, "imported")
    assert [(s.port, s.model, s.engine, s.quantization, s.context, s.handle) for s in found.slots] == [
        (8100, "gpt-oss-120b", "mlx", "mxfp4-q4", 131072, GPT),
        (8101, "qwen3-235b-a22b", "mlx", "4bit", 65536, QWEN),
        (8102, "night-owl-12b-v2", "mlx", "6bit", 8192, OWL),
    ]
    good = {port: SlotFolder(home, port).read_actual().last_known_good for port in (8100, 8101, 8102, 8108)}
    assert {port: spec.model if spec else None for port, spec in good.items()} == {
        8100: "gpt-oss-120b", 8101: "qwen3-235b-a22b", 8102: "gemma-3-27b-qat", 8108: None,
    }  # fmt: skip


def test_what_a_model_is_comes_over_with_its_files(
    run: Run, registry: Callable[..., Path], folder: Path, cache: Path
) -> None:
    run("import", registry())
    known = catalog.load(folder)
    gpt = known.resolve(GPT)
    artifact = gpt.artifacts[0]
    assert artifact.path == cache / "models--mlx-community--gpt-oss-120b-MXFP4-Q4" / "snapshots" / ("1" * 40)
    assert (artifact.source, artifact.revision) == ("mlx-community/gpt-oss-120b-MXFP4-Q4", "1" * 40)
    traits = gpt.traits(artifact)
    assert (traits.max_output, traits.load_timeout, traits.tool_parser) == (32768, 900, "harmony")
    assert traits.chat_template_args == {"reasoning_effort": "medium"} and traits.licence == "apache-2.0"
    assert gpt.probe.expect == "Paris"  # what the shipped entry says stays
    assert {a.folder for a in gpt.artifacts} == {"mlx-mxfp4-q4", "safetensors-mxfp4", "gguf-mxfp4"}
    owl = known.resolve("someone/Night-Owl-12B-v2-6bit")
    assert owl.artifacts[0].chat_template == str(cache / "night-owl.jinja")
    qwen = known.resolve(QWEN).artifacts[0]
    assert str(qwen.path).endswith("2" * 40) and qwen.tool_parser is None  # hermes is the model's anyway


def test_version_1_has_ports_for_lanes(run: Run, registry: Callable[..., Path], folder: Path, home: Path) -> None:
    code, _ = run("import", registry("v1"))
    assert code == 0
    found = config.profile(config.load(folder), catalog.load(folder), "imported")
    assert [(slot.port, slot.handle) for slot in found.slots] == [(8100, GPT), (8101, QWEN), (8102, OWL)]
    good = SlotFolder(home, 8102).read_actual().last_known_good
    assert good and good.model == "night-owl-12b-v2"


def test_a_second_import_has_nothing_to_do(run: Run, registry: Callable[..., Path], folder: Path, home: Path) -> None:
    path = registry()
    assert run("import", path)[1]["data"]["changed"]
    before = files_of(folder, home)
    code, answer = run("import", path)
    assert (code, answer["data"]["changed"], answer["data"]["written"]) == (0, False, [])
    assert files_of(folder, home) == before


def test_a_dry_run_shows_the_texts_and_writes_nothing(
    run: Run, registry: Callable[..., Path], folder: Path, home: Path
) -> None:
    before = files_of(folder, home)
    code, answer = run("import", registry(), "--dry-run")
    assert code == 0 and files_of(folder, home) == before
    texts = answer["data"]["texts"]
    assert run("import", registry())[0] == 0
    assert {path: Path(path).read_text() for path in texts} == texts


def test_what_stands_in_the_files_stays(run: Run, registry: Callable[..., Path], folder: Path) -> None:
    models, profile = (
        "# mine\n[models.mine]\ncontext = 7 # seven\n",
        'description = "own" # words\n\n[[slots]]\nport = 8105\nmodel = "mine"\n',
    )
    (folder / "models.toml").write_text(models)
    (folder / "profiles" / "work.toml").write_text(profile)
    assert run("import", registry(), "--profile", "work")[0] == 0
    assert (folder / "models.toml").read_text().startswith(models)
    assert (folder / "profiles" / "work.toml").read_text().startswith(profile)
    assert [s.port for s in config.profile(config.load(folder), catalog.load(folder), "work").slots] == [
        8105,
        8100,
        8101,
        8102,
    ]


def test_a_registry_that_grew_adds_its_artifact_to_the_entry(
    run: Run, registry: Callable[..., Path], folder: Path, cache: Path
) -> None:
    run("import", registry())
    before = (folder / "models.toml").read_text()
    make_mlx(cache / "eight")

    def grow(data: Any) -> None:
        data["models"]["mlx-night-owl-12b-v2-8bit"] = {
            "repo_id": "someone/Night-Owl-12B-v2-8bit", "model_id": "mlx-night-owl-12b-v2-8bit", "format": "mlx",
            "cache_path": str(cache / "eight"), "port": None, "context_length": 8192, "max_output_tokens": None,
        }  # fmt: skip

    assert run("import", registry("v2", grow))[0] == 0
    assert (folder / "models.toml").read_text().startswith(before)
    assert [a.quantization for a in catalog.load(folder).models["night-owl-12b-v2"].artifacts] == ["6bit", "8bit"]


def test_files_that_are_not_whole_are_named_with_the_pull(
    run: Run, registry: Callable[..., Path], folder: Path, cache: Path
) -> None:
    snapshot = cache / "models--mlx-community--gpt-oss-120b-MXFP4-Q4" / "snapshots" / ("1" * 40)
    (snapshot / "model.safetensors").unlink()
    code, answer = run("import", registry())
    found = answer["data"]["findings"]
    assert code == 3
    assert [(f["where"], f["hint"]) for f in found if "cache_path" in f["where"]] == [
        (f"/models/{GPT}/cache_path", "llmctl pull gpt-oss-120b")
    ]
    assert any(f["where"] == "/lanes/8100/last_known_good_target" for f in found)
    gpt = catalog.load(folder).resolve(GPT)
    assert gpt.artifacts[0].path is None and gpt.artifacts[0].source
    assert catalog.load(folder).resolve(QWEN).artifacts[0].path


def test_files_that_would_run_code_come_over_and_are_named(
    run: Run, registry: Callable[..., Path], folder: Path, cache: Path
) -> None:
    owl = cache / "models--someone--Night-Owl-12B-v2-6bit" / "snapshots" / ("4" * 40)
    config_of = json.loads((owl / "config.json").read_text())
    (owl / "config.json").write_text(json.dumps({**config_of, "auto_map": {"AutoModel": "x.Y"}}))
    code, answer = run("import", registry())
    found = [f for f in answer["data"]["findings"] if "run code" in f["message"]]
    assert code == 3 and found[0]["hint"].endswith('allow_code = true in [models."night-owl-12b-v2"]')
    assert catalog.load(folder).resolve(OWL).artifacts[0].path == owl


def test_what_may_run_code_gets_no_source_without_a_commit(
    run: Run, registry: Callable[..., Path], folder: Path, cache: Path
) -> None:
    (folder / "models.toml").write_text("[models.night-owl-12b-v2]\nallow_code = true\n")
    make_mlx(cache / "plain")
    code, _ = run("import", registry("v2", change(f"models.{OWL}.cache_path", str(cache / "plain"))))
    artifact = catalog.load(folder).resolve(OWL).artifacts[0]
    assert (code, artifact.source, artifact.path) == (0, None, cache / "plain")


def test_a_slot_gets_no_more_context_than_the_files_have(run: Run, registry: Callable[..., Path], folder: Path) -> None:
    assert run("import", registry("v2", change(f"models.{OWL}.context_length", 2**20)))[0] == 0
    found = config.profile(config.load(folder), catalog.load(folder), "imported")
    assert [slot.context for slot in found.slots if slot.port == 8102] == [262144]


def test_a_slug_that_is_the_id_of_another_model_is_refused(
    run: Run, registry: Callable[..., Path], folder: Path
) -> None:
    def rename(data: Any) -> None:
        data["models"]["gpt-oss-20b"] = {**data["models"].pop(GGUF), "model_id": "gpt-oss-20b"}

    code, answer = run("import", registry("v2", rename))
    assert code == 1 and any("id of another model, gpt-oss-20b" in f["message"] for f in answer["data"]["findings"])
    assert not (folder / "models.toml").exists()


def test_two_models_that_a_repository_may_be_are_both_named(
    run: Run, registry: Callable[..., Path], folder: Path
) -> None:
    (folder / "models.toml").write_text(
        '[models.one]\naliases = ["night-owl-12b-v2-6bit"]\n[models.two]\naliases = ["Night_Owl-12b-v2-6bit"]\n'
    )
    code, answer = run("import", registry())
    assert code == 1 and any("may be one, two" in f["message"] for f in answer["data"]["findings"])


def test_an_entry_that_has_the_files_without_the_slug_is_not_guessed_at(
    run: Run, registry: Callable[..., Path], folder: Path
) -> None:
    run("import", registry())
    own = folder / "models.toml"
    own.write_text(own.read_text().replace(f'names = ["{OWL}"]\n', ""))
    code, answer = run("import", registry())
    assert code == 1 and "or without the name" in next(f for f in answer["data"]["findings"] if f["refused"])["message"]


def test_odd_text_survives_the_way_through_toml(run: Run, registry: Callable[..., Path], folder: Path) -> None:
    odd = {"say": 'a\x7f"\\\n\u2028\U0001f600', "deep": {"x": [1, 2.5, True, {"y": "z"}]}}
    assert run("import", registry("v2", change(f"models.{OWL}.chat_template_args", odd)))[0] == 0
    assert catalog.load(folder).resolve(OWL).artifacts[0].chat_template_args == odd


def test_nothing_is_lost_of_the_file_itself(run: Run, registry: Callable[..., Path], home: Path) -> None:
    path = registry()
    copy = Path(run("import", path)[1]["data"]["copy"])
    assert copy.parent == home / "imported" and copy.read_bytes() == path.read_bytes()


CONFLICTS: dict[str, tuple[str, str, int, str]] = {
    "an artifact elsewhere": (
        "models.toml",
        "[models.night-owl-12b-v2]\n\n[[models.night-owl-12b-v2.artifacts]]\n"
        'format = "mlx"\nquantization = "6bit"\npath = "x"\n',
        3,
        "has a mlx 6bit already",
    ),
    "artifacts in one line": (
        "models.toml",
        '[models.night-owl-12b-v2]\nartifacts = [{ format = "gguf", path = "x" }]\n',
        2,
        "tables of their own",
    ),
    "slots in one line": (
        "profiles/imported.toml",
        'slots = [{ port = 8105, model = "phi-2" }]\n',
        0,
        "not written as [[slots]]",
    ),
    "the port of another": (
        "profiles/imported.toml",
        '[[slots]]\nmodel = "phi-2"\nport = 8101\n',
        3,
        "port 8101 has phi-2",
    ),
    "a slug that is taken": (
        "models.toml",
        f'[models.other]\naliases = ["{GPT}"]\n',
        0,
        "may be gpt-oss-120b, other",
    ),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_a_conflict_is_refused_with_its_line_and_nothing_is_written(
    case: str, run: Run, registry: Callable[..., Path], folder: Path, home: Path
) -> None:
    name, text, line, says = CONFLICTS[case]
    (folder / name).write_text(text)
    before = files_of(folder, home)
    code, answer = run("import", registry())
    refused = [f for f in answer["data"]["findings"] if f["refused"]]
    assert code == 1 and answer["errors"]
    assert says in refused[0]["message"]
    assert not line or f"{name}:{line}: " in refused[0]["message"]
    assert files_of(folder, home) == before


def test_a_slot_that_knows_better_keeps_its_state(run: Run, registry: Callable[..., Path], home: Path) -> None:
    mine = SlotSpec(EngineSpec("scripted", "mine", "/m", "script"))
    newer, desired = SlotFolder(home, 8100), SlotFolder(home, 8101)
    newer.write_actual(Actual(last_known_good=mine))
    desired.write_desired(Desired(mine))
    _, answer = run("import", registry())
    assert set(answer["data"]["last_known_good"]) == {"8102"}
    assert newer.read_actual().last_known_good == mine
    assert desired.read_actual().last_known_good is None


def test_a_running_slot_server_keeps_its_state(
    run: Run, registry: Callable[..., Path], home: Path, slots: Callable[..., Any]
) -> None:
    slot = slots()

    def to_its_port(data: Any) -> None:
        lane = data["lanes"].pop("8100")
        data["lanes"] = {str(slot.port): {**lane, "port": slot.port}}

    code, answer = run("import", registry("v2", to_its_port))
    assert code == 0 and answer["data"]["last_known_good"] == {}
    assert "a slot server runs" in answer["data"]["as_it_was"][str(slot.port)]


def test_imports_at_once_lose_nothing(registry: Callable[..., Path], folder: Path, home: Path, cache: Path) -> None:
    files = []
    for number in range(4):
        make_mlx(cache / str(number))
        entry = {
            "repo_id": f"o/m{number}-4bit",
            "model_id": f"mlx-m{number}-4bit",
            "format": "mlx",
            "cache_path": str(cache / str(number)),
        }
        files.append(cache / f"{number}.json")
        files[-1].write_text(
            json.dumps({"version": 1, "models": {f"mlx-m{number}-4bit": {**entry, "port": 8110 + number}}})
        )
    line = [sys.executable, "-m", "llmctl", "--config-dir", str(folder), "registry", "import"]
    started = [subprocess.Popen([*line, str(file)], env={**os.environ}, stdout=subprocess.DEVNULL) for file in files]
    assert [process.wait(60) for process in started] == [0, 0, 0, 0]
    known = catalog.load(folder)
    assert {f"m{n}" for n in range(4)} <= set(known.models)
    assert {s.port for s in config.profile(config.load(folder), known, "imported").slots} == {8110, 8111, 8112, 8113}


def test_what_came_over_is_loaded_and_answers(
    run: Run, home: Path, tmp_path: Path, tiny_models: dict[str, Path], slots: Callable[..., Any], folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    port = slots().port
    cached = str(tiny_models["tiny-qwen2-gguf"])
    entry = {
        "repo_id": "o/tiny-owl-f16-GGUF", "model_id": "tiny-owl-f16", "cache_path": cached, "format": "gguf",
        "port": port, "context_length": 512, "max_output_tokens": 64,
    }  # fmt: skip
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"version": 1, "models": {"tiny-owl-f16": entry}}))
    assert run("import", path)[0] == 0
    assert main(["--json", "--config-dir", str(folder), "profile", "load", "imported"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["slots"][0]["model"] == "tiny-owl"
    written = run("export")[1]["data"]["registry"]
    lane = written["lanes"][str(port)]
    assert lane["health_state"] == "serving" and lane["reconciliation_state"] == "converged"
    assert lane["desired_target"] == lane["actual_serving_target"] == lane["last_known_good_target"]
    assert lane["desired_target"]["target_slug"] == "tiny-owl-f16"
    assert written["models"]["tiny-owl-f16"]["context_length"] == 512
