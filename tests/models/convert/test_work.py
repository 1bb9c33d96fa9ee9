"""One conversion from its refusals to its record: nothing is overwritten, nothing is made twice, nothing half."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
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
    assert data.count(b"tiny-phi3") == 1
    ids = tmp_path / "expected.json"
    ids.write_text(json.dumps(gguf_tokens.expected(tiny_models["tiny-phi3"], allow_code=False)))
    request = {"target": str(file), "expected": str(ids)}
    step = child.Step("compare", "gguf_tokens", request, file, 1)
    file.write_bytes(data)
    child.run(step, tmp_path, Silent())
    file.write_bytes(data.replace(b"tiny-phi3", b"tiny-four"))
    with pytest.raises(Unsupported, match="role"):
        child.run(step, tmp_path, Silent())


@pytest.mark.parametrize("asked", [None, "float32", "bfloat16"])
def test_int8_of_bfloat16_runs_in_the_torch_engine_in_its_own_type(
    source: Path, convert: Convert, tmp_path: Path, asked: str | None
) -> None:
    from llmctl.domain import EngineSpec
    from llmctl.engines import adapter

    half = Path(convert(source, "torch", "bf16")["path"])
    made = convert(half, "torch", "int8")["path"]
    spec = EngineSpec("torch", "it", made, "safetensors", context=64, parallel=1, device="cpu", dtype=asked)
    engine = adapter("torch").load_steps(spec, lambda *_: None)
    assert engine.identity.dtype == "bfloat16"
    row = engine.step({_filled(engine, [1, 2, 3]): 4}).row(0)  # one row is what the quick linear layers are for
    reference = adapter("torch").load_steps(replace(spec, path=str(half), dtype=None), lambda *_: None)
    other = reference.step({_filled(reference, [1, 2, 3]): 4}).row(0)
    assert abs(row - other).mean() < 0.1 * abs(other).mean()


def _filled(engine: Any, tokens: list[int]) -> int:
    sequence = int(engine.open())
    engine.prefill(sequence, tokens)
    return sequence


def test_a_model_of_experts_is_not_called_quantized_when_hardly_any_of_it_would_be() -> None:
    from llmctl.models.convert.processes import torch_quantize

    shapes = {"experts.gate_up_proj": [8, 64, 64], "q_proj.weight": [64, 64], "embed_tokens.weight": [1000, 64]}
    with pytest.raises(Unsupported, match="only 11% of its weights") as error:
        torch_quantize.check(shapes, {"q_proj.weight"}, "int8")
    assert "--to gguf" in (error.value.hint or "")
    torch_quantize.check({"q_proj.weight": [64, 64], "embed_tokens.weight": [1000, 64]}, {"q_proj.weight"}, "int8")


def test_bfloat16_gguf_is_quantized_too(source: Path, convert: Convert) -> None:
    """Its data are bytes, which the gguf package would take for packed blocks."""
    base = next(Path(convert(source, "gguf", "bf16")["path"]).glob("*.gguf"))
    assert inspect(base).quantization == "bf16"
    made = inspect(Path(convert(base, "gguf", "q4_0")["path"]))
    assert made.quantization == "q4_0" and made.parameters == inspect(base).parameters


def test_phi_3_is_recognized_by_its_tokens_whatever_it_is_called(
    tiny_models: dict[str, Path], convert: Convert
) -> None:
    from llmctl.models.gguf_header import read

    made = convert(tiny_models["tiny-phi3"], "gguf", "f16")  # the proof of its chats would fail
    assert read(next(Path(made["path"]).glob("*.gguf"))).metadata["general.name"] == "it (phi-3)"


def test_what_transformers_5_calls_otherwise_is_written_as_plain_mlx_reads_it(
    tiny_models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_models["tiny-phi"], tmp_path / "five"))
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_theta": config.pop("rope_theta"), "partial_rotary_factor": config.pop("partial_rotary_factor")}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": {**rope, "rope_type": "default"}}))
    made = json.loads((Path(convert(folder, "mlx", "bf16")["path"]) / "config.json").read_text())
    assert {key: made[key] for key in rope} == rope
