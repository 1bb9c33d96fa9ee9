"""The torch engine: what it refuses before reading weights, how it loads, and what it gives back."""

import copy
import json
import shutil
import struct

import pytest

from llmctl.domain import Chunk, EngineSpec, Failure, GenerateRequest, Sampling, Started
from llmctl.engines import adapter, torch_attention, torch_linear, torch_load, torch_proof
from llmctl.engines.checkpoint import read_checkpoint
from llmctl.errors import LoadFailed, RequestError, UnknownName, Unsupported

torch = pytest.importorskip("torch")
ENGINE = adapter("torch")


def spec(path, **fields):
    fields = {"context": 256, "device": "cpu", "dtype": "float32", **fields}
    return EngineSpec("torch", path.name, str(path), "safetensors", **fields)


def folder(path, config, weights="model.safetensors"):
    """A checkpoint folder whose weights cannot be read, so that nobody did."""
    (path / "config.json").write_text(json.dumps(config))
    if weights:
        (path / weights).write_bytes(b"not weights")
    return path


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "nobody-knows"}, "'nobody-knows' is not supported"),
        ({"model_type": ""}, "'' is not supported"),
        ({"architectures": ["MadeUpForCausalLM"]}, "'MadeUpForCausalLM' is not supported"),
        ({"model_type": "mamba"}, "'mamba' keeps a recurrent state"),
        ({"model_type": "jamba"}, "'jamba' keeps a recurrent state"),
        ({"model_type": "t5"}, "'t5' is not supported"),
        ({"model_type": "bart"}, "'bart' is an encoder-decoder"),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}, "has conv layers"),
        ({"model_type": "falcon"}, "'falcon' has an attention of its own"),
        ({"model_type": "florence2"}, "'florence2' is an encoder-decoder"),
        ({"model_type": "llama", "auto_map": {"AutoModel": "x.Y"}}, "code of its own"),
        ({"model_type": "llama", "quantization_config": {"group_size": 64, "bits": 4}}, "quantized for MLX"),
        ([], "not an object"),
    ],
)
def test_check_refuses_by_name_before_any_weight_is_read(tmp_path, config, why):
    with pytest.raises(Unsupported, match=why):
        ENGINE.check(spec(folder(tmp_path, config)))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "LLaMA"},
        {"architectures": ["LlamaForCausalLM"]},
        {"architectures": ["llamaforcausallm"]},
        {"model_type": "gemma3_text"},
    ],
)
def test_check_finds_the_architecture_in_any_case_and_place(tmp_path, config):
    ENGINE.check(spec(folder(tmp_path, config)))


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.pth", "model.pt"])
def test_s6_pickled_weights_are_refused(tmp_path, weights):
    with pytest.raises(Unsupported, match="pickle"):
        ENGINE.check(spec(folder(tmp_path, {"model_type": "llama"}, weights)))


def test_a_folder_without_config_or_weights_is_refused(tmp_path):
    with pytest.raises(Unsupported, match=r"config\.json"):
        ENGINE.check(spec(tmp_path))
    with pytest.raises(Unsupported, match="no \\*\\.safetensors"):
        ENGINE.check(spec(folder(tmp_path, {"model_type": "llama"}, None)))


def test_an_unknown_engine_names_the_nearest():
    with pytest.raises(UnknownName) as caught:
        adapter("troch")
    assert "torch" in caught.value.hint


def copied(tiny_models, tmp_path, name="tiny-llama"):
    return shutil.copytree(tiny_models[name], tmp_path / name)


@pytest.mark.models
def test_loading_reports_bytes_and_ends_complete(tiny_models):
    seen = []
    engine = ENGINE.load(spec(tiny_models["tiny-llama"]), lambda *step: seen.append(step), print)
    total = read_checkpoint(spec(tiny_models["tiny-llama"])).bytes
    assert [stage for stage, _, _ in seen] == ["weights"] * len(seen)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("weights", total, total)
    identity = engine.identity
    assert (identity.engine, identity.architecture, identity.device) == ("torch", "llama", "cpu")
    assert (identity.context, identity.dtype, identity.chat) == (256, "float32", True)
    assert identity.memory_bytes > total // 2
    engine.close()


@pytest.mark.models
def test_a_request_runs_to_the_end(tiny_models):
    events = []
    engine = ENGINE.load(spec(tiny_models["tiny-qwen2"]), lambda *_: None, events.append)
    messages = ({"role": "user", "content": "hello"},)
    engine.submit(GenerateRequest("a", messages=messages, sampling=Sampling(temperature=0), max_tokens=5))
    while engine.step():
        pass
    assert isinstance(events[0], Started)
    assert events[-1].usage.prompt == events[0].prompt_tokens
    assert not [e for e in events if isinstance(e, Failure)]


@pytest.mark.models
def test_a11_a_lone_surrogate_is_a_request_error(tiny_models):
    engine = ENGINE.load(spec(tiny_models["tiny-qwen2"]), lambda *_: None, print)
    for fields in ({"prompt": "a\ud800"}, {"messages": ({"role": "user", "content": "\udfff"},)}):
        with pytest.raises(RequestError):
            engine.submit(GenerateRequest("a", **fields))


@pytest.mark.models
def test_f07_truncated_weights_fail_to_load(tiny_models, tmp_path):
    path = copied(tiny_models, tmp_path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    with pytest.raises(LoadFailed):
        ENGINE.load(spec(path), lambda *_: None, print)


@pytest.mark.models
def test_missing_weights_fail_to_load_instead_of_being_made_up(tiny_models, tmp_path):
    from safetensors.torch import load_file, save_file

    path = copied(tiny_models, tmp_path)
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadFailed, match=r"model\.layers\.1\.mlp\.up_proj"):
        ENGINE.load(spec(path), lambda *_: None, print)


@pytest.mark.models
def test_nan_weights_fail_at_load(tiny_models, tmp_path):
    from safetensors.torch import load_file, save_file

    path = copied(tiny_models, tmp_path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"].fill_(torch.nan)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match="not finite") as caught:
        ENGINE.load(spec(path), lambda *_: None, print)
    assert caught.value.code == "nonfinite_logits"


@pytest.mark.models
def test_nan_in_one_row_ends_its_request_and_the_others_go_on(tiny_models):
    engine = ENGINE.load_steps(spec(tiny_models["tiny-llama"]), lambda *_: None)
    from llmctl.engines.batch import BatchEngine

    events = []
    batch = BatchEngine(engine, events.append)
    for id, first in (("a", 20), ("b", 30), ("c", 40)):
        prompt = tuple(range(first, first + 8))
        batch.submit(
            GenerateRequest(id, prompt=prompt, sampling=Sampling(temperature=0), max_tokens=8, ignore_eos=True)
        )
    batch.step()
    with torch.inference_mode():
        keys = engine._cache._layers[0][0]
        keys[1] = torch.nan
    while batch.step():
        pass
    assert [(e.id, e.error["code"]) for e in events if isinstance(e, Failure)] == [("b", "nonfinite_logits")]
    assert sorted(e.id for e in events if isinstance(e, Chunk) and e.usage) == ["a", "c"]


@pytest.mark.models
def test_memory_grows_with_the_sequences_and_is_given_back(tiny_models):
    engine = ENGINE.load_steps(spec(tiny_models["tiny-llama"], context=2048), lambda *_: None)
    assert engine._cache.bytes == 0
    seqs = [engine.open() for _ in range(3)]
    for seq in seqs:
        engine.prefill(seq, [1, 2, 3])
    small = engine._cache.bytes
    for _ in range(3):
        engine.prefill(seqs[0], list(range(10, 210)))
    assert small < engine._cache.bytes <= 8 * small
    for seq in seqs:
        engine.free(seq)
    assert engine._cache.bytes <= engine._cache.most  # the long one is kept for prompts that begin as it did
    engine.close()
    assert engine._cache.bytes == 0


@pytest.mark.models
def test_an_adapter_that_is_not_there_is_refused(tiny_models):
    engine = ENGINE.load_steps(spec(tiny_models["tiny-llama"]), lambda *_: None)
    with pytest.raises(RequestError, match="'french'"):
        engine.open(adapter="french")


@pytest.mark.models
def test_a_model_that_decodes_otherwise_with_the_cache_is_refused(tiny_models, monkeypatch):
    """Here the keys after the first chunk are lost, as in a model with its own ideas of what attention is given."""
    engine = ENGINE.load_steps(spec(tiny_models["tiny-llama"]), lambda *_: None)
    update = torch_attention.Pass.update

    def forgetful(self, layer, key, value):
        return update(self, layer, key if self.past[0] == 0 else 0 * key, value)

    monkeypatch.setattr(torch_attention.Pass, "update", forgetful)
    with pytest.raises(Unsupported, match="does not compute the same"):
        torch_proof.prove(engine, engine._model)


@pytest.mark.parametrize("packs", [True, False])
def test_the_quick_linear_layers_compute_the_same(monkeypatch, packs):
    from torch import nn

    if not packs:
        monkeypatch.setattr(torch_linear, "packing_works", lambda: False)
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16, bias=False), nn.Linear(16, 32, bias=False))
    model = nn.Sequential(nn.Embedding(32, 16), inner).to(torch.bfloat16)
    inner[2].weight = model[0].weight  # tied
    plain = copy.deepcopy(model)
    torch_linear.quicken(model)
    first = "PackedLinear" if packs and torch_linear.packing_works() else "RowLinear"
    assert [type(layer).__name__ for layer in inner] == [first, first, "RowLinear"]
    assert inner[2].weight is model[0].weight
    with torch.inference_mode():
        for ids in ([[3]], [3], [[3, 4]], [[3], [4]], [list(range(32))]):
            found, expected = model(torch.tensor(ids)), plain(torch.tensor(ids))
            assert found.shape == expected.shape
            assert torch.allclose(found.float(), expected.float(), rtol=0.02, atol=0.02)


@pytest.mark.skipif(not torch_linear.packing_works(), reason="this torch or CPU does not pack")
def test_packed_weights_are_not_held_twice():
    import weakref

    from torch import nn

    model = nn.Sequential(nn.Linear(16, 16, dtype=torch.bfloat16))
    original = weakref.ref(model[0])
    torch_linear.quicken(model)
    assert type(model[0]).__name__ == "PackedLinear"
    assert original() is None


@pytest.mark.parametrize(
    ("wanted", "stored", "device", "dtypes"),
    [
        ("float16", "float32", "cpu", ["float16"]),
        (None, "float32", "cpu", ["float32"]),
        (None, "bfloat16", "cpu", ["bfloat16", "float32"]),
        (None, "float16", "cpu", ["bfloat16", "float32"]),
        (None, "bfloat16", "mps", ["float16"]),
    ],
)
def test_the_dtype_is_the_operators_else_what_the_device_does_well(wanted, stored, device, dtypes):
    assert torch_load.pick_dtype(wanted, stored, device) in dtypes


def test_an_unknown_dtype_is_refused():
    with pytest.raises(Unsupported, match="int3"):
        torch_load.pick_dtype("int3", "float32", "cpu")


def test_the_stored_dtype_is_that_of_most_bytes(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [100], "data_offsets": [0, 200]},
        "b": {"dtype": "F32", "shape": [10], "data_offsets": [200, 240]},
    }
    data = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)
    (tmp_path / "config.json").write_text("{}")
    assert read_checkpoint(spec(tmp_path)).dtype == "bfloat16"


class Config:
    def __init__(self, **fields):
        self.__dict__ |= fields


def test_the_context_ends_where_the_model_or_its_rotary_scaling_does():
    assert torch_load.usable_context(4096, Config(max_position_embeddings=2048)) == 2048
    assert torch_load.usable_context(512, Config(max_position_embeddings=2048)) == 512
    assert torch_load.usable_context(512, Config()) == 512
    long = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
    assert torch_load.usable_context(100_000, Config(max_position_embeddings=131072, rope_parameters=long)) == 4096


def test_a_layer_that_leaves_its_window_to_the_mask():
    config = Config(sliding_window=8, layer_types=["full_attention", "sliding_attention"])
    assert torch_attention.configured_window(Config(config=config, layer_idx=0)) is None
    assert torch_attention.configured_window(Config(config=config, layer_idx=1)) == 8
    assert torch_attention.configured_window(Config(config=Config(sliding_window=8), layer_idx=0)) == 8
