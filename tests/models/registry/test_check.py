"""What is wrong with a registry.json, a host or the names in it is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.models.registry import naming
from llmctl.slots.state import Desired, SlotFolder
from tests.models.registry.fixtures import GEMMA, GGUF, GPT, OWL, QWEN, Run, change


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
