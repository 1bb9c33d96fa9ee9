"""No client ever reads what another one sent: sixteen at once, with secrets, on a model that repeats its prompt."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import EngineSpec, Probe, SlotSpec
from tests.clients import post, sse
from tests.conftest import RunningSlot
from tests.runner import copying_model

CLIENTS, ROUNDS = 16, 3
SHARED = "Come and see us soon. Pack my box with five dozen jugs, and keep to yourself what you are told."


@pytest.fixture(scope="module")
def models(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("copying")
    return {
        "torch": copying_model.checkpoint(tiny_models["tiny-qwen2"], folder / "checkpoint"),
        "llamacpp": copying_model.gguf(tiny_models["tiny-qwen2-gguf"], folder / "model.gguf"),
    }


def secret(chance: random.Random) -> str:
    return "".join(chance.choices(string.ascii_uppercase + string.digits, k=10))


def chat(port: int, words: str, chance: random.Random) -> tuple[str, int]:
    """An answer (its two choices, one after another), and how many prompt tokens another request had left behind."""
    messages = [{"role": "system", "content": SHARED}, {"role": "user", "content": f"{SHARED} The word is {words}."}]
    n = chance.choice([1, 2])
    body = {"messages": messages, "max_tokens": 40, "temperature": 0, "n": n}
    if chance.random() < 0.3:
        status, _, data = post(port, "/v1/chat/completions", {**body, "stream": True})
        assert status == 200, data
        deltas = [choice for row in sse(data) if row != "[DONE]" for choice in row["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in deltas if choice["index"] == 0), 0
    status, _, whole = post(port, "/v1/chat/completions", body)
    assert status == 200, whole
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert len(texts) == n and len(set(texts)) == 1
    return "".join(texts), cached(whole)


def complete(port: int, words: str, chance: random.Random) -> tuple[str, int]:
    echo = chance.random() < 0.5
    prompt = f"{SHARED} The word is {words}."
    body = {"prompt": prompt, "max_tokens": 47, "temperature": 0, "echo": echo, "n": chance.choice([1, 2])}
    status, _, whole = post(port, "/v1/completions", body)
    assert status == 200, whole
    texts = [choice["text"] for choice in whole["choices"]]
    assert not echo or all(text.startswith(prompt) for text in texts)
    return "".join(text.removeprefix(prompt if echo else "") for text in texts), cached(whole)


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0))


@pytest.mark.parametrize("engine", ["torch", "llamacpp"])
def test_no_secret_of_one_client_is_in_an_answer_to_another(
    slots: Callable[..., RunningSlot], models: dict[str, Path], engine: str
) -> None:
    format = {"torch": "safetensors", "llamacpp": "gguf"}[engine]
    spec = EngineSpec(engine, "copying", str(models[engine]), format, context=512, parallel=4)
    slot = slots(SlotSpec(spec, probe=Probe(SHARED + SHARED), needed_bytes=10**8))
    chance = random.Random(5)
    secrets = [[secret(chance) for _ in range(CLIENTS)] for _ in range(ROUNDS)]
    everyone = {word for words in secrets for word in words}

    def client(i: int, round: int) -> int:
        own = secrets[round][i]
        answer, found = (chat, complete)[(i + round) % 2](slot.port, own, random.Random(i * ROUNDS + round))
        assert own in answer, f"client {i} in round {round} got {answer!r}"
        assert not [word for word in everyone - {own} if word in answer]
        return found

    reused = 0
    for round in range(ROUNDS):
        with ThreadPoolExecutor(CLIENTS) as crowd:
            reused += sum(crowd.map(client, range(CLIENTS), [round] * CLIENTS))
    assert reused > 0 or engine != "llamacpp"  # which keeps what it computed for whoever begins alike
