"""State files: torn, empty, of the future, and kill -9 while they are written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmctl import files
from llmctl.errors import Busy, StateError


def test_a_written_file_reads_back_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "desired.json"
    files.write_json(path, {"x": 1})
    assert files.read_json(path) == {"x": 1}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("torn", ["", "{", '{"version": 1, "da', "[]", '{"data": 1}', "\x00\x00"])
def test_f08_a_torn_file_is_restored_from_its_backup(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "desired.json"
    files.write_json(path, "first")
    files.write_json(path, "second")
    path.write_text(torn)
    assert files.read_json(path) == "first"
    assert files.read_json(path) == "first"
    assert path.with_suffix(".torn").read_text() == torn


def test_f08_without_a_backup_a_torn_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "desired.json"
    path.write_text("{torn")
    with pytest.raises(StateError, match="no usable backup") as caught:
        files.read_json(path)
    assert "mv " in str(caught.value.hint)
    assert path.read_text() == "{torn"


def test_f08_a_future_version_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "desired.json"
    future = json.dumps({"version": files.VERSION + 1, "data": {"new": True}})
    path.write_text(future)
    with pytest.raises(StateError, match="newer llmctl"):
        files.read_json(path)
    assert path.read_text() == future


def test_state_survives_kill_9_while_it_is_written(tmp_path: Path) -> None:
    """A writer killed at any moment leaves a whole file (30 kills; in place, nearly all of them tear)."""
    path = tmp_path / "desired.json"
    code = (
        "import sys, itertools; from pathlib import Path; from llmctl.files import write_json\n"
        "for i in itertools.count(): write_json(Path(sys.argv[1]), {'i': i, 'pad': 'x' * 200_000})"
    )
    for kill in range(30):
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment)
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.05 + 0.003 * kill)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(json.loads(path.read_text())["data"]["pad"]) == 200_000


def test_a_lock_held_elsewhere_is_busy(tmp_path: Path) -> None:
    with files.locked(tmp_path / "x.lock"), pytest.raises(Busy), files.locked(tmp_path / "x.lock", wait=False):
        pass


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        files.write_text(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
