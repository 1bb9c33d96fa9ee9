"""Embedding on torch and llama.cpp: the reference's numbers, whatever else is in the batch."""

import json
import math
import random
import shutil

import numpy as np
import pytest

from llmctl.domain import DETOKENIZE, EMBED, TOKENIZE, Done, EngineSpec, Failure, GenerateRequest, Task
from llmctl.engines import adapter
from llmctl.errors import RequestError, Unsupported

WORDS = "a slot is port on host swap loads the new engine beside old one where memory allows".split()
TEXTS = [
    "What is a slot?",
    "a",
    "The new engine must load, say who it is and pass the probe twice; then new requests go to it.",
    "Ärger über naïve Zeichen, 你好!",
    "[SEP] is not the end [CLS] of [PAD] a text",
]


class Asked:
    """An engine that answers tasks, and what it answered."""

    def __init__(self, path, engine="torch", **fields):
        format = "safetensors" if engine == "torch" else "gguf"
        spec = {"context": 4096, "device": "cpu", "threads": 1, **fields}
        self.spec = EngineSpec(engine, "m", str(path), format, **spec)
        self.events = []
        found = adapter(engine)
        found.check(self.spec)
        self.engine = found.load(self.spec, lambda *_: None, self.events.append)

    def __call__(self, verb, **arguments):
        """The value of the Done; the error of a Failure is raised."""
        self.events.clear()
        self.engine.ask(Task("t", verb, arguments))
        while self.engine.step():
            pass
        (event,) = self.events
        if isinstance(event, Failure):
            error = dict(event.error)
            raise RequestError(error["message"], status=error.get("status") or 500, param=error.get("param"),
                               code=error["code"])  # fmt: skip
        assert isinstance(event, Done)
        return event.value

    def vectors(self, inputs, **more):
        return np.array(self(EMBED, inputs=inputs, **more)["vectors"])


@pytest.fixture(scope="module")
def torch_engine(embed_model):
    made = Asked(embed_model["tiny-embed"])
    yield made
    made.engine.close()


def reference(path, texts, pooling="mean", *, normalize=True, pad=True):
    """The vectors by transformers alone, text by text; special tokens in a text are taken out of it first."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    rows = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", split_special_tokens=True)
        with torch.inference_mode():
            hidden = model(**ids).last_hidden_state[0]
        row = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        rows.append((row / row.norm() if normalize else row).numpy())
    return np.array(rows)


def many(count, seed=1):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(1, 90))) for _ in range(count)]


def test_vectors_are_the_references(torch_engine, embed_model):
    expected = reference(embed_model["tiny-embed"], TEXTS)
    assert np.abs(torch_engine.vectors(TEXTS) - expected).max() < 1e-5
    assert np.abs(expected @ expected.T - np.eye(len(TEXTS))).max() < 0.95  # they do differ
