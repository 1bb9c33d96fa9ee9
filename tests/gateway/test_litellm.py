"""A LiteLLM configuration of the registry."""

from __future__ import annotations

import pytest
import yaml

from llmctl.errors import UsageError
from llmctl.gateway.litellm import Redis, rendered, variables
from llmctl.gateway.registry import EMBEDDINGS, Handle, Registry, Replica

HANDLES = [
    Handle(
        "fast",
        (Replica("gpu-1", 8101, "qwen2.5-7b", "torch", "10.0.0.2:8101"), Replica("gpu-2", 8101, "qwen2.5-7b", "torch")),
        fallbacks=("deep", "gone"), context=8192, max_output=1024, price=(0.1, 0.4),
    ),
    Handle("deep", (Replica("gpu-1", 8102, "qwen2.5-32b", "torch", "10.0.0.2:8102"),), technique="cot"),
    Handle("vectors", (Replica("gpu-1", 8103, "e5", "torch", "10.0.0.2:8103"),), invoke=EMBEDDINGS),
    Handle("mlx-phi-3", (Replica("studio", 8100, "phi-3", "mlx", "10.0.0.9:8100"),)),
]  # fmt: skip
FLEET = Registry({one.name: one for one in HANDLES}, "fast")


def test_it_is_yaml_that_says_what_the_registry_says() -> None:
    data = yaml.safe_load(rendered(FLEET).text)
    by_name = {entry["model_name"]: entry for entry in data["model_list"]}
    assert list(by_name) == ["deep", "fast", "mlx-phi-3", "vectors"]
    assert by_name["fast"]["litellm_params"] == {
        "model": "openai/qwen2.5-7b", "api_base": "http://10.0.0.2:8101/v1", "api_key": "os.environ/LLMCTL_GPU_1_KEY",
        "max_tokens": 1024, "timeout": 600,
    }  # fmt: skip
    info = by_name["fast"]["model_info"]
    assert info["max_input_tokens"] == 8192 and info["input_cost_per_token"] == pytest.approx(1e-7)
    assert by_name["deep"]["model_info"]["disable_background_health_check"] is True
    assert by_name["deep"]["litellm_params"]["timeout"] == 3600 and "disable" not in str(info)
    assert by_name["vectors"]["model_info"]["mode"] == "embedding"
    assert data["router_settings"]["fallbacks"] == [{"fast": ["deep"]}]
    assert data["general_settings"]["master_key"] == "os.environ/LITELLM_MASTER_KEY"


def test_the_same_registry_makes_the_same_bytes_and_names_itself() -> None:
    other = Registry(dict(reversed(FLEET.handles.items())), "fast")
    assert rendered(FLEET).text == rendered(FLEET).text
    assert rendered(FLEET).text.splitlines()[1:] == rendered(other).text.splitlines()[1:]
    assert FLEET.hash in rendered(FLEET).text.splitlines()[0]


def test_what_it_cannot_say_is_noted() -> None:
    assert rendered(FLEET).notes == ("fast: gpu-2:8101 is reached through ssh alone, which LiteLLM cannot",)


def test_what_it_cannot_load_is_noted_and_never_asked_whether_it_is_well() -> None:
    slot = Replica("gpu-1", 8104, "rare", "torch", "10.0.0.2:8104", on_demand=True)
    found = rendered(Registry({"rare": Handle("rare", (slot,))}))
    assert found.notes == ("rare: gpu-1:8104 is loaded on demand, which LiteLLM cannot ask for",)
    assert yaml.safe_load(found.text)["model_list"][0]["model_info"]["disable_background_health_check"] is True


def test_several_instances_share_what_they_know_through_redis() -> None:
    assert "redis" not in rendered(FLEET).text
    router = yaml.safe_load(rendered(FLEET, Redis("10.0.0.7")).text)["router_settings"]
    found = {name: value for name, value in router.items() if "redis" in name}
    assert found == {
        "redis_host": "10.0.0.7", "redis_port": 6379, "redis_password": "os.environ/REDIS_PASSWORD",
    }  # fmt: skip


def test_the_address_of_a_redis_is_read_and_one_with_a_password_is_not_repeated() -> None:
    known = {"redis": Redis("redis"), "10.0.0.7:6380": Redis("10.0.0.7", 6380), "[::1]:7": Redis("::1", 7)}
    assert {text: Redis.of(text) for text in known} == known
    for text in ("", "a b", "a:0", "a:99999", "redis://x", "-x", "a:b"):
        with pytest.raises(UsageError, match="is no address of a Redis") as caught:
            Redis.of(text)
        assert repr(text) in caught.value.message and "--redis HOST:6379" in (caught.value.hint or "")
    with pytest.raises(UsageError) as caught:
        Redis.of("user:hunter2@host:1")
    assert "hunter2" not in str(caught.value)


def test_no_two_hosts_share_a_variable_for_their_keys() -> None:
    hosts = ("gpu-1", "gpu.1", "gpu_1", "mac")
    fleet = Registry({"a": Handle("a", tuple(Replica(host, 1, "m", "", "1.2.3.4:1") for host in hosts))})
    assert variables(fleet) == {
        "gpu-1": "LLMCTL_GPU_1_KEY", "gpu.1": "LLMCTL_GPU_1_2_KEY", "gpu_1": "LLMCTL_GPU_1_3_KEY",
        "mac": "LLMCTL_MAC_KEY",
    }  # fmt: skip


def test_the_block_that_other_tools_read() -> None:
    assert rendered(FLEET).environment.splitlines() == [
        "# BEGIN LLMCTL AUTO", "MLX_PHI_3_API_BASE=http://10.0.0.9:8100/v1", "MLX_PHI_3_MODEL=openai/mlx-phi-3",
        "# END LLMCTL AUTO",
    ]  # fmt: skip


def test_no_key_and_no_odd_name_spoils_it() -> None:
    odd = Registry({"a": Handle("a", (Replica("h", 1, 'm": {x}\n- y', "", "1.2.3.4:1"),))})
    data = yaml.safe_load(rendered(odd).text)
    assert data["model_list"][0]["litellm_params"]["model"] == 'openai/m": {x}\n- y'
