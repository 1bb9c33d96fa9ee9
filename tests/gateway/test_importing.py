"""What becomes of the lines of a handles.jsonl: which slot each means, and which mean none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llmctl import profiles
from llmctl.config import Config, HandleEntry, Host, Profile, ProfileSlot
from llmctl.gateway.derive import derived
from llmctl.gateway.importing import Place, Plan, places, plan
from llmctl.gateway.jsonl import Line
from llmctl.gateway.registry import Registry

FLEET = Config(None, {"gpu-1": Host("gpu-1"), "b": Host("b", "ssh", "10.0.0.2")}, "gpu-1")
ONE = Place("day", 0, "gpu-1", 8101, "qwen2.5-7b")
TWO = Place("day", 1, "b", 8102, "phi-3", ("deep",))


def line(handle: str = "fast", ref: str = "ep_mlx_slot_8101", **fields: Any) -> Line:
    return replace(Line(handle, "model", "openai-chat", "launchd", ref, {"model": handle}), **fields)


def planned(*lines: Line, slots: tuple[Place, ...] = (ONE, TWO), **given: Any) -> Plan:
    usual = {"registry": Registry(), "extras": {}, "kept": ()}
    return plan(lines, slots, **{**usual, **given})


def added(found: Plan) -> list[tuple[str, str]]:
    assert not found.problems, found.problems
    return [(entry.name, place.where) for place, entry in found.added]


def whats(found: Plan) -> list[str]:
    return [problem.what for problem in found.problems]


def test_an_endpoint_means_a_slot_by_its_port_whatever_the_engine_and_by_its_host() -> None:
    for ref in ("ep_mlx_slot_8101", "ep_ov_slot_8101", "ep_auto_slot_8101", "ep_gpu_1_torch_slot_8101"):
        assert added(planned(line(ref=ref))) == [("fast", "gpu-1:8101")], ref
    for ref in ("ep_b_mlx_slot_8101", "ep_mlx_slot_8103", "slot_8101", "ep_vllm_slot_8101"):
        (kept,) = planned(line(ref=ref)).apart
        assert kept == (line(ref=ref), f"no profile has a slot {ref}")


def test_what_a_slot_has_already_is_there() -> None:
    assert planned(line("deep", "ep_mlx_slot_8102")) == Plan()
    assert planned(line("qwen2-5-7b")) == Plan(), "the model's own id"
    config, known = FLEET, [Profile("p", Path("p.toml"), slots=())]
    runs, _ = derived(config, known, {"gpu-1": {8105: {"model": "m", "engine": "torch", "handles": []}}})
    assert planned(line("m", "ep_gpu_1_torch_slot_8105"), registry=runs) == Plan(), "no profile has it, and it runs"


def test_a_name_that_stands_for_another_slot_is_refused() -> None:
    says = "it stands for b:8102 here, and in the file for ep_mlx_slot_8101"
    assert whats(planned(line("deep"))) == [says]
    tool = line("deep", "ep_mlx_slot_8102", kind="callable", invoke="mcp-tool")
    assert whats(planned(tool)) == [says.replace("8101", "8102")]
    slot = ProfileSlot(port=8102, model="phi-3", host="b", handle="other")
    known, _ = derived(FLEET, [Profile("p", Path("p.toml"), slots=(slot,))], {})
    assert whats(planned(line("other"), registry=known)) == [says]
    assert whats(planned(line("other", "ep_nowhere"), registry=known)) == [
        says.replace("ep_mlx_slot_8101", "ep_nowhere")
    ]


def test_where_two_may_be_meant_it_is_asked() -> None:
    night = replace(ONE, profile="night", index=3)
    (problem,) = planned(line(), slots=(ONE, night)).problems
    assert "profile day, gpu-1:8101; profile night, gpu-1:8101" in problem.what and "--profile NAME" in problem.hint


def test_a_slot_of_several_hosts_is_one_entry() -> None:
    there = replace(ONE, host="b")
    assert added(planned(line(), slots=(ONE, there))) == [("fast", "gpu-1:8101")]
    extra = {"replicas": [{"host": host, "port": 8101, "model": "m"} for host in ("gpu-1", "b")], "group": "g"}
    assert len(planned(line(), slots=(ONE, there), extras={"fast": extra}).added) == 1


def test_what_is_no_chat_and_no_embedding_is_kept_apart_once() -> None:
    tool = line(kind="callable", invoke="http-post")
    assert planned(tool).apart == ((tool, "it is called by http-post"),)
    assert planned(tool, kept=[tool]) == Plan()
    changed = replace(tool, notes="new")
    assert [one for one, _ in planned(changed, kept=[tool]).apart] == [changed]
    assert added(planned(line(invoke="openai-embeddings"))) == [("fast", "gpu-1:8101")]


def test_the_sidecar_brings_what_the_line_has_no_place_for_and_the_other_replicas() -> None:
    replicas = [{"host": host, "port": port, "model": "m"} for host, port in (("gpu-1", 8101), ("b", 8102), ("c", 1))]
    extra = {
        "replicas": replicas,
        "group": "g",
        "context": 512,
        "fallbacks": ["deep"],
        "price": [0.5, 1.0],
        "tags": ["x"],
    }
    found = planned(line(notes="n"), extras={"fast": extra, "other": {"context": "not looked at"}})
    assert added(found) == [("fast", "gpu-1:8101"), ("fast", "b:8102")]
    assert found.added[0][1] == HandleEntry(
        "fast", group="g", context=512, fallbacks=("deep",), price=(0.5, 1.0), tags=("x",), notes="n"
    )
    assert "context = 'x'" in whats(planned(line(), extras={"fast": {"context": "x"}}))[0]
    for wrong in (5, "deep", [5], None):
        assert "fallbacks = " in whats(planned(line(), extras={"fast": {"fallbacks": wrong}}))[0]
    assert added(planned(line(), extras={"fast": 7})) == [("fast", "gpu-1:8101")]


def test_the_slots_of_profiles_on_each_of_their_hosts() -> None:
    slots = (
        ProfileSlot(port=8101, model="m", handle="fast"), ProfileSlot(port="auto", model="phi-3", host="b"),
        ProfileSlot(port="auto", model="none", host="b"),
    )  # fmt: skip
    known = [Profile("p", Path("p.toml"), slots=slots)]
    runs, _ = derived(FLEET, known, {"b": {8107: {"model": "phi-3", "engine": "", "handles": []}}})
    assert [(one.where, one.index, one.names) for one in places(FLEET, known, runs)] == [
        ("gpu-1:8101", 0, ("fast",)), ("b:8107", 1, ()),
    ]  # fmt: skip


TEXT = """\
[[slots]]
port = 8101
model = "m"
# of the first

# of the second
[[slots]]
port = 8102
model = "m"

[[slots.handles]]
name = "deep"   # why"""


def test_a_handle_is_written_behind_its_slot_and_all_else_stays() -> None:
    entry = HandleEntry("fast", fallbacks=("deep",), price=(0.5, 2.0), invoke="openai-embeddings")
    block = '\n[[slots.handles]]\nname = "fast"\nfallbacks = ["deep"]\ninvoke = "openai-embeddings"\n'
    block += "price = {prompt = 0.5, completion = 2.0}\n"
    first = profiles.with_handle(Path("p"), TEXT, 0, entry)
    assert first == TEXT.replace('model = "m"\n', f'model = "m"\n{block}', 1)
    assert profiles.with_handle(Path("p"), TEXT, 1, entry) == f"{TEXT}\n{block}"
    twice = profiles.with_handle(Path("p"), first, 0, HandleEntry("quick"))
    assert twice == first.replace(block, f'{block}\n[[slots.handles]]\nname = "quick"\n')
