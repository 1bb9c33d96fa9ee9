"""registry.json is written back, and an import of that has nothing to do."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctl.__main__ import main
from llmctl.catalog import TEMPLATE_ARGUMENTS
from llmctl.models.registry import naming
from tests.models.making import make_gguf
from tests.models.registry.fixtures import GEMMA, GGUF, GPT, OWL, QWEN, Run, make_mlx

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
