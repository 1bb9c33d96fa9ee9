"""The keys of the gateway's clients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmctl.errors import LlmctlError, Refused, StateError, UnknownName
from llmctl.gateway import callers
from llmctl.gateway.callers import Callers
from llmctl.gateway.limits import Allowed


def test_a_key_is_seen_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    key = callers.add(tmp_path, "ann", Allowed(handles=("fast*",), requests=5))
    file = tmp_path / "gateway" / "keys.json"
    assert key not in file.read_text() and key.encode() not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    (found,) = callers.read(tmp_path).values()
    assert (found.name, found.allowed.requests, found.revoked) == ("ann", 5, None)
    assert found.may("fast-1") and not found.may("deep")
    assert len({callers.add(tmp_path, f"k{i}", Allowed()) for i in range(5)}) == 5


def test_a_revoked_key_is_found_as_revoked_and_its_name_is_free(tmp_path: Path) -> None:
    known = Callers(tmp_path)
    key = callers.add(tmp_path, "ann", Allowed())
    with pytest.raises(Refused, match="a key ann already"):
        callers.add(tmp_path, "ann", Allowed())
    known.fresh()
    assert (found := known.of([b"other", key.encode()])) and found.revoked is None
    callers.revoke(tmp_path, "ann")
    known.fresh()
    assert (found := known.of([key.encode()])) and found.revoked is not None
    assert known.of([b"llmctl-x"]) is None and known.of([]) is None
    with pytest.raises(UnknownName, match="no key 'ann'"):
        callers.revoke(tmp_path, "ann")
    callers.add(tmp_path, "ann", Allowed())


def test_a_file_that_makes_no_sense_changes_nothing_while_it_runs(tmp_path: Path) -> None:
    key = callers.add(tmp_path, "ann", Allowed())
    known = Callers(tmp_path)
    known.fresh()
    for text in ("{", "[]", '{"version": 9, "keys": []}', '{"version": 1, "keys": [1]}'):
        (tmp_path / "gateway" / "keys.json").write_text(text)
        with pytest.raises(StateError):
            callers.read(tmp_path)
        known.fresh()
        assert known.error and known.of([key.encode()])


def test_a_name_must_be_one(tmp_path: Path) -> None:
    for name in ("", "../x", "a b", "x" * 300, "-a"):
        with pytest.raises(LlmctlError):
            callers.add(tmp_path, name, Allowed())
    assert json.loads('{"keys": []}')["keys"] == list(callers.read(tmp_path))
