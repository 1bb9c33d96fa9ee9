"""The registry of a fleet, from its profiles and slots; and what is found where they disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmctl.config import Config, HandleEntry, Host, Profile, ProfileSlot
from llmctl.gateway import checking, jsonl
from llmctl.gateway.checking import Live
from llmctl.gateway.derive import address, derived
from llmctl.gateway.registry import Registry

A = Host("a", "local")
B = Host("b", "ssh", "10.0.0.2")
OPEN = Host("c", "ssh", "10.0.0.3", bind="0.0.0.0")
FLEET = Config(None, {host.name: host for host in (A, B, OPEN)}, "a")


def row(model: str | None, engine: str = "llamacpp", *names: str) -> dict[str, Any]:
    return {"model": model, "engine": engine, "handles": list(names)}


def slot(port: int, model: str = "qwen2.5-7b", host: str = "a", **fields: Any) -> ProfileSlot:
    return ProfileSlot(port=port, model=model, host=host, **fields)


def made(*slots: ProfileSlot, rows: dict[str, dict[int, Any]] | None = None) -> tuple[Registry, list[str]]:
    registry, problems = derived(FLEET, [Profile("p", Path("p.toml"), slots=slots)], rows or {})
    return registry, [problem.what for problem in problems]


def test_what_a_profile_declares_and_what_runs_besides() -> None:
    registry, problems = made(
        slot(8101, handle="fast"), rows={"a": {8101: row("qwen2.5-7b", "torch", "fast"), 8102: row("phi-3")}}
    )
    assert not problems and list(registry.handles) == ["fast", "qwen2-5-7b", "phi-3"] and registry.default == "fast"
    (replica,) = registry.handles["fast"].replicas
    assert (replica.where, replica.engine, replica.names) == ("a:8101", "torch", ("fast",))
    assert registry.find("qwen2.5-7b").replicas == (replica,)


def test_slots_with_one_model_are_replicas_of_its_own_name() -> None:
    registry, _ = made(rows={"a": {8101: row("m"), 8090: row("gateway", "gateway")}, "b": {8101: row("m")}})
    assert [one.where for one in registry.handles["m"].replicas] == ["a:8101", "b:8101"]
    assert list(registry.handles) == ["m"]


def test_one_name_in_two_slots_needs_a_group() -> None:
    both = slot(8101, handle="fast"), slot(8101, host="b", handle="fast")
    registry, (problem,) = made(*both)
    assert "belongs to a:8101" in problem and len(registry.handles["fast"].replicas) == 1
    grouped = [slot(8101, host=host, handles=(HandleEntry("fast", group="g"),)) for host in ("a", "b")]
    registry, problems = made(*grouped)
    assert not problems and [one.where for one in registry.handles["fast"].replicas] == ["a:8101", "b:8101"]


def test_what_a_handle_declares_is_kept() -> None:
    entry = HandleEntry(
        "opt-deep-code", intent="code", tier="deep", context=8192, fallbacks=("fast",), tags=("x",), price=(0.1, 0.4)
    )
    registry, problems = made(slot(8101, handles=(entry,)), slot(8102, "m", handle="fast", on_demand=True))
    found = registry.handles["opt-deep-code"]
    assert not problems and (found.context, found.fallbacks, found.price) == (8192, ("fast",), (0.1, 0.4))
    assert registry.handles["fast"].on_demand and not found.on_demand


def test_fallbacks_that_are_none_and_loops_are_told() -> None:
    loops = [slot(8101 + n, handles=(HandleEntry(a, fallbacks=(b,)),)) for n, (a, b) in enumerate(["xy", "yx"])]
    _, problems = made(*loops, slot(8109, handles=(HandleEntry("z", fallbacks=("gone",)),)))
    assert any("x → y → x" in what for what in problems) and any("gone, which is none" in what for what in problems)


def test_an_auto_port_is_where_its_model_runs() -> None:
    asked = ProfileSlot(port="auto", model="m", host="a", handle="h")
    assert made(asked)[1] == ["no slot has m yet"]
    registry, _ = made(asked, rows={"a": {8105: row("m")}})
    assert registry.handles["h"].replicas[0].port == 8105


@pytest.mark.parametrize(
    ("host", "found"),
    [
        (A, "127.0.0.1:8101"), (Host("x", bind="0.0.0.0"), "127.0.0.1:8101"),
        (Host("x", bind="10.1.1.1"), "10.1.1.1:8101"),
        (Host("x", bind="::1"), "[::1]:8101"), (B, None), (OPEN, "10.0.0.3:8101"),
    ],
)  # fmt: skip
def test_how_a_slot_is_reached(host: Host, found: str | None) -> None:
    assert address(host, 8101) == found


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


ROWS: dict[str, dict[int, Any]] = {"a": {8101: row("qwen2.5-7b", "torch", "fast")}}


def known() -> Registry:
    return made(slot(8101, handle="fast"), rows=ROWS)[0]


def whats(found: Any) -> list[str]:
    return [f"{problem.where}: {problem.what}" for problem in found]


def test_a_slot_that_runs_another_model_is_found() -> None:
    assert not whats(checking.handles(known(), ROWS))
    assert whats(checking.handles(known(), {"a": {8101: row("phi-3")}}))[0] == (
        "handle fast: a:8101 runs phi-3, and it stands for qwen2.5-7b"
    )
    assert not whats(checking.handles(known(), {}))  # nobody could ask


def test_the_file_is_compared_by_content() -> None:
    text = jsonl.export(known(), {"a": "systemd"})
    spaced = "\n".join(row.replace(",", ", ") for row in reversed(text.splitlines()))
    assert not whats(checking.file(known(), spaced, {"a": "systemd"})) and not whats(checking.file(known(), None, {}))
    assert whats(checking.file(known(), text, {"a": "launchd"})) == [
        "handles.jsonl: fast differs in managed_by", "handles.jsonl: qwen2-5-7b differs in managed_by"
    ]  # fmt: skip
    other = text.replace('"handle":"fast"', '"handle":"slow"')
    assert whats(checking.file(known(), other, {"a": "systemd"})) == [
        "handles.jsonl: fast is missing", "handles.jsonl: slow is no handle any more"
    ]  # fmt: skip
    assert whats(checking.file(known(), text + "{\n", {"a": "systemd"}))[0].startswith("handles.jsonl:3: it is no JSON")


def test_the_sidecar_and_what_the_gateway_has() -> None:
    assert not whats(checking.sidecar(known(), jsonl.sidecar(known())))
    assert whats(checking.sidecar(known(), "{}")) and whats(checking.sidecar(known(), "{"))
    assert not whats(checking.written(known(), known()))
    assert whats(checking.written(known(), Registry())) == [
        "the gateway: it does not know fast", "the gateway: it does not know qwen2-5-7b"
    ]  # fmt: skip
    assert whats(checking.written(Registry(), known()))[0] == "the gateway: it still has fast"


def test_what_slots_and_the_gateway_answer() -> None:
    entry = HandleEntry("fast", context=8192)
    registry = made(slot(8101, handles=(entry,)), rows=ROWS)[0]
    good = {"a:8101": Live(("qwen2.5-7b", "fast"), 8192)}
    assert not whats(checking.live(registry, good, registry.handles)) and not whats(checking.live(registry, {}, None))
    bad = whats(checking.live(registry, {"a:8101": Live(("phi-3",), 4096)}, ["fast", "old"]))
    assert "handle fast: a:8101 answers to phi-3, not to qwen2.5-7b" in bad
    assert "handle fast: it promises 8,192 tokens, and a:8101 takes 4,096" in bad
    assert bad[-2:] == ["the gateway: it lists old, which is none", "the gateway: it does not list qwen2-5-7b"]
