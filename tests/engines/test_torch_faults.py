"""Checkpoints that are not what they say: each is a typed error at load that names what is wrong."""

import json
import shutil

import pytest

from llmctl.domain import EngineSpec
from llmctl.engines import adapter, checkpoint_checks, torch_checks
from llmctl.engines.tokenizer import load_tokenizer
from llmctl.errors import LlmctlError, LoadFailed, Unsupported

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.models


def load(path, **fields):
    """As a slot does it."""
    fields = {"context": 256, "device": "cpu", "dtype": "float32", **fields}
    spec = EngineSpec("torch", path.name, str(path), "safetensors", **fields)
    adapter("torch").check(spec)
    return adapter("torch").load(spec, lambda *_: None, print)


def configured(**fields):
    """Change config.json; a number adds to what is there."""

    def change(path):
        config = json.loads((path / "config.json").read_text())
        for name, value in fields.items():
            config[name] = config[name] + value if isinstance(value, int) and value != 0 else value
        (path / "config.json").write_text(json.dumps(config))

    return change


def weights(edit):
    def change(path):
        from safetensors.torch import load_file, save_file

        found = load_file(path / "model.safetensors")
        save_file(edit(found), path / "model.safetensors", metadata={"format": "pt"})

    return change


def sharded(path):
    """Two shards and their index."""
    from safetensors.torch import load_file, save_file

    found = sorted(load_file(path / "model.safetensors").items())
    names = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    halves = dict(found[::2]), dict(found[1::2])
    for name, half in zip(names, halves, strict=True):
        save_file(half, path / name, metadata={"format": "pt"})
    (path / "model.safetensors").unlink()
    where = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (path / checkpoint_checks.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def without_a_shard(path):
    sharded(path)
    (path / "model-00002-of-00002.safetensors").unlink()


def with_a_torn_index(path):
    sharded(path)
    (path / checkpoint_checks.INDEX).write_text('{"weight_map": 5}')


def poisoned(name):
    def edit(found):
        found[name].view(-1)[0] = torch.nan
        return found

    return weights(edit)


def other_tokenizer(path):
    """Words from 1,000 on that the model's 1,024 weights end among."""
    file = path / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"word{n}": max(vocab.values()) + 1 + n for n in range(200)}
    file.write_text(json.dumps(tokenizer))


BAD = {
    "a missing shard": (without_a_shard, LoadFailed, "model-00002-of-00002.safetensors is missing"),
    "a torn index": (with_a_torn_index, LoadFailed, "index.json cannot be read"),
    "missing weights": (
        weights(lambda found: {k: v for k, v in found.items() if "layers.1." not in k}), LoadFailed,
        "weights are missing, model.layers.1.",
    ),
    "more heads": (configured(num_attention_heads=4), LoadFailed, r"config.json makes .*k_proj.weight \[32, 128\]"),
    "fewer key heads": (configured(num_key_value_heads=-1), LoadFailed, r"k_proj.weight \[32, .*weights are \[64"),
    "heads that do not divide": (configured(num_attention_heads=-1), Unsupported, "not a multiple of the number of"),
    "no heads": (configured(num_attention_heads=0), Unsupported, "config.json cannot be used"),
    "heads of text": (configured(num_attention_heads="many"), Unsupported, "'num_attention_heads' expected int"),
    "a layer too few": (configured(num_hidden_layers=-1), LoadFailed, "says 3 layers, its weights have 4"),
    "a layer too many": (configured(num_hidden_layers=1), LoadFailed, "missing, model.layers.4."),
    "another width": (configured(hidden_size=128), LoadFailed, "config.json makes .*256"),
    "another middle": (configured(intermediate_size=1), LoadFailed, "config.json makes .*257"),
    "a smaller vocabulary": (configured(vocab_size=-100), LoadFailed, r"924, 128\], its weights are \[1024, 128"),
    "another's tokenizer": (other_tokenizer, LoadFailed, "its tokenizer has 1224 tokens, the model 1024"),
    "NaN in the last norm": (poisoned("model.norm.weight"), LlmctlError, "not finite"),
    "NaN in one key": (poisoned("model.layers.2.self_attn.k_proj.weight"), LlmctlError, "not finite"),
    "NaN in an inner weight": (poisoned("model.layers.0.mlp.up_proj.weight"), LlmctlError, "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_checkpoint_that_is_not_what_it_says_is_refused(tiny_models, tmp_path, case):
    change, error, why = BAD[case]
    path = shutil.copytree(tiny_models["tiny-llama"], tmp_path / "model")
    change(path)
    with pytest.raises(error, match=why) as caught:
        load(path)
    assert "model" in caught.value.message
    assert "\n" not in caught.value.message


def test_shards_and_harmless_weights_load(tiny_models, tmp_path):
    """A rotary table and a projector that no layer wants, special tokens without weights, two files."""
    path = shutil.copytree(tiny_models["tiny-llama"], tmp_path / "model")
    more = {"model.rotary_emb.inv_freq": torch.ones(16), "multi_modal_projector.weight": torch.ones(4, 4)}
    weights(lambda found: {**found, **more})(path)
    sharded(path)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<|another pad|>"}))
    assert load_tokenizer(path).vocab == 1025
    assert load(path).identity.vocab == 1024


def test_what_it_holds_is_told_by_device(tiny_models):
    identity = load(tiny_models["tiny-llama"]).identity
    assert list(identity.residency) == ["cpu"]
    assert identity.residency["cpu"] >= identity.memory_bytes


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_what_was_left_on_another_device_is_named(kind):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    if kind == "parameter":
        model[0].bias = torch.nn.Parameter(model[0].bias.to("meta"))
    else:
        model[1].running_mean = model[1].running_mean.to("meta")
    name = "0.bias" if kind == "parameter" else "1.running_mean"
    spec = EngineSpec("torch", "m", "/m", "safetensors")
    with pytest.raises(LoadFailed, match=f"m: {name} is on meta, not on cpu"):
        torch_checks.residency(spec, model, "cpu")


def test_f14_memory_that_runs_out_at_load_says_so(tiny_models, monkeypatch):
    from transformers import LlamaForCausalLM

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", full)
    with pytest.raises(LlmctlError) as caught:
        load(tiny_models["tiny-llama"])
    assert caught.value.code == "out_of_memory"


@pytest.mark.parametrize("fields", [{"adapters": {"a": "/b"}}, {"draft": "ngram"}, {"cache_bytes": 10**9}])
def test_models_that_embed_take_nothing_that_is_for_answers(embed_model, fields):
    path = next(path for name, path in sorted(embed_model.items()) if path.is_dir())
    with pytest.raises(Unsupported, match="models of text that generate"):
        load(path, **fields)


def test_quantized_keys_and_values_are_refused(tiny_models):
    with pytest.raises(Unsupported, match="in the model's own type"):
        load(tiny_models["tiny-llama"], cache_bits=8)
