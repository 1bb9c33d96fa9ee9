"""A release is put in use as a whole, and what was before comes back as a whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmctl.errors import DeployFailed
from llmctl.host import activation, releases
from tests.conftest import REPO
from tests.host.conftest import made_environment, send_wheel, tree, wanted

STUB = '#!/bin/sh\necho "$PYTHONPATH|$LLMCTL_HOME|$LLMCTL_CONFIG|$*"\n'


@pytest.fixture
def two(home: Path) -> Path:
    """A state folder with two releases and two base environments, nothing in use."""
    for name in ("1.0-a", "1.0-b"):
        built = send_wheel(home, name)
        releases.unpack(home, built.path, name, "1.0", built.sha256)
    for folder in ("base-1", "base-2"):
        python = home / "envs" / made_environment(home, folder) / "bin" / "python"
        python.write_text(STUB)
        python.chmod(0o755)
    return home


def test_a_release_in_use_has_programs_that_need_nothing_of_their_surroundings(two: Path) -> None:
    activation.activate(two, wanted("1.0-a"))
    lib = two / "releases/1.0-a/lib"
    for program, module in (("llmctl", "llmctl"), ("slot-server", "llmctl.runner.server")):
        path = two / "current" / "bin" / program
        out = subprocess.run([path, "a b", "c"], env={}, cwd="/", capture_output=True, text=True, check=True).stdout
        assert out == f"{lib}|{two}|{two}/config|-m {module} a b c\n"
    assert (two / "bin/llmctl").resolve() == two / "releases/1.0-a/bin/llmctl"


def test_f16_a_state_folder_with_spaces_and_quotes_works(tmp_path: Path) -> None:
    home = tmp_path / "a 'b $(touch x)"
    built = send_wheel(home, "1.0-a")
    releases.unpack(home, built.path, "1.0-a", "1.0", built.sha256)
    python = home / "envs" / made_environment(home, "base-1") / "bin" / "python"
    python.write_text(STUB)
    python.chmod(0o755)
    activation.activate(home, wanted("1.0-a"))
    ran = subprocess.run([home / "bin/llmctl", "status"], env={}, cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout == f"{home}/releases/1.0-a/lib|{home}|{home}/config|-m llmctl status\n"
    assert not (tmp_path / "x").exists()


def test_once_in_use_nothing_differs_and_nothing_is_written_again(two: Path) -> None:
    activation.activate(two, wanted("1.0-a"))
    activation.finished(two)
    assert activation.differing(two, wanted("1.0-a")) == []
    before = {path: path.stat().st_mtime_ns for path in two.rglob("*") if path.is_file()}
    assert activation.activate(two, wanted("1.0-a")) == []
    activation.finished(two)
    assert {path: path.stat().st_mtime_ns for path in two.rglob("*") if path.is_file()} == before


def test_what_was_before_comes_back_as_it_was(two: Path) -> None:
    activation.activate(two, wanted("1.0-a"))
    activation.finished(two)
    before = tree(two)
    activation.activate(two, wanted("1.0-b", base="base-2", **{"models.toml": "new\n"}))
    assert releases.current(two) == "1.0-b" and (two / "config/models.toml").exists()
    assert activation.revert(two) == "1.0-a"
    assert tree(two) == before


def test_the_same_release_with_another_environment_comes_back_too(two: Path) -> None:
    activation.activate(two, wanted("1.0-a"))
    activation.finished(two)
    before = tree(two)
    activation.activate(two, wanted("1.0-a", base="base-2"))
    assert json.loads((two / "current/environments.json").read_text())["base"].endswith("base-2/bin/python")
    activation.revert(two)
    assert tree(two) == before


def test_after_two_runs_that_did_not_finish_the_last_that_did_comes_back(two: Path) -> None:
    """The second run finds what the first, which was killed, had put in use: that never proved itself."""
    activation.activate(two, wanted("1.0-a"))
    activation.finished(two)
    before = tree(two)
    activation.activate(two, wanted("1.0-b"))
    assert activation.unfinished(two)
    activation.activate(two, wanted("1.0-b", base="base-2"))
    assert activation.revert(two) == "1.0-a"
    assert tree(two) == before and not activation.unfinished(two)


def test_a_host_that_had_nothing_keeps_the_new_release(two: Path) -> None:
    activation.activate(two, wanted("1.0-a"))
    assert activation.revert(two) is None
    assert releases.current(two) == "1.0-a"


def test_nothing_is_put_in_use_that_is_not_whole(two: Path) -> None:
    with pytest.raises(DeployFailed, match="release 1"):
        activation.activate(two, wanted("1.0-x"))
    with pytest.raises(DeployFailed, match="environment base"):
        activation.activate(two, wanted("1.0-a", base="base-9"))
    (two / "envs/base-1/.llmctl-complete").unlink()
    with pytest.raises(DeployFailed, match="environment base"):
        activation.activate(two, wanted("1.0-a"))
    assert releases.current(two) is None and not (two / "config").exists()


def test_a_current_that_points_nowhere_is_mended(two: Path) -> None:
    os.symlink("releases/gone", two / "current")
    (two / "bin").mkdir()
    os.symlink("/nowhere/llmctl", two / "bin/llmctl")
    activation.activate(two, wanted("1.0-a"))
    assert (two / "bin/llmctl").resolve() == two / "releases/1.0-a/bin/llmctl"
    assert activation.revert(two) is None, "a release that is not there is nothing to go back to"


def test_the_release_before_is_used_as_it_was_used_then(two: Path) -> None:
    old = wanted("1.0-a", **{"models.toml": "old\n", "templates/x.jinja": "{{ x }}"})
    activation.activate(two, old)
    activation.finished(two)
    assert activation.of_release(two, "1.0-a") == old
    with pytest.raises(DeployFailed, match="never in use"):
        activation.of_release(two, "1.0-b")


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from llmctl.host import activation
from tests.host.conftest import wanted
threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
home = Path(sys.argv[1])
while True:
    activation.activate(home, wanted("1.0-b", base="base-2", more="more"))
    activation.revert(home)
"""


def test_f05_killed_at_any_moment_one_of_the_two_releases_is_in_use_and_the_old_one_comes_back(two: Path) -> None:
    activation.activate(two, wanted("1.0-a"))
    activation.finished(two)
    before = tree(two)
    seen = set()
    for attempt in range(8):
        ran = subprocess.run([sys.executable, "-c", KILLED, two, str(0.05 + attempt * 0.017)], cwd=REPO)
        assert ran.returncode == -signal.SIGKILL
        seen.add(now := releases.current(two))
        assert now in ("1.0-a", "1.0-b")
        assert (two / "bin/llmctl").resolve().parts[-3] == now
        activation.activate(two, wanted("1.0-b", base="base-2", more="more"))
        assert activation.revert(two) == "1.0-a"
        found = {name: text for name, text in tree(two).items() if not name.endswith(".tmp")}
        assert found == before
    assert seen
