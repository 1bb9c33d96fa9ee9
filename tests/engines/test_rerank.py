"""Reranking on torch and llama.cpp: the cross-encoder's own scores, in the documents' order."""

import random

import pytest

from llmctl.domain import EMBED, RERANK
from llmctl.errors import RequestError
from tests.engines.asked import Asked

QUERY = "What is a slot?"
DOCUMENTS = ["A slot is a port on a host.", "a", "The </s> new engine must load, say who it is and pass the probe."]


@pytest.fixture(scope="module", params=["tiny-rerank", "tiny-rerank-gguf"])
def engine(request, embed_model):
    if request.param.endswith("gguf"):
        pytest.importorskip("xllamacpp")
    made = Asked(embed_model[request.param])
    yield made
    made.engine.close()


def test_scores_are_the_references_in_the_documents_order(engine, embed_model):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = embed_model["tiny-rerank"]
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSequenceClassification.from_pretrained(path)
    expected, tokens = [], 0
    for document in DOCUMENTS:
        ids = tokenizer(QUERY, document, return_tensors="pt", split_special_tokens=True)
        tokens += ids["input_ids"].shape[1]
        with torch.inference_mode():
            expected.append(model.eval()(**ids).logits[0, 0].sigmoid().item())
    found = engine(RERANK, query=QUERY, documents=DOCUMENTS)
    assert found["scores"] == pytest.approx(expected, abs=1e-5 if engine.engine.identity.engine == "torch" else 1e-3)
    assert found["tokens"] == tokens
    assert max(expected) - min(expected) > 1e-2  # they do differ


def test_together_as_alone(engine):
    documents = [" ".join(random.Random(i).choices(" ".join(DOCUMENTS).split(), k=3 * i + 1)) for i in range(20)]
    together = engine(RERANK, query=QUERY, documents=documents)["scores"]
    alone = [engine(RERANK, query=QUERY, documents=[document])["scores"][0] for document in documents]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("query", "documents", "why"),
    [
        (QUERY, ["good", "slot " * 300], r"\d{3} tokens; the context is 25\d"),
        ("slot " * 300, ["good"], r"\d{3} tokens; the context is 25\d"),
        (QUERY, ["a lone \ud800"], "no text"),
        (QUERY, ["x" * 100_000], "at least"),
    ],
    ids=["long document", "long query", "surrogate", "far too long"],
)
def test_what_cannot_be_ranked(engine, query, documents, why):
    with pytest.raises(RequestError, match=why) as caught:
        engine(RERANK, query=query, documents=documents)
    assert (caught.value.status, caught.value.param) == (400, "documents")
    assert engine(RERANK, query=QUERY, documents=["good"])["scores"]


def test_it_does_not_embed(engine):
    with pytest.raises(RequestError, match="cannot embed") as caught:
        engine(EMBED, inputs=["a"])
    assert caught.value.code == "unsupported_task"
