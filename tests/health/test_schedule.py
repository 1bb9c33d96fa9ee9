"""What has health run again and again: texts, and what may not stand in them."""

from __future__ import annotations

import plistlib
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl import units
from llmctl.errors import LlmctlError, Refused, UsageError
from llmctl.health import crontab, schedule
from llmctl.health.target import parse_target
from llmctl.host import removal
from llmctl.units import timer
from llmctl.units.timer import SystemdTimer
from llmctl.units.timer_text import Periodic, plist, service
from llmctl.units.timer_text import timer as timer_text

WHAT = Periodic(
    "llmctl-health", ("/opt/my venv/bin/llmctl", "health", "run", "--quiet"),
    {"LLMCTL_HOME": "/home/op/.llmctl", "LLMCTL_CONFIG": "/home/op/it's 100%"}, 300.0,
)  # fmt: skip
LINE = (
    "*/5 * * * * LLMCTL_HOME=/home/op/.llmctl LLMCTL_CONFIG='/home/op/it'\"'\"'s 100\\%' "
    "'/opt/my venv/bin/llmctl' health run --quiet # llmctl-health: made by llmctl health install"
)
OTHERS = "MAILTO=me@example.org\n# llmctl-health is what I wrote myself\n\n5 4 * * * /bin/backup --of llmctl  \n"
SERVICE = """\
# Made by llmctl health install, which overwrites it.
[Unit]
Description=llmctl: the health of the fleet

[Service]
Type=oneshot
ExecStart=/bin/sh -c "exec \\"$$0\\" \\"$$@\\"" "/opt/my venv/bin/llmctl" health run --quiet
Environment=LLMCTL_HOME=/home/op/.llmctl
Environment="LLMCTL_CONFIG=/home/op/it's 100%%"
SuccessExitStatus=1 3 5
KillMode=process
TimeoutStartSec=1h
Nice=5
"""
TIMER = """\
# Made by llmctl health install, which overwrites it.
[Unit]
Description=llmctl: the health of the fleet, every 300 s

[Timer]
OnActiveSec=30
OnUnitActiveSec=300
AccuracySec=1

[Install]
WantedBy=timers.target
"""


# ── crontab ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_line_of_a_crontab() -> None:
    assert crontab.line(WHAT) == LINE


@pytest.mark.parametrize(
    "every, fields",
    [(60, "* * * * *"), (120, "*/2 * * * *"), (1800, "*/30 * * * *"), (3600, "0 * * * *"), (21600, "0 */6 * * *"),
     (86400, "0 0 * * *")],
)  # fmt: skip
def test_the_times_that_cron_can_say(every: float, fields: str) -> None:
    assert crontab.line(replace(WHAT, every=every)).startswith(f"{fields} LLMCTL_HOME")


@pytest.mark.parametrize("every, near", [(90, "1m"), (420, "6m"), (2700, "30m"), (5400, "1h"), (200000, "24h")])
def test_a_time_that_cron_cannot_say_names_the_nearest(every: float, near: str) -> None:
    with pytest.raises(UsageError, match="cron cannot run something each") as error:
        crontab.line(replace(WHAT, every=every))
    assert (error.value.hint or "").startswith(f"--every {near},")


@pytest.mark.parametrize("bad", ["a\nb", "a\\b", "a\0b", "a\x1b"])
def test_s7_what_would_be_another_line_or_command_is_refused(bad: str) -> None:
    with pytest.raises(Refused, match="a crontab cannot hold") as error:
        crontab.line(replace(WHAT, argv=(*WHAT.argv, bad)))
    assert error.value.hint


def test_a_command_that_cron_would_cut_is_refused() -> None:
    with pytest.raises(Refused, match="longer than cron takes"):
        crontab.line(replace(WHAT, argv=(*WHAT.argv, *["--notify", "x" * 50] * 20)))


def test_s7_a_shell_sees_exactly_the_words(tmp_path: Path) -> None:
    words = ["a b", "$(touch x)", "`y`", ";", "'", '"', "100%", "-oProxyCommand=x", "*"]
    print_ = (sys.executable, "-c", "import sys, os; print(sys.argv[1:], os.environ['LLMCTL_HOME'])", *words)
    row = crontab.line(replace(WHAT, argv=print_, environment={"LLMCTL_HOME": "/o'p %"}))
    command = row.split(None, 5)[5].replace("\\%", "%")  # as cron does
    ran = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ran.stdout == f"{words} /o'p %\n" and not list(tmp_path.iterdir())


def test_our_line_comes_once_and_goes_and_others_stay_as_they_were() -> None:
    once = crontab.replaced(OTHERS, WHAT.label, LINE)
    assert once == f"{OTHERS}{LINE}\n"
    assert crontab.replaced(once, WHAT.label, LINE) == once
    assert crontab.replaced(once, WHAT.label, None) == OTHERS
    changed = f"{LINE}\n{OTHERS}{LINE}\n"
    assert crontab.replaced(changed, WHAT.label, "new") == f"new\n{OTHERS}"
    assert crontab.found(once, WHAT.label) == [LINE] and crontab.found(once, "llmctl-1234abcd-health") == []
    assert crontab.replaced("5 4 * * * /bin/backup", WHAT.label, LINE).splitlines()[0] == "5 4 * * * /bin/backup"


# ── systemd and launchd ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_texts_of_a_systemd_timer() -> None:
    assert service(WHAT) == SERVICE
    assert timer_text(WHAT) == TIMER
    assert "\nUser=op\n" in service(WHAT, "op")


def test_s7_a_unit_takes_no_line_of_somebody_else() -> None:
    with pytest.raises(Refused, match="control character"):
        service(replace(WHAT, environment={"LLMCTL_HOME": "/x\nExecStartPre=/bin/evil"}))
    assert '/x "a%%b" $$HOME\n' in service(replace(WHAT, argv=("/x", "a%b", "$HOME")))


def test_the_property_list_of_launchd() -> None:
    found = plistlib.loads(plist(WHAT, Path("/home/op/.llmctl/health/launchd.log")))
    assert found["ProgramArguments"] == list(WHAT.argv) and found["StartInterval"] == 300
    assert found["EnvironmentVariables"] == {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **WHAT.environment}
    kinds = {
        "Label": str, "ProgramArguments": list, "EnvironmentVariables": dict, "StandardOutPath": str,
        "StandardErrorPath": str, "StartInterval": int, "RunAtLoad": bool, "ProcessType": str,
        "AbandonProcessGroup": bool, "Umask": int,
    }  # fmt: skip
    assert {key: type(value) for key, value in found.items()} == kinds


def test_timers_have_names_of_their_state_folder(tmp_path: Path) -> None:
    user = timer.get("systemd")
    assert isinstance(user, SystemdTimer)
    names = {path.name for home in (Path("~/.llmctl").expanduser(), tmp_path) for path in user.files(home)}
    assert {"llmctl-health.service", "llmctl-health.timer"} < names and len(names) == 4
    with pytest.raises(Refused, match="none has no timers"):
        timer.get("none")


# ── what is scheduled ───────────────────────────────────────────────────────────────────────────────────────────────


def test_what_runs_has_the_program_and_the_folders_by_their_whole_path(tmp_path: Path) -> None:
    what = schedule.periodic(["health", "run"], 60.0, tmp_path, tmp_path / "config")
    assert what.argv == (*schedule.program(tmp_path), "health", "run")
    assert what.environment == {"LLMCTL_HOME": str(tmp_path), "LLMCTL_CONFIG": str(tmp_path / "config")}
    assert what.label.startswith("llmctl-") and what.label.endswith("-health")
    assert schedule.periodic([], 60.0, Path("~/.llmctl").expanduser(), None).label == "llmctl-health"


def starts(argv: tuple[str, ...]) -> str:
    """What it prints of itself in an empty environment, from another folder."""
    ran = subprocess.run([*argv, "--help"], capture_output=True, text=True, cwd="/", env={"TERM": "dumb"})
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_it_starts_from_anywhere_however_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = schedule.program(tmp_path)
    assert Path(installed[0]).name == "llmctl" and Path(installed[0]).is_absolute()
    monkeypatch.setattr(schedule, "_runs", lambda script: False)
    assert "health" in starts(schedule.program(tmp_path)), "as a module"
    home = Path(schedule.__file__).parents[2]
    monkeypatch.setattr(schedule, "_runs", lambda script: True)
    assert schedule.program(home) == (str(home / "bin" / "llmctl"),), "the code lies in the state folder: a deploy"


@pytest.mark.parametrize(
    "words, every, said",
    [
        (["--notify", "https://chat.example/canary-1"], 300.0, "https://chat.example/…"),
        (["health"], 5.0, "every 5 s is too often"),
    ],
)
def test_what_is_not_scheduled(tmp_path: Path, words: list[str], every: float, said: str) -> None:
    with pytest.raises(LlmctlError) as error:
        schedule.periodic(words, every, tmp_path, None)
    assert said in error.value.message and "canary" not in error.value.message and error.value.hint


def test_a_service_that_runs_nothing_again_and_again_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'anacron' runs nothing") as error:
        schedule.install("anacron", tmp_path, WHAT)
    assert error.value.hint == "one of cron, systemd, systemd-system, launchd"


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crontab command whose crontab is a file here: the real one is this machine's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    text = f"""#!/bin/sh
test -e {tmp_path}/denied && {{ echo "You (op) are not allowed to use this program (crontab)" >&2; exit 1; }}
case "$1" in
-l) cat {tmp_path}/tab 2>/dev/null || {{ echo "no crontab for op" >&2; exit 1; }} ;;
-r) rm {tmp_path}/tab ;;
-) cat >{tmp_path}/tab ;;
esac
"""
    (folder / "crontab").write_text(text)
    (folder / "crontab").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path / "tab"


def test_install_show_uninstall(spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = schedule.periodic(["health"], 300.0, tmp_path, None)
    spool.write_text(OTHERS)
    monkeypatch.setattr(crontab, "daemon_runs", lambda: False)
    now, changed = schedule.install("cron", tmp_path, what, [parse_target("apprise:PAGER")])
    assert changed and now.text in spool.read_text() and not now.active
    assert now.notes[0].startswith("no cron daemon runs here")
    assert now.notes[1].startswith("it knows no variables of your shell (PAGER)")
    monkeypatch.setattr(crontab, "daemon_runs", lambda: True)
    again, changed = schedule.install("cron", tmp_path, what)
    assert not changed and schedule.show(tmp_path) == [again] and again.active and not again.notes
    assert schedule.show(tmp_path / "other") == []
    assert schedule.uninstall(tmp_path) == ["cron"] and schedule.uninstall(tmp_path) == []
    assert spool.read_text() == OTHERS
    spool.unlink()
    schedule.install("cron", tmp_path, what)
    schedule.uninstall(tmp_path)
    assert not spool.exists(), "a crontab of nothing is none"


def test_a_host_that_llmctl_leaves_runs_it_no_more(spool: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    spool.write_text(OTHERS)
    mine = Periodic(f"{units.label(home, Path())}-health", ("/opt/llmctl", "health"), {}, 300.0)
    schedule.install("cron", home, mine)
    kept = spool.read_text()
    removal.remove(home, "none")
    assert spool.read_text() == kept != OTHERS, "it runs another llmctl"
    schedule.install("cron", home, replace(mine, argv=(str(home / "bin" / "llmctl"), "health")))
    assert removal.remove(home, "none")["removed"] == ["health's own run (cron)"]
    assert spool.read_text() == OTHERS


def test_without_cron_or_the_right_to_it_what_to_type_is_named(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = schedule.periodic(["health"], 300.0, tmp_path, None)
    (tmp_path / "denied").touch()
    with pytest.raises(Refused, match="not allowed to use this program") as error:
        schedule.install("cron", tmp_path, what)
    assert error.value.hint == "--service systemd"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(Refused, match="there is no crontab command here"):
        schedule.install("cron", tmp_path, what)
    assert schedule.show(tmp_path) == [] and schedule.uninstall(tmp_path) == []
