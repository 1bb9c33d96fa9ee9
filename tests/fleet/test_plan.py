"""Which slots belong to which host: values in, values out."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctl.config import Config, Host, Profile, ProfileSlot
from llmctl.errors import ConfigError, UsageError
from llmctl.fleet.plan import Assignment, assign

A, B = ProfileSlot(8101, "a"), ProfileSlot(8102, "b")


def profile(name: str, *slots: ProfileSlot, path: Path = Path("p.toml")) -> Profile:
    return Profile(name, path, slots=slots)


def fleet(default: str | None = None, **listed: tuple[str, ...]) -> Config:
    """Hosts by name, with the profiles that their entries list."""
    return Config(None, {name: Host(name, profiles=profiles) for name, profiles in listed.items()}, default)


def slots(found: Assignment) -> dict[str, list[tuple[object, str]]]:
    return {host: [(w.slot.port, w.slot.model) for w in wanted] for host, wanted in found.slots.items()}


def every(config: Config) -> list[Host]:
    return list(config.hosts.values())


def test_a_slot_goes_to_its_host_and_one_without_to_those_that_list_its_profile() -> None:
    config = fleet(h1=("p",), h2=("p", "q"), h3=())
    own = ProfileSlot(8109, "c", host="h3")
    found = assign(config, [profile("p", A, own), profile("q", B)], every(config))
    assert slots(found) == {"h1": [(8101, "a")], "h2": [(8101, "a"), (8102, "b")], "h3": [(8109, "c")]}
    assert {wanted.slot.host for wanted in found.slots["h2"]} == {"h2"}
    assert found.homeless == ()


def test_where_no_host_lists_any_profile_the_default_host_has_them() -> None:
    assert slots(assign(fleet("h2", h1=(), h2=()), [profile("p", A)], every(fleet(h1=(), h2=())))) == {
        "h1": [], "h2": [(8101, "a")],
    }  # fmt: skip
    with pytest.raises(UsageError, match="which host"):
        config = Config(None, {name: Host(name, "ssh") for name in ("h1", "h2")})
        assign(config, [profile("p", A)], every(config))


def test_a_profile_that_no_host_lists_belongs_to_none_until_it_is_named() -> None:
    config = fleet("h1", h1=("p",), h2=())
    profiles = [profile("p", A), profile("q", B)]
    found = assign(config, profiles, every(config))
    assert (slots(found), found.homeless) == ({"h1": [(8101, "a")], "h2": []}, ("q",))
    assert slots(assign(config, profiles[1:], every(config), named=True)) == {"h1": [(8102, "b")], "h2": []}


def test_a_profile_and_hosts_that_are_named_go_together() -> None:
    config = fleet(h1=("p",), h2=(), h3=())
    own = ProfileSlot(8109, "c", host="h1")
    some = [config.hosts["h2"], config.hosts["h3"]]
    found = assign(config, [profile("p", A, own)], some, chosen=True, named=True)
    assert slots(found) == {"h2": [(8101, "a")], "h3": [(8101, "a")]}
    assert slots(assign(config, [profile("p", A, own)], some, chosen=True)) == {"h2": [], "h3": []}


def test_two_profiles_that_want_different_things_on_a_port_are_named_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[[slots]]\nport = 8101\nmodel = "a"\n')
    (tmp_path / "q.toml").write_text('# q\n\n[[slots]]\nmodel = "b"\nport = 8101\n')
    config = fleet(h1=("p", "q"), h2=("p",))
    p = profile("p", A, path=tmp_path / "p.toml")
    with pytest.raises(ConfigError) as caught:
        assign(config, [p, profile("q", ProfileSlot(8101, "b"), path=tmp_path / "q.toml")], every(config))
    assert caught.value.message == (f"{tmp_path}/p.toml:2 and {tmp_path}/q.toml:5 want different things on h1:8101")
    assert caught.value.hint and "--profile p" in caught.value.hint
    same = assign(config, [p, profile("q", A)], every(config))
    assert slots(same)["h1"] == [(8101, "a")]


def test_slots_that_take_any_port_do_not_collide() -> None:
    auto = ProfileSlot("auto", "a")
    config = fleet(h1=("p", "q"))
    assert len(assign(config, [profile("p", auto, auto), profile("q", auto)], every(config)).slots["h1"]) == 3


def test_a_host_without_a_wanted_slot_is_never_pruned() -> None:
    config = fleet(h1=("p",), h2=())
    found = assign(config, [profile("p", A)], every(config))
    assert found.request("h1", prune=True)["prune"] is True
    assert found.request("h2", prune=True) == {"slots": [], "prune": False, "pull": False, "demand": False}
    (slot,) = found.request("h1")["slots"]
    assert (slot["port"], slot["model"], slot["host"]) == (8101, "a", None)
