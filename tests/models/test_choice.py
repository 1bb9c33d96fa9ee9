"""When OpenVINO is taken before llama.cpp: each condition alone turns it down, and says so."""

from dataclasses import replace

import pytest

from llmctl.models.choice import Case, choose_engine

SUITED = Case(8, "x86_64", "qwen2", "q8_0", ("openvino",))


def test_openvino_is_taken_for_several_requests_at_once():
    taken, why, why_not = choose_engine("cpu", ["gguf", "safetensors"], case=SUITED)
    assert (taken, why) == ("openvino", "fastest from GGUF for several requests at once on an x86 CPU")
    assert why_not["llamacpp"] == "openvino comes first on cpu"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"parallel": 3}, "better from 4 requests at once on, when they are asked for (--parallel)"),
        ({"parallel": 0}, "better from 4 requests at once on, when they are asked for (--parallel)"),
        ({"machine": "aarch64"}, "better on x86_64 only"),
        ({"architecture": "gemma3"}, "does not run gemma3"),
        ({"quantization": "q4_k_m"}, "does not read q4_k_m exactly"),
        ({"installed": ()}, "not installed here"),
    ],
)
def test_each_condition_alone_leaves_it_to_llamacpp(change, why):
    taken, _, why_not = choose_engine("cpu", ["gguf"], case=replace(SUITED, **change))
    assert (taken, why_not["openvino"]) == ("llamacpp", why)


def test_what_is_asked_for_is_taken_whatever_suits():
    assert choose_engine("cpu", ["gguf"], "llamacpp", SUITED).engine == "llamacpp"
    assert choose_engine("cpu", ["gguf"], "openvino").engine == "openvino"


@pytest.mark.parametrize(("backend", "engine"), [("metal", "llamacpp"), ("cuda", "llamacpp")])
def test_other_backends_know_nothing_of_it(backend, engine):
    taken, _, why_not = choose_engine(backend, ["gguf"], case=SUITED)
    assert (taken, why_not["openvino"]) == (engine, f"does not run on {backend}")


def test_without_a_gguf_file_it_is_no_candidate():
    assert choose_engine("cpu", ["safetensors"], case=SUITED).engine == "torch"
