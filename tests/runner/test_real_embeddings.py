"""Embedding and reranking models in real slots: loaded, probed, and asked over HTTP."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import EngineSpec, SlotSpec
from llmctl.errors import LoadFailed
from tests.clients import post
from tests.conftest import RunningSlot

NAMES = {"torch": "", "llamacpp": "-gguf"}
DOCUMENTS = ["The weather is fine.", "A slot is a port on a host.", "The new engine must load and pass its probe."]


@pytest.fixture(params=sorted(NAMES))
def load(
    request: pytest.FixtureRequest, slots: Callable[..., RunningSlot], embed_model: dict[str, Path]
) -> Callable[[str], RunningSlot]:
    """load("tiny-embed") → a slot with that model on the engine of this run."""
    if request.param == "llamacpp":
        pytest.importorskip("xllamacpp")

    def start(name: str) -> RunningSlot:
        path = embed_model[name + NAMES[request.param]]
        format = "gguf" if path.suffix else "safetensors"
        return slots(SlotSpec(EngineSpec(request.param, name, str(path), format, device="cpu", threads=1)))

    return start


def test_a_slot_that_embeds(load: Callable[[str], RunningSlot]) -> None:
    port = load("tiny-embed").port
    status, _, answer = post(port, "/v1/embeddings", {"input": DOCUMENTS})
    assert status == 200, answer
    vectors = [item["embedding"] for item in answer["data"]]
    asked = post(port, "/v1/embeddings", {"input": "which port is a slot?"})[2]["data"][0]["embedding"]
    scores = [sum(a * b for a, b in zip(asked, vector, strict=True)) for vector in vectors]
    assert scores.index(max(scores)) == 1
    assert answer["usage"]["prompt_tokens"] > 20
    status, _, too_long = post(port, "/v1/embeddings", {"input": "port " * 400})
    assert status == 400
    assert "the context is 2" in too_long["error"]["message"]
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ):
        status, _, refused = post(port, path, body)
        assert (status, refused["error"]["code"]) == (400, "unsupported_task"), (path, refused)


def test_a_slot_that_reranks(load: Callable[[str], RunningSlot]) -> None:
    port = load("tiny-rerank").port
    status, _, answer = post(port, "/v1/rerank", {"query": "What is a slot?", "documents": DOCUMENTS})
    assert status == 200, answer
    scores = [item["relevance_score"] for item in answer["results"]]
    assert sorted(item["index"] for item in answer["results"]) == [0, 1, 2]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)


def test_a_slot_whose_vectors_are_not_finite_does_not_start(
    slots: Callable[..., RunningSlot], embed_model: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    path: Any = tmp_path / "m"
    shutil.copytree(embed_model["tiny-embed"], path)
    weights = load_file(path / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][0] = float("nan")
    save_file(weights, path / "model.safetensors")
    with pytest.raises(LoadFailed, match=r"probe.*not finite"):
        slots(SlotSpec(EngineSpec("torch", "m", str(path), "safetensors", device="cpu", threads=1)))
