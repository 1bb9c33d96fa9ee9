"""The MLX engine: refusals before weights are read, loading, and its rows. Equality is in test_equality."""

import json
import shutil
from types import SimpleNamespace

import pytest

from llmctl.domain import EngineSpec, Failure, GenerateRequest, Sampling
from llmctl.engines import adapter, mlx_memory
from llmctl.engines.batch import BatchEngine
from llmctl.engines.mlx_load import filled
from llmctl.engines.mlx_logits import MlxLogits
from llmctl.errors import LoadFailed, RequestError, Unsupported

pytest.importorskip("mlx_lm")
ENGINE = adapter("mlx")


def spec(path, **fields):
    fields = {"context": 256, "device": "cpu", **fields}
    return EngineSpec("mlx", path.name, str(path), "mlx", **fields)


def folder(path, config):
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"not weights")
    return path


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "nobody-knows"}, "'nobody-knows' is not supported"),
        ({"model_type": "os.path"}, "'os.path' is not supported"),
        ({"architectures": ["MadeUpForCausalLM"]}, "'MadeUpForCausalLM' is not supported"),
        ({"model_type": "llama", "model_file": "evil.py"}, "code of its own"),
        ({"model_type": "llama", "auto_map": {"AutoModel": "x.Y"}}, "code of its own"),
    ],
)
def test_check_refuses_by_name_before_any_weight_is_read(tmp_path, config, why):
    with pytest.raises(Unsupported, match=why):
        ENGINE.check(spec(folder(tmp_path, config)))


def test_s6_a_model_file_is_not_run_at_load_either(tmp_path):
    path = folder(tmp_path, {"model_type": "llama", "model_file": "evil.py"})
    (path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(Unsupported):
        ENGINE.load(spec(path), lambda *_: None, print)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("config", [{"model_type": "Qwen2"}, {"architectures": ["LlamaForCausalLM"]}])
def test_check_finds_the_architecture_in_any_case_and_place(tmp_path, config):
    ENGINE.check(spec(folder(tmp_path, config)))


@pytest.mark.models
def test_loading_reports_bytes_and_the_engine_answers(tiny_models):
    seen, events = [], []
    engine = ENGINE.load(
        spec(tiny_models["tiny-llama"], dtype="float32"), lambda *step: seen.append(step), events.append
    )
    assert seen[-1][1] == seen[-1][2] > 0
    identity = engine.identity
    assert (identity.engine, identity.device, identity.dtype) == ("mlx", "cpu", "float32")
    messages = ({"role": "user", "content": "hello"},)
    engine.submit(GenerateRequest("a", messages=messages, sampling=Sampling(temperature=0), max_tokens=4))
    while engine.step():
        pass
    assert events[-1].usage.completion > 0
    engine.close()


@pytest.mark.models
def test_truncated_weights_fail_to_load(tiny_models, tmp_path):
    path = shutil.copytree(tiny_models["tiny-llama"], tmp_path / "copy")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    with pytest.raises(LoadFailed):
        ENGINE.load(spec(path), lambda *_: None, print)


@pytest.mark.models
def test_an_adapter_that_is_not_there_is_refused_and_sequences_are_freed(tiny_models):
    engine = ENGINE.load_steps(spec(tiny_models["tiny-llama"]), lambda *_: None)
    with pytest.raises(RequestError, match="'french'"):
        engine.open(adapter="french")
    engine.free(engine.open())
    assert not engine._lines
    assert not len(engine._batches)


@pytest.mark.models
def test_nan_in_one_row_ends_its_request_and_the_others_go_on(tiny_models):
    import mlx.core as mx

    engine = ENGINE.load_steps(spec(tiny_models["tiny-llama"], dtype="float32"), lambda *_: None)
    events = []
    batch = BatchEngine(engine, events.append)
    for id in ("a", "b"):
        batch.submit(
            GenerateRequest(id, prompt=(20, 21), sampling=Sampling(temperature=0), max_tokens=4, ignore_eos=True)
        )
    batch.step()
    group = engine._batches.gather(engine._lines)
    keys = group.caches[0].keys
    keys[group.seqs.index(max(group.seqs))] = mx.nan
    while batch.step():
        pass
    assert [(e.id, e.error["code"]) for e in events if isinstance(e, Failure)] == [("b", "nonfinite_logits")]
    assert events[-1].id == "a"


class Mac:
    """What MLX's core module shows of a Mac with Metal, which this project never had."""

    cpu, gpu = "cpu", "gpu"
    metal = SimpleNamespace(is_available=lambda: True)

    def __init__(self, device):
        self.device, self.set = device, {}

    def default_device(self):
        return self.device

    def device_info(self):
        return {"max_recommended_working_set_size": 22 * 2**30, "memory_size": 32 * 2**30}

    def __getattr__(self, name):
        return lambda limit: self.set.update({name: limit})


def test_on_metal_the_working_set_bounds_what_mlx_takes_and_keeps():
    mac = Mac("gpu")
    mlx_memory.bound(mac)
    assert mac.set == {"set_wired_limit": 22 * 2**30, "set_memory_limit": 22 * 2**30, "set_cache_limit": 2**30}
    assert mlx_memory.limits(8 * 2**30).cache == 2**29
    cpu = Mac("cpu")
    assert mlx_memory.bound(cpu) is None
    assert cpu.set == {}
    import mlx.core

    assert mlx_memory.bound(mlx.core) is None  # of Linux


def test_rows_that_are_not_finite_are_told():
    import mlx.core as mx

    rows = [mx.array([[1.0, 3.0, 3.0]]), mx.array([[1.0, mx.nan, 0.0]]), mx.array([[-mx.inf, -mx.inf, -mx.inf]])]
    best, finite = MlxLogits(rows).argmax()
    assert best[0] == 1
    assert finite == [True, False, False]


def test_rotary_fields_of_transformers_5_reach_mlx_lms_models():
    flat = {"rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 0.5, "rope_type": "default"}}
    assert filled(flat) == {"rope_theta": 5e5, "partial_rotary_factor": 0.5}
    assert filled({**flat, "rope_theta": 1.0}) == {"partial_rotary_factor": 0.5}
    scaled = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}
    assert filled(scaled)["rope_scaling"]["type"] == "linear"
    layers = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert filled({"rope_parameters": layers}) == {"rope_theta": 1e6, "rope_local_base_freq": 1e4}
    assert filled({"rope_theta": 1e4}) == {}


def test_what_a_configuration_leaves_out_has_transformers_default():
    phi = filled({"model_type": "phi", "num_attention_heads": 4, "hidden_size": 64, "rope_theta": 7.0})
    assert phi["num_key_value_heads"] == 4
    assert phi["partial_rotary_factor"] == 0.5
    assert not {"rope_theta", "hidden_size"} & phi.keys()
    assert filled({"model_type": "known-to-mlx-only", "hidden_size": 64}) == {}


@pytest.mark.models
def test_a_draft_keeps_all_tokens_so_a_window_that_mlx_lm_ignores_bounds_its_context(tiny_models):
    """tiny-mistral's window is 64: past it a cache of all tokens would be attended to whole, without an error."""
    path = tiny_models["tiny-mistral"]
    assert ENGINE.load_steps(spec(path, context=512), lambda *a: None).identity.context == 512
    assert ENGINE.load_steps(spec(path, context=512), lambda *a: None, rewinds=True).identity.context == 64
