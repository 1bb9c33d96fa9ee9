"""Files that somebody edits by hand while a gateway runs: what makes no sense changes nothing, and is told."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmctl import files
from llmctl.domain import SlotSpec
from llmctl.errors import StateError, UnknownName
from llmctl.gateway import callers, life, registry
from llmctl.gateway.limits import Allowed
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.gateway.usage import Usage
from tests.conftest import RunningSlot, eventually
from tests.gateway.conftest import Start, handle
from tests.gateway.test_traffic import chat

GOOD = Registry(
    {
        "a": Handle("a", (Replica("here", 1, "m", "scripted", "127.0.0.1:1", ("x",)),), fallbacks=("b",)),
        "b": Handle("b"),
    },
    "a",
).to_dict()
ODD = (None, 7, -1.5, "x", [], [7], {}, {"a": []}, True, [[]], "../x", [None])


def places(data: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Each value in nested JSON."""
    yield way
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*way, key))


def changed(way: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(json.loads(json.dumps({"all": GOOD})))
    at = made
    for key in ("all", *way)[:-1]:
        at = at[key]
    at[("all", *way)[-1]] = value
    return made["all"]


def served(found: Registry) -> None:
    """What requests do with a registry."""
    for name in (None, "a", "b", *found.handles):
        try:
            one = found.find(name)
        except UnknownName:
            continue
        list(found.chain(one))
        assert Usage(1, 1).cost(one.price) is not None
        assert all(f"{replica.where}{replica.address}".encode() for replica in one.replicas) and found.hash


def test_any_value_of_a_registry_that_is_none_is_refused_or_harmless() -> None:
    refused = 0
    for way in places(json.loads(json.dumps(GOOD))):
        for value in ODD:
            try:
                served(registry.from_dict(changed(way, value)))
            except StateError as error:
                refused += 1
                assert error.hint
    assert refused > 150


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\x00", '{"version": 1, "data": [1]}', '{"version": 99, "data": {}}']
)
def test_a_registry_that_cannot_be_read_is_not_what_it_was_before_the_last_sync(tmp_path: Path, text: str) -> None:
    """The copy beside it is of another time: the gateway has the last one in its memory, and keeps that."""
    for name in ("old", "new"):
        registry.write(tmp_path, Registry({name: Handle(name)}, name))
    registry.path(tmp_path).write_text(text)
    with pytest.raises(StateError) as caught:
        registry.read(tmp_path)
    assert caught.value.hint and registry.path(tmp_path).read_text() == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("handles", "fast*"),  # as text its * would allow all
        ("handles", [7]),
        ("requests", 0),
        ("tokens", -1),
        ("parallel", "4"),
        ("quota", 1.5),
        ("quota", True),
        ("per", "week"),
    ],
)
def test_what_a_key_may_do_is_as_it_was_where_its_file_makes_no_sense(tmp_path: Path, name: str, value: Any) -> None:
    callers.add(tmp_path, "ann", Allowed(("fast*",), 1, 2, 3, 4))
    keys = callers.Callers(tmp_path)
    keys.fresh()
    before, file = keys.known, tmp_path / "gateway" / callers.NAME
    whole = json.loads(file.read_text())
    whole["data"]["keys"][0]["allowed"][name] = value
    file.write_text(json.dumps(whole))
    keys.fresh()
    assert before and keys.known == before and file.name in keys.error and str(value) in keys.error
    with pytest.raises(StateError) as caught:
        callers.read(tmp_path)
    assert caught.value.hint


def test_what_a_key_is_has_types_too(tmp_path: Path) -> None:
    callers.add(tmp_path, "ann", Allowed())
    file = tmp_path / "gateway" / callers.NAME
    good = file.read_text()
    for name, value in (("name", 7), ("sha256", None), ("made", "now"), ("revoked", "no"), ("allowed", [])):
        whole = json.loads(good)
        whole["data"]["keys"][0][name] = value
        file.write_text(json.dumps(whole))
        with pytest.raises(StateError):
            callers.read(tmp_path)


def test_a_running_gateway_goes_on_and_says_so_everywhere(
    slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec], gateway: Start
) -> None:
    slot = slots(script("alpha"))
    gate = gateway(handle("alpha", slot))
    key = callers.add(gate.home, "ann", Allowed())

    def health() -> dict[str, Any]:
        answer = httpx.get(f"http://127.0.0.1:{gate.port}/health", trust_env=False)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    good = {file: file.read_text() for file in (registry.path(gate.home), gate.home / "gateway" / "keys.json")}
    for file, text in good.items():
        assert health()["verdict"] == "ok"
        for nonsense in ("{", '{"version": 1, "handles": []}', json.dumps({"version": files.VERSION, "data": [3]})):
            file.write_text(nonsense)
            why = eventually(lambda: life.status(gate.home, gate.port)["why"])
            assert file.name in why and health()["verdict"] == "degraded" and file.name not in json.dumps(health())
            assert chat(gate.port, "alpha", max_tokens=2).status_code == 200
        file.write_text(text)
        eventually(lambda: not life.status(gate.home, gate.port)["why"])
    headers = {"authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{gate.port}/v1/models"
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
