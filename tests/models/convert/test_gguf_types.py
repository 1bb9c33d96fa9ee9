"""llmctl's choice of tensor types is llama-quantize's, tensor by tensor."""

from __future__ import annotations

import json

import pytest

from llmctl.models.convert.gguf_types import MAIN_TYPE, Shape, Tensor, choose, quantizable
from tests.models.convert.layouts import LAYOUTS, SEEN, letters


@pytest.mark.parametrize("name", LAYOUTS)
def test_types_are_those_of_llama_quantize(name: str) -> None:
    seen = json.loads(SEEN.read_text())[name]
    layout = LAYOUTS[name]
    chosen = {q: letters(choose(layout.described(), q, layout.shape)) for q in MAIN_TYPE}
    assert chosen == seen


def test_what_was_recorded_has_every_layout_and_every_quantization() -> None:
    seen = json.loads(SEEN.read_text())
    assert set(seen) == set(LAYOUTS)
    assert all(set(kinds) == set(MAIN_TYPE) for kinds in seen.values())


@pytest.mark.parametrize(
    ("name", "dims"),
    [("blk.0.attn_norm.weight", 2), ("blk.0.attn_q.bias", 2), ("blk.0.attn_q.weight", 1),
     ("blk.1.ffn_gate_inp.weight", 2), ("position_embd.weight", 2), ("blk.0.ssm_conv1d.weight", 2)],
)  # fmt: skip
def test_norms_vectors_and_small_matrices_keep_their_type(name: str, dims: int) -> None:
    assert not quantizable(Tensor(name, 256, dims, "F32"))
    assert choose([Tensor(name, 256, dims, "F32")], "q4_k_m", Shape("llama", 2, 4, 4)) == {name: "F32"}
