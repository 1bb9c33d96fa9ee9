"""Over /execute: a greedy answer with the engine's caches equals a full recompute without any, token for token, and
no cache carries from one request into another.

The reference is transformers, which runs the whole sequence anew for each token, on the same weights.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients import post, sse
from tests.conformance.conftest import MODELS, SlotOf

NEW = 24
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
ASKED = ("What is a slot?", "What is a slot", "What is a profile?", "What is an engine?", "What is a host?")
PROMPTS = [TURN.format(question) for question in ASKED] + [TURN.format("What is a slot?") + "A port on"]  # one prefix
GAP = 1.0  # between the two most likely tokens: more than the engines' number formats differ


@pytest.fixture(scope="module")
def recomputed(tiny_models: dict[str, Path]) -> dict[str, list[str]]:
    """{prompt: the text of each greedy token, up to the model's end or NEW}."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tiny_models[MODELS["torch"]]
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    found = {}
    with torch.inference_mode():
        for prompt in PROMPTS:
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            new: list[int] = []
            while len(new) < NEW and (not new or new[-1] != tokenizer.eos_token_id):
                top = model(torch.tensor([ids + new]), use_cache=False).logits[0, -1].topk(2)
                assert float(top.values[0] - top.values[1]) > GAP, f"a tie: choose another prompt than {prompt!r}"
                new.append(int(top.indices[0]))
            found[prompt] = [tokenizer.decode([id]) for id in new if id != tokenizer.eos_token_id]
    return found


def executed(port: int, prompt: str) -> list[str]:
    """The text of each token."""
    body = {"job_id": "j", "prompt": prompt, "max_tokens": NEW, "temperature": 0.0}
    status, _, text = post(port, "/execute", body)
    rows = sse(text)
    assert status == 200 and rows[-1]["type"] == "end", rows
    return [row["t"] for row in rows if row["type"] == "token"]


@pytest.mark.parametrize("engine", ["torch", "llamacpp"])
def test_execute_equals_a_full_recompute_whatever_came_before(
    slot_of: SlotOf, recomputed: dict[str, list[str]], engine: str
) -> None:
    port = slot_of(engine).port
    assert len({tuple(tokens) for tokens in recomputed.values()}) >= 4 and max(map(len, recomputed.values())) > 8
    for prompt in [*PROMPTS, *reversed(PROMPTS), PROMPTS[0], PROMPTS[0]]:
        assert executed(port, prompt) == recomputed[prompt], prompt
    with ThreadPoolExecutor(6) as clients:
        together = list(clients.map(lambda prompt: executed(port, prompt), PROMPTS * 2))
    assert together == [recomputed[prompt] for prompt in PROMPTS * 2]
