"""Ways to a host: keys, the agent, the ssh configuration, gateways; and whose host key is trusted (S7, S8)."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.errors import ConfigError, KeyChanged, KeyUnknown, LlmctlError, Unreachable
from llmctl.fleet.ssh import known_hosts
from llmctl.fleet.ssh.known_hosts import Key
from tests.fleet.reaching import Operator
from tests.testbed.sshd import SshHost, make_key, needs_sshd, ssh_hosts

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SshHost]]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh"), ["h1", "h2", "h3"]) as running:
        yield running


def without(one: Operator, name: str, *keys: str) -> None:
    """Take lines out of an entry."""
    lines = one.entries[name].splitlines()
    one.entries[name] = "\n".join(line for line in lines if line.split(" ")[0] not in keys) + "\n"


def ssh_config(one: Operator, text: str) -> None:
    (one.home / ".ssh" / "config").write_text(text)


def here(transport_home: str, host: SshHost) -> bool:
    return Path(transport_home.strip()) == host.home.resolve()


def fingerprint(host: SshHost) -> str:
    """As ssh-keygen says it."""
    said = subprocess.run(
        ["ssh-keygen", "-lf", host.folder / "host_key.pub"], capture_output=True, text=True, check=True
    )
    return said.stdout.split()[1]


def reaches(one: Operator, name: str, host: SshHost) -> bool:
    return here(one.transport(name).run(["pwd", "-P"]).out, host)


# ── whose key is trusted ──


def test_s08_a_host_whose_key_is_not_known_is_refused(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    with pytest.raises(KeyUnknown, match="is not known") as failed:
        one.transport("h1").run(["touch", "reached"])
    assert failed.value.details["fingerprint"] == fingerprint(hosts[0])
    assert failed.value.hint == "llmctl hosts trust h1"
    assert failed.value.exit_code == 4
    assert not (hosts[0].home / "reached").exists()


@pytest.mark.parametrize("where", ["own", "users"])
def test_s08_a_host_whose_key_changed_is_refused(hosts: list[SshHost], one: Operator, where: str) -> None:
    one.add(hosts[0], trust=False)
    file = one.known_hosts if where == "own" else one.home / ".ssh" / "known_hosts"
    file.write_text(hosts[1].known().replace(str(hosts[1].port), str(hosts[0].port)))
    with pytest.raises(KeyChanged, match="is not the trusted one") as failed:
        one.transport("h1").run(["touch", "reached"])
    assert failed.value.details["fingerprint"] == fingerprint(hosts[0])
    assert failed.value.details["trusted"] == [fingerprint(hosts[1])]
    assert not (hosts[0].home / "reached").exists()


def test_s08_our_own_entry_wins_over_the_users(hosts: list[SshHost], one: Operator) -> None:
    wrong = hosts[1].known().replace(str(hosts[1].port), str(hosts[0].port))
    one.add(hosts[0])
    (one.home / ".ssh" / "known_hosts").write_text(wrong)
    assert reaches(one, "h1", hosts[0])
    one.known_hosts.write_text(wrong)
    (one.home / ".ssh" / "known_hosts").write_text(hosts[0].known())
    with pytest.raises(KeyChanged):
        one.transport("h1").run(["true"])


def test_s08_a_revoked_key_is_refused_wherever_it_is_trusted(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0])
    (one.home / ".ssh" / "known_hosts").write_text(f"@revoked * {hosts[0].known().split(' ', 1)[1]}")
    with pytest.raises(KeyChanged, match="revoked"):
        one.transport("h1").run(["true"])


def test_s08_a_settings_that_would_trust_anyone_changes_nothing(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    ssh_config(one, "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n")
    with pytest.raises(KeyUnknown):
        one.transport("h1").run(["true"])


def test_the_users_hashed_entries_count(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    file = one.home / ".ssh" / "known_hosts"
    file.write_text(hosts[0].known())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert file.read_text().startswith("|1|")
    assert reaches(one, "h1", hosts[0])


def test_a_key_of_another_type_that_is_known_is_asked_for(tmp_path: Path, one: Operator) -> None:
    rsa = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(rsa)], check=True)
    with ssh_hosts(tmp_path / "ssh", ["two"], lines=[f"HostKey {rsa}"]) as (two,):
        two.stop()
        settings = (two.folder / "sshd_config").read_text()
        two.lines = [f"HostKey {rsa}\nHostKey {two.folder / 'host_key'}"]
        two.start()
        assert settings != (two.folder / "sshd_config").read_text()
        one.add(two, trust=False)
        kind, key = rsa.with_suffix(".pub").read_text().split()[:2]
        one.known_hosts.write_text(f"[127.0.0.1]:{two.port} {kind} {key}\n")
        assert reaches(one, "two", two)


def test_names_in_known_hosts_are_read_as_ssh_reads_them(tmp_path: Path) -> None:
    key = Key("ssh-ed25519", b"k" * 51)
    file = tmp_path / "known_hosts"

    def found(names: str, name: str) -> bool:
        file.write_text(f"# one\n\n{names} ssh-ed25519 {'a2tr' * 17} comment here\nbroken\n")
        return known_hosts.trusted(name, file, ()).keys == (key,)

    assert found("studio", "studio")
    assert found("other,STUDIO,10.0.0.1", "studio")
    assert found("*.lan", "studio.lan")
    assert found("[10.0.0.?]:2222", "[10.0.0.1]:2222")
    assert found("[fe80::1]:2222", "[fe80::1]:2222")
    assert not found("studio", "studio2")
    assert not found("*.lan,!studio.lan", "studio.lan")
    assert not found("[10.0.0.1]:2222", "10.0.0.1")
    assert not found("10.0.0.1", "[10.0.0.1]:2222")
    assert not found("@cert-authority *", "studio")
    assert not found("|1|broken|x", "studio")


def test_a_trusted_key_replaces_the_one_before_and_other_entries_stay(tmp_path: Path) -> None:
    file = tmp_path / "state" / "known_hosts"
    old, new = Key("ssh-rsa", b"old"), Key("ssh-ed25519", b"new")
    for name in ("a", "[b]:22", "c"):
        known_hosts.write(file, name, old)
    file.write_text(file.read_text() + "a,d ssh-rsa b2xk\n# mine\n")
    known_hosts.write(file, "a", new)
    assert file.read_text() == "[b]:22 ssh-rsa b2xk\nc ssh-rsa b2xk\nd ssh-rsa b2xk\n# mine\na ssh-ed25519 bmV3\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert known_hosts.trusted("a", file, ()).keys == (new,)


# ── the ssh configuration ──


def test_the_ssh_configuration_is_honoured(hosts: list[SshHost], one: Operator) -> None:
    first = hosts[0]
    one.add(first, address='"studio"')
    without(one, "h1", "user", "ssh_port", "identity")
    ssh_config(
        one,
        f"Host studio\n  HostName 127.0.0.1\n  Port {first.port}\n  User root\n"
        f"  IdentityFile {first.client_key}\n  IdentityFile ~/.ssh/not_there\n",
    )
    assert reaches(one, "h1", first)


def test_the_entrys_own_values_win_over_the_ssh_configuration(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0])
    other = make_key(one.folder / "other")
    ssh_config(one, f"Host *\n  Port 1\n  User nobody\n  IdentityFile {other}\n")
    assert reaches(one, "h1", hosts[0])


def test_included_files_count_in_their_place(hosts: list[SshHost], one: Operator) -> None:
    first = hosts[0]
    one.add(first, address='"studio"')
    without(one, "h1", "ssh_port")
    (one.home / ".ssh" / "conf.d").mkdir()
    (one.home / ".ssh" / "conf.d" / "a.conf").write_text("Host other\n  Port 1\nHost studio\n  HostName 127.0.0.1\n")
    ssh_config(one, f"Include conf.d/*.conf\nPort {first.port}\n")
    assert reaches(one, "h1", first)


def test_another_known_hosts_file_and_name(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    kind, key = hosts[0].known().split()[1:]
    (one.folder / "kept").write_text(f"the-studio {kind} {key}\n")
    ssh_config(one, f"Host *\n  HostKeyAlias the-studio\n  UserKnownHostsFile {one.folder / 'kept'}\n")
    assert reaches(one, "h1", hosts[0])


def test_a_broken_ssh_configuration_is_a_mistake_in_it(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0])
    for text in ("Host *\n  Port many\n", "Nothing\n"):
        ssh_config(one, text)
        without(one, "h1", "ssh_port")
        with pytest.raises(ConfigError, match="ssh configuration"):
            one.transport("h1").run(["true"])


def test_a_proxy_command_of_the_ssh_configuration_is_used(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0])
    one.folder.joinpath("way.py").write_text(
        "import socket, sys, threading, os\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n    while d := os.read(0, 65536): s.sendall(d)\n    s.shutdown(1)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while d := s.recv(65536): os.write(1, d)\n"
    )
    ssh_config(one, f"Host 127.0.0.1\n  ProxyCommand python3 {one.folder}/way.py %h %p\n")
    transport = one.transport("h1")
    assert here(transport.run(["pwd", "-P"]).out, hosts[0])
    transport.close()
    ssh_config(one, "Host 127.0.0.1\n  ProxyCommand no-such-program %h\n")
    with pytest.raises(Unreachable, match="ProxyCommand"):
        one.transport("h1").run(["true"])
    ssh_config(one, "Host 127.0.0.1\n  ProxyCommand false\n")
    with pytest.raises(Unreachable, match="hangs up"):
        one.transport("h1").run(["true"])


def test_the_agent_is_asked(hosts: list[SshHost], one: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    one.add(hosts[0])
    without(one, "h1", "identity")
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(SSH_\w+)=([^;]+)", said))
    monkeypatch.setenv("SSH_AUTH_SOCK", found["SSH_AUTH_SOCK"])
    try:
        with pytest.raises(LlmctlError, match="and the agent"):
            one.transport("h1").run(["true"])
        subprocess.run(["ssh-add", "-q", str(hosts[0].client_key)], check=True)
        assert reaches(one, "h1", hosts[0])
    finally:
        os.kill(int(found["SSH_AGENT_PID"]), 15)


def test_a_default_key_is_tried(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0])
    without(one, "h1", "identity")
    (one.home / ".ssh" / "id_ed25519").write_bytes(hosts[0].client_key.read_bytes())
    assert reaches(one, "h1", hosts[0])


# ── gateways ──


def test_a_gateway_that_is_a_host_by_name(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0])
    one.add(hosts[1], gateway='"h1"')
    one.add(hosts[2], gateway='"h2"')
    before = [host.log.count("Accepted publickey") for host in hosts]
    assert reaches(one, "h3", hosts[2])
    assert [host.log.count("Accepted publickey") for host in hosts] == [count + 1 for count in before]


def test_a_gateway_that_is_an_address(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0])
    one.add(hosts[1], gateway=f'"root@127.0.0.1:{hosts[0].port}"')
    ssh_config(one, f"IdentityFile {hosts[0].client_key}\n")
    del one.entries["h1"]
    assert reaches(one, "h2", hosts[1])


def test_jump_hosts_of_the_ssh_configuration(hosts: list[SshHost], one: Operator) -> None:
    for host in hosts:
        one.add(host)
    del one.entries["h1"], one.entries["h2"]
    ssh_config(
        one,
        f"Host a\n  HostName 127.0.0.1\n  Port {hosts[0].port}\nHost b\n  HostName 127.0.0.1\n  Port {hosts[1].port}\n"
        f"Host 127.0.0.1\n  ProxyJump root@a,root@b\nHost *\n  IdentityFile {hosts[0].client_key}\n",
    )
    before = [host.log.count("Accepted publickey") for host in hosts]
    assert reaches(one, "h3", hosts[2])
    assert [host.log.count("Accepted publickey") for host in hosts] == [count + 1 for count in before]


def test_s08_the_gateways_own_key_is_checked(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], trust=False)
    one.add(hosts[1], gateway='"h1"')
    with pytest.raises(KeyUnknown, match="the host key of h1") as failed:
        one.transport("h2").run(["true"])
    assert failed.value.hint == "llmctl hosts trust h1"
    del one.entries["h1"]
    one.entries["h2"] = one.entries["h2"].replace('"h1"', f'"root@127.0.0.1:{hosts[0].port}"')
    with pytest.raises(KeyUnknown) as failed:
        one.transport("h2").run(["true"])
    assert failed.value.hint == "llmctl hosts trust h2"


def test_a_gateway_that_does_not_get_there(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0])
    one.add(hosts[1], port=1, gateway='"h1"')
    with pytest.raises(Unreachable, match=r"its gateway does not reach 127\.0\.0\.1 port 1"):
        one.transport("h2").run(["true"])


def test_a_gateway_that_is_off_is_named(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], port=1)
    one.add(hosts[1], gateway='"h1"')
    with pytest.raises(Unreachable, match=r"h1: 127\.0\.0\.1 port 1 refuses"):
        one.transport("h2").run(["true"])


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ('"h2"', '"h1"', "in a circle: h1 → h2 → h1"),
        ('"h1"', None, "in a circle: h1 → h1"),
        ('"a:b:c"', None, "no gateway"),
        ('"root@-oX"', None, "no address"),
        ('"here"', None, "here is not reached by ssh"),
    ],
)
def test_gateways_that_cannot_be(hosts: list[SshHost], one: Operator, first: str, second: str | None, why: str) -> None:
    one.entries["here"] = "[hosts.here]\n"
    one.add(hosts[0], gateway=first)
    one.add(hosts[1], **({"gateway": second} if second else {}))
    with pytest.raises(ConfigError, match=why):
        one.transport("h1")


# ── hostile entries ──

BAD = ["-oProxyCommand=touch x", "a;b", "$(id)", "`id`", "a b", "it's", "a\nb", "a|b", "", "x" * 300 + ";"]


@pytest.mark.parametrize("bad", BAD)
def test_s07_an_address_or_user_that_could_be_a_command_is_refused(
    hosts: list[SshHost], one: Operator, bad: str
) -> None:
    ssh_config(one, f"Host *\n  ProxyCommand sh -c 'touch {one.folder}/ran; echo %h %r'\n")
    quoted = '"' + bad.replace("\n", "\\n") + '"'
    for key in ("address", "user") if bad else ("address",):
        one.add(hosts[0], **{key: quoted})
        with pytest.raises(ConfigError):
            one.transport("h1").run(["true"])
    assert not (one.folder / "ran").exists()


def test_a_key_that_is_not_there_is_a_mistake_in_the_entry(hosts: list[SshHost], one: Operator) -> None:
    one.add(hosts[0], identity='"no/such/key"')
    with pytest.raises(ConfigError, match="no/such/key"):
        one.transport("h1")
