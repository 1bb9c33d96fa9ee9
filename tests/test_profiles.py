"""Profiles: what they would change, and how a slot is written into one without losing a comment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl import catalog, config, profiles
from llmctl.catalog import Artifact, Model
from llmctl.config import HandleEntry, ProfileSlot
from llmctl.domain import EngineSpec, SlotSpec
from llmctl.errors import ConfigError, UsageError
from llmctl.profiles import EXTRA, HELD, KEEP, LOAD, START, SWAP, UNLOAD, Now

PROFILE = """\
# my models
description = "d"

[[slots]]
port = 8101
model = "tiny-qwen2"   # the fast one
quantization = "q4_0"
order = "old-first"

[[slots]]
port = 8102
model = "tiny-llama"
"""


def spec(model: str, **settings: int) -> SlotSpec:
    return SlotSpec(EngineSpec("torch", model, "/m", "safetensors", **settings), names=("fast",))


def steps(
    slots: tuple[ProfileSlot, ...], running: Mapping[int, SlotSpec | None], prune: bool = False
) -> list[tuple[int, str, str | None]]:
    def free_port(taken: set[int]) -> int:
        return next(port for port in range(8100, 8140) if port not in taken and not running.get(port))

    plan = profiles.plan(slots, {port: Now(spec) for port, spec in running.items()}, free_port, prune)
    return [(step.port, step.action, step.model) for step in plan]


def step(slot: ProfileSlot, now: Now) -> tuple[str, tuple[str, ...]]:
    (found,) = profiles.plan([slot], {8101: now}, lambda taken: 0)
    return found.action, found.differs


def test_what_runs_otherwise_is_swapped_and_what_is_not_asked_for_is_extra() -> None:
    slots = (ProfileSlot(8101, "a"), ProfileSlot(8102, "b"), ProfileSlot(8103, "c"))
    running = {8101: spec("a"), 8102: spec("x"), 8103: None, 8109: spec("z"), 8110: None}
    wanted = [(8101, KEEP, "a"), (8102, SWAP, "b"), (8103, LOAD, "c")]
    assert steps(slots, running) == [*wanted, (8109, EXTRA, None)]
    assert steps(slots, running, prune=True) == [*wanted, (8109, UNLOAD, None)]


@pytest.mark.parametrize(
    ("slot", "differs"),
    [
        (ProfileSlot(8101, "a"), ()),
        (ProfileSlot(8101, "a", engine="torch", context=64, parallel=2, handle="fast", quantization="BF16"), ()),
        (ProfileSlot(8101, "a", engine="mlx"), ("engine torch → mlx",)),
        (ProfileSlot(8101, "a", context=128), ("context 64 → 128",)),
        (ProfileSlot(8101, "a", quantization="q4_0"), ("quantization bf16 → q4_0",)),
        (ProfileSlot(8101, "a", parallel=8, idle_unload=60.0), ("parallel 2 → 8", "idle_unload None → 60.0")),
        (ProfileSlot(8101, "a", handle="slow"), ("handles None → slow",)),
    ],
)
def test_every_setting_that_drifted_is_named(slot: ProfileSlot, differs: tuple[str, ...]) -> None:
    now = Now(spec("a", context=64, parallel=2), "bf16")
    assert step(slot, now) == (SWAP if differs else KEEP, differs)


def test_whether_a_running_slot_may_go_and_its_group_are_compared() -> None:
    demand = ProfileSlot(8101, "a", on_demand=True, exclusive="big")
    plain, made = spec("a"), replace(spec("a"), evictable=True, exclusive="big")
    assert step(demand, Now(made)) == (KEEP, ())
    assert step(demand, Now(plain)) == (SWAP, ("evictable False → True", "exclusive none → big"))
    assert step(replace(demand, pinned=True), Now(made)) == (SWAP, ("evictable True → False",))
    assert step(ProfileSlot(8101, "a"), Now(made)) == (SWAP, ("evictable True → False", "exclusive big → none"))
    assert step(demand, Now(None)) == (KEEP, ("loaded at its first request",))


@pytest.mark.parametrize(("evictable", "exclusive"), [(True, None), (True, "big"), (False, "big"), (False, None)])
def test_a_saved_slot_says_whether_it_may_go_and_its_group(
    folder: Path, evictable: bool, exclusive: str | None
) -> None:
    runs = replace(spec("tiny-llama", context=64, parallel=2), evictable=evictable, exclusive=exclusive)
    slot = profiles.as_slot(8101, runs, catalog.load().resolve("tiny-llama"), folder)
    (folder / "profiles" / "p.toml").write_text(profiles.as_toml("d", [slot]))
    assert config.profile(config.load(folder), catalog.load(), "p").slots == (slot,)
    assert step(slot, Now(runs)) == (KEEP, ())


def test_a_disabled_slot_is_left_alone_whatever_it_should_run() -> None:
    assert step(ProfileSlot(8101, "b"), Now(spec("a"), held="new fan")) == (HELD, ("disabled: new fan",))
    assert step(ProfileSlot(8101, "b"), Now(None, held="new fan")) == (HELD, ("disabled: new fan",))


def test_what_is_right_and_down_is_started() -> None:
    assert step(ProfileSlot(8101, "a"), Now(spec("a"), down=True)) == (START, ("nothing serves it",))
    assert step(ProfileSlot(8101, "b"), Now(spec("a"), down=True))[0] == SWAP


def test_an_auto_slot_stays_where_its_model_runs_else_takes_a_free_port() -> None:
    slots = (ProfileSlot("auto", "a"), ProfileSlot("auto", "b"), ProfileSlot("auto", "b"), ProfileSlot(8100, "c"))
    assert steps(slots, {8105: spec("a"), 8101: spec("x")})[:4] == [
        (8105, KEEP, "a"),
        (8102, LOAD, "b"),
        (8103, LOAD, "b"),
        (8100, LOAD, "c"),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hosts.toml").touch()
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "p.toml").write_text(PROFILE)
    return tmp_path


def edit(folder: Path, port: int, name: str | None = None, **values: str | int | None) -> profiles.Edit:
    return profiles.edit_slot(config.load(folder), catalog.load(), "local", port, values, name)


def test_an_edit_changes_its_lines_only(folder: Path) -> None:
    edit(folder, 8101, model="tiny-llama", quantization=None, context=512).write()
    expected = PROFILE.replace('"tiny-qwen2"   # the fast one', '"tiny-llama"   # the fast one\ncontext = 512')
    assert (folder / "profiles" / "p.toml").read_text() == expected.replace('quantization = "q4_0"\n', "")


def test_an_edit_of_the_last_line(folder: Path) -> None:
    (folder / "profiles" / "p.toml").write_text(PROFILE.rstrip("\n"))
    edit(folder, 8102, model="tiny-qwen2", engine="torch").write()
    read = config.profile(config.load(folder), catalog.load(), "p")
    assert read.slots[1] == ProfileSlot(8102, "tiny-qwen2", engine="torch")


def test_an_edit_that_could_mean_several_profiles_asks_which(folder: Path) -> None:
    (folder / "profiles" / "q.toml").write_text(PROFILE)
    with pytest.raises(UsageError, match="p, q") as caught:
        edit(folder, 8101, model="tiny-llama")
    assert caught.value.hint == "add --profile p"
    assert edit(folder, 8101, "q", model="tiny-llama").path.name == "q.toml"
    with pytest.raises(UsageError, match="no profile has a slot 8109"):
        edit(folder, 8109, model="tiny-llama")


def test_inline_slots_are_left_to_the_editor(folder: Path) -> None:
    (folder / "profiles" / "p.toml").write_text('slots = [{ port = 8101, model = "tiny-llama" }]\n')
    with pytest.raises(ConfigError, match="not written as"):
        edit(folder, 8101, model="tiny-qwen2")


def test_a_saved_profile_reads_back(folder: Path) -> None:
    model = catalog.load().resolve("tiny-llama")
    made = replace(spec("tiny-llama", context=64, parallel=2), idle_unload=90.0)
    slot = profiles.as_slot(8101, made, model, folder)
    (folder / "profiles" / "p.toml").write_text(profiles.as_toml('now "quoted"', [slot]))
    read = config.profile(config.load(folder), catalog.load(), "p")
    assert read.description == 'now "quoted"'
    assert read.slots == (slot,)
    assert (slot.engine, slot.context, slot.parallel, slot.handle, slot.idle_unload) == ("torch", 64, 2, "fast", 90.0)


def test_a_saved_slot_names_the_artifact_it_runs(folder: Path) -> None:
    here = folder / "m" / "gguf-q4_0" / "m.gguf"
    here.parent.mkdir(parents=True)
    here.touch()
    model = Model("m", artifacts=(Artifact("gguf", "f16"), Artifact("gguf", "q4_0")))
    runs = SlotSpec(EngineSpec("llamacpp", "m", str(here), "gguf"))
    assert profiles.as_slot(8101, runs, model, folder).quantization == "q4_0"


def test_any_text_and_any_price_read_back(folder: Path) -> None:
    text = 'the \N{ROCKET} "one"\\\x7f\n\u2028'
    entry = HandleEntry("fast", notes=text, tags=("\N{ROCKET}",), price=(1.23456789, 1e-7))
    slot, file = ProfileSlot(8101, "tiny-llama", handles=(entry,)), folder / "profiles" / "p.toml"
    file.write_text(profiles.as_toml(text, [slot, ProfileSlot(8102, "tiny-qwen2")]), encoding="utf-8")
    read = config.profile(config.load(folder), catalog.load(), "p")
    assert (read.description, read.slots[0]) == (text, slot)
    edit(folder, 8102, exclusive=text, on_demand=True).write()
    assert config.profile(config.load(folder), catalog.load(), "p").slots[1].exclusive == text
