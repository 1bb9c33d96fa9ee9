"""A history that is full, read-only, locked, torn, of a newer llmctl, or whose writer is killed: F5, F6, F8."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.errors import HistoryError
from llmctl.files import locked
from llmctl.history import database, schema
from llmctl.history.store import Check, History

ROWS = 40
WRITER = f"""
import sys, time
from pathlib import Path
from llmctl.history.store import Check, History
with History.open(Path(sys.argv[1]), patience=30.0) as history:
    print("open", flush=True)
    run = 0
    while True:
        run += 1
        history.checked([Check("gpu1", 8101 + n, run, "ok", "x" * 500) for n in range({ROWS})])
        history.take("gpu1", [{{"id": f"{{sys.argv[2]}}-{{run}}", "at": 2e9, "kind": "swap"}}], str(run))
        time.sleep(float(sys.argv[3]))
"""
"""Arguments: the file, a name, seconds between two runs."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def filled(path: Path, runs: int = 20) -> None:
    with History.open(path) as history:
        for run in range(runs):
            history.checked([Check("gpu1", 8101 + n, time.time() + run, "ok", "x" * 200) for n in range(ROWS)])


def torn_files(path: Path) -> list[Path]:
    found = path.parent.glob(f"{path.name}.torn-*")
    return sorted(file for file in found if not file.name.endswith(("-wal", "-shm")))


def test_f5_a_killed_writer_leaves_whole_runs_and_a_sound_file(path: Path) -> None:
    chance = random.Random(7)
    seen = 0
    for turn in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(turn), "0"], stdout=subprocess.PIPE)
        assert writer.stdout and writer.stdout.readline() == b"open\n"
        time.sleep(chance.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        with History.open(path) as history:
            assert history.said == ""
            assert history.ask("PRAGMA integrity_check") == [("ok",)]
            ((checks,),) = history.ask("SELECT count(*) FROM checks WHERE at < 1e9")
            assert checks % ROWS == 0 and checks >= seen
            seen = checks
    assert torn_files(path) == []


def test_one_that_another_process_makes_meanwhile_is_no_foreign_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[threading.Thread] = []
    real = schema._pragma

    def slow(db: sqlite3.Connection, name: str) -> int:
        value = real(db, name)
        if name == "application_id" and not made:
            made.append(threading.Thread(target=filled, args=(path, 1)))
            made[0].start()
            time.sleep(0.5)
        return value

    monkeypatch.setattr(schema, "_pragma", slow)
    with History.open(path, patience=30.0) as history:
        made[0].join()
        assert len(history.last()) == ROWS


def test_writers_at_once_all_go_on(path: Path) -> None:
    """Also where all make the file."""
    argv = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*argv, str(n), "0.05"], stdout=subprocess.PIPE) for n in range(3)]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == b"open\n"
    with History.open(path, write=False) as history:
        end = time.monotonic() + 30
        while len({found.id.partition("-")[0] for found in history.events(most=-1)}) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        for writer in writers:
            assert writer.poll() is None
            writer.kill()
            writer.wait()
            if writer.stdout:
                writer.stdout.close()
        assert {found.id.partition("-")[0] for found in history.events(most=-1)} == {"0", "1", "2"}


# ── damaged ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def cut(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))


def zeros_within(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\0" * (path.stat().st_size - 4096))


def zeros_at_the_head(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"\0" * 4096)


@pytest.mark.parametrize("damage", [cut, garbage, zeros_within, zeros_at_the_head])
def test_f8_a_torn_history_is_put_aside_and_a_new_one_begun(path: Path, damage: object) -> None:
    filled(path)
    damage(path)  # type: ignore[operator]
    bad = path.read_bytes()
    with History.open(path) as history:
        history.last()
        history.checked([Check("gpu1", 8101, time.time(), "ok")])
        assert len(history.last()) == 1
        assert history.said and "torn-" in history.said
    (kept,) = torn_files(path)
    assert kept.read_bytes() == bad and kept.name in history.said
    with History.open(path) as history:
        assert history.said == "" and len(history.last()) == 1


def test_f8_a_history_that_tears_while_it_is_open_is_put_aside_too(path: Path) -> None:
    filled(path)
    with History.open(path) as history:
        assert len(history.last()) == ROWS
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        zeros_within(path)
        with sqlite3.connect(path) as db, pytest.raises(sqlite3.DatabaseError):
            db.execute("SELECT count(*) FROM checks").fetchall()
        history.checked([Check("gpu1", 8101, time.time(), "ok")])
        assert "torn-" in history.said
        assert len(history.last()) == 1
    assert len(torn_files(path)) == 1


def test_f8_the_wal_of_a_torn_history_goes_along_with_it(path: Path) -> None:
    """Beside a new file it would be taken for the new one's."""
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("INSERT INTO cursors VALUES ('gpu1', 'of the torn one')")
        other.commit()
        zeros_within(path)
        with History.open(path) as history:
            history.checked([Check("gpu1", 9000, time.time(), "ok")])
            assert history.said and len(history.last()) == 1 and history.cursor("gpu1") == ""
            assert history.ask("PRAGMA integrity_check") == [("ok",)]
        (torn,) = torn_files(path)
        assert torn.with_name(f"{torn.name}-wal").stat().st_size > 4096


def test_f8_what_another_process_put_aside_already_is_not_put_aside_again(path: Path) -> None:
    filled(path)
    with History.open(path) as late:
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        garbage(path)
        with History.open(path) as history:
            history.checked([Check("gpu1", 8101, time.time(), "ok")])
            assert "torn-" in history.said
            late.checked([Check("gpu1", 8102, time.time(), "ok")])
            assert late.said == "" and len(torn_files(path)) == 1
            assert len(history.last()) == len(late.last()) == 2


def test_f8_while_another_process_puts_it_aside_that_is_told(path: Path) -> None:
    garbage(path)
    with locked(path.with_name("history.db.lock")), pytest.raises(HistoryError, match="cannot be put aside"):
        History.open(path)


def test_f8_few_torn_files_are_kept(path: Path) -> None:
    for n in range(database.TORN_KEPT + 2):
        (path.parent / f"history.db.torn-2026010{n}T000000-1").write_text("old")
        (path.parent / f"history.db.torn-2026010{n}T000000-1-wal").write_text("old")
    garbage(path)
    with History.open(path):
        pass
    left = torn_files(path)
    assert len(left) == database.TORN_KEPT and left[0].name.startswith("history.db.torn-20260103")
    assert len(list(path.parent.glob("*-wal"))) == database.TORN_KEPT - 1


def test_f8_a_reader_leaves_a_torn_history_alone(path: Path) -> None:
    garbage(path)
    with pytest.raises(HistoryError, match="damaged") as caught:
        History.open(path, write=False)
    assert caught.value.hint and "--sync" in caught.value.hint
    assert [file.name for file in path.parent.iterdir()] == [path.name] and path.stat().st_size == 50_000


# ── of another version ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("write", [True, False])
def test_f8_a_history_of_a_newer_llmctl_is_refused_and_left_as_it_is(path: Path, write: bool) -> None:
    filled(path, 1)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(HistoryError, match=r"newer llmctl \(version 99") as caught:
        History.open(path, write)
    assert caught.value.hint
    assert path.read_bytes() == before and torn_files(path) == []


@pytest.mark.parametrize("write", [True, False])
def test_a_database_of_something_else_is_refused_and_left_as_it_is(path: Path, write: bool) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photos (name TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(HistoryError, match="something else"):
        History.open(path, write)
    assert path.read_bytes() == before


@pytest.mark.parametrize("write", [True, False])
def test_an_older_history_is_brought_up_to_date(path: Path, write: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, 1)
    step = "ALTER TABLE checks ADD COLUMN watts REAL; UPDATE checks SET watts = 5;"
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, step))
    with History.open(path, write) as history:
        assert len(history.last()) == ROWS
        assert history.ask("SELECT DISTINCT watts FROM checks") == [(5.0,)]
        assert history.ask("PRAGMA user_version") == [(len(schema.STEPS),)]


def test_a_step_that_fails_leaves_the_older_history_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, 1)
    with monkeypatch.context() as patch:
        step = "ALTER TABLE checks ADD COLUMN watts REAL; UPDATE nowhere SET watts = 5;"
        patch.setattr(schema, "STEPS", (*schema.STEPS, step))
        with pytest.raises(HistoryError, match="nowhere"):
            History.open(path)
    with History.open(path) as history:
        assert len(history.last()) == ROWS
        assert "watts" not in str(history.ask("SELECT sql FROM sqlite_master"))


# ── full, read-only, locked ─────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def mounted(folder: Path, *how: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", *how, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_f6_on_a_full_disk_the_error_says_so_and_what_was_stays(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=400k", "tmpfs") as small:
        path, kept = small / "history.db", 0
        with History.open(path) as history:
            with pytest.raises(HistoryError, match="is full") as caught:
                for run in range(1000):
                    history.checked([Check("gpu1", 8101 + n, time.time(), "ok", "x" * 500) for n in range(ROWS)])
                    kept = (run + 1) * ROWS
            assert "MB free" in caught.value.message and caught.value.hint
            assert history.ask("SELECT count(*) FROM checks") == [(kept,)] and kept
            history.events()
        with History.open(path, write=False) as history:
            assert history.ask("SELECT count(*) FROM checks") == [(kept,)]
            assert history.said == ""


def test_f6_a_disk_that_is_full_from_the_beginning(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=16k", "tmpfs") as small:
        with open(small / "big", "wb") as file, contextlib.suppress(OSError):
            file.write(b"x" * 16384)
        with pytest.raises(HistoryError, match="is full"):
            History.open(small / "history.db")


def test_f6_a_file_that_may_not_grow_is_an_error_and_no_traceback(path: Path) -> None:
    filled(path, 1)
    code = (
        "import sys, resource\nfrom pathlib import Path\nfrom llmctl.errors import HistoryError\n"
        "from llmctl.history.store import Check, History\n"
        "history = History.open(Path(sys.argv[1]))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, {resource.RLIM_INFINITY}))\n"
        "try:\n    for _ in range(100): history.checked([Check('a', n, 1e10, 'ok', 'x' * 900) for n in range(40)])\n"
        "except HistoryError as error: print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "cannot be used: disk I/O error" in done.stdout and done.stderr == ""
    with History.open(path) as history:
        assert history.ask("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("write", [True, False])
def test_a_read_only_history_can_be_read_and_says_so_when_written(tmp_path: Path, write: bool) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    filled(folder / "history.db", 1)
    with mounted(tmp_path / "ro", "--bind", "-o", "ro", str(folder)) as read_only:
        path = read_only / "history.db"
        if write:
            with pytest.raises(HistoryError, match="read-only") as caught:
                History.open(path)
            assert caught.value.hint and "chmod" in caught.value.hint
        else:
            with History.open(path, write=False) as history:
                assert len(history.last()) == ROWS
                with pytest.raises(HistoryError, match="opened for reading"):
                    history.checked([])


def test_a_history_that_this_user_may_not_write_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    filled(folder / "history.db", 1)
    for part in (*tmp_path.parents[:2], tmp_path, folder):
        part.chmod(0o755)
    (folder / "history.db").chmod(0o444)
    code = (
        "import os, sys, json\nfrom pathlib import Path\nfrom llmctl.errors import HistoryError\n"
        "from llmctl.history.store import Check, History\n"
        "os.setgid(65534) if os.getuid() == 0 else None\nos.setuid(65534) if os.getuid() == 0 else None\n"
        "path = Path(sys.argv[1])\n"
        "with History.open(path, write=False) as history: read = len(history.last())\n"
        "try: History.open(path)\n"
        "except HistoryError as error: print(json.dumps([read, error.message, error.hint]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder / "history.db")], capture_output=True, text=True)
    read, message, hint = json.loads(done.stdout)
    assert read == ROWS and "read-only" in message and hint.startswith("chmod u+w"), done.stderr


def test_one_that_another_process_holds_for_long_is_told(path: Path) -> None:
    filled(path, 1)
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with History.open(path, patience=0.1) as history:
            with pytest.raises(HistoryError, match="another process") as caught:
                history.checked([Check("gpu1", 1, time.time(), "ok")])
            assert caught.value.hint and "fuser" in caught.value.hint
            assert len(history.last()) == ROWS, "and it can be read meanwhile"
            holder.execute("COMMIT")
            history.checked([Check("gpu1", 1, time.time(), "ok")])
    holder.close()


def test_a_reader_of_the_old_kind_is_waited_for(path: Path) -> None:
    """A file that is not in WAL mode becomes so when nobody reads it; SQLite itself does not wait for that."""
    filled(path, 1)
    with sqlite3.connect(path, isolation_level=None, check_same_thread=False) as reader:
        reader.execute("PRAGMA journal_mode = DELETE")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM checks").fetchall()
        threading.Timer(0.5, lambda: reader.execute("COMMIT")).start()
        with History.open(path, patience=30.0) as history:
            assert history.ask("PRAGMA journal_mode") == [("wal",)]
    reader.close()


def test_a_path_that_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="cannot be used"):
        History.open(tmp_path)
    with pytest.raises(HistoryError):
        History.open(tmp_path, write=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError):
        History.open(tmp_path / "file" / "history.db")


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.db"
    filled(path, 1)
    with History.open(path) as history:
        history.checked([Check("gpu1", 1, time.time(), "ok")])
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"history.db": 0o600, "history.db-wal": 0o600, "history.db-shm": 0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
