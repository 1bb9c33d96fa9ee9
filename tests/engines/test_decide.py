"""Typed decisions: what the engines answer is what their libraries answer."""

import json
import shutil
from pathlib import Path

import pytest

from llmctl.domain import DECIDE, Chunk, Done, GenerateRequest, Sampling, Task
from llmctl.engines.llamacpp_context import DecodeFailed
from llmctl.engines.llamacpp_decide import taken
from llmctl.engines.llamacpp_library import open_library
from llmctl.errors import RequestError
from tests.engines.asked import Asked

STATE = {"message": "I was charged twice for my order and want a refund.", "from": "<|im_start|>me"}
QUESTIONS = {
    "refund": {"type": "noul", "instructions": "Is a refund requested?"},
    "tone": {"type": "choice", "instructions": "What is the tone?", "criteria": {"calm": "polite", "angry": None}},
    "urgency": {"type": "score", "criteria": ["Can wait", "This week", "Today"]},
}
NOUL = {"refund": QUESTIONS["refund"]}


@pytest.fixture(scope="module")
def on_torch(tiny_models):
    made = Asked(tiny_models["tiny-qwen2"], context=600)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def on_llamacpp(tiny_models, tmp_path_factory):
    pytest.importorskip("xllamacpp")
    made = Asked(
        decision_model(tiny_models["tiny-qwen2-gguf"], tmp_path_factory.mktemp("decide") / "d.gguf"), context=600
    )
    yield made
    made.engine.close()


def decision_model(source: Path, target: Path) -> Path:
    """A copy of a GGUF file that says it is a decision model of llama.cpp's kind `nimble`, with a template for it."""
    import gguf

    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "qwen2")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kinds = field.types
            part = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kinds[0], sub_type=part)
    writer.add_string("qwen2.decision.type", "nimble")
    writer.add_string("tokenizer.chat_template.systemone", "{{ state }} {{ question.instructions }}")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def flat(value, path=""):
    """A JSON value as one mapping of its leaves."""
    if isinstance(value, dict):
        return {p: leaf for key, item in value.items() for p, leaf in flat(item, f"{path}/{key}").items()}
    return {path: value}


# ── torch ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("long", [False, True], ids=["in one piece", "in pieces"])
def test_torch_answers_as_the_pipeline(on_torch, tiny_models, long):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.pipelines import DecisionPipeline

    path, state = tiny_models["tiny-qwen2"], [STATE, *(["again and again"] * (70 if long else 0))]
    found = on_torch(DECIDE, state=state, questions=QUESTIONS, assets={})
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    expected = DecisionPipeline(model=model, tokenizer=tokenizer)({"state": state, "questions": QUESTIONS})
    assert flat(found["answers"]) == pytest.approx(flat(expected), abs=1e-5)
    assert (found["tokens"] > 3 * 256) is long


def test_the_checkpoints_own_settings_count(tiny_models, tmp_path, on_torch):
    path = tmp_path / "m"
    shutil.copytree(tiny_models["tiny-qwen2"], path)
    (path / "decision.json").write_text(json.dumps({"temperature": {"noul": 100.0}}))
    cooler = Asked(path)(DECIDE, state=STATE, questions=NOUL)["answers"]["refund"]["noul"]
    assert (
        abs(cooler - 0.5) < 0.1 < abs(on_torch(DECIDE, state=STATE, questions=NOUL)["answers"]["refund"]["noul"] - 0.5)
    )
    (path / "decision.json").write_text(json.dumps({"adapter": "lora"}))
    with pytest.raises(RequestError, match="adapter"):
        Asked(path)(DECIDE, state=STATE, questions=NOUL)


# ── llama.cpp ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_llamacpp_answers_with_its_handler_and_generates_as_before(on_llamacpp, tiny_models):
    first = on_llamacpp(DECIDE, state="I want a refund", questions=NOUL)
    assert 0 < first["answers"]["refund"]["noul"] < 1
    assert first["tokens"] > 5
    again = on_llamacpp(DECIDE, state="I want a refund", questions=NOUL)
    assert flat(again) == pytest.approx(flat(first), abs=1e-3)  # llama.cpp keeps what both begin with
    other = on_llamacpp(DECIDE, state="The weather is fine", questions=NOUL)
    assert abs(other["answers"]["refund"]["noul"] - first["answers"]["refund"]["noul"]) > 1e-2
    request = GenerateRequest("g", prompt="What is a slot?", sampling=Sampling(temperature=0), max_tokens=8)
    on_llamacpp.events.clear()
    on_llamacpp.engine.ask(Task("d", DECIDE, {"state": "x", "questions": NOUL}))
    on_llamacpp.engine.submit(request)
    while on_llamacpp.engine.step():
        pass
    assert "".join(e.text for e in on_llamacpp.events if isinstance(e, Chunk)).strip().startswith("A port")
    assert any(isinstance(e, Done) for e in on_llamacpp.events)


def test_the_log_of_llama_cpp_is_still_heard_beside_its_handler(on_llamacpp):
    on_llamacpp(DECIDE, state="I want a refund", questions=NOUL)
    library = open_library()
    library.log.clear()
    assert not library.model_load_from_file(b"/nowhere.gguf", library.model_default_params())
    assert any("nowhere" in line for line in library.log)


def test_an_ordinary_gguf_file_decides_nothing(tiny_models):
    pytest.importorskip("xllamacpp")
    asked = Asked(tiny_models["tiny-qwen2-gguf"], context=256)
    with pytest.raises(RequestError, match="cannot decide") as caught:
        asked(DECIDE, state="x", questions=NOUL)
    assert caught.value.code == "unsupported_task"
    asked.engine.close()


def test_what_the_handler_refuses(on_llamacpp):
    with pytest.raises(RequestError) as caught:
        taken({"error": {"code": 400, "message": "no such type"}}, on_llamacpp.engine.identity)
    assert "no such type" in caught.value.message
    with pytest.raises(DecodeFailed, match="broken"):
        taken({"error": {"code": 500, "message": "broken"}}, on_llamacpp.engine.identity)


# ── both ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["on_torch", "on_llamacpp"])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"questions": {"q": {"type": "essay"}}}, "questions"),
        ({"questions": {"q": {"type": "choice"}}}, "questions"),
        ({"questions": {}}, "questions"),
        ({"questions": {"q": 1}}, "questions"),
        ({"assets": {"<img>": {"data_base64": "http://169.254.169.254/"}}}, "assets"),
        ({"state": "a lone \ud800"}, "state"),
        ({"state": "x" * 200_000}, "state"),
    ],
    ids=["type", "no criteria", "no questions", "no question", "image", "surrogate", "too long"],
)
def test_what_cannot_be_decided_is_refused_by_name(engine, fields, param):
    with pytest.raises(RequestError) as caught:
        engine(DECIDE, **{"state": STATE, "questions": NOUL, **fields})
    assert (caught.value.status, caught.value.param) == (400, param)
    assert engine(DECIDE, state=STATE, questions=NOUL)["answers"]["refund"]["type"] == "noul"


def test_too_long_for_the_context_names_both_numbers(on_torch):
    with pytest.raises(RequestError, match=r"\d{4} tokens; the context is 600") as caught:
        on_torch(DECIDE, state="again and again " * 500, questions=NOUL)
    assert caught.value.code == "context_length_exceeded"
