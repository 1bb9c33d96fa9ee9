"""A real host's cron and systemd run what was scheduled, with the words and folders as they were meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import eventually
from tests.testbed.machines import machines
from tests.units.conftest import Host, install

pytestmark = [pytest.mark.root, pytest.mark.slow]

OTHERS = "# mine\n5 4 * * * /bin/true 100\\%\n"
ODD = "/home/op/o'd 100% $HOME"
PREPARE = f"""
from dataclasses import replace
from llmctl.health import schedule
other = home / 'other'
def what(service, every, home):
    usual = schedule.periodic(['health', 'a  b', '100%', '$HOME'], 60, home, None)
    argv = ({ODD!r} + '/' + service, *usual.argv[-4:])
    return replace(usual, argv=argv, every=every, environment={{'LLMCTL_HOME': {ODD!r}}})
"""
SCRIPT = """#!/bin/sh
{ printf '%s\\n' "$0" "$LLMCTL_HOME" "$@"; } >>"$0.ran"
(sleep 900 & echo $! >"$0.child")
exit 3
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with machines(1) as bed:
        install(bed.machines[0], "systemd")
        host = Host(bed.machines[0])
        folder = host.machine.path(ODD)
        folder.mkdir()
        for name in ("cron", "systemd"):
            (folder / name).write_text(SCRIPT)
            (folder / name).chmod(0o755)
        host.machine.sh("chown -R op: /home/op")
        yield host


def ran(host: Host, service: str) -> list[str]:
    """What it was called with, once it was."""
    path = host.machine.path(f"{ODD}/{service}.ran")
    found: list[str] = eventually(lambda: path.exists() and path.read_text().splitlines()[:6], within=150, every=0.5)
    return found


def asked(host: Host, code: str) -> Any:
    """The value of a piece of Python there."""
    return json.loads(host.python(f"{PREPARE}\nimport json\nprint(json.dumps({code}))"))


def put(host: Host, service: str, every: int, home: str = "home") -> tuple[dict[str, Any], bool]:
    """What is scheduled after an install, and whether that is new."""
    installed = f"schedule.install({service!r}, {home}, what({service!r}, {every}, {home}))"
    now, changed = asked(host, f"(lambda now, new: [now.to_dict(), new])(*{installed})")
    return now, changed


def test_cron_and_systemd_run_it_and_leave_alone_what_is_not_theirs(host: Host) -> None:
    host.machine.sh(f"printf '%s' '{OTHERS}' | crontab -", "op")
    now, changed = put(host, "cron", 60, "other")
    assert changed and now["active"] and now["notes"] == []
    both = host.machine.sh("crontab -l", "op")
    assert both == f"{OTHERS}{now['text']}".strip()
    assert put(host, "cron", 300)[1] and host.machine.sh("crontab -l", "op") != both

    now, changed = put(host, "systemd", 1)
    assert changed and now["active"] and now["notes"] == ["cron ran it before, and does not any more"]
    assert host.machine.sh("crontab -l", "op") == both
    words = [ODD, "health", "a  b", "100%", "$HOME"]
    assert ran(host, "systemd") == [f"{ODD}/systemd", *words]
    for unit in ("llmctl-health.service", "llmctl-health.timer"):
        seen = host.machine.ran(f"systemd-analyze verify --user {unit}", "op")
        assert (seen.returncode, seen.stdout, seen.stderr) == (0, "", "")
    path = host.machine.path(f"{ODD}/systemd.ran")
    eventually(lambda: len(path.read_text().splitlines()) >= 18, every=0.5)
    assert host.show("llmctl-health.service", "Result") == ["success"], "what it found is no failure of its unit"
    child = host.machine.path(f"{ODD}/systemd.child").read_text().split()[0]
    assert host.machine.ran(f"kill -0 {child}").returncode == 0, "what it started goes on"

    again, changed = put(host, "systemd", 1)
    assert not changed and again["active"]
    assert asked(host, "schedule.uninstall(home)") == ["systemd"]
    assert asked(host, "[one.to_dict() for one in schedule.show(home)]") == []
    assert host.machine.ran("ls /home/op/.config/systemd/user/llmctl-health.timer").returncode != 0
    assert host.show("llmctl-health.timer", "LoadState") == ["not-found"]

    assert ran(host, "cron") == [f"{ODD}/cron", *words]
    assert asked(host, "schedule.uninstall(other)") == ["cron"]
    assert host.machine.sh("crontab -l", "op") == OTHERS.strip()
