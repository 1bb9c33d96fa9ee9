"""The store: an artifact appears whole or not at all, and nothing is lost when its maker is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmctl.errors import Busy
from llmctl.files import locked
from llmctl.models import store

OTHER = "import sys, pathlib; from llmctl.models import store\nwith store.staging(pathlib.Path(sys.argv[1])): pass"


def sweep(models: Path) -> None:
    """Another process makes a staging folder, and sweeps before."""
    subprocess.run([sys.executable, "-c", OTHER, str(models)], check=True, timeout=60)


def filled(folder: Path, text: str) -> Path:
    (folder / "file").write_text(text)
    return folder


def test_a_staging_folder_is_its_makers_while_he_lives_and_goes_with_him(tmp_path: Path) -> None:
    with store.staging(tmp_path) as made:
        filled(made, "mine")
        with pytest.raises(Busy), locked(made.with_suffix(".lock"), wait=False):
            pass
        sweep(tmp_path)
        assert (made / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / ".staging").iterdir()] == ["sweep.lock"]


def test_the_folder_of_a_dead_maker_is_swept(tmp_path: Path) -> None:
    dead = "import os, sys, pathlib; from llmctl.models import store\n"
    dead += "with store.staging(pathlib.Path(sys.argv[1])): os._exit(0)"
    subprocess.run([sys.executable, "-c", dead, str(tmp_path)], check=True, timeout=60)
    assert [path for path in (tmp_path / ".staging").iterdir() if path.is_dir()]
    sweep(tmp_path)
    assert [path.name for path in (tmp_path / ".staging").iterdir()] == ["sweep.lock"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_while_it_replaces_an_artifact_one_of_the_two_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    target = tmp_path / "model" / "gguf"
    target.mkdir(parents=True)
    filled(target, "old")
    left = [renames]

    class Killed(BaseException):
        pass

    def rename(old: Path, new: Path) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        os.replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "rename", rename)
        patch.setattr(store.shutil, "rmtree", lambda *_, **__: None)  # the dead clean nothing up
        with pytest.raises(Killed) if renames < 2 else store.contextlib.nullcontext(), store.staging(tmp_path) as made:
            store.publish(filled(made, "new"), target)
    sweep(tmp_path)
    assert (target / "file").read_text() == ("new" if renames == 2 else "old")
    assert [path.name for path in (tmp_path / ".staging").iterdir()] == ["sweep.lock"]
