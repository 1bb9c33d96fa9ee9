"""Typed decisions: what the engines answer is what their libraries answer."""

import pytest

from llmctl.domain import DECIDE
from tests.engines.asked import Asked

STATE = {"message": "I was charged twice for my order and want a refund.", "from": "<|im_start|>me"}
QUESTIONS = {
    "refund": {"type": "noul", "instructions": "Is a refund requested?"},
    "tone": {"type": "choice", "instructions": "What is the tone?", "criteria": {"calm": "polite", "angry": None}},
    "urgency": {"type": "score", "criteria": ["Can wait", "This week", "Today"]},
}


@pytest.fixture(scope="module")
def torch_engine(tiny_models):
    made = Asked(tiny_models["tiny-qwen2"])
    yield made
    made.engine.close()


def test_torch_answers_as_the_pipeline(torch_engine, tiny_models):
    from transformers import pipeline

    found = torch_engine(DECIDE, state=STATE, questions=QUESTIONS, assets={})
    decide = pipeline("decision", model=str(tiny_models["tiny-qwen2"]), device="cpu")
    expected = decide({"state": STATE, "questions": QUESTIONS})
    assert flat(found["answers"]) == pytest.approx(flat(expected), abs=1e-5)
    assert found["tokens"] > 100


def flat(value, path=""):
    """A JSON value as one mapping of its leaves."""
    if isinstance(value, dict):
        return {p: leaf for key, item in value.items() for p, leaf in flat(item, f"{path}/{key}").items()}
    return {path: value}
