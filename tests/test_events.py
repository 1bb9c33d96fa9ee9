"""The events of a host: every one is told once and in order, whatever happens to the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmctl import events
from llmctl.files import locked


def noted(home: Path, *kinds: str) -> None:
    for kind in kinds:
        assert events.note(home, kind, port=8101)


def kinds(found: list[dict[str, object]]) -> list[object]:
    return [event["kind"] for event in found]


def test_what_is_noted_is_told_once_and_in_order(home: Path) -> None:
    assert events.since(home, "") == ([], "")
    assert events.note(home, "swap", port=8101, model="a", outcome="ok", what="why", who="me@here", seconds=1.5)
    noted(home, "crash", "restart")
    first, cursor = events.since(home, "", most=2)
    assert kinds(first) == ["swap", "crash"]
    swap = first[0]
    assert (swap["port"], swap["model"], swap["outcome"], swap["what"]) == (8101, "a", "ok", "why")
    assert swap["details"] == {"who": "me@here", "seconds": 1.5}
    rest, cursor = events.since(home, cursor)
    assert kinds(rest) == ["restart"]
    assert events.since(home, cursor) == ([], cursor)
    assert (home / events.NAME).stat().st_mode & 0o777 == 0o600


def test_a_rotation_loses_nothing_that_a_reader_has_not_seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted(home, "load")
    _, cursor = events.since(home, "")
    noted(home, "swap")
    monkeypatch.setattr(events, "LARGEST", 100)
    noted(home, "crash")
    assert (home / events.OLDER).exists() and not (home / events.NAME).exists()
    assert kinds(events.since(home, cursor)[0]) == ["swap", "crash"]
    monkeypatch.undo()
    noted(home, "restart")
    found, cursor = events.since(home, cursor)
    assert kinds(found) == ["swap", "crash", "restart"]
    assert events.since(home, cursor)[0] == []
    assert kinds(events.since(home, "")[0]) == ["load", "swap", "crash", "restart"]


def test_another_file_with_the_same_inode_and_more_bytes_is_read_from_its_beginning(home: Path) -> None:
    noted(home, "load")
    _, cursor = events.since(home, "")
    inode = (home / events.NAME).stat().st_ino
    other = home / "other"
    noted(other_home(other), "swap", "crash", "restart")
    (home / events.NAME).write_bytes((other / events.NAME).read_bytes())
    assert (home / events.NAME).stat().st_ino == inode
    assert kinds(events.since(home, cursor)[0]) == ["swap", "crash", "restart"]


def other_home(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_line_that_goes_into_a_file_just_put_aside_is_written_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted(home, "load")

    def late(path: Path, line: bytes) -> os.stat_result:
        monkeypatch.undo()
        with open(path, "ab") as file:  # opened, and then renamed by another process
            os.replace(path, home / events.OLDER)
            file.write(line + b"\n")
        return (home / events.OLDER).stat()

    monkeypatch.setattr(events, "append", late)
    noted(home, "swap")
    assert kinds(events.since(home, "")[0]) == ["load", "swap", "swap"]
    ids = [event["id"] for event in events.since(home, "")[0]]
    assert ids[1] == ids[2]


@pytest.mark.parametrize("cursor", ["nonsense", "::", "abc:12", ":5", "0123456789abcdef:99999999999"])
def test_a_cursor_that_means_nothing_here_starts_at_the_beginning(home: Path, cursor: str) -> None:
    noted(home, "load", "swap")
    assert kinds(events.since(home, cursor)[0]) == ["load", "swap"]


def test_a_torn_line_hides_no_other(home: Path) -> None:
    noted(home, "load")
    with open(home / events.NAME, "ab") as file:
        file.write(b'{"id": "x", "at": 1, "ki')
    found, cursor = events.since(home, "")
    assert kinds(found) == ["load"]
    noted(home, "swap")
    assert kinds(events.since(home, cursor)[0]) == ["swap"]


def test_a_line_that_is_half_written_is_told_when_it_is_whole(home: Path) -> None:
    noted(home, "load", "swap")
    whole = (home / events.NAME).read_bytes()
    (home / events.NAME).write_bytes(whole[:-10])
    found, cursor = events.since(home, "")
    assert kinds(found) == ["load"]
    (home / events.NAME).write_bytes(whole)
    assert kinds(events.since(home, cursor)[0]) == ["swap"]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[]", b"1", b'{"id": 1}', b'{"id": "a", "kind": "load"}', b"[" * 100_000]
)
def test_lines_that_are_no_events_are_passed_over(home: Path, line: bytes) -> None:
    noted(home, "load")
    with open(home / events.NAME, "ab") as file:
        file.write(line + b"\n")
    noted(home, "swap")
    assert kinds(events.since(home, "")[0]) == ["load", "swap"]


def test_processes_that_note_at_once_lose_nothing_over_a_rotation(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from llmctl import events; events.LARGEST = 40_000\n"
        "for n in range(100): assert events.note(Path(sys.argv[1]), 'swap', what=f'{sys.argv[2]}-{n}')"
    )
    noted(home, "load")
    seen: dict[str, str] = {}
    cursor, over = "", threading.Event()
    writers = [subprocess.Popen([sys.executable, "-c", code, str(home), str(n)]) for n in range(3)]

    def wait() -> None:
        for writer in writers:
            writer.wait()
        over.set()

    threading.Thread(target=wait).start()
    while True:
        last = over.is_set()
        found, cursor = events.since(home, cursor)
        seen |= {event["id"]: event["what"] for event in found}
        if last and not found:
            break
    assert all(writer.returncode == 0 for writer in writers)
    assert (home / events.OLDER).exists()
    wanted = {f"{writer}-{n}" for writer in range(3) for n in range(100)}
    assert wanted == set(seen.values()) - {""}


def test_a_rotation_that_another_process_does_is_left_to_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LARGEST", 10)
    with locked(home / "events.lock"):
        noted(home, "load", "swap")
        assert not (home / events.OLDER).exists()
    noted(home, "crash")
    monkeypatch.undo()
    noted(home, "restart")
    events._rotate(home)  # another was quicker: the file is a new one by now
    assert (home / events.NAME).exists()
    assert len((home / events.OLDER).read_text().splitlines()) == 3


def test_f6_an_event_on_a_full_disk_is_forgotten_and_stops_nobody(home: Path) -> None:
    """The file may grow no further than what is in it."""
    noted(home, "load")
    code = (
        "import sys, resource; from pathlib import Path; from llmctl import events\n"
        "home = Path(sys.argv[1]); size = (home / events.NAME).stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))\n"
        "assert events.note(home, 'swap') is False\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "assert events.note(home, 'crash') is True\n"
    )
    subprocess.run([sys.executable, "-c", code, str(home)], check=True)
    assert kinds(events.since(home, "")[0]) == ["load", "crash"]
    assert not events.note(home / "nowhere", "load")


def test_long_texts_are_cut_and_odd_ones_kept(home: Path) -> None:
    assert events.note(home, "crash", what="x" * 10**6, log="y" * 10**6, odd="\ud800 \n é")
    assert events.note(home, "crash", what="z", bad=object()) is False
    (found,), _ = events.since(home, "")
    assert len(found["what"]) == events.LONGEST and found["details"]["odd"] == "\ud800 \n é"
    assert len((home / events.NAME).read_text().splitlines()) == 1
    assert json.loads((home / events.NAME).read_text())["kind"] == "crash"
