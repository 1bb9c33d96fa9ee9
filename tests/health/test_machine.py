"""What a machine has left, when it was deployed to, and what was changed since."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmctl import backends
from llmctl.domain import build
from llmctl.errors import Unsupported
from llmctl.health import machine
from llmctl.health.seen import HostSeen
from llmctl.host import activation, releases
from tests.host.conftest import Asker, made_environment, send_wheel, wanted


@pytest.fixture
def deployed(home: Path) -> Path:
    """A state folder that a deploy brought 1.0-a to, with its audit line."""
    ask = Asker(home)
    ask("begin")
    built = send_wheel(home, "1.0-a", says="x = 1\n")
    made_environment(home, "base-1")
    ask.release(built)
    ask.activate(wanted("1.0-a", **{"models.toml": "# none\n"}))
    ask.finish()
    return home


def test_the_fields_are_those_of_the_machine(home: Path) -> None:
    found = machine.machine(home, "auto")
    seen = build(HostSeen, {"at": 0.0, "version": "1", **found})
    assert {key: getattr(seen, key) for key in found} == found
    assert 0 < seen.disk_free <= seen.disk_total
    assert 0 < seen.memory_free <= seen.memory_total
    assert seen.backend == backends.detect()
    assert seen.boot_id
    assert (seen.manifest, seen.drift) == (None, ())


def test_the_disk_with_less_room_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = home / "elsewhere" / "models"  # not there yet: the disk that it would be on
    (home / "elsewhere").mkdir()
    sizes = {home: (50, 100), home / "elsewhere": (7, 1000)}
    real = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=sizes[path][0], total=sizes[path][1]))
    assert machine.machine(home, "cpu", models)["disk_free"] == 7
    assert machine.machine(home, "cpu")["disk_total"] == 100


def test_memory_that_cannot_be_measured_is_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmeasured() -> backends.Memory:
        raise Unsupported("no")

    monkeypatch.setattr(backends.get("cpu"), "memory", unmeasured)
    assert machine.machine(home, "cpu")["memory_total"] == 0


def test_a_deploy_has_its_time_and_nothing_differs(deployed: Path) -> None:
    at = machine.manifest(deployed)
    made = releases.read(deployed, "1.0-a")
    assert at and made and abs(at - made.made) < 60
    assert machine.drift(deployed) == []


def test_without_an_audit_line_it_is_the_time_of_the_release(deployed: Path) -> None:
    (deployed / "audit.log").unlink()
    made = releases.read(deployed, "1.0-a")
    assert made and machine.manifest(deployed) == made.made


def test_a_deploy_that_failed_or_a_torn_time_is_not_the_last(deployed: Path) -> None:
    at = machine.manifest(deployed)
    with open(deployed / "audit.log", "a") as log:
        for entry in (
            {"at": "2099-01-01T00:00:00+00:00", "what": "deploy", "outcome": "no room"},
            {"at": "2099-01-01T00:00:00+00:00", "what": "took over"},
            {"at": "yesterday", "what": "deploy", "outcome": "ok"},
        ):
            log.write(json.dumps(entry) + "\n")
    assert machine.manifest(deployed) == at


def edit(home: Path) -> None:
    (home / "releases/1.0-a/lib/llmctl/__init__.py").write_text("x = 2\n")


def remove(home: Path) -> None:
    (home / "releases/1.0-a/lib/llmctl/domain.py").unlink()


def configure(home: Path) -> None:
    (home / "config/hosts.toml").write_text("# by hand\n")


def mislead(home: Path) -> None:
    (home / "bin/llmctl").unlink()


def lose(home: Path) -> None:
    (home / "envs/base-1/.llmctl-complete").unlink()


def interrupt(home: Path) -> None:
    activation._note_undo(home, [])


def tear(home: Path) -> None:
    (home / "releases/1.0-a/environments.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edit, ["1.0-a/llmctl/__init__.py"]),
        (remove, ["1.0-a/llmctl/domain.py"]),
        (configure, ["config/hosts.toml"]),
        (mislead, ["bin/llmctl"]),
        (lose, ["environment base"]),
        (interrupt, ["an unfinished deploy"]),
    ],
)
def test_what_was_changed_since_is_named(deployed: Path, change, told: list[str]) -> None:
    change(deployed)
    assert machine.drift(deployed) == told


def test_a_release_whose_notes_are_torn_is_told(deployed: Path) -> None:
    tear(deployed)
    (told,) = machine.drift(deployed)
    assert "1.0-a was never in use here" in told


def test_a_release_that_is_gone_is_drift(deployed: Path) -> None:
    shutil.rmtree(deployed / "releases/1.0-a")
    assert machine.drift(deployed) == ["1.0-a/release.json"]


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, llmctl.health.machine, llmctl.health.sensors; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert {"typer", "rich", "httpx", "fabric", "sqlite3", "asyncio", "ssl"}.isdisjoint(ran.stdout.split())
