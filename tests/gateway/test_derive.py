"""The registry of a fleet, from its profiles and slots; and what is found where they disagree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli import handles_live
from llmctl.config import Config, HandleEntry, Host, Profile, ProfileSlot
from llmctl.gateway import checking, jsonl, needs
from llmctl.gateway.checking import Live
from llmctl.gateway.derive import address, derived
from llmctl.gateway.registry import Registry, from_dict

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


def test_a_model_on_demand_is_the_same_whether_it_is_loaded_or_not() -> None:
    late = slot(8101, "m", handle="late", on_demand=True)
    registry, _ = made(late, rows={"a": {8101: row(None)}})
    assert list(registry.handles) == ["late", "m"] and registry.handles["m"].on_demand
    assert made(late, rows={"a": {8101: row("m", "torch", "late")}})[0] == registry
    assert list(made(late, rows={"a": {8101: row("phi-3")}})[0].handles) == ["late", "phi-3", "m"]
    runs = made(late, rows={"a": {8101: row("m"), 8102: row("m")}})[0].handles["m"]
    assert [one.where for one in runs.replicas] == ["a:8102"] and not runs.on_demand
    both = made(late, slot(8102, "m", handle="later", on_demand=True))[0].handles["m"]
    assert [one.where for one in both.replicas] == ["a:8101", "a:8102"]


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
    registry, problems = made(*loops, slot(8109, handles=(HandleEntry("z", fallbacks=("gone", "x")),)))
    assert any("x → y → x" in what for what in problems) and any("gone, which is none" in what for what in problems)
    assert {name: one.fallbacks for name, one in registry.handles.items()} == {"x": (), "y": (), "z": ("x",)}
    assert from_dict(json.loads(json.dumps(registry.to_dict()))) == registry, "a gateway takes it all the same"


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


def test_a_slot_that_is_empty_or_not_there_is_found_and_one_on_demand_may_be() -> None:
    assert whats(checking.handles(known(), {"a": {}})) == whats(checking.handles(known(), {"a": {8101: row(None)}}))
    assert whats(checking.handles(known(), {"a": {}}))[0].startswith("handle fast: a:8101 runs nothing")
    late = made(slot(8101, handle="late", on_demand=True))[0]
    assert not whats(checking.handles(late, {"a": {8101: row(None)}}))
    assert whats(checking.handles(late, {"a": {8101: row("phi-3")}}))


def exported(registry: Registry, service: str = "systemd") -> str:
    return jsonl.export(registry, {"a": service})


def test_the_file_is_compared_by_content() -> None:
    text = exported(known())
    spaced = "\n".join(row.replace(",", ", ") for row in reversed(text.splitlines()))
    assert not whats(checking.file(spaced.encode(), text, True, "F"))
    assert whats(checking.file(text.encode(), exported(known(), "launchd"), True, "F")) == [
        'handles.jsonl: fast: managed_by is "systemd", now "launchd"',
        'handles.jsonl: qwen2-5-7b: managed_by is "systemd", now "launchd"',
    ]
    other = text.replace('"handle":"fast"', '"handle":"slow"')
    assert whats(checking.file(other.encode(), text, True, "F")) == [
        "handles.jsonl: fast is missing", "handles.jsonl: slow is no handle any more"
    ]  # fmt: skip
    assert whats(checking.file(f"{text}{{\n".encode(), text, True, "F"))[0].startswith(
        "handles.jsonl:3: it is not JSON"
    )


def test_a_file_of_somebody_is_read_and_not_compared() -> None:
    (problem,) = checking.file(b"\n", exported(known()), False, "F")
    assert problem.hint == "llmctl handles import F, then llmctl --yes handles export"
    assert next(checking.file(b"{", "", False, "F")).hint == "mend it there"


def test_lines_that_would_be_lost_are_named() -> None:
    text = exported(known())
    tool = jsonl.Line("tool", "callable", "mcp-tool", "manual", "ep_x", None)
    for line, is_lost in (
        (tool, True), (replace(tool, kind="model", managed_by="external"), True),
        (replace(tool, kind="model"), False), (replace(tool, handle="fast"), False),
    ):  # fmt: skip
        assert bool(list(checking.lost(f"{text}{line.text()}\n".encode(), text, "F"))) == is_lost, line


def test_the_sidecar_and_what_the_gateway_has() -> None:
    extra = jsonl.sidecar(known(), "")
    assert not whats(checking.sidecar(extra.encode(), extra))
    deep = made(slot(8101, handles=(HandleEntry("fast", context=8192),)), rows=ROWS)[0]
    assert "handles.extra.json: fast: context is null, now 8192" in whats(
        checking.sidecar(extra.encode(), jsonl.sidecar(deep, ""))
    )
    assert "handles.extra.json: fast is missing" in whats(checking.sidecar(b'{"handles": {}}', extra))
    assert 'handles.extra.json: the default is null, now "fast"' in whats(checking.sidecar(b"{}", extra))
    assert not whats(checking.written(known(), known()))
    assert whats(checking.written(deep, known())) == ["the gateway's registry: fast: context is null, now 8192"]
    assert whats(checking.written(known(), Registry())) == [
        "the gateway's registry: fast is missing", "the gateway's registry: qwen2-5-7b is missing",
        'the gateway\'s registry: the default is null, now "fast"',
    ]  # fmt: skip
    assert whats(checking.written(Registry(), known()))[0] == "the gateway's registry: fast is no handle any more"


def test_where_replicas_differ_their_slots_are_told_and_what_changed_of_one() -> None:
    moved = made(slot(8102, handle="fast"))[0]
    assert whats(checking.written(moved, known()))[0] == (
        'the gateway\'s registry: fast: replicas is ["a:8101"], now ["a:8102"]'
    )
    renamed = made(slot(8101, handle="fast"), rows={"a": {8101: row("qwen2.5-7b", "torch")}})[0]
    assert whats(checking.written(renamed, known())) == [
        'the gateway\'s registry: fast: a:8101: names is ["fast"], now []',
        'the gateway\'s registry: qwen2-5-7b: a:8101: names is ["fast"], now []',
    ]
    mangled = whats(checking.sidecar(b'{"handles": {"fast": 7}}', jsonl.sidecar(known(), "")))
    assert 'handles.extra.json: fast: replicas is [], now ["a:8101"]' in mangled


def test_what_slots_and_the_gateway_answer() -> None:
    entry = HandleEntry("fast", context=8192, technique="self-consistency")
    registry = made(slot(8101, handles=(entry,)), rows=ROWS)[0]
    good = {"a:8101": Live(("qwen2.5-7b", "fast"), 8192, "torch", ("fork",))}
    assert not whats(checking.live(registry, good)) and not whats(checking.live(registry, {}))
    bad = whats(checking.live(registry, {"a:8101": Live(("phi-3",), 4096, "upstream", ())}))
    assert bad[:3] == [
        "handle fast: a:8101 answers to phi-3, not to qwen2.5-7b",
        "handle fast: it promises 8,192 tokens, and a:8101 takes 4,096",
        "handle fast: self-consistency needs fork, and the engine upstream has no such thing",
    ]
    assert whats(checking.live(registry, {"a:8101": Live(why="no")}))[0] == "handle fast: a:8101 does not answer: no"
    assert not whats(checking.listed(registry, ["fast", "qwen2-5-7b"], "8090"))
    assert whats(checking.listed(registry, ["fast", "old"], "8090")) == [
        "the gateway 8090: it lists old, which is none", "the gateway 8090: it does not list qwen2-5-7b"
    ]  # fmt: skip


def test_what_a_technique_needs() -> None:
    assert not list(needs.problems("deepconf", "torch")) and not list(needs.problems("bon", "upstream", ()))
    assert not list(needs.problems("deepconf", "upstream")), "of this engine only a slot can tell"
    assert list(needs.problems("deepconf", "scripted")) == [
        "deepconf needs fork, and the engine scripted has no such thing"
    ]
    assert list(needs.problems("deepconf", "torch", ("fork",)))
    assert list(needs.problems("bom", "torch")) == ["there is no technique 'bom', did you mean 'bon'?"]


# ── a host that nobody could ask ────────────────────────────────────────────────────────────────────────────────────


BOTH = {"a": {8101: row("m", "torch", "fast")}, "b": {8101: row("m", "torch", "x"), 8105: row("phi-3")}}


def without_b(before: Registry, *slots: ProfileSlot) -> Registry:
    return derived(FLEET, [Profile("p", Path("p.toml"), slots=slots)], {"a": BOTH["a"], "c": {}}, before)[0]


def test_slots_of_a_silent_host_stay_as_the_registry_had_them() -> None:
    slots = (
        slot(8101, "m", handle="fast"), slot(8101, "m", "b", handle="deep"),
        ProfileSlot(port="auto", model="phi-3", host="b", handle="anywhere"),
        slot(8109, "late", "b", handle="late", on_demand=True),
    )  # fmt: skip
    before, problems = made(*slots, rows={**BOTH, "c": {}})
    assert not problems and without_b(before, *slots) == before
    assert [one.where for one in before.handles["m"].replicas] == ["a:8101", "b:8101"]
    assert "late" in before.handles and before.handles["late"].on_demand


def test_of_a_silent_host_what_the_profile_has_no_more_goes_and_a_host_that_is_none_goes() -> None:
    before, _ = made(slot(8101, "m", "b", handle="deep"), rows={**BOTH, "c": {}})
    assert "deep" in before.handles and "deep" not in without_b(before).handles
    assert [one.where for one in without_b(before).handles["phi-3"].replicas] == ["b:8105"]
    gone = Config(None, {"a": A}, "a")
    assert list(derived(gone, [], {"a": BOTH["a"]}, before)[0].handles) == ["m"]


def test_a_model_that_was_only_declared_does_not_run_because_its_host_is_silent() -> None:
    never = slot(8101, "late", "b", handle="never")
    before, _ = made(never, rows={"a": BOTH["a"], "b": {}, "c": {}})
    assert list(without_b(before, never).handles) == list(before.handles) == ["never", "m"]


def test_a_host_that_answers_is_believed() -> None:
    before, _ = made(rows=BOTH)
    after, _ = derived(FLEET, [], {"a": {}, "b": {}, "c": {}}, before)
    assert not after.handles


@pytest.mark.parametrize("context", ["4096", 4096.5, True, {}, None])
@pytest.mark.parametrize("can", [5, "fork", {"fork": 1}, [["fork"]], None])
def test_a_port_that_answers_with_other_types_says_nothing_by_them(context: Any, can: Any) -> None:
    entry = HandleEntry("fast", context=8192, technique="self-consistency")
    registry = made(slot(8101, handles=(entry,)), rows=ROWS)[0]
    row = {"id": "qwen2.5-7b", "context_length": context, "engine": "torch", "capabilities": can}
    found = handles_live.live([row])
    assert (found.context, found.capabilities) == (None, ())
    assert whats(checking.live(registry, {"a:8101": found})) == [
        "handle fast: self-consistency needs fork, and the engine torch has no such thing"
    ]
    said = handles_live.live([{**row, "context_length": 4096, "capabilities": ["fork"]}])
    assert (said.context, said.capabilities) == (4096, ("fork",))
