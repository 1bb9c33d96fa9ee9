"""Log files: clean lines, capped, and read on over rotations."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmctl import logs
from llmctl.logs import Lines, Log, Tail, clean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("a\x00b\x9b2Jc", "ab2Jc"),
        ("two\nlines", "two lines"),
        ("tab\tstays", "tab\tstays"),
        ("x" * 5000, "x" * logs.LONGEST_LINE),
    ],
)
def test_a_clean_line(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_bytes_become_the_same_lines_however_they_are_cut(step: int) -> None:
    data = "one\r\n10 %\r20 %\rtwo é\n\n\x1b[31mred\x1b[0m\nrest".encode()
    lines = Lines()
    found = [line for at in range(0, len(data), step) for line in lines.feed(data[at : at + step])]
    assert [*found, *lines.feed(b"")] == ["one", "10 %", "20 %", "two é", "red", "rest"]


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    lines = Lines()
    assert sum(len(line) for _ in range(100) for line in lines.feed(b"x" * 1000)) > 50_000
    assert len(lines.rest) <= logs.LONGEST_LINE


def test_a_log_is_capped_private_and_read_on_over_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LARGEST", 2000)
    log, tail = Log(tmp_path / "log"), Tail(tmp_path / "log")
    assert tail.new() == []
    seen = []
    for n in range(200):
        log.line("out", f"line {n}")
        seen += tail.new()
    log.close()
    tail.close()
    assert [line.partition(" out: ")[2] for line in seen] == [f"line {n}" for n in range(200)]
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2"]
    assert all(file.stat().st_size < 2100 and file.stat().st_mode & 0o777 == 0o600 for file in files)


def test_reading_ends_when_nothing_goes_on(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    log.line("out", "first")
    log.line("out", "second")
    answers = iter((True, False))

    def going_on() -> bool:
        log.line("out", "while it goes on")
        return next(answers)

    found = [line.partition(" out: ")[2] for line in logs.read(tmp_path / "log", 1, going_on)]
    log.close()
    assert found == ["second", "while it goes on", "while it goes on"]
    assert list(logs.read(tmp_path / "log", 0)) == []
    assert list(logs.read(tmp_path / "none", 10)) == []


def test_a_log_whose_next_file_cannot_be_opened_keeps_the_one_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / "log")

    def full() -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "_open", full)
    with pytest.raises(OSError, match="No space"):
        log.rotate()
    os.fstat(log.fd)  # still its own, and not somebody else's by now
    log.close()


def test_what_a_server_notes_ends_nothing_where_the_disk_is_full() -> None:
    from llmctl.runner.port_server import PortServer

    full = Log(Path("/dev/full"))
    with pytest.raises(OSError, match="No space"):
        full.line("slot", "noted")
    PortServer.note(SimpleNamespace(log=full), "noted")  # type: ignore[arg-type]
    full.close()
