"""`llmctl gateway keys`: made, listed, revoked, and what a gateway that runs makes of that."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmctl.__main__ import main
from llmctl.domain import SlotSpec
from llmctl.gateway import callers, life
from llmctl.gateway.limits import MONTH
from tests.conftest import RunningSlot, eventually
from tests.gateway.conftest import Start, handle

Capture = pytest.CaptureFixture[str]


def keys(capsys: Capture, *words: str, code: int = 0) -> Any:
    """The data of `llmctl gateway keys WORDS`, or its errors."""
    capsys.readouterr()
    assert main(["--json", "gateway", "keys", *words]) == code, words
    said = json.loads(capsys.readouterr().out)
    return said["data"] if code == 0 else said["errors"]


def test_a_key_is_made_shown_once_listed_and_revoked(home: Path, capsys: Capture) -> None:
    made = keys(capsys, "add", "ann", "--handle", "fast-*", "--handle", "deep", "--requests", "60", "--quota", "1000")
    assert made["name"] == "ann" and made["key"].startswith(callers.PREFIX)
    assert made["handles"] == ["fast-*", "deep"] and (made["requests"], made["quota"], made["per"]) == (60, 1000, MONTH)
    (row,) = keys(capsys, "list")["keys"]
    assert row["name"] == "ann" and row["used"] == 0 and row["revoked"] is None
    assert made["key"] not in json.dumps(row) and row.get("sha256") is None
    assert keys(capsys, "revoke", "ann")["revoked"]["revoked"]
    assert keys(capsys, "list")["keys"][0]["revoked"]
    assert made["key"].encode() not in b"".join(one.read_bytes() for one in home.rglob("*") if one.is_file())


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (("add", "../x"), 2, "is not a key name", "lower-case"),
        (("add", "ann", "--per", "week"), 2, "'week'", "--per day or month"),
        (("add", "ann", "--requests", "0"), 2, "", ""),
        (("add", "ann", "--quota", "many"), 2, "", ""),
        (("add", "ann", "--handle", "a b"), 2, "no handle", "--handle"),
        (("add", "ann", "--handle", ""), 2, "no handle", "--handle"),
        (("add", "bob"), 1, "a key bob already", "llmctl gateway keys revoke bob"),
        (("revoke", "bib"), 2, "no key 'bib'", "did you mean 'bob'?"),
        (("revoke", "x\ny"), 2, "no key", "bob"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_type(
    home: Path, capsys: Capture, words: tuple[str, ...], code: int, says: str, hint: str
) -> None:
    keys(capsys, "add", "bob")
    capsys.readouterr()
    ended = main(["--json", "gateway", "keys", *words])
    said = json.loads(capsys.readouterr().out)
    (error,) = said["errors"]
    assert ended == said["exit_code"] == code, error
    assert says in error["message"] and hint in (error["hint"] or "")
    assert [one.name for one in callers.read(home).values()] == ["bob"]


def test_people_read_it_too(home: Path, capsys: Capture) -> None:
    assert main(["gateway", "keys", "list"]) == 0
    assert "keys add" in capsys.readouterr().out
    assert main(["gateway", "keys", "add", "ann", "--parallel", "2"]) == 0
    assert callers.PREFIX in capsys.readouterr().out
    assert main(["gateway", "keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "ann" in shown and callers.PREFIX not in shown
    assert main(["gateway", "keys", "revoke", "ann"]) == 0


def test_a_file_of_keys_that_makes_no_sense_is_said_without_a_traceback(home: Path, capsys: Capture) -> None:
    (home / "gateway").mkdir()
    (home / "gateway" / "keys.json").write_text("{")
    for words in (("list",), ("add", "ann"), ("revoke", "ann")):
        (error,) = keys(capsys, *words, code=1)
        assert "keys.json" in error["message"] and error["hint"]


def test_f2_what_a_key_has_used_outlives_kill_9_and_a_revoked_one_ends_its_stream(
    slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec], gateway: Start, capsys: Capture
) -> None:
    slot = slots(script("alpha", step=0.02, length=900))
    gate = gateway(handle("alpha", slot))
    key = keys(capsys, "add", "ann", "--quota", "40")["key"]
    url, headers = f"http://127.0.0.1:{gate.port}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    body = {"messages": [{"role": "user", "content": "hi"}]}

    def ask(**fields: Any) -> httpx.Response:
        return httpx.post(url, json={**body, **fields}, headers=headers, timeout=60, trust_env=False)

    def used() -> int:
        return int(keys(capsys, "list")["keys"][0]["used"])

    def known(name: str) -> bool:
        """Whether the gateway counts a request as that key's."""
        log = gate.folder.path / "requests.log"
        return ask(max_tokens=1).status_code == 200 and f'"key": "{name}"' in log.read_text()

    eventually(lambda: known("ann"))
    said = ask(max_tokens=8, stream=True)
    assert ": usage {" in said.text, "the slot tells what a stream cost"
    eventually(lambda: ask(max_tokens=20).status_code == 429)
    spent = eventually(lambda: found if (found := used()) >= 40 else 0)
    pid = gate.server_pid()
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: life.up(gate.home, gate.port, gate.launch))
    refused = ask(max_tokens=1)
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "quota_exceeded"
    assert int(refused.headers["retry-after"]) > 60 and used() == spent
    other = keys(capsys, "add", "bob")["key"]
    headers["authorization"] = f"Bearer {other}"
    eventually(lambda: known("bob"))
    with httpx.stream(
        "POST", url, json={**body, "stream": True, "max_tokens": 900}, headers=headers, timeout=60
    ) as got:
        rows = got.iter_lines()
        assert got.status_code == 200 and next(rows)
        keys(capsys, "revoke", "bob")
        ended = [row for row in rows if row]
    assert ended[-1] == "data: [DONE]" and "the key bob was revoked" in ended[-2] and len(ended) < 900
    eventually(lambda: not slot.status().active)
