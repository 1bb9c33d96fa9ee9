"""What is refused before a byte of weights comes, and how little is read to know it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from llmctl.errors import BadCheckpoint, LlmctlError, Refused, Unsupported
from llmctl.models import architectures, pull
from llmctl.models.preflight import GGUF_STEPS
from tests.models.conftest import Place
from tests.models.making import CONFIG, make_folder, make_gguf, safetensors_bytes
from tests.testbed.hub import Hub
from tests.testbed.repos import random_checkpoint

MB = 2**20


def refused(place: Place, **more: object) -> LlmctlError:
    """The error of a pull, which has fetched nothing into the cache and left nothing anywhere."""
    with pytest.raises(LlmctlError) as caught:
        place.pull(**more)  # type: ignore[arg-type]
    assert caught.value.hint
    assert not place.blobs() and not [path for path in place.models.glob("*") if path.name != ".staging"]
    assert not [path for path in place.models.glob(".staging/*") if path.is_dir()]
    return caught.value


def weights_sent(hub: Hub) -> int:
    return sum(hub.sent(f"*.{kind}") for kind in ("safetensors", "gguf", "bin"))


def test_a_dry_run_reads_headers_only_and_says_what_would_come(hub: Hub, place: Place) -> None:
    random_checkpoint(hub.root / "org" / "model", 8 * MB, shards=4)
    plan = pull.plan(place.wanted(), place.job).to_dict()
    assert plan["architecture"] == "llama" and plan["to_fetch"] == plan["bytes"] > 8 * MB
    assert plan["path"] == str(place.models / "model" / "safetensors") and plan["free"] > 0
    assert [file["path"] for file in plan["files"]][-1] == "model-00004-of-00004.safetensors"
    assert weights_sent(hub) <= 2**18 and not place.root.joinpath("hf").exists() and not place.models.exists()
    assert json.loads(json.dumps(plan)) == plan


def test_the_header_of_a_safetensors_file_is_read_whole_when_it_is_long(hub: Hub, place: Place) -> None:
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": ("BF16", [8, 8], 128) for i in range(6000)}
    make_folder(hub.root / "org" / "model", files={"model.safetensors": safetensors_bytes(tensors)})
    assert pull.plan(place.wanted(), place.job).examined.checkpoint.parameters == 6000 * 64
    assert hub.sent("model.safetensors") > 2**18


def test_the_header_of_a_gguf_file_is_read_in_steps(hub: Hub, place: Place) -> None:
    folder = hub.root / "org" / "model"
    folder.mkdir(parents=True)
    make_gguf(folder / "model-f32.gguf", hidden=512)
    size = (folder / "model-f32.gguf").stat().st_size
    plan = pull.plan(place.wanted(format="gguf"), place.job)
    assert plan.examined.checkpoint.architecture == "qwen2" and plan.examined.selection.quantization == "f32"
    assert size > 2 * MB and weights_sent(hub) == GGUF_STEPS[0]


@pytest.mark.parametrize("junk", [b"GGUX" + bytes(100), b"GGUF" + bytes(3000), b"", os.urandom(3 * MB)])
def test_what_is_no_gguf_file_is_refused(hub: Hub, place: Place, junk: bytes) -> None:
    folder = hub.root / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "model-q4_0.gguf").write_bytes(junk)
    error = refused(place, format="gguf")
    assert isinstance(error, BadCheckpoint) and "org/model/model-q4_0.gguf" in error.message
    assert weights_sent(hub) <= 2 * MB


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.safetensors": b"\xff" * 64}, "not a usable safetensors file"),
        ({"model.safetensors": b""}, "not a usable safetensors file"),
        ({"config.json": b"[1, 2"}, r"org/model/config\.json: not JSON"),
        ({"config.json": b'{"model_type": 7}'}, "neither model_type nor architectures"),
        ({"tokenizer.json": None}, "no tokenizer"),
        ({"config.json": None}, "no config"),
        ({"model.safetensors.index.json": b"{}"}, "no weight_map"),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": 7}}'}, "no weight_map"),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": "../../etc/passwd"}}'}, "lacks ../../etc/passwd"),
    ],
)
def test_a_checkpoint_that_cannot_be_loaded_is_refused(hub: Hub, place: Place, files, message: str) -> None:
    make_folder(hub.root / "org" / "model", files=files)
    assert re.search(message, refused(place).message)


def test_a_configuration_of_absurd_size_is_refused(hub: Hub, place: Place) -> None:
    make_folder(hub.root / "org" / "model", files={"config.json": b"{}" + b" " * (33 * MB)})
    assert "more than a configuration needs" in refused(place).message
    assert hub.sent() < MB


@pytest.mark.parametrize(
    ("config", "what"),
    [({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"), ({"model_file": "evil.py"}, "model_file")],
)
def test_s06_a_repository_with_code_is_refused_unless_its_entry_allows_it(hub, place, config, what) -> None:
    make_folder(hub.root / "org" / "model", config, files={"evil.py": b"raise SystemExit('run')"})
    error = refused(place)
    assert type(error) is Refused and what in error.message and "allow_code = true" in str(error.hint)
    kept = place.pull(allow_code=True)
    assert (Path(kept["path"]) / "evil.py").is_file()


def test_s06_pickled_weights_are_refused_unless_the_entry_allows_code(hub: Hub, place: Place) -> None:
    files = {"model.safetensors": None, "pytorch_model.bin": b"\x80\x04" + bytes(1000)}
    make_folder(hub.root / "org" / "model", files=files)
    assert "pickles" in refused(place).message
    assert weights_sent(hub) == 0
    assert Path(place.pull(allow_code=True)["path"], "pytorch_model.bin").is_file()


def test_an_architecture_that_no_engine_knows_is_refused_by_name(hub: Hub, place: Place) -> None:
    make_folder(hub.root / "org" / "model", {"model_type": "nosuchmodel"})
    error = refused(place)
    assert isinstance(error, Unsupported)
    assert "'nosuchmodel' is known to none of the engines that read safetensors on cpu (mlx, torch)" in error.message
    assert weights_sent(hub) <= 2**18


def test_an_architecture_of_gguf_that_llamacpp_lacks_is_refused_by_name(hub: Hub, place: Place) -> None:
    pytest.importorskip("xllamacpp")
    folder = hub.root / "org" / "model"
    folder.mkdir(parents=True)
    make_gguf(folder / "model-q4_0.gguf", architecture="nosuchmodel")
    assert (
        "'nosuchmodel' is known to none of the engines that read gguf on cpu (llamacpp"
        in refused(place, format="gguf").message
    )


def test_a_format_that_no_engine_of_the_backend_reads_is_refused(hub: Hub, place: Place) -> None:
    make_folder(hub.root / "org" / "model", {"quantization": {"bits": 4, "group_size": 64}})
    error = refused(place, format="mlx", backend="cuda")
    assert error.message == "no engine on cuda reads mlx"


def test_mlx_weights_are_not_taken_for_plain_safetensors(hub: Hub, place: Place) -> None:
    make_folder(hub.root / "org" / "model", {"quantization": {"bits": 4, "group_size": 64}})
    assert refused(place).hint == "llmctl pull org/model --format mlx"
    assert place.pull(format="mlx")["quantization"] == "4bit"


def test_what_the_engines_know_is_told_from_their_libraries() -> None:
    for name in ("llama", "qwen2", "qwen3", "mistral"):
        assert architectures.takes("torch", name) and architectures.takes("mlx", name)
    assert architectures.takes("torch", "qwen2_vl") and architectures.takes("torch", "molmo2")
    assert architectures.takes("torch", "nomic_bert") and architectures.takes("torch", "distilbert")
    assert architectures.takes("llamacpp", "qwen2") and architectures.takes("llamacpp", "gpt-oss")
    assert not any(architectures.takes(engine, "nosuchmodel") for engine in architectures.LIBRARIES)
    assert architectures.takes("mlx", "mistral") and architectures.takes("torch", "gpt_oss")


def test_an_engine_that_is_not_installed_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(architectures.LIBRARIES, "torch", "no_such_library")
    assert architectures.takes("torch", "llama") is None


def test_the_models_that_are_made_here_are_known(hub: Hub, place: Place) -> None:
    assert CONFIG["model_type"] == "llama"
    make_folder(hub.root / "org" / "model")
    assert pull.plan(place.wanted(), place.job).examined.engines == {"mlx": True, "torch": True}
