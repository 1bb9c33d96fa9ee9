"""LoRA adapters on MLX, in peft's format and mlx-lm's: equal to merged weights, each for its own requests."""

import json
import random
import shutil

import pytest

from llmctl.engines import adapter
from llmctl.errors import LlmctlError, RequestError
from tests.engines.test_mlx_equality import answers, prompts, request, spec
from tests.engines.test_torch_lora import lora, merged

pytest.importorskip("mlx_lm")
pytestmark = pytest.mark.models
TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def loaded(path, **fields):
    return adapter("mlx").load_steps(spec(path, **fields), lambda *_: None)


def as_mlx(folder, new):
    """peft's adapter of `lora` in mlx-lm's own format: the last layers, their keys, matrices the other way round."""
    import mlx.core as mx

    settings = json.loads((folder / "adapter_config.json").read_text())
    weights = mx.load(str(folder / "adapter_model.safetensors"))
    new.mkdir()
    made = {}
    for key, value in weights.items():
        name = key.removeprefix("base_model.model.")
        made[name.replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b")] = value.T
    mx.save_safetensors(str(new / "adapters.safetensors"), made)
    parameters = {"rank": settings["r"], "scale": settings["lora_alpha"] / settings["r"], "dropout": 0.0,
                  "keys": list(TARGETS)}  # fmt: skip
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": parameters}
    (new / "adapter_config.json").write_text(json.dumps(config))
    return new


@pytest.fixture(scope="module")
def base(tiny_models):
    return tiny_models["tiny-llama"]


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    at = tmp_path_factory.mktemp("mlx-lora")
    one, two = lora(at / "one", base, 1, TARGETS), lora(at / "two", base, 2, TARGETS, rank=8, use_rslora=True)
    return {
        "one": one, "two": two, "one of mlx": as_mlx(one, at / "one-mlx"),
        "merged one": merged(one, base, at / "merged-one", lambda name: 24 / 4),
        "merged two": merged(two, base, at / "merged-two", lambda name: 24 / 8**0.5),
    }  # fmt: skip


def test_each_request_gets_the_adapter_that_it_asks_for(base, folders):
    """In one batch with others, with its own kept beginnings; the same as the weights that have it merged."""
    names = {"one": "one", "two": "two", "twin": "one of mlx"}
    engine = loaded(base, parallel=8, adapters={name: str(folders[folder]) for name, folder in names.items()})
    assert engine.identity.adapters == ("one", "two", "twin")
    prompt = prompts(engine.tokenizer, (40,))["p40"]
    found = answers(
        engine,
        [request(str(name), prompt, adapter=name, n=2) for name in (None, *names)],
        shuffle=random.Random(0),
    )
    paths = {"None": base, "one": folders["merged one"], "two": folders["merged two"]}
    plain = {name: answers(loaded(path), [request("r", prompt)])["r", 0] for name, path in paths.items()}
    assert len(set(map(tuple, plain.values()))) == 3
    assert found == {(name, n): plain["one" if name == "twin" else name] for name in ("None", *names) for n in (0, 1)}
    again = answers(engine, [request("two", prompt, adapter="two"), request("one", prompt, adapter="one")])
    assert again == {(name, 0): plain[name] for name in ("two", "one")}
    with pytest.raises(RequestError, match="'french'"):
        engine.open(adapter="french")


def test_the_base_weights_are_there_once(base, folders):
    one, three = (loaded(base, adapters={n: str(folders["one"]) for n in names}) for names in ("a", "abc"))
    assert one.identity.memory_bytes == sum(one.identity.residency.values())
    plain = loaded(base).identity.memory_bytes
    assert 0 < three.identity.memory_bytes - plain == 3 * (one.identity.memory_bytes - plain) < plain


def without_config(folder):
    (folder / "adapter_config.json").unlink()


def of_another_width(folder):
    import mlx.core as mx

    weights = mx.load(str(folder / "adapter_model.safetensors"))
    key = min(key for key in weights if "lora_A" in key)
    weights[key] = weights[key][:, :64]
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), weights)


def renamed(folder):
    import mlx.core as mx

    weights = mx.load(str(folder / "adapter_model.safetensors"))
    weights = {key.replace("q_proj", "query"): value for key, value in weights.items()}
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), weights)


def half(folder):
    import mlx.core as mx

    weights = mx.load(str(folder / "adapter_model.safetensors"))
    del weights[min(key for key in weights if "lora_B" in key)]
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), weights)


def spoilt(folder):
    import mlx.core as mx

    weights = mx.load(str(folder / "adapter_model.safetensors"))
    weights[min(weights)][0, 0] = mx.nan
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), weights)


def torn(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"no weights")


def of_mlx(**settings):
    def change(folder):
        (folder / "adapters.safetensors").write_bytes(b"no weights")
        (folder / "adapter_config.json").write_text(json.dumps(settings))

    return change


BAD = {
    "no config": (without_config, "adapter_config.json"),
    "another width": (of_another_width, "down_proj is .*not "),
    "another's names": (renamed, "query, which the model on mlx does not have"),
    "one matrix of two": (half, "one matrix of two"),
    "not finite": (spoilt, "not finite"),
    "torn": (torn, "adapter 'french': "),
    "a whole model": (of_mlx(fine_tune_type="full"), "no LoRA adapter"),
    "mlx's without a scale": (of_mlx(num_layers=4, lora_parameters={"rank": 4}), "adapter 'french': .*scale"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_adapter_that_does_not_fit_is_refused_by_name(base, folders, tmp_path, case):
    change, why = BAD[case]
    folder = shutil.copytree(folders["one"], tmp_path / "adapter")
    change(folder)
    with pytest.raises(LlmctlError, match=why) as caught:
        loaded(base, adapters={"french": str(folder)})
    assert "'french'" in caught.value.message
    assert caught.value.code in ("bad_checkpoint", "unsupported")
    assert "\n" not in caught.value.message
