"""What `inspect` says of GGUF files and of Hugging Face and MLX folders, and how it refuses broken ones."""

import json
import os
from dataclasses import replace

import pytest

from llmctl.errors import BadCheckpoint
from llmctl.models import fit
from llmctl.models.checkpoint import FULL, RECURRENT, SLIDING, inspect
from tests.models.making import CONFIG, END, make_folder, make_gguf, safetensors_bytes


def config(**changed):
    return json.dumps({k: v for k, v in {**CONFIG, **changed}.items() if v is not ...}).encode()


def test_gguf(tmp_path):
    found = inspect(make_gguf(tmp_path / "m.gguf"))
    assert (found.format, found.architecture, found.tokenizer) == ("gguf", "qwen2", "gguf")
    assert (found.layers, found.heads, found.kv_heads, found.head_dim, found.hidden) == (2, 4, 2, 16, 64)
    assert (found.vocab, found.context, found.sliding_window) == (265, 2048, None)
    assert found.kv_widths == (64, 64)  # 2 heads of 16, keys and values
    assert (found.dtype, found.quantization) == ("float32", "f32")
    assert found.has_chat_template
    assert found.eos_ids == (END,)
    assert found.needs_code == ()
    assert found.parameters * 4 <= found.weights_bytes <= found.parameters * 4 + 32 * 26


def test_folder_of_one_gguf_and_its_projector(tmp_path):
    path = make_gguf(tmp_path / "m-Q8_0.gguf")
    (tmp_path / "mmproj-m.gguf").write_bytes(b"")
    assert inspect(tmp_path) == inspect(path)


def test_folder_of_two_models_names_them(tmp_path):
    make_gguf(tmp_path / "a.gguf")
    make_gguf(tmp_path / "b.gguf")
    with pytest.raises(BadCheckpoint, match=r"a\.gguf, b\.gguf"):
        inspect(tmp_path)


def test_split_gguf_wants_every_shard(tmp_path):
    make_gguf(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(BadCheckpoint, match=r"m-00002-of-00002\.gguf: this shard is missing"):
        inspect(tmp_path)
    os.link(tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf")
    assert inspect(tmp_path).layers == 2


def test_truncated_gguf(tmp_path):
    path = make_gguf(tmp_path / "m.gguf")
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(BadCheckpoint, match="truncated"):
        inspect(path)


def test_folder(tmp_path):
    found = inspect(make_folder(tmp_path / "m"))
    assert (found.format, found.architecture, found.tokenizer) == ("safetensors", "llama", "tokenizer.json")
    assert (found.layers, found.kv_heads, found.head_dim, found.vocab, found.context) == (2, 2, 16, 300, 2048)
    assert found.kv_widths == (64, 64)
    assert (found.dtype, found.quantization, found.eos_ids) == ("bfloat16", None, (2, 1))
    assert found.parameters == 300 * 64 + 2 * 32 * 64
    assert found.weights_bytes == 2 * found.parameters
    assert found.has_chat_template


@pytest.mark.parametrize(
    ("changed", "architecture"),
    [
        ({"model_type": "Qwen2"}, "qwen2"),
        ({"model_type": ..., "architectures": ["LlamaForCausalLM"]}, "llama"),
        ({"model_type": "", "architectures": ["MISTRALFORCAUSALLM"]}, "mistral"),
    ],
)
def test_architecture_in_any_case_and_place(tmp_path, changed, architecture):
    assert inspect(make_folder(tmp_path / "m", files={"config.json": config(**changed)})).architecture == architecture


def test_numbers_of_a_nested_text_config(tmp_path):
    nested = {"model_type": "gemma3_text", "hidden_size": 128, "num_hidden_layers": 6, "sliding_window": 512}
    top = {"model_type": "gemma3", "text_config": nested, "eos_token_id": [1, 106]}
    found = inspect(make_folder(tmp_path / "m", files={"config.json": json.dumps(top).encode()}))
    assert (found.architecture, found.hidden, found.sliding_window) == ("gemma3", 128, 512)
    assert found.layer_types == (SLIDING,) * 5 + (FULL,)
    assert found.vocab == 300  # the config leaves it out: the embedding has as many rows
    assert found.kv_widths == (64, 64, 0, 0, 0, 0)  # of the key weights, as the config says nothing


def test_layer_types_as_written(tmp_path):
    names = ["linear_attention", "full_attention", "sliding_attention", "conv", "mamba", "attention"]
    written = {"num_hidden_layers": 6, "layer_types": names, "sliding_window": 64}
    found = inspect(make_folder(tmp_path / "m", written))
    assert found.layer_types == (RECURRENT, FULL, SLIDING, RECURRENT, RECURRENT, FULL)
    assert [width > 0 for width in found.kv_widths] == [kind != RECURRENT for kind in found.layer_types]


def test_unused_sliding_window(tmp_path):
    found = inspect(make_folder(tmp_path / "m", {"sliding_window": 128, "use_sliding_window": False}))
    assert (found.sliding_window, found.layer_types) == (None, (FULL, FULL))


def test_mlx_quantization(tmp_path):
    weights = {
        "model.layers.0.self_attn.k_proj.weight": ("U32", [32, 8], 1024),
        "model.layers.0.self_attn.k_proj.scales": ("BF16", [32, 1], 64),
        "model.layers.0.self_attn.k_proj.biases": ("BF16", [32, 1], 64),
        "model.norm.weight": ("BF16", [64], 128),
    }
    files = {"model.safetensors": safetensors_bytes(weights, {"format": "mlx"})}
    found = inspect(make_folder(tmp_path / "m", {"quantization": {"group_size": 64, "bits": 4}}, files))
    assert (found.format, found.quantization) == ("mlx", "4bit")
    assert found.parameters == 32 * 64 + 64
    assert found.kv_widths[0] == 64


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"quantization": {"bits": 4, "mode": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({}, None),
    ],
)
def test_quantization_names(tmp_path, changed, name):
    assert inspect(make_folder(tmp_path / "m", changed)).quantization == name


def test_code_is_listed(tmp_path):
    files = {"tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": "x.py"}}'}
    found = inspect(make_folder(tmp_path / "m", {"auto_map": {"AutoModel": "x.Y"}, "model_file": "x.py"}, files))
    assert found.needs_code == (
        "auto_map in config.json", "model_file in config.json", "auto_map in tokenizer_config.json",
    )  # fmt: skip


def test_pickle_weights_are_code(tmp_path):
    files = {"model.safetensors": None, "pytorch_model.bin": bytes(100), "training_args.bin": b"x"}
    found = inspect(make_folder(tmp_path / "m", files=files))
    assert found.needs_code == ("pickle weights pytorch_model.bin",)
    assert found.weights_bytes == 100


def test_pickles_beside_safetensors_do_not_matter(tmp_path):
    assert inspect(make_folder(tmp_path / "m", files={"pytorch_model.bin": b"x"})).needs_code == ()


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_chat_template_in_a_file_of_its_own(tmp_path, name):
    files = {"tokenizer_config.json": b"{}", name: b"x"}
    assert inspect(make_folder(tmp_path / "m", files=files)).has_chat_template
    files[name] = None
    assert not inspect(make_folder(tmp_path / "n", files=files)).has_chat_template


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"config.json": None}, r"no config\.json and no \.gguf"),
        ({"config.json": b"{"}, r"config\.json: not JSON"),
        ({"config.json": b"[]"}, r"config\.json: not a JSON object"),
        ({"config.json": b"[" * 200_000}, r"config\.json: not JSON"),
        ({"config.json": config(model_type=...)}, "neither model_type nor architectures"),
        ({"config.json": config(num_hidden_layers=...)}, "number of layers"),
        ({"config.json": config(num_hidden_layers=10**9)}, "number of layers"),
        ({"model.safetensors": None}, "no weights"),
        ({"model.safetensors": b"\0" * 4}, r"model\.safetensors: not a usable safetensors file"),
        ({"tokenizer.json": None}, "no tokenizer"),
        ({"tokenizer_config.json": b"\xff"}, r"tokenizer_config\.json: not JSON"),
    ],
)
def test_what_is_missing_is_named_with_its_path(tmp_path, files, why):
    folder = make_folder(tmp_path / "model", files=files)
    with pytest.raises(BadCheckpoint, match=why) as caught:
        inspect(folder)
    assert str(folder) in caught.value.message


def test_paths_that_are_no_checkpoint(tmp_path):
    with pytest.raises(BadCheckpoint, match="no such file"):
        inspect(tmp_path / "nothing")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(BadCheckpoint, match=r"neither a folder nor a \.gguf"):
        inspect(tmp_path / "x.txt")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(BadCheckpoint):
        inspect(tmp_path / "pipe.gguf")
    folder = make_folder(tmp_path / "m", files={"model.safetensors": None})
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(BadCheckpoint):
        inspect(folder)


@pytest.mark.models
def test_tiny_checkpoints(tiny_models):
    for name, path in tiny_models.items():
        found = inspect(path)
        assert found.layers > 0, name
        assert found.vocab > 256, name
        assert found.parameters > 0, name
        assert found.has_chat_template, name
        assert found.eos_ids, name
        assert found.format == ("gguf" if "-gguf" in name else "safetensors"), name


def test_a_vision_tower_is_seen_and_its_keys_are_none_of_the_caches(vision_model):
    found = inspect(vision_model["tiny-vision"])
    assert found.sees and found.architecture == "qwen2_vl" and found.has_chat_template
    assert found.kv_widths == (2 * 2 * 32,) * 2


@pytest.mark.parametrize("tower", ["vision_tower.layers", "model.visual.blocks", "model.image_vit.resblocks"])
def test_keys_of_a_vision_tower_are_not_counted(tmp_path, tower):
    names = {f"model.layers.{i}.self_attn.k_proj.weight": 32 for i in range(2)}
    names |= {f"{tower}.{i}.attn.k_proj.weight": 48 for i in range(2)}
    weights = {name: ("BF16", [rows, 64], rows * 64 * 2) for name, rows in names.items()}
    folder = make_folder(tmp_path, {"vision_config": {}}, {"model.safetensors": safetensors_bytes(weights)})
    assert inspect(folder).kv_widths == (64, 64) and inspect(folder).sees


def test_a_prompt_with_images_is_counted_whole(vision_model):
    found = inspect(vision_model["tiny-vision"])
    blind = replace(found, sees=False)
    more = fit.compute_bytes(found, 2048, 1, "torch") - fit.compute_bytes(blind, 2048, 1, "torch")
    assert more == 16 * 4 * found.hidden * (2048 - 256)


def test_a_projector_beside_a_gguf_file_counts_to_its_weights(tmp_path):
    alone = inspect(make_gguf(tmp_path / "m.gguf"))
    (tmp_path / "mmproj-m.gguf").write_bytes(b"x" * 1000)
    seeing = inspect(tmp_path / "m.gguf")
    assert (seeing.weights_bytes - alone.weights_bytes, alone.sees, seeing.sees) == (1000, False, True)
    (tmp_path / "mmproj-n.gguf").touch()
    assert not inspect(tmp_path / "m.gguf").sees
