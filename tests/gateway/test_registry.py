"""The registry: found names, fallbacks without loops, and what makes no sense in its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmctl.errors import StateError, UnknownName
from llmctl.gateway import registry
from llmctl.gateway.registry import Handle, Registry, Replica, from_dict, loop


def made(*handles: Handle) -> Registry:
    return Registry({one.name: one for one in handles}, handles[0].name if handles else None)


def test_a_name_is_found_none_is_the_default_and_an_unknown_one_names_the_nearest() -> None:
    known = made(Handle("fast"), Handle("deep"))
    assert known.find("deep").name == "deep"
    assert [known.find(name).name for name in (None, "", "default")] == ["fast"] * 3
    with pytest.raises(UnknownName, match="no handle 'dep'") as caught:
        known.find("dep")
    assert caught.value.hint == "did you mean 'deep'?"
    with pytest.raises(UnknownName) as caught:
        Registry().find(None)
    assert "handles sync" in str(caught.value.hint)


def test_an_id_is_found_by_its_own_spelling() -> None:
    assert made(Handle("qwen2-5-32b")).find("qwen2.5-32b").name == "qwen2-5-32b"
    assert made(Handle("qwen2-5-32b")).find("Qwen2.5-32B").name == "qwen2-5-32b"


def test_fallbacks_come_once_each_and_in_order() -> None:
    known = made(
        Handle("a", fallbacks=("b", "c")), Handle("b", fallbacks=("d", "a")), Handle("c", fallbacks=("d",)), Handle("d")
    )
    assert [one.name for one in known.chain(known.handles["a"])] == ["a", "b", "c", "d"]


def test_a_loop_is_told_with_its_way() -> None:
    known = made(Handle("a", fallbacks=("b",)), Handle("b", fallbacks=("c",)), Handle("c", fallbacks=("a",)))
    assert loop(known, "a") == ["a", "b", "c", "a"]
    assert loop(made(Handle("a", fallbacks=("b",)), Handle("b")), "a") is None
    assert loop(made(Handle("a", fallbacks=("a",))), "a") == ["a", "a"]


def test_a_loop_is_looked_for_in_any_number_of_ways() -> None:
    chain = [Handle(f"h{at}", fallbacks=(f"h{at + 1}",)) for at in range(2000)]
    assert loop(made(*chain), "h0") is None
    around = loop(made(*chain, Handle("h2000", fallbacks=("h0",))), "h0")
    assert around == [*(f"h{at}" for at in range(2001)), "h0"]
    rungs = [Handle(f"{side}{at}", fallbacks=(f"a{at + 1}", f"b{at + 1}")) for at in range(25) for side in "ab"]
    assert loop(made(*rungs), "a0") is None


def test_it_is_what_was_written(tmp_path: Path) -> None:
    known = made(
        Handle("fast", (Replica("h", 8101, "m", names=("x",)),), fallbacks=("deep",), tags=("t",)), Handle("deep")
    )
    registry.write(tmp_path, known)
    assert registry.read(tmp_path) == known and registry.read(tmp_path).hash == known.hash
    assert registry.read(tmp_path / "none") == Registry()
    assert registry.path(tmp_path).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"version": 2}, "version 2"),
        ({"version": 1}, "no registry"),
        ({"version": 1, "handles": [1]}, "no registry"),
        ({"version": 1, "handles": [{"name": "a"}]}, "no registry"),
        ({"version": 1, "handles": [{"name": "../a", "replicas": []}]}, "handle"),
        (
            {"version": 1, "handles": [{"name": "a", "replicas": [{"host": "h", "port": "x", "model": "m"}]}]},
            "no registry",
        ),
        ({"version": 1, "handles": [{"name": "a", "replicas": []}] * 2}, "a is there twice"),
        ({"version": 1, "handles": [{"name": "a", "replicas": [], "fallbacks": ["b"]}]}, "b, which is none"),
        ({"version": 1, "handles": [{"name": "a", "replicas": [], "fallbacks": ["a"]}]}, "falls back to itself"),
        ({"version": 1, "handles": [], "default": "a"}, "default handle a"),
    ],
)
def test_nonsense_is_named(data: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=says):
        from_dict(data)
    registry.path(tmp_path).parent.mkdir()
    registry.path(tmp_path).write_text(json.dumps(data))
    with pytest.raises(StateError, match=str(tmp_path)):
        registry.read(tmp_path)
