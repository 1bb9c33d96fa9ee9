"""registry.json: read with every mistake named, brought over in one command, written back, checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctl import catalog, config
from llmctl.__main__ import main
from llmctl.catalog import TEMPLATE_ARGUMENTS
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.models.registry import naming, places, reading
from llmctl.models.registry.shape import Registry
from llmctl.slots.state import Actual, Desired, SlotFolder
from tests.models.making import make_folder, make_gguf

HERE = Path(__file__).parent / "registries"
GPT, QWEN, GEMMA, OWL, GGUF = (
    "mlx-gpt-oss-120b-mxfp4-q4", "mlx-qwen3-235b-4bit-a22b-instruct-2507", "mlx-gemma-3-27b-4bit-it-qat",
    "mlx-night-owl-12b-v2-6bit", "qwen2-5-0-5b-instruct-q4-k-m",
)  # fmt: skip
Run = Callable[..., tuple[int, dict[str, Any]]]


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


def make_mlx(folder: Path) -> Path:
    return make_folder(folder, {"quantization": {"bits": 4, "group_size": 64}, "max_position_embeddings": 262144})


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


def files_of(*folders: Path) -> dict[str, bytes]:
    """Every file below, but locks."""
    found = (path for top in folders for path in top.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): path.read_bytes() for path in found}


# ── import ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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


BROKEN: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "a future version": (change("version", 3), "/version", "a newer tool"),
    "no version beside lanes": (change("version", ...), "/version", "must be 1 or 2"),
    "a version in words": (change("version", "2"), "/version", "must be 1 or 2"),
    "models in a list": (change("models", []), "/models", "must be an object, not an array"),
    "a model that is a text": (change(f"models.{GPT}", "x"), f"/models/{GPT}", "not a string"),
    "no format": (change(f"models.{GPT}.format", ...), f"/models/{GPT}", "has no format"),
    "another format": (change(f"models.{GPT}.format", "onnx"), f"/models/{GPT}/format", "mlx or gguf"),
    "no cache_path": (change(f"models.{GPT}.cache_path", None), f"/models/{GPT}", "has no cache_path"),
    "a port too high": (change(f"models.{GPT}.port", 70000), f"/models/{GPT}/port", "a port number"),
    "a port that is true": (change(f"models.{GPT}.port", True), f"/models/{GPT}/port", "a port number"),
    "a context of 0": (change(f"models.{GPT}.context_length", 0), f"/models/{GPT}/context_length", "1 or more"),
    "a time of text": (
        change(f"models.{GPT}.startup_timeout_seconds", "9"), f"/models/{GPT}/startup_timeout_seconds", "seconds",
    ),
    "a vllm in a list": (change(f"models.{GPT}.vllm", []), f"/models/{GPT}/vllm", "an object"),
    "a lane under another port": (change("lanes.8100.port", 8101), "/lanes/8100/port", "own port"),
    "a target of text": (change("lanes.8100.desired_target", GPT), "/lanes/8100/desired_target", "an object or null"),
    "a target of nothing": (change("lanes.8100.desired_target", {}), "/lanes/8100/desired_target", "no target_slug"),
    "an odd state": (change("lanes.8100.health_state", "ok"), "/lanes/8100/health_state", "one of down"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_of_shape_is_refused_at_its_place(
    case: str, run: Run, registry: Callable[..., Path], folder: Path
) -> None:
    edit, where, says = BROKEN[case]
    path = registry("v2", edit)
    code, answer = run("import", path)
    found = next(f for f in answer["data"]["findings"] if f["where"] == where)
    assert code == 1 and found["refused"] and says in found["message"]
    key = where.rsplit("/", 1)[-1]
    assert f'"{key}"' in path.read_text().splitlines()[found["line"] - 1] or case == "no version beside lanes"
    assert not (folder / "models.toml").exists()


@pytest.mark.parametrize("name", ["../x", "a\nb", "x" * 300, "A-B", "a--b", "-rf", "a b", "", "a/b", "a.b", "a\x00"])
def test_s5_unsafe_slugs_are_refused(
    name: str, run: Run, registry: Callable[..., Path], folder: Path, home: Path
) -> None:
    before = files_of(folder, home)
    for edit in (
        lambda data: data["models"].update({name: data["models"][GPT]}),
        lambda data: data["lanes"]["8100"]["desired_target"].update(target_slug=name),
    ):
        code, answer = run("import", registry("v2", edit))
        assert code == 1 and any("not a slug" in f["message"] and f["refused"] for f in answer["data"]["findings"])
    assert files_of(folder, home) == before


@pytest.mark.parametrize("key", ["model_id", "served_model_name", "repo_id", "tool_call_parser"])
@pytest.mark.parametrize("name", ["../x", "a\nb", "x" * 300, "\x1b[2J", " "])
def test_s5_unsafe_names_are_refused(
    key: str, name: str, run: Run, registry: Callable[..., Path], folder: Path
) -> None:
    code, answer = run("import", registry("v2", change(f"models.{GPT}.{key}", name)))
    assert code == 1 and answer["data"]["findings"][0]["where"] == f"/models/{GPT}/{key}"
    assert not (folder / "models.toml").exists()


RAW: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b" \n", 1, "is empty"),
    "half": (b'{"version": 2,\n "models": {', 2, "is not JSON"),
    "not a number": (b'{"version": 2,\n "models": NaN}', 1, "NaN"),
    "too large a number": (b'{"version": 1e999}', 1, "too large"),
    "digits": (b'{"version": ' + b"9" * 5000 + b"}", 1, "too many digits"),
    "a key twice": (b'{"version": 2, "models": {\n\n"a": {},\n"b": 1, "a": {}}}', 4, "twice"),
    "deep": (b"[" * 200_000, 1, "nested deeper"),
    "deep and whole": (b"[" * 500 + b"]" * 500, 1, "nested deeper"),
    "latin-1": (b'{"version": 2,\n "x": "\xe9"}', 2, "not UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", 1, "byte order mark"),
    "half a pair": (b'{"version": 1, "models": {"\\ud800": {}}}', 1, "surrogate"),
    "a list": (b"[]", 1, "must be an object"),
}


@pytest.mark.parametrize("case", RAW)
def test_what_is_no_registry_is_a_finding(case: str, run: Run, tmp_path: Path) -> None:
    data, line, says = RAW[case]
    (tmp_path / "r.json").write_bytes(data)
    for verb in ("check", "import"):
        code, answer = run(verb, tmp_path / "r.json")
        found = answer["data"]["findings"]
        assert code == 1 and len(found) == 1
        assert says in found[0]["message"] and found[0]["line"] == line


def test_a_huge_file_is_refused_unread(tmp_path: Path, run: Run) -> None:
    with open(tmp_path / "r.json", "wb") as file:
        file.truncate(2**34)  # a hole: nothing of it is on the disk
    code, answer = run("check", tmp_path / "r.json")
    assert code == 1 and "larger than 16 MiB" in answer["data"]["findings"][0]["message"]


def test_a_file_that_is_not_there_is_a_mistake_of_the_command(tmp_path: Path, run: Run) -> None:
    assert run("import", tmp_path / "none.json")[0] == 2
    assert run("check", tmp_path)[0] == 2


def test_a_key_twice_is_named_by_its_pointer() -> None:
    found = reading.read(b'{"version": 2, "models": {"a": {"port": 1,\n "port": 2}}}').findings
    assert [(f.where, f.line) for f in found] == [("/models/a/port", 2)]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=25,
    ),
    st.sampled_from([None, 1, "\t"]),
)
@settings(deadline=None)
def test_every_value_is_found_on_its_line(value: Any, indent: Any) -> None:
    text = json.dumps(value, indent=indent)
    expected: dict[str, Any] = {}

    def walk(item: Any, path: list[str | int]) -> None:
        expected[places.pointer(path)] = item
        inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, part in inner:
            walk(part, [*path, key])

    walk(value, [])
    found = places.lines(text)
    assert set(found) == set(expected)
    rows = text.splitlines() if indent is None else text.split("\n")
    for where, line in found.items():
        if where and indent:
            item, key = expected[where], where.rsplit("/", 1)[-1]
            start = json.dumps(item, indent=indent).split("\n")[0]
            assert rows[line - 1].strip().rstrip(",").endswith(start), (where, key)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_reading_never_raises(data: bytes) -> None:
    found = reading.read(data)
    assert found.findings or found.registry == Registry({}, {}, found.registry.version)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 70000) | st.sampled_from(["mlx", "a-b", "../x", ""]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["port", "a-b", "8100"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*reading.KNOWN, "vllm"]), JSON),
    st.dictionaries(st.sampled_from(["8100", "x"]), JSON),
)
@settings(deadline=None)
def test_any_json_in_its_places_is_read_or_found(entry: Any, lanes: Any) -> None:
    reading.read(json.dumps({"version": 2, "models": {"a-b": entry}, "lanes": lanes}).encode())


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "id", "quantization"),
    [
        ("mlx-community/gpt-oss-120b-MXFP4-Q4", "gpt-oss-120b", "mxfp4-q4"),
        ("Qwen3-235B-A22B-Instruct-2507-4bit", "qwen3-235b-a22b-instruct-2507", "4bit"),
        ("mlx-gemma-3-27b-4bit-it-qat", "gemma-3-27b-it-qat", "4bit"),
        ("bartowski/Some_Model-7B-GGUF", "some-model-7b", None),
        ("Some.Model.Q4_K_M.gguf", "some.model", "q4_k_m"),
        ("x/4bit", "4bit", "4bit"),
    ],
)
def test_engine_and_quantization_are_no_part_of_an_id(name: str, id: str, quantization: str | None) -> None:
    assert (naming.model_id(name), naming.quantization(name)) == (id, quantization)


# ── check ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_fixtures_are_sound_but_for_the_lane_that_failed(run: Run, registry: Callable[..., Path]) -> None:
    assert run("check", registry("v1"))[1]["data"]["findings"] == []
    code, answer = run("check", registry())
    assert code == 1
    found = [(f["where"], f["message"]) for f in answer["data"]["findings"]]
    assert found == [
        ("/lanes/8102/reconciliation_state", "its last change failed: kIOGPUCommandBufferCallbackErrorOutOfMemory")
    ]


UNSOUND: dict[str, tuple[str, Callable[[Any], None], str, str]] = {
    "a port twice": ("v1", change(f"models.{QWEN}.port", 8100), f"/models/{QWEN}/port", f"that of '{GPT}' too"),
    "a model id that is another": (
        "v2", change(f"models.{GPT}.model_id", "mlx-other"), f"/models/{GPT}/model_id", "not the slug",
    ),
    "a port without a lane": ("v2", change(f"models.{GPT}.port", 8139), f"/models/{GPT}/port", "no lane 8139"),
    "a lane of another model": ("v2", change(f"models.{GPT}.port", 8101), f"/models/{GPT}/port", "the lane 8101 wants"),
    "an unknown key": ("v2", change(f"models.{GPT}.repo", "x"), f"/models/{GPT}/repo", "unknown key"),
    "a target that is no model": (
        "v2", change("lanes.8100.desired_target.target_slug", "gone"), "/lanes/8100/desired_target", "no model 'gone'",
    ),
    "an actual that is no model": (
        "v2", change("lanes.8100.actual_serving_target.target_slug", "gone"), "/lanes/8100/actual_serving_target",
        "no model 'gone'",
    ),
    "a target of another repository": (
        "v2", change("lanes.8100.desired_target.repo_id", "o/r"), "/lanes/8100/desired_target/repo_id",
        "not the repo_id",
    ),
    "something else is served": (
        "v2", change("lanes.8100.actual_serving_target.target_slug", GEMMA), "/lanes/8100/actual_serving_target",
        f"serves '{GEMMA}'",
    ),
    "files that are gone": (
        "v2", change(f"models.{GPT}.cache_path", "/nowhere"), f"/models/{GPT}/cache_path", "no such file",
    ),
    "a path from nowhere": ("v2", change(f"models.{GPT}.cache_path", "x"), f"/models/{GPT}/cache_path", "whole path"),
    "a format that the files have not": (
        "v2", change(f"models.{GGUF}.format", "mlx"), f"/models/{GGUF}/format", "gguf, not mlx",
    ),
    "a slug without its engine": (
        "v2", lambda data: data["models"].update(night={**data["models"][OWL], "model_id": "night", "repo_id": None}),
        "/models/night", "starts with mlx-",
    ),
    "a template in the file": (
        "v2", change(f"models.{GPT}.chat_template", "{{ x }}"), f"/models/{GPT}/chat_template", "not brought over",
    ),
    "a template that is gone": (
        "v2", change(f"models.{GPT}.chat_template", "/no.jinja"), f"/models/{GPT}/chat_template", "no file",
    ),
    "null in arguments": (
        "v2", change(f"models.{GPT}.chat_template_args", {"a": [None]}), f"/models/{GPT}/chat_template_args", "null",
    ),
    "an argument that is ours": (
        "v2", change(f"models.{GPT}.chat_template_args", {"tools": []}), f"/models/{GPT}/chat_template_args", "'tools'",
    ),
    "the id of another model": (
        "v2", change(f"models.{GPT}.served_model_name", "Phi_2"), f"/models/{GPT}/served_model_name", "id of another",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSOUND)
def test_check_finds(case: str, run: Run, registry: Callable[..., Path]) -> None:
    version, edit, where, says = UNSOUND[case]
    code, answer = run("check", registry(version, edit))
    assert code == 1
    found = [f for f in answer["data"]["findings"] if f["where"] == where]
    assert found and says in found[0]["message"] and found[0]["line"] > 1
    assert found[0]["hint"] or where.endswith("chat_template_args")


def test_ports_of_version_1_that_collide_are_not_brought_over(
    run: Run, registry: Callable[..., Path], folder: Path
) -> None:
    assert run("import", registry("v1", change(f"models.{QWEN}.port", 8100)))[0] == 1
    assert not (folder / "models.toml").exists()


def test_one_artifact_twice_is_not_brought_over(run: Run, registry: Callable[..., Path], folder: Path) -> None:
    def again(data: Any) -> None:
        data["models"]["mlx-again"] = {**data["models"][GPT], "port": None}

    code, answer = run("import", registry("v2", again))
    assert code == 1 and f"so is '{GPT}'" in next(f for f in answer["data"]["findings"] if f["refused"])["message"]
    assert not (folder / "models.toml").exists()


def test_boot_and_registry_that_disagree_are_found(run: Run, registry: Callable[..., Path], home: Path) -> None:
    run("import", registry())
    other = change("lanes.8100.desired_target.target_slug", GEMMA)
    found = [f["message"] for f in run("check", registry("v2", other))[1]["data"]["findings"]]
    assert "profile imported has gpt-oss-120b on port 8100, this has gemma-3-27b-qat" in found
    SlotFolder(home, 8101).write_desired(Desired(SlotSpec(EngineSpec("mlx", "phi-2", "/m", "mlx"))))
    found = [f["message"] for f in run("check", registry())[1]["data"]["findings"]]
    assert "the slot's state has phi-2 on port 8101, this has qwen3-235b-a22b" in found


def test_text_for_people_names_file_line_and_what_to_type(
    registry: Callable[..., Path], home: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = registry("v2", change(f"models.{GPT}.format", "onnx"))
    assert main(["--config-dir", str(folder), "registry", "check", str(path)]) == 1
    shown = capsys.readouterr().out
    assert f"{path}:8: /models/{GPT}/format: must be mlx or gguf" in shown
    assert main(["--config-dir", str(folder), "registry", "import", str(registry())]) == 0
    assert "last known good is gpt-oss-120b" in capsys.readouterr().out
    assert main(["--config-dir", str(folder), "registry", "import", str(registry())]) == 0
    assert capsys.readouterr().out == "nothing to do\n"


# ── export ──────────────────────────────────────────────────────────────────────────────────────────────────────────

KEPT = (
    "repo_id", "cache_path", "format", "context_length", "max_output_tokens", "chat_template", "chat_template_args",
    "tool_call_parser", "reasoning_parser", "startup_timeout_seconds",
)  # fmt: skip
MODEL_KEYS = [
    "repo_id", "model_id", "cache_path", "format", "port", "context_length", "max_output_tokens", "chat_template",
    "chat_template_args", "tool_call_parser", "reasoning_parser", "served_model_name", "startup_timeout_seconds",
]  # fmt: skip
LANE_KEYS = [
    "port", "desired_target", "actual_serving_target", "last_known_good_target", "actual_served_model_identity",
    "health_state", "reconciliation_state", "last_failure", "last_transition_time",
]  # fmt: skip


def test_export_writes_version_2_in_its_shape(run: Run, registry: Callable[..., Path], tmp_path: Path) -> None:
    run("import", registry())
    target = tmp_path / "out.json"
    code, answer = run("export", target)
    assert code == 0 and answer["data"]["left_out"] == []
    written = json.loads(target.read_text())
    assert list(written) == ["version", "models", "lanes"] and written["version"] == 2
    assert list(written["models"]) == sorted([GPT, QWEN, GEMMA, OWL, GGUF])
    for entry in written["models"].values():
        assert list(entry) == [key for key in MODEL_KEYS if key in entry]
        assert {"repo_id", "model_id", "cache_path", "format", "port", "context_length"} <= set(entry)
    assert all(list(lane) == LANE_KEYS for lane in written["lanes"].values())
    assert written["lanes"]["8102"]["desired_target"] == {
        "target_slug": OWL, "repo_id": "someone/Night-Owl-12B-v2-6bit",
        "expected_served_model_identity": "night-owl-12b-v2",
    }  # fmt: skip
    assert written["lanes"]["8102"]["last_known_good_target"]["target_slug"] == GEMMA
    assert written["lanes"]["8102"]["health_state"] == "down"
    assert run("check", target)[1]["data"]["findings"] == run("check")[1]["data"]["findings"] == []


def test_export_asks_before_it_replaces_another_file(run: Run, registry: Callable[..., Path], tmp_path: Path) -> None:
    run("import", registry())
    target = tmp_path / "out.json"
    target.write_text("mine")
    assert run("export", target)[0] == 1 and target.read_text() == "mine"
    assert run("export", target, "--yes")[0] == 0
    assert run("export", target)[0] == 0  # the same again


def kept(data: Any) -> dict[str, Any]:
    """What llmctl keeps of a registry."""
    models = {s: {k: e.get(k) for k in KEPT if e.get(k) not in (None, {})} for s, e in data["models"].items()}
    lanes = {
        port: [(lane[key] or {}).get("target_slug") for key in ("desired_target", "last_known_good_target")]
        for port, lane in data["lanes"].items()
    }
    return {"models": models, "lanes": {port: lane for port, lane in lanes.items() if any(lane)}}


WORDS = st.text("abcdefghijk", min_size=1, max_size=6)
ENTRY = st.fixed_dictionaries(
    {
        "format": st.sampled_from(["mlx", "gguf"]),
        "context_length": st.integers(1, 2048),
        "max_output_tokens": st.none() | st.integers(1, 10**6),
    },
    optional={
        "tool_call_parser": WORDS,
        "reasoning_parser": WORDS,
        "startup_timeout_seconds": st.integers(1, 10**6) | st.floats(0.5, 10**6),
        "chat_template": WORDS,
        "chat_template_args": st.dictionaries(
            st.from_regex(r"\A[a-z_][a-z0-9_]{0,7}\Z").filter(lambda key: key not in TEMPLATE_ARGUMENTS),
            st.text(max_size=20) | st.booleans() | st.integers(),
            max_size=3,
        ),
        "request_params": st.just({"top_p": 0.5}),
        "vllm": st.just({"profile": "p"}),
    },
)
QUANTIZATIONS = {"mlx": ["4bit", "8bit", "mxfp4"], "gguf": ["q4_k_m", "q8_0", "f16"]}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set of files per format and number, which generated registries point at."""
    folder = tmp_path_factory.mktemp("stock")
    for number in range(5):
        make_mlx(folder / "mlx" / str(number))
        made = make_gguf(folder / "made.gguf")
        (folder / "gguf" / str(number)).mkdir(parents=True)
        made.rename(folder / "gguf" / str(number) / "m.gguf")
    return folder


@st.composite
def registries(draw: st.DrawFn, stock: str) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 5))):
        entry = draw(ENTRY)
        base = f"{draw(WORDS)}-{number}b"
        quantization = draw(st.sampled_from(QUANTIZATIONS[entry["format"]]))
        slug = naming.slug(base, entry["format"], quantization)
        repo = draw(st.sampled_from([f"someone/{base}-{quantization}", None]))
        path = f"{stock}/{entry['format']}/{number}"
        models[slug] = {"repo_id": repo, "model_id": slug, "cache_path": path, "port": None, **entry}
    slugs = st.none() | st.sampled_from(sorted(models))
    lanes = {}
    for port in draw(st.lists(st.integers(8100, 8139), max_size=4, unique=True)):
        lane: dict[str, Any] = {"port": port, "health_state": "down", "reconciliation_state": "converged"}
        for key in ("desired_target", "actual_serving_target", "last_known_good_target"):
            slug = draw(slugs)
            lane[key] = slug and {"target_slug": slug, "repo_id": models[slug]["repo_id"]}
        lanes[str(port)] = lane
    return {"version": 2, "models": models, "lanes": lanes}


@given(data=st.data())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_exported_is_what_was_imported(
    data: st.DataObject, stock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = data.draw(registries(str(stock)))
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        (Path(place) / "hosts.toml").write_text('[hosts.local]\nbackend = "cpu"\n')
        (Path(place) / "registry.json").write_text(json.dumps(known))
        patch.setenv("LLMCTL_HOME", f"{place}/home")

        def call(*words: str) -> tuple[int, Any]:
            code = main(["--json", "--config-dir", place, "registry", *words])
            return code, json.loads(capsys.readouterr().out)["data"]

        code, answer = call("import", f"{place}/registry.json")
        assert (code, answer["findings"]) == (0, [])
        once = call("export", f"{place}/once.json")[1]
        assert kept(once["registry"]) == kept(known)
        again = call("import", f"{place}/once.json")
        assert (again[0], again[1]["changed"]) == (0, False)
        assert call("export")[1]["registry"] == once["registry"]
