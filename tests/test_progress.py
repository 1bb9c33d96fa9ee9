"""What stderr shows of a load or a job: plain lines, lines of JSON, and bars on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from llmctl import progress
from llmctl.render.text import amount, escaped
from tests.conftest import REPO

STAGE: dict[str, Any] = {"event": "stage", "stage": "download", "done": 0, "total": 0, "elapsed": 1.0, "eta": None}


def at(done: int, **more: Any) -> dict[str, Any]:
    return {**STAGE, "done": done, "total": 4 * 10**9, **more}


def test_lines_come_with_a_stage_and_then_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = progress.Lines(lambda: now)
    for second in range(12):
        now = float(second)
        lines(at(second * 10**8, speed=1e8, eta=40.0 - second, elapsed=now))
    lines({"event": "note", "message": "verified"})
    lines({**STAGE, "stage": "verify"})
    now = 100.0
    lines({**STAGE, "stage": "verify"})  # nothing is known that would be worth a line
    lines({"event": "whatever a newer llmctl says"})
    assert capsys.readouterr().err.splitlines() == [
        "download …",
        "download 12 % · 500.0 MB of 4.0 GB · 100.0 MB/s · 5.0s · 35.0s left",
        "download 25 % · 1.0 GB of 4.0 GB · 100.0 MB/s · 10.0s · 30.0s left",
        "verified",
        "verify …",
    ]


def test_the_events_of_a_load_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert progress.detail({**STAGE, "done": 3, "total": 7, "eta": 2.0}) == "1.0s · 2.0s left"
    assert progress.detail(STAGE) == "1.0s"


def test_json_is_the_event_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown(True) as on_event:
        on_event(at(1))
    assert json.loads(capsys.readouterr().err) == at(1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\x1b[2Jb", "a\\x1b[2Jb"), ("two\nlines", "two\\nlines"), ("\u202eabc", "\\u202eabc"), ("é 模型", "é 模型")],
)
def test_s10_control_characters_are_shown_and_not_obeyed(
    text: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert escaped(text) == expected
    with progress.shown(False, plain=True) as on_event:
        on_event({"event": "note", "message": text})
        on_event({**STAGE, "stage": text})
    assert capsys.readouterr().err == f"{expected}\n{expected} …\n"


def test_a_lone_surrogate_is_shown() -> None:
    assert escaped("\udcff") == "\\udcff"


def test_amounts_are_bytes_from_a_megabyte_on() -> None:
    assert [amount(5, 7), amount(0.25, 7), amount(5e6, 10**6), amount(12.4, 999_999)] == ["5", "0.25", "5.0 MB", "12"]


BARS = """
import time
from llmctl import progress
with progress.shown(False) as on_event:
    for done in range(0, 101, 25):
        parts = {f"model-{n:05}-of-00009.safetensors\\x1b[2J": (done * 10**7, 10**9) for n in range(1, 10)}
        if done > 50:
            parts = {"last [b]file[/b]": (1, 0)}
        on_event({"event": "stage", "stage": "down[b]load", "done": done * 10**8, "total": 10**10, "elapsed": 1.0,
                  "eta": 3.0, "speed": 1e8, "parts": parts})
        time.sleep(0.15)
    on_event({"event": "note", "message": "all \\x1b[2Jthere"})
"""


def test_a_terminal_shows_a_bar_for_each_file_and_one_for_all() -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40", "PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, "-c", BARS], stderr=slave, stdout=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 2**16):
            shown += data
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(master)
    assert process.wait(timeout=30) == 0
    text = shown.decode()
    assert "down[b]load" in text and "last [b]file[/b]" in text  # no markup of rich
    assert "5.0 GB of 10.0 GB · 100.0 MB/s · 1.0s · 3.0s left" in text
    assert "250.0 MB of 1.0 GB" in text and "━" in text
    assert "00006-of-00009.safetensors\\x1b[2J" in text and "00007-of-00009" not in text
    assert "all \\x1b[2Jthere" in text
    assert "\x1b[2J" not in text
