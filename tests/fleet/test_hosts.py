"""`llmctl hosts` as an operator types it, over hosts that are reached by real ssh on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl import __version__
from llmctl.__main__ import main
from llmctl.config import Host
from llmctl.fleet.facts import cache as facts_cache
from llmctl.fleet.ssh import known_hosts
from tests.fleet.recorded import facts_of
from tests.testbed.sshd import SshHost, make_key, needs_sshd, ssh_hosts

Run = Callable[..., tuple[int, dict[str, Any], list[dict[str, Any]]]]


@pytest.fixture
def folder(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own, and a home folder without ssh settings."""
    made = tmp_path / "config"
    made.mkdir()
    monkeypatch.setenv("LLMCTL_CONFIG", str(made))
    monkeypatch.setenv("HOME", str(tmp_path / "operator"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / "operator").mkdir()
    return made


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("hosts", "list") → exit code, data, errors."""

    def one(*words: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        capsys.readouterr()
        code = main(["--json", *words])
        envelope = json.loads(capsys.readouterr().out)
        assert envelope["exit_code"] == code
        return code, envelope["data"], envelope["errors"]

    return one


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SshHost]]:
    with ssh_hosts(tmp_path_factory.mktemp("fleet"), ["h1", "h2"]) as hosts:
        yield hosts


@pytest.fixture
def trusted(fleet: list[SshHost], folder: Path, home: Path) -> list[SshHost]:
    """Both hosts in hosts.toml, with their keys known."""
    (folder / "hosts.toml").write_text("\n".join(host.entry(labels='["pair"]') for host in fleet))
    (home / known_hosts.FILE).write_text("".join(host.known() for host in fleet))
    return fleet


def by_name(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["host"]: row for row in data["hosts"]}


# ── list and show ───────────────────────────────────────────────────────────────────────────────────────────────────

THREE = """\
default = "studio"
[hosts.studio]
transport = "ssh"
address = "studio.invalid"
labels = ["mac", "big"]
[hosts.gpu1]
transport = "ssh"
address = "gpu1.invalid"
[hosts.gpu2]
transport = "ssh"
address = "gpu2.invalid"
"""


@pytest.fixture
def three(folder: Path, home: Path) -> None:
    (folder / "hosts.toml").write_text(THREE)
    for name, machine in (("studio", "mac-studio-m3-ultra"), ("gpu1", "ubuntu-h100")):
        facts_cache.write(home, Host(name, "ssh", address=f"{name}.invalid"), facts_of(machine))


def test_list_shows_what_was_seen_and_asks_nobody(run: Run, three: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    code, data, errors = run("hosts", "list")
    rows = by_name(data)
    assert (code, errors, list(rows)) == (0, [], ["studio", "gpu1", "gpu2"])
    studio, gpu1, gpu2 = rows.values()
    assert (studio["backend"], studio["service"], studio["python"], studio["default"]) == (
        "metal", "launchd", "3.13.5", True,
    )  # fmt: skip
    assert (gpu1["llmctl"], gpu1["facts"]["accelerators"][0]["cuda"]) == ("0.4.0", "12.4")
    assert 0 <= gpu1["age"] < 600
    assert (gpu2["seen"], gpu2["facts"], gpu2["backend"], gpu2["choices"]) == (None, None, None, [])


def test_list_takes_globs_and_labels(run: Run, three: None) -> None:
    assert list(by_name(run("hosts", "list", "gpu*")[1])) == ["gpu1", "gpu2"]
    assert list(by_name(run("hosts", "list", "gpu2", "@big")[1])) == ["studio", "gpu2"]
    code, _, errors = run("hosts", "list", "gpu9")
    assert (code, errors[0]["hint"]) == (2, "did you mean 'gpu2'?")


def test_the_tables_of_people(three: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hosts", "list"]) == 0
    head, studio, gpu1, gpu2 = capsys.readouterr().out.splitlines()
    columns = "HOST TRANSPORT ADDRESS OS CHIP MEMORY ACCELERATORS BACKEND SERVICE PYTHON LLMCTL LABELS AGE"
    assert head.split() == columns.split()
    assert studio.startswith("studio*  ssh") and "macOS 15.5" in studio and "549.8 GB" in studio and "mac,big" in studio
    assert "8 × NVIDIA H100 80GB HBM3" in gpu1
    assert gpu2.endswith("never seen")
    assert main(["hosts", "show", "studio"]) == 0
    shown = capsys.readouterr().out
    assert "accelerator: Apple M3 Ultra, 549.8 GB, 80 cores, driver Metal 3\n" in shown
    assert "backend of a deploy: metal — Apple M3 Ultra has Metal\n" in shown
    assert "  not cuda: macOS has no CUDA\n" in shown
    assert main(["hosts", "show", "gpu2"]) == 0
    assert "seen: never; llmctl hosts show gpu2 --refresh\n" in capsys.readouterr().out


# ── check ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@needs_sshd
def test_check_reads_the_facts_and_keeps_them(run: Run, trusted: list[SshHost], home: Path) -> None:
    release = trusted[0].home / ".llmctl"
    release.mkdir(exist_ok=True)
    (release / "current").unlink(missing_ok=True)
    (release / "current").symlink_to(f"releases/{__version__}-0a1b2c3d")
    code, data, errors = run("hosts", "check", "@pair")
    assert (code, errors) == (0, [])
    h1, h2 = by_name(data).values()
    assert (h1["verdict"], h1["trusted"], h1["llmctl"], h2["llmctl"]) == ("ok", True, __version__, None)
    assert h1["facts"]["home"] == str(trusted[0].home)
    assert h1["facts"]["skew"] == 0.0
    assert [finding["what"] for finding in h2["findings"] if "deployed" in finding["why"]] == ["llmctl"]
    assert by_name(run("hosts", "list")[1])["h1"]["facts"] == h1["facts"]


@needs_sshd
def test_check_goes_on_when_one_host_is_down(run: Run, trusted: list[SshHost], folder: Path, home: Path) -> None:
    text = (folder / "hosts.toml").read_text()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        closed = sock.getsockname()[1]
    (folder / "hosts.toml").write_text(text.replace(f"ssh_port = {trusted[1].port}", f"ssh_port = {closed}"))
    code, data, errors = run("hosts", "check")
    h1, h2 = by_name(data).values()
    assert (code, h1["verdict"], h2["verdict"]) == (3, "ok", "unreachable")
    assert (h2["trusted"], h2["facts"], h2["error"]["code"]) == (None, None, "unreachable")
    assert [(error["host"], error["code"]) for error in errors] == [("h2", "unreachable")]
    assert run("hosts", "check", "h2")[0] == 4


@needs_sshd
def test_s08_check_names_the_host_whose_key_is_unknown_or_changed(
    run: Run, trusted: list[SshHost], home: Path, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text().split()[1]
    lines = [trusted[0].known(), trusted[1].known().rsplit(" ", 1)[0] + f" {other}\n"]
    (home / known_hosts.FILE).write_text(lines[1])
    code, data, _ = run("hosts", "check")
    h1, h2 = by_name(data).values()
    assert (code, h1["error"]["code"], h2["error"]["code"]) == (4, "key_unknown", "key_changed")
    assert (h1["trusted"], h2["trusted"], h1["facts"], h2["facts"]) == (False, False, None, None)
    assert "llmctl hosts trust h1" in h1["error"]["hint"]


@needs_sshd
def test_a_release_of_another_version_is_a_finding(run: Run, trusted: list[SshHost]) -> None:
    state = trusted[1].home / ".llmctl"
    state.mkdir(exist_ok=True)
    (state / "current").symlink_to("releases/0.0.1-0a1b2c3d")
    try:
        code, data, errors = run("hosts", "check", "h2")
        assert (code, errors, data["hosts"][0]["verdict"]) == (1, [], "finding")
        assert run("hosts", "check")[0] == 3
    finally:
        (state / "current").unlink()
    finding = data["hosts"][0]["findings"][0]
    assert (finding["what"], finding["hint"], finding["bad"]) == ("llmctl", "llmctl deploy h2", True)


@needs_sshd
def test_f13_a_host_whose_clock_is_a_day_ahead_is_named(run: Run, trusted: list[SshHost], tmp_path: Path) -> None:
    date = tmp_path / "date"
    date.write_text("#!/bin/sh\necho $(($(/bin/date +%s) + 86400))\n")
    date.chmod(0o755)
    enter = trusted[1].folder / "enter"
    right = enter.read_text()
    enter.write_text(right.replace("cd ", f'PATH="{tmp_path}:$PATH"; export PATH; cd ', 1))
    try:
        code, data, _ = run("hosts", "check")
    finally:
        enter.write_text(right)
    h1, h2 = by_name(data).values()
    assert (code, h1["verdict"], h2["verdict"]) == (3, "ok", "finding")
    assert abs(h2["facts"]["skew"] - 86400) < 60
    assert [finding["what"] for finding in h2["findings"] if finding["bad"]] == ["clock"]


@needs_sshd
def test_an_entry_that_cannot_be_used_fails_alone(run: Run, trusted: list[SshHost], folder: Path) -> None:
    text = (folder / "hosts.toml").read_text()
    (folder / "hosts.toml").write_text(text + '[hosts.h3]\ntransport = "ssh"\naddress = "-oProxyCommand=id"\n')
    code, data, errors = run("hosts", "check")
    assert (code, [row["verdict"] for row in data["hosts"]]) == (3, ["ok", "ok", "failed"])
    assert (data["hosts"][2]["trusted"], errors[0]["host"]) == (None, "h3")


@needs_sshd
def test_check_as_people_see_it(
    trusted: list[SshHost], home: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    (home / known_hosts.FILE).write_text(trusted[0].known())
    assert main(["hosts", "check"]) == 3
    shown = capsys.readouterr()
    head, h1, h2 = shown.out.splitlines()
    assert head.split() == ["HOST", "VERDICT", "KEY", "PYTHON", "LLMCTL", "BACKEND", "SERVICE", "WHY"]
    assert h1.split()[:3] == ["h1", "ok", "trusted"]
    assert h2.split() == ["h2", "unreachable", "not", "trusted", "-", "-", "-", "-", "key_unknown"]
    assert "hint: llmctl hosts trust h2" in shown.err


@needs_sshd
def test_a_profile_that_talks_does_not_disturb(run: Run, trusted: list[SshHost]) -> None:
    enter = trusted[1].folder / "enter"
    quiet = enter.read_text()
    enter.write_text(quiet.replace("cd ", "echo 'Welcome, today is @system day'; cd ", 1))
    try:
        code, data, _ = run("hosts", "show", "h2", "--refresh")
    finally:
        enter.write_text(quiet)
    assert (code, data["hosts"][0]["facts"]["os"]) == (0, "linux")


@needs_sshd
def test_a_host_without_a_posix_shell_is_told(run: Run, trusted: list[SshHost]) -> None:
    enter = trusted[1].folder / "enter"
    whole = enter.read_text()
    enter.write_text(
        "#!/bin/sh\ncat >/dev/null\necho \"'sh' is not recognized as an internal or external command\"\nexit 1\n"
    )
    try:
        code, data, errors = run("hosts", "check", "h2")
    finally:
        enter.write_text(whole)
    assert (code, data["hosts"][0]["verdict"], data["hosts"][0]["trusted"]) == (1, "failed", True)
    assert errors[0]["message"] == "h2: it did not tell its facts"


# ── add and rm ──────────────────────────────────────────────────────────────────────────────────────────────────────


@needs_sshd
def test_a_host_that_was_added_can_be_checked(run: Run, fleet: list[SshHost], folder: Path, home: Path) -> None:
    (home / known_hosts.FILE).write_text(fleet[0].known())
    words = ["--ssh-port", str(fleet[0].port), "--identity", str(fleet[0].client_key), "--label", "x", "--label", "y"]
    code, data, _ = run("hosts", "add", "new", "root@127.0.0.1", *words)
    assert (code, data["added"], data["next"]) == (0, "new", "llmctl hosts trust new")
    assert "# The machines that llmctl works on." in (folder / "hosts.toml").read_text()
    code, data, _ = run("hosts", "check", "@x")
    assert (code, data["hosts"][0]["host"], data["hosts"][0]["labels"]) == (0, "new", ["x", "y"])
    assert list(by_name(run("hosts", "list")[1])) == ["local", "new"]


@needs_sshd
def test_a_host_can_be_trusted_as_it_is_added(run: Run, fleet: list[SshHost], home: Path) -> None:
    where = ["root@127.0.0.1", "--ssh-port", str(fleet[0].port), "--identity", str(fleet[0].client_key), "--trust"]
    code, data, errors = run("hosts", "add", "asked", *where)
    assert (code, data["keys"], errors[0]["hint"]) == (3, [], "add --yes")
    code, data, errors = run("hosts", "add", "new", *where, "--yes")
    assert (code, errors, data["next"], len(data["keys"])) == (0, [], "llmctl deploy new", 1)
    assert fleet[0].known().split()[2] in (home / known_hosts.FILE).read_text()
    assert run("hosts", "check", "new")[0] == 0


WRONG = {
    "has a host gpu1": ["gpu1", "10.0.0.9"],
    "is not a host name": ["../x", "10.0.0.9"],
    "'-oProxyCommand=id' is no address": ["new", "-oProxyCommand=id"],
    "'a b' is no address": ["new", "a b"],
    "'$(id)' is no user name": ["new", "$(id)@h"],
    "there is no key /nowhere/key": ["--identity", "/nowhere/key", "new", "10.0.0.9"],
    "'systmd' is not one of": ["--service", "systmd", "new", "10.0.0.9"],
    "'-oX' is no address": ["--gateway=-oX", "new", "10.0.0.9"],
    "which host, and where is it?": ["new"],
}


@pytest.mark.parametrize("message", WRONG)
def test_s07_an_entry_that_could_not_be_used_is_not_written(run: Run, three: None, folder: Path, message: str) -> None:
    *options, name, address = ["", *WRONG[message]] if len(WRONG[message]) == 1 else WRONG[message]
    words = [*options, "--", name, address] if name else [address]
    code, _, errors = run("hosts", "add", *words)
    assert code in (1, 2)
    assert message in errors[0]["message"]
    assert errors[0]["hint"]
    assert (folder / "hosts.toml").read_text() == THREE
    assert not list(folder.glob(".*"))


def test_rm_takes_the_entry_and_what_was_seen(run: Run, three: None, folder: Path, home: Path) -> None:
    code, _, errors = run("hosts", "rm", "gpu1")
    assert (code, errors[0]["hint"]) == (1, "add --yes")
    assert (folder / "hosts.toml").read_text() == THREE
    code, data, _ = run("hosts", "rm", "gpu1", "--yes")
    assert (code, data["removed"]) == (0, "gpu1")
    assert list(by_name(run("hosts", "list")[1])) == ["studio", "gpu2"]
    assert not list((home / "fleet").glob("gpu1*"))


def test_a_host_that_is_named_elsewhere_is_not_taken_out(run: Run, three: None, folder: Path) -> None:
    code, data, errors = run("hosts", "rm", "studio", "--yes")
    assert (code, errors[0]["message"]) == (1, f"studio is default in {folder}/hosts.toml")
    assert data["uses"]
    assert (folder / "hosts.toml").read_text() == THREE


def test_the_hosts_of_the_ssh_configuration_can_be_added(run: Run, three: None, tmp_path: Path) -> None:
    ssh = tmp_path / "operator" / ".ssh"
    ssh.mkdir()
    (ssh / "config").write_text(
        "Host Studio studio-2\n  HostName studio2.invalid\nHost *.corp !x\n  User me\nHost gpu1\nHost=cellar\n"
    )
    _, data, _ = run("hosts", "add", "--from-ssh-config")
    assert [(found["name"], found["address"]) for found in data["candidates"]] == [
        ("studio-2", "studio2.invalid"),
        ("cellar", "cellar"),
    ]


def test_without_a_configuration_the_first_host_makes_one(
    folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMCTL_CONFIG")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, data, _ = run("hosts", "add", "new", "new.invalid")
    assert (code, data["path"]) == (0, str(tmp_path / "operator" / ".config" / "llmctl" / "hosts.toml"))
    assert list(by_name(run("hosts", "list")[1])) == ["local", "new"]
