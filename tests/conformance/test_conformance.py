"""Every cell of `cells.CELLS`, by a live slot with a real engine on a trained model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients import get
from tests.conformance.cells import of
from tests.conformance.conftest import CONTEXT, SlotOf
from tests.conformance.drivers import DRIVERS, LENGTH, STOP, STOP_STRING, TOOLS, Driver, Refused
from tests.conftest import RunningSlot, eventually
from tests.drawn import drawn

QUESTION = "What is a slot?"
ANSWER = "A port on a host that holds at most one model."
CUT = "host"
RAW = "<|im_start|>user\nWhat is a slot?<|im_end|>\n<|im_start|>assistant\n"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
TOOL = {"name": "paint", "description": "Paints the wall.", "parameters": SCHEMA}


def asking(driver: Driver) -> str:
    """The question as the protocol takes it: where no template is applied, with the template's own words."""
    return QUESTION if driver.templated else RAW


@pytest.fixture
def driver(slot_of: SlotOf, protocol: str, engine: str) -> Driver:
    return DRIVERS[protocol](slot_of(engine).port, "tiny")


def same(slot_of: SlotOf, engine: str) -> Any:
    """A check that the engine is the one that was there before, and serves."""
    slot, before = slot_of(engine), slot_of(engine).engine_pid()

    def check() -> None:
        assert slot.state() == "ready" and slot.engine_pid() == before

    return check


@pytest.mark.parametrize(("protocol", "engine"), of("text"))
def test_text(driver: Driver) -> None:
    said = driver.ask(asking(driver))
    assert said.text == ANSWER and said.finish == STOP
    short = driver.ask(asking(driver), max_tokens=4)
    assert ANSWER.startswith(short.text) and short.text and short.finish == LENGTH and short.tokens == 4


@pytest.mark.parametrize(("protocol", "engine"), of("stream"))
def test_stream(driver: Driver) -> None:
    """That the pieces come as they are made, `test_cancel` shows: it has the first long before the last."""
    assert "".join(driver.stream(asking(driver))) == ANSWER


@pytest.mark.parametrize(("protocol", "engine"), of("stop"))
def test_stop(driver: Driver) -> None:
    said = driver.ask(asking(driver), stop=CUT)
    assert said.text == ANSWER.partition(CUT)[0] and said.finish in (STOP, STOP_STRING)
    assert "".join(driver.stream(asking(driver), stop=CUT)) == said.text


@pytest.mark.parametrize(("protocol", "engine"), of("cancel"))
def test_cancel(slot_of: SlotOf, protocol: str, engine: str) -> None:
    slot = slot_of(engine, endless=True)
    driver = DRIVERS[protocol](slot.port, "tiny")
    before = generated(slot)
    stream = driver.stream(asking(driver), max_tokens=CONTEXT - 128)
    assert next(stream)
    stream.close()
    eventually(lambda: slot.status().active == 0)
    assert generated(slot) - before < CONTEXT - 128
    assert driver.ask(asking(driver), max_tokens=4).tokens == 4


def generated(slot: RunningSlot) -> float:
    """How many tokens the slot sent on, of all requests so far."""
    lines = get(slot.folder.port, "/metrics")[2].splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("llmctl_generated_tokens_total "))


@pytest.mark.parametrize(("protocol", "engine"), of("errors"))
def test_errors(slot_of: SlotOf, driver: Driver, protocol: str, engine: str) -> None:
    unchanged = same(slot_of, engine)
    for name, body in driver.bad():
        with pytest.raises(Refused) as found:
            driver.send(body)
        error = found.value
        assert error.message and "Traceback" not in error.message, name
        assert error.status in (0, 400, 404), (name, error)
    with pytest.raises(Refused) as found:
        driver.ask("way too long " * CONTEXT)
    assert found.value.status in (0, 400) and str(CONTEXT) in found.value.message
    unchanged()
    assert driver.ask(asking(driver)).text == ANSWER


@pytest.mark.parametrize(("protocol", "engine"), of("tools"))
def test_tools(driver: Driver, protocol: str) -> None:
    said = driver.ask("Paint it.", tools=[TOOL], max_tokens=800)
    if protocol == "ollama":  # it has no word for a call that must be: what is no call is text
        assert said.finish in (STOP, LENGTH, TOOLS)
        return
    ((name, arguments),) = said.calls
    assert name == "paint" and said.finish == TOOLS and fits(arguments)


@pytest.mark.parametrize(("protocol", "engine"), of("schema"))
def test_schema(driver: Driver) -> None:
    said = driver.ask(asking(driver), schema=SCHEMA, max_tokens=800)
    assert fits(json.loads(said.text)) and said.finish == STOP
    assert fits(json.loads("".join(driver.stream(asking(driver), schema=SCHEMA, max_tokens=800))))


@pytest.mark.parametrize(("protocol", "engine"), of("images"))
def test_images(seeing_slot_of: SlotOf, protocol: str, engine: str) -> None:
    driver = DRIVERS[protocol](seeing_slot_of(engine).port, "tiny")
    for what in ("red circle", "blue square"):
        said = driver.ask("What is in the picture?", image=drawn(what))
        assert said.text == f"A {what}." and said.finish == STOP
        assert "".join(driver.stream("What is in the picture?", image=drawn(what))) == said.text
    with pytest.raises(Refused) as found:
        driver.ask("What is in the picture?", image=drawn("red circle")[:60])
    assert found.value.status in (0, 400)


@pytest.mark.parametrize(("protocol", "engine"), of("images"))
def test_images_are_refused_by_a_model_of_text(driver: Driver, slot_of: SlotOf, engine: str) -> None:
    unchanged = same(slot_of, engine)
    with pytest.raises(Refused) as found:
        driver.ask(QUESTION, image=drawn("red circle"))
    assert found.value.status in (0, 400) and "image" in found.value.message
    unchanged()


def fits(value: Any) -> bool:
    """Whether a value is what SCHEMA describes."""
    return set(value) == {"colour", "count"} and value["colour"] in ("red", "green") and 1 <= value["count"] <= 9


@pytest.mark.parametrize(("protocol", "engine"), of("count"))
def test_count(driver: Driver) -> None:
    short, long = driver.ask(asking(driver)), driver.ask(asking(driver).replace("slot", "slot slot slot"))
    assert 0 < short.prompt_tokens <= long.prompt_tokens
    assert short.tokens == driver.ask(asking(driver)).tokens > 4
