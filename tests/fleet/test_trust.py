"""`llmctl hosts trust`: what a host shows, what is asked, and what is trusted afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.errors import KeyChanged
from tests.fleet.reaching import Operator
from tests.testbed.sshd import SshHost, make_key, needs_sshd, ssh_hosts

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SshHost]]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh"), ["h1", "h2"]) as running:
        yield running


def fingerprint(host: SshHost) -> str:
    shown = ["ssh-keygen", "-lf", str(host.folder / "host_key.pub")]
    return subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()[1]


def environment(one: Operator) -> dict[str, str]:
    (one.folder / "hosts.toml").write_text("\n".join(one.entries.values()))
    return {**os.environ, "LLMCTL_HOME": str(one.state), "LLMCTL_CONFIG": str(one.folder)}


def llmctl(one: Operator, *argv: str) -> dict[str, Any]:
    """The envelope of a command line."""
    done = subprocess.run(
        [sys.executable, "-m", "llmctl", "--json", *argv], env=environment(one), capture_output=True, text=True
    )
    envelope: dict[str, Any] = json.loads(done.stdout)
    assert envelope["exit_code"] == done.returncode
    return envelope


def test_a_key_is_trusted_with_a_yes_and_only_then(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    one.known_hosts.write_text("# mine\nelsewhere ssh-ed25519 AAAA\n")
    refused = llmctl(one, "hosts", "trust", "h1")
    assert refused["exit_code"] == 1
    assert fingerprint(hosts[0]) in refused["errors"][0]["message"]
    assert one.known_hosts.read_text() == "# mine\nelsewhere ssh-ed25519 AAAA\n"
    key = llmctl(one, "hosts", "trust", "h1", "--yes")["data"]["keys"][0]
    assert (key["fingerprint"], key["type"], key["changed"]) == (fingerprint(hosts[0]), "ssh-ed25519", True)
    assert one.known_hosts.read_text() == "# mine\nelsewhere ssh-ed25519 AAAA\n" + hosts[0].known()
    assert one.known_hosts.stat().st_mode & 0o777 == 0o600
    assert one.transport("h1").run(["true"]).code == 0
    again = llmctl(one, "hosts", "trust", "h1")
    assert (again["exit_code"], again["data"]["keys"][0]["changed"]) == (0, False)


def test_on_a_terminal_the_fingerprint_is_shown_and_asked(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        ours, theirs = os.openpty()
        os.write(ours, answer)
        done = subprocess.run(
            [sys.executable, "-m", "llmctl", "hosts", "trust", "h1"],
            env=environment(one), stdin=theirs, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        os.close(ours)
        os.close(theirs)
        assert f"shows the key ssh-ed25519 {fingerprint(hosts[0])}. Trust it?" in done.stdout + done.stderr
        assert done.returncode == code
        assert one.known_hosts.exists() == (answer == b"y\n")


def test_a_fingerprint_is_compared_instead_of_asked(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    wrong = llmctl(one, "hosts", "trust", "h1", "--yes", "--fingerprint", fingerprint(hosts[1]))
    assert (wrong["exit_code"], wrong["errors"][0]["code"]) == (1, "refused")
    assert wrong["data"]["fingerprint"] == fingerprint(hosts[0])
    assert not one.known_hosts.exists()
    assert llmctl(one, "hosts", "trust", "h1", "--fingerprint", "MD5:aa:bb")["exit_code"] == 2
    right = llmctl(one, "hosts", "trust", "h1", "--fingerprint", fingerprint(hosts[0]) + "=")
    assert right["exit_code"] == 0
    assert one.known_hosts.read_text() == hosts[0].known()


def test_s08_a_changed_key_needs_a_yes_and_shows_both(tmp_path: Path, one: Operator) -> None:
    with ssh_hosts(tmp_path / "ssh", ["h1"]) as (host,):
        one.add(host)
        before = fingerprint(host)
        host.stop()
        (host.folder / "host_key").unlink()
        (host.folder / "host_key.pub").unlink()
        make_key(host.folder / "host_key")
        host.start()
        with pytest.raises(KeyChanged):
            one.transport("h1").run(["true"])
        refused = llmctl(one, "hosts", "trust", "h1")
        assert refused["exit_code"] == 1
        assert before in refused["errors"][0]["message"]
        assert fingerprint(host) in refused["errors"][0]["message"]
        assert llmctl(one, "hosts", "trust", "h1", "--yes")["data"]["keys"][0]["before"] == [before]
        assert one.known_hosts.read_text() == host.known()
        assert one.transport("h1").run(["true"]).code == 0


def test_a_host_behind_a_gateway_has_both_keys_trusted(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    one.add(hosts[1], trust=False, gateway='"h1"')
    assert llmctl(one, "hosts", "trust", "h2")["exit_code"] == 1
    keys = llmctl(one, "hosts", "trust", "h2", "--yes")["data"]["keys"]
    assert [(key["name"], key["fingerprint"]) for key in keys] == [
        ("h1", fingerprint(hosts[0])), ("h2", fingerprint(hosts[1])),
    ]  # fmt: skip
    assert one.transport("h2").run(["true"]).code == 0


def test_this_machine_has_no_key_to_trust(one: Operator) -> None:
    one.entries["here"] = "[hosts.here]\n"
    assert llmctl(one, "hosts", "trust", "here", "--yes")["errors"][0]["code"] == "refused"


def test_a_host_that_is_off_cannot_be_trusted(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False, port=1)
    assert llmctl(one, "hosts", "trust", "h1", "--yes")["exit_code"] == 4


def test_a_revoked_key_cannot_be_trusted(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    (one.home / ".ssh" / "known_hosts").write_text(f"@revoked * {hosts[0].known().split(' ', 1)[1]}")
    assert llmctl(one, "hosts", "trust", "h1", "--yes")["errors"][0]["code"] == "refused"
    assert not one.known_hosts.exists()
