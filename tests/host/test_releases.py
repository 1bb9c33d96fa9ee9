"""Releases on a host: whole or not there, told when damaged, flipped in one step, five of them kept."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmctl.errors import DeployFailed, UsageError
from llmctl.host import releases
from tests.conftest import REPO
from tests.host.conftest import send_wheel


def unpack(home: Path, release: str, **says: str) -> releases.Release:
    built = send_wheel(home, release, **says)
    made = releases.unpack(home, built.path, release, release.partition("-")[0], built.sha256)
    releases.note_order(home, release)
    return made


def test_a_release_holds_the_wheel_and_says_what_it_is(home: Path) -> None:
    made = unpack(home, "1.0-a", says="SAYS = 1")
    assert (home / "releases/1.0-a/lib/llmctl/__init__.py").read_text() == "SAYS = 1"
    assert releases.read(home, "1.0-a") == made and releases.damage(home, "1.0-a") == []


def test_a_wheel_that_was_damaged_on_its_way_is_not_unpacked(home: Path) -> None:
    built = send_wheel(home, "1.0-a")
    built.path.write_bytes(built.path.read_bytes()[:-1] + b"!")
    with pytest.raises(DeployFailed) as caught:
        releases.unpack(home, built.path, "1.0-a", "1.0", built.sha256)
    assert "damaged" in caught.value.message
    assert not (home / "releases" / "1.0-a").exists()


@pytest.mark.parametrize("hurt", ["truncate", "remove", "unlink release.json"])
def test_a_torn_release_is_told_and_made_anew(home: Path, hurt: str) -> None:
    unpack(home, "1.0-a", says="SAYS = 1")
    lib = home / "releases/1.0-a/lib/llmctl"
    if hurt == "truncate":
        (lib / "domain.py").write_text("x")
    elif hurt == "remove":
        (lib / "domain.py").unlink()
    else:
        (home / "releases/1.0-a/release.json").unlink()
    assert releases.damage(home, "1.0-a") == (["release.json"] if "release.json" in hurt else ["llmctl/domain.py"])
    unpack(home, "1.0-a", says="SAYS = 1")
    assert releases.damage(home, "1.0-a") == []
    assert [path.name for path in (home / "releases").iterdir() if path.is_dir()] == ["1.0-a"]


KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from llmctl.host import releases
threading.Timer(float(sys.argv[3]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
while True:
    releases.unpack(Path(sys.argv[1]), Path(sys.argv[2]), "1.0-a", "1.0", sys.argv[4])
"""


def test_f05_killed_while_it_unpacks_a_release_is_whole_or_not_there(home: Path) -> None:
    built = send_wheel(home, "1.0-a", says="SAYS = 1\n" * 10000)
    seen = set()
    for attempt in range(6):
        after = str(0.01 + attempt * 0.013)
        argv = [sys.executable, "-c", KILLED, home, built.path, after, built.sha256]
        subprocess.run(argv, cwd=REPO)
        if releases.read(home, "1.0-a"):
            assert releases.damage(home, "1.0-a") == []
            seen.add("whole")
        seen.add("run")
    assert "whole" in seen
    made = releases.unpack(home, built.path, "1.0-a", "1.0", built.sha256)
    assert releases.listed(home) == [made]


def test_current_is_flipped_in_one_step_and_may_point_nowhere(home: Path) -> None:
    for name in ("1.0-a", "1.0-b"):
        unpack(home, name)
    assert releases.current(home) is None
    releases.flip(home, "1.0-a")
    assert (home / "current/lib/llmctl").is_dir()
    seen: set[str | None] = set()
    done = threading.Event()
    watcher = threading.Thread(target=lambda: [seen.add(releases.current(home)) for _ in iter(done.is_set, True)])
    watcher.start()
    for name in ("1.0-b", "1.0-a") * 30:
        releases.flip(home, name)
    done.set()
    watcher.join()
    assert seen <= {"1.0-a", "1.0-b"}
    os.replace(home / "releases/1.0-a", home / "gone")
    assert releases.current(home) == "1.0-a" and releases.read(home, "1.0-a") is None
    releases.flip(home, None)
    assert releases.current(home) is None


def test_five_are_kept_in_the_order_of_their_deploys_and_those_in_use_besides(home: Path) -> None:
    for letter in "abcdefgh":
        unpack(home, f"1.0-{letter}")
    releases.note_order(home, "1.0-b")  # deployed again
    releases.flip(home, "1.0-a")
    (home / "releases" / f"{releases.STAGING}1.0-x").mkdir()
    assert set(releases.prune(home, ["1.0-c"])) == {"1.0-d"}
    left = [release.id for release in releases.listed(home)]
    assert left == ["1.0-a", "1.0-c", "1.0-e", "1.0-f", "1.0-g", "1.0-h", "1.0-b"]
    assert not list((home / "releases").glob(f"{releases.STAGING}*"))


def test_the_one_before_is_that_of_the_deploy_before(home: Path) -> None:
    for letter in "abc":
        unpack(home, f"1.0-{letter}")
    releases.flip(home, "1.0-c")
    assert releases.find(home, None).id == "1.0-b"
    releases.flip(home, "1.0-b")  # a rollback changes no order: the next one goes further back
    assert releases.find(home, None).id == "1.0-a"
    releases.flip(home, "1.0-a")
    with pytest.raises(UsageError) as caught:
        releases.find(home, None)
    assert "1.0-c" in (caught.value.hint or "")


def test_a_release_is_found_by_id_or_by_the_newest_of_a_version(home: Path) -> None:
    for name in ("1.0-a", "2.0-b", "1.0-c"):
        unpack(home, name)
    assert releases.find(home, "1.0").id == "1.0-c"
    assert releases.find(home, "2.0-b").version == "2.0"
    for unknown in ("3.0", "../../etc", ""):
        with pytest.raises(UsageError) as caught:
            releases.find(home, unknown)
        assert "2.0-b" in (caught.value.hint or "")


def test_only_what_engines_run_counts_as_their_code(home: Path) -> None:
    first = unpack(home, "1.0-a", says="1", engine="1")
    other_server = unpack(home, "1.0-b", says="2", engine="1")
    other_engine = unpack(home, "1.0-c", says="2", engine="2")
    assert first.engine_code == other_server.engine_code != other_engine.engine_code
