"""The log of requests: who asked whom, and what it cost, never what was said; bounded, and no reason to fail."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from llmctl.domain import SlotSpec
from llmctl.gateway import life
from llmctl.logs import LARGEST
from tests.conftest import RunningSlot, eventually
from tests.gateway.conftest import Start, handle

CANARY = "canary"


def ask(gate: RunningSlot, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 3, "user": CANARY, **fields}
    headers = {"authorization": "Bearer llmctl-canary", "x-canary": CANARY, "user-agent": CANARY}
    url = f"http://127.0.0.1:{gate.port}/v1/chat/completions?{CANARY}"
    return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)


def rows(gate: RunningSlot) -> list[dict[str, Any]]:
    text = (gate.folder.path / "requests.log").read_text()
    return [json.loads(line.split("request: ")[1]) for line in text.splitlines() if "request: " in line]


def test_s10_it_tells_who_whom_and_what_it_cost_and_no_word_of_it(
    slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec], gateway: Start
) -> None:
    slot = slots(script("alpha", answers={CANARY: f"the answer of {CANARY}"}))
    gate = gateway(handle("alpha", slot))
    for fields in ({}, {"stream": True}, {"model": CANARY}, {"stop": [CANARY]}, {"messages": [{"role": CANARY}]}):
        ask(gate, **fields)
    first, second, third, fourth = eventually(lambda: found if len(found := rows(gate)) == 4 else None)
    assert set(first) == {
        "handle", "key", "status", "seconds", "prompt", "completion", "estimated", "cost", "replica", "retries"
    }  # fmt: skip
    assert first["handle"] == "alpha" and first["replica"] == f"here:{slot.port}" and first["completion"] == 3
    assert second["completion"] == 3 and not second["estimated"] and third["status"] == 200 and fourth["status"] == 400
    for file in gate.home.rglob("*"):
        if file.is_file() and file.suffix != ".json" and "script" not in file.name:
            assert CANARY not in file.read_text(errors="replace"), file
    log = gate.folder.path / "requests.log"
    assert log.stat().st_mode & 0o777 == 0o600

    os.truncate(log, LARGEST + 1)  # as if so much had been asked
    ask(gate)
    older = log.with_name("requests.log.1")
    eventually(lambda: older.exists() and log.stat().st_size < 10_000)
    assert len(rows(gate)) == 1

    gate.kill()
    log.unlink()
    log.symlink_to(Path("/dev/full"))
    life.up(gate.home, gate.port, gate.launch)
    assert [ask(gate).status_code for _ in range(2)] == [200, 200], "a full disk costs no request"
