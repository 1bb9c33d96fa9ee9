"""One conversion from its refusals to its record: nothing is overwritten, nothing is made twice, nothing half."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmctl.errors import BadCheckpoint, ConversionFailed, DoesNotFit, Refused, Unsupported
from llmctl.jobs.context import Silent
from llmctl.models import manifest as manifests
from llmctl.models.checkpoint import inspect
from llmctl.models.convert import plan, work
from llmctl.models.manifest import Manifest

pytestmark = pytest.mark.models

Convert = Callable[..., Mapping[str, Any]]


@pytest.fixture
def source(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tiny_models["tiny-qwen2"], tmp_path / "source"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def left(tmp_path: Path) -> list[str]:
    """What lies in the store: published artifacts, and whatever is not a lock in the staging folder."""
    found = [path for path in (tmp_path / "models").rglob("*") if path.is_dir() and path.name != ".staging"]
    return sorted(path.name for path in found)


def test_the_second_time_there_is_nothing_to_do(source: Path, convert: Convert, tmp_path: Path) -> None:
    first = convert(source, "torch", "bf16")
    before = Path(first["path"], "model.safetensors").stat().st_ino
    job = Silent()
    again = convert(source, "torch", "bf16", job=job)
    assert first["made"] and not again["made"] and again["path"] == first["path"]
    assert Path(first["path"], "model.safetensors").stat().st_ino == before
    assert "nothing to do" in job.notes[0]
    forced = convert(source, "torch", "bf16", force=True)
    assert forced["made"] and Path(first["path"], "model.safetensors").stat().st_ino != before


def test_f07_a_damaged_result_is_made_again(source: Path, convert: Convert) -> None:
    path = Path(convert(source, "torch", "bf16")["path"], "model.safetensors")
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    assert convert(source, "torch", "bf16")["made"]
    assert path.read_bytes() == good


def test_f07_a_source_that_changed_since_it_came_is_refused(source: Path, convert: Convert, tmp_path: Path) -> None:
    weights = source / "model.safetensors"
    stat = weights.stat()
    entry = manifests.FileEntry(weights.name, stat.st_size, "0" * 64, stat.st_mtime_ns)
    manifests.write(source, Manifest("it", "safetensors", None, (entry,), "org/it", "abc", origin={"by": "pull"}))
    made = convert(source, "torch", "bf16")
    kept = manifests.read(Path(made["path"]))
    assert kept and kept.origin["from"]["files"] == {"model.safetensors": "0" * 64}
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(Refused, match="not as it came") as error:
        convert(source, "torch", "fp16")
    assert error.value.hint == "llmctl models verify it --repair"


@pytest.mark.parametrize(("to", "quantization"), [("torch", "bf16"), ("mlx", "4bit"), ("gguf", "q8_0")])
def test_f07_a_truncated_source_is_named_and_leaves_nothing(
    source: Path, convert: Convert, tmp_path: Path, to: str, quantization: str
) -> None:
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        convert(source, to, quantization)
    assert left(tmp_path) == []


def test_a_source_is_never_overwritten(source: Path, convert: Convert, tmp_path: Path) -> None:
    target = tmp_path / "models" / "it" / "safetensors-bf16"
    shutil.copytree(source, target)
    for place in (source, target):
        with pytest.raises(Refused, match="not made by a conversion"):
            convert(place, "torch", "bf16", force=True)
    pulled = Manifest("it", "safetensors", "bf16", (), "org/it", origin={"by": "pull"})
    manifests.write(target, pulled)
    with pytest.raises(Refused, match="not made by a conversion"):
        convert(source, "torch", "bf16", force=True)
    assert (target / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_a_result_is_not_made_of_itself(source: Path, convert: Convert) -> None:
    made = Path(convert(source, "torch", "bf16")["path"])
    change(made / "config.json", torch_dtype="float32")  # it does not even say what it is
    with pytest.raises(Refused):
        convert(made, "torch", "bf16", force=True)


def test_f06_no_room_is_said_before_with_numbers(
    source: Path, convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(work.shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(DoesNotFit, match=r"takes about 0\.\d\d GB .* 0\.00 GB are free") as error:
        convert(source, "gguf", "q4_k_m")
    assert error.value.details["needed"] > error.value.details["free"] == 10**6
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("to", "quantization", "hidden", "words"),
    [("mlx", "4bit", 160, ("groups of 64", "4bit-g32")), ("mlx", "mxfp4", 144, ("groups of 32", "bf16")),
     ("torch", "int4", 144, ("groups of 32", "int8"))],
)  # fmt: skip
def test_rows_that_no_group_divides_are_an_error_with_what_works(
    tiny_models: dict[str, Path], tmp_path: Path, convert: Convert, to: str, quantization: str, hidden: int,
    words: tuple[str, str],
) -> None:  # fmt: skip
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(shutil.copytree(tiny_models["tiny-llama"], tmp_path / "odd"))
    change(folder / "config.json", hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=1)
    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    with pytest.raises(Unsupported, match=words[0]) as error:
        convert(folder, to, quantization)
    assert words[1] in (error.value.hint or "")


def test_an_architecture_that_a_library_does_not_know_is_named(source: Path, convert: Convert) -> None:
    change(source / "config.json", model_type="zebra", architectures=["ZebraForCausalLM"])
    for to, quantization in (("mlx", "4bit"), ("gguf", "f16"), ("torch", "int8")):
        with pytest.raises(Unsupported, match=r"(?i)zebra"):
            convert(source, to, quantization)


def test_values_that_half_precision_cannot_hold_are_an_error(source: Path, convert: Convert, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][3] = 1e6
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Unsupported, match=r"model\.norm\.weight holds values that float16 cannot"):
        convert(source, "torch", "fp16")
    assert left(tmp_path) == []
    assert convert(source, "torch", "bf16")["made"]


def test_weights_that_are_not_numbers_are_not_quantized(source: Path, convert: Convert) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionFailed, match=r"blk\.1\.ffn_up\.weight holds values that are not finite"):
        convert(source, "gguf", "q4_0")


def test_a_cast_keeps_files_names_and_values(source: Path, convert: Convert) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "model.safetensors")
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    (source / "model.safetensors").unlink()
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, source / file, metadata={"format": "pt"})
    places = {name: file for file, part in halves.items() for name in part}
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    made = Path(convert(source, "torch", "bf16")["path"])
    for file, part in halves.items():
        found = load_file(made / file)
        assert sorted(found) == sorted(part)
        assert all(torch.equal(found[name], weights[name].bfloat16()) for name in part)
    assert json.loads((made / "model.safetensors.index.json").read_text())["weight_map"] == places
    assert json.loads((made / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert inspect(made).dtype == "bfloat16"
    quantized = Path(convert(source, "torch", "int8")["path"])  # transformers needs what all files hold in each of them
    from transformers import AutoModelForCausalLM

    _, report = AutoModelForCausalLM.from_pretrained(quantized, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_what_is_not_the_same_model_is_not_published(source: Path) -> None:
    good = inspect(source)
    wanted = plan.target("torch", "bf16")
    work.agree(good, good, wanted)
    for field, value in (
        ("layers", 3),
        ("hidden", 64),
        ("vocab", 7),
        ("parameters", good.parameters // 2),
        ("format", "mlx"),
    ):
        with pytest.raises(ConversionFailed, match="not the same model"):
            work.agree(good, type(good)(**{**good.__dict__, field: value}), wanted)


def test_a_wrong_split_is_found_out_by_its_tokens(source: Path, convert: Convert, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"cuts .* into the tokens") as error:
        convert(source, "gguf", "f16", pre="superbpe")
    assert "--pre" in (error.value.hint or "")
    assert left(tmp_path) == []


def test_an_unknown_split_asks_for_its_name(source: Path, convert: Convert) -> None:
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|zebra"
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(Unsupported, match="how this tokenizer splits") as error:
        convert(source, "gguf", "f16")
    assert "--pre NAME" in (error.value.hint or "")
    assert convert(source, "gguf", "f16", pre="qwen2")["made"]


def test_chats_are_among_the_texts_that_prove_a_file(
    tiny_models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    """llama.cpp strips spaces after Phi-3's special tokens by the model's name alone."""
    from llmctl.models.convert import child
    from llmctl.models.convert.processes import gguf_tokens

    file = tmp_path / "nameless.gguf"
    data = tiny_models["tiny-phi3-gguf"].read_bytes()
    assert data.count(b"Tiny Phi3") == 1
    ids = tmp_path / "expected.json"
    ids.write_text(json.dumps(gguf_tokens.expected(tiny_models["tiny-phi3"], allow_code=False)))
    request = {"target": str(file), "expected": str(ids)}
    step = child.Step("compare", "gguf_tokens", request, file, 1)
    file.write_bytes(data)
    child.run(step, tmp_path, Silent())
    file.write_bytes(data.replace(b"Tiny Phi3", b"Tiny Four"))
    with pytest.raises(Unsupported, match="role"):
        child.run(step, tmp_path, Silent())
