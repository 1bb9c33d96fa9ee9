"""The operator's own machine: every check finds what it is for, and nothing on a machine that is well."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl import files, keys
from llmctl.config import Config, Host
from llmctl.doctor import clock, own, own_ssh, permissions
from llmctl.doctor.pins import missing, others
from llmctl.doctor.rows import FAIL, PASS, WARN, Row, exit_code, fail, good, warn
from llmctl.environments import locks
from llmctl.health.schedule import Scheduled
from llmctl.history.store import Check, History
from tests.doctor.conftest import Tool
from tests.testbed.sshd import make_key

NOW = time.time()


def one(rows: Row | Iterable[Row], status: str, why: str = "", fix: str = "") -> None:
    """There is one row, and this is it."""
    (row,) = [rows] if isinstance(rows, Row) else list(rows)
    assert (row.status, why in row.why, fix in row.fix) == (status, True, True), row
    assert bool(row.fix) == (status != PASS)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([], 0),
        ([good("a", "")], 0),
        ([good("a", ""), warn("b", "", "x")], 3),
        ([warn("a", "", "x"), fail("b", "", "x")], 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst(rows: list[Row], code: int) -> None:
    assert exit_code(rows) == code


# ── Python and packages ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 4), PASS), ((3, 14, 0), PASS), ((3, 9, 2), WARN), ((3, 15, 0), WARN)]
)
def test_python(version: tuple[int, int, int], status: str) -> None:
    one(own.python(version), status, ".".join(map(str, version)), "venv" if status != PASS else "")


LOCK = """\
# Made by hand
annotated-doc==0.0.6 ; python_full_version < '3.11' \\
    --hash=sha256:00
annotated-doc==0.0.7 ; python_full_version >= '3.11' \\
    --hash=sha256:00
hf-xet==1.8.0 ; (platform_machine == 'arm64' or platform_machine == 'x86_64') \\
    --hash=sha256:00
httpx==0.28.1 \\
    --hash=sha256:00
"""


@pytest.mark.parametrize(
    ("here", "absent", "differing"),
    [
        ({"annotated-doc": "0.0.7", "httpx": "0.28.1"}, {}, {}),
        ({"annotated-doc": "0.0.7"}, {"httpx": "0.28.1"}, {}),
        ({"annotated-doc": "0.0.6", "httpx": "0.28.1"}, {}, {"annotated-doc": "0.0.7"}),
        ({"annotated-doc": "0.0.7", "httpx": "0.28.1+local", "hf-xet": "1.0"}, {}, {"hf-xet": "1.8.0"}),
    ],
)
def test_packages_against_the_lock(here: dict[str, str], absent: dict[str, str], differing: dict[str, str]) -> None:
    assert (missing(LOCK, here, 11), others(LOCK, here, 11)) == (absent, differing)


def test_the_older_python_has_its_own_pins() -> None:
    assert others(LOCK, {"annotated-doc": "0.0.7"}, 10) == {"annotated-doc": "0.0.6"}


def test_what_to_install_is_what_to_type() -> None:
    rows = list(own.packages(LOCK, {"httpx": "0.27"}))
    assert [row.status for row in rows] == [FAIL, WARN]
    assert rows[0].fix.endswith("-m pip install annotated-doc==0.0.7")
    assert rows[1].why == "httpx 0.27 (tested with 0.28.1)"


def test_the_packages_of_this_environment_are_those_of_the_lock() -> None:
    found = own.installed()
    assert found["huggingface-hub"]
    assert missing(locks.shipped("base"), found) == {}


# ── configuration ───────────────────────────────────────────────────────────────────────────────────────────────────

HOSTS = '[hosts.gpu1]\ntransport = "ssh"\naddress = "gpu1.example"\n[hosts.here]\n'


def configured(folder: Path, **texts: str) -> tuple[list[Row], Config | None]:
    (folder / "hosts.toml").write_text(HOSTS)
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return own.configuration(lambda: folder)


def test_a_configuration_that_is_well(tmp_path: Path) -> None:
    rows, config = configured(tmp_path, profiles__p='[[slots]]\nport = 8101\nmodel = "tiny"\n', models=TINY)
    one(rows, PASS, "2 hosts in")
    assert config and list(config.hosts) == ["gpu1", "here"]


TINY = '[models.tiny]\nartifacts = [{ format = "script", path = "x.json" }]\n'


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("hosts", "[hosts.gpu1]\ntransprot = 'ssh'\n", "hosts.toml:2"),
        ("hosts", "hosts = ", "hosts.toml:end"),
        ("models", "[models.tiny]\nx = 1\n", "models.toml:2"),
        ("testing", "nothing = 1\n", "testing.toml:1"),
        ("health", "[rules]\nslower = 0.5\n", "health.toml:2"),
        ("profiles__p", "[[slots]]\nport = 8101\n", "p.toml:1"),
    ],
)
def test_a_mistake_in_any_of_its_files_is_told_with_its_line(tmp_path: Path, name: str, text: str, why: str) -> None:
    rows, config = configured(tmp_path, **{name: text})
    one(rows, FAIL, why, f"${{EDITOR:-vi}} +{why.partition(':')[2].replace('end', '') or '1'} ")
    assert (config is None) == (name == "hosts")


def test_a_file_that_nobody_may_read_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "health.toml").mkdir()
    one(configured(tmp_path)[0], FAIL, "health.toml: cannot be read")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    rows, _ = configured(tmp_path, testing="x = 1\n", health="x = 1\n", models="x = 1\n")
    assert [row.status for row in rows] == [FAIL] * 3


def test_no_configuration_is_this_machine_alone() -> None:
    rows, config = own.configuration(lambda: None)
    one(rows, PASS, "`local`")
    assert config and list(config.hosts) == ["local"]


# ── ssh ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: Tool) -> Path:
    """A home folder with an ssh client in PATH, and no agent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    real = shutil.which("ssh-keygen", path="/usr/bin:/bin")
    tool("ssh")
    tool("ssh-keygen", f'exec {real} "$@"')
    return tmp_path


def remote(**more: object) -> Config:
    host = Host("gpu1", "ssh", address="gpu1.example", user="me")
    return Config(None, {"gpu1": replace(host, **more)})  # type: ignore[arg-type]


def test_without_ssh_hosts_nothing_is_needed(tmp_path: Path, tool: Tool) -> None:
    one(own_ssh.ssh(Config(), tmp_path), PASS, "no host is reached by ssh")


def test_a_key_of_the_entry_is_enough(user: Path) -> None:
    one(own_ssh.ssh(remote(identity=make_key(user / "id")), user), PASS, "a client")


def test_neither_key_nor_agent(user: Path) -> None:
    one(own_ssh.ssh(remote(), user), FAIL, "no agent, and no key for gpu1", "ssh-keygen -t ed25519")


@pytest.mark.parametrize(
    ("code", "status", "why", "fix"),
    [
        (0, PASS, "an agent with keys", ""),
        (1, FAIL, "an empty agent, and no key", "ssh-add"),
        (2, FAIL, "no agent", ""),
    ],
)
def test_what_the_agent_says_counts(
    user: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch, code: int, status: str, why: str, fix: str
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    tool("ssh-add", f"exit {code}")
    one(own_ssh.ssh(remote(), user), status, why, fix)


def test_a_key_in_the_usual_place_is_enough(user: Path) -> None:
    (user / ".ssh").mkdir()
    make_key(user / ".ssh" / "id_ed25519")
    one(own_ssh.ssh(remote(), user), PASS)


def test_a_key_that_others_may_read(user: Path) -> None:
    key = make_key(user / "id")
    key.chmod(0o644)
    one(own_ssh.ssh(remote(identity=key), user), WARN, "others may read the private key", f"chmod 600 {key}")


def test_an_entry_that_makes_no_login(user: Path) -> None:
    one(own_ssh.ssh(remote(identity=user / "gone"), user), FAIL, "there is no key", "[hosts.gpu1]")


def test_no_ssh_client(user: Path, tool: Tool) -> None:
    (user / "tools" / "ssh").unlink()
    one(own_ssh.ssh(remote(identity=make_key(user / "id")), user), WARN, "there is no ssh here", "openssh-client")


def test_torn_lines_of_known_hosts_can_be_taken_out_by_what_is_told(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "known_hosts"
    good_line = "gpu1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA=="
    path.write_text(f"# mine\n{good_line}\ngpu2 ssh-ed\n\n@revoked gpu3 ssh-ed25519 AAAA\ngpu4 ssh-ed25519 ???\n")
    (row,) = own_ssh.known_hosts(path)
    assert row.status == WARN and "lines 3, 6" in row.why
    assert os.system(row.fix) == 0
    assert list(own_ssh.known_hosts(path)) == []
    assert good_line in path.read_text()


def test_known_hosts_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").mkdir()
    one(own_ssh.known_hosts(tmp_path / "known_hosts"), FAIL, "cannot be read")
    assert list(own_ssh.known_hosts(tmp_path / "none")) == []


# ── state ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_state_folder_that_is_private(home: Path) -> None:
    keys.show(home)
    one(own.state(home), PASS, "its owner's alone")
    one(own.state(home / "new" / "er"), PASS, "when it is needed")


def test_what_others_may_read_is_mended_by_what_is_told(home: Path) -> None:
    keys.show(home)
    (home / "slots/8101").mkdir(parents=True)
    for name in ("hf_token", "history.db-wal", "slots/8101/desired.json"):
        (home / name).write_text("x")
        (home / name).chmod(0o640)
    home.chmod(0o755)
    (row,) = own.state(home)
    assert row.status == WARN
    assert row.why.startswith("others may read the folder, hf_token, history.db-wal, slots/8101/desired.json in")
    assert os.system(row.fix) == 0
    assert permissions.loose(home) == []


def test_the_first_file_leaves_it_private(home: Path) -> None:
    files.write_json(home / "a" / "b" / "c.json", {})
    files.take_lock(home / "d" / "e.lock", wait=True, what="")
    assert {oct((home / name).stat().st_mode & 0o777) for name in ("a", "a/b", "d")} == {"0o700"}


def test_a_state_folder_that_is_a_file(home: Path) -> None:
    (home / "file").write_text("")
    one(own.state(home / "file"), FAIL, "it is no folder", "LLMCTL_HOME")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_a_state_folder_of_another_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    one(own.state(home), FAIL, "another user", "chown")


def test_a_place_where_it_cannot_be_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    one(own.state(home / "new"), FAIL, "cannot be made")
    one(own.state(home), FAIL, "it cannot be written")


@pytest.mark.parametrize(
    ("text", "status"), [(None, PASS), ("{}", FAIL), ("", FAIL), ('{"admin": "a", "client": "a"}', FAIL)]
)
def test_keys(home: Path, text: str | None, status: str) -> None:
    if text is not None:
        (home / "keys.json").write_text(text)
    one(own.own_keys(home), status, "", "llmctl keys rotate" if status != PASS else "")


def test_keys_that_were_made(home: Path) -> None:
    keys.show(home)
    one(own.own_keys(home), PASS, "two keys")


def test_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one(own.disk(home / "new"), PASS, "free")
    full = shutil.disk_usage(home)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    one(own.disk(home), FAIL, "1.0 MB free", "--prune")


# ── history, health, clock ──────────────────────────────────────────────────────────────────────────────────────────


def ran(home: Path, at: float) -> None:
    with History.open(home / "history.db") as found:
        found.checked([Check(host="gpu1", port=None, at=at, verdict="ok", why="")])


RUNS = Scheduled("cron", ("crontab -l",), "…", True)
IDLE = replace(RUNS, active=False, notes=("no cron daemon runs here: sudo systemctl enable --now cron",))


@pytest.mark.parametrize(
    ("age", "by", "status", "why", "fix"),
    [
        (60.0, [], PASS, "ran 1m00s ago", ""),
        (60.0, [RUNS], PASS, "ran 1m00s ago, by cron", ""),
        (60.0, [IDLE], WARN, "cron should run llmctl health: no cron daemon", "sudo systemctl enable --now cron"),
        (None, [], WARN, "nobody watches the fleet: llmctl health never ran here", "llmctl health install"),
        (86400.0, [], WARN, "nobody watches the fleet: llmctl health ran last 1d0h ago", "llmctl health install"),
        (86400.0, [RUNS], WARN, "cron should run llmctl health, and it ran last", "llmctl health install"),
        (None, [RUNS], WARN, "and it never ran here", "llmctl health install"),
        (-86400.0, [RUNS], WARN, "in the future", "set-ntp"),
    ],
)
def test_whether_health_runs(age: float | None, by: list[Scheduled], status: str, why: str, fix: str) -> None:
    one(own.watched(age, by), status, why, fix)


def test_when_health_ran_is_in_the_history(home: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    tool("crontab", "exit 1")
    history, health = own.past(home, NOW)
    one(history, PASS, "none yet")
    one(health, WARN, "never ran here")
    with History.open(home / "history.db") as found:
        found.note("gpu1", "deploy")
    assert list(own.past(home, NOW))[1] == health
    ran(home, NOW - 60)
    history, health = own.past(home, NOW)
    one(history, PASS, "history.db")
    one(health, PASS, "ran 1m00s ago")


def test_a_history_that_is_damaged(home: Path) -> None:
    ran(home, NOW)
    data = bytearray((home / "history.db").read_bytes())
    data[:4096] = b"x" * 4096
    (home / "history.db").write_bytes(data)
    for path in home.glob("history.db-*"):
        path.unlink()
    (row,) = own.past(home, NOW)
    assert row.status == FAIL and row.check == "history" and row.fix


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("CanNTP=yes\nNTPSynchronized=yes", PASS),
        ("CanNTP=yes\nNTPSynchronized=no", WARN),
        ("CanNTP=no\nNTPSynchronized=no", PASS),
        ("", PASS),
    ],
)
def test_the_clock_is_kept_right(tool: Tool, said: str, status: str) -> None:
    tool("timedatectl", f"echo '{said}'")
    one(clock.clock(NOW), status, "", "set-ntp true" if status != PASS else "")


def test_a_clock_before_this_llmctl_was_made(tool: Tool) -> None:
    one(clock.clock(NOW - 40 * 365 * 86400), FAIL, "before this llmctl was installed", "set-ntp true")


def test_a_clock_that_nobody_speaks_of(tool: Callable[..., None]) -> None:
    one(clock.clock(NOW), PASS)
