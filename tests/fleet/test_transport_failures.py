"""What goes wrong between here and a host, each as the error that says what to type next."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmctl.errors import AuthRejected, LlmctlError, LockedOut, TransportCut, Unreachable
from llmctl.fleet.ssh import link, program
from tests.conftest import eventually, free_port
from tests.fleet.reaching import Operator
from tests.testbed.cutting_proxy import DOWN, UP, CuttingProxy
from tests.testbed.sshd import SshHost, make_key, needs_sshd, ssh_hosts

pytestmark = needs_sshd


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that is no ssh server: `answer` gets each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    answer(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# ── the way there ──


def test_a_host_that_is_off(host: SshHost, one: Operator) -> None:
    one.add(host, port=free_port())
    with pytest.raises(Unreachable, match="refuses connections") as failed:
        one.transport("h1").run(["true"])
    assert (failed.value.code, failed.value.exit_code, failed.value.host) == ("unreachable", 4, "h1")
    assert "ssh -v" in str(failed.value.hint)


def test_an_address_that_is_not_known(host: SshHost, one: Operator) -> None:
    one.add(host, address='"no-such-host.invalid"')
    with pytest.raises(Unreachable, match=r"no-such-host\.invalid is not known"):
        one.transport("h1").run(["true"])


def test_a_host_whose_connections_are_swallowed(host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(4):  # a full queue drops what comes next, as a firewall does
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        one.add(host, port=port)
        with pytest.raises(Unreachable, match=r"did not answer in 0\.5 s"):
            one.transport("h1").run(["true"])


def test_something_that_never_says_hello(host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HELLO", 1.0)
    kept: list[socket.socket] = []
    with server(kept.append) as port:
        one.add(host, port=port)
        with pytest.raises(Unreachable, match="no ssh server answers in time"):
            one.transport("h1").run(["true"])
    assert len(kept) == 1
    kept[0].close()


def test_something_that_stops_after_hello(host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HELLO", 1.0)
    kept: list[socket.socket] = []

    def answer(sock: socket.socket) -> None:
        kept.append(sock)
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with server(answer) as port:
        one.add(host, port=port)
        with pytest.raises(Unreachable, match="no ssh server answers in time"):
            one.transport("h1").run(["true"])
    kept[0].close()


def test_something_that_is_no_ssh_server(host: SshHost, one: Operator) -> None:
    def answer(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 200)
        sock.close()

    with server(answer) as port:
        one.add(host, port=port)
        with pytest.raises(Unreachable, match="no ssh server answers"):
            one.transport("h1").run(["true"])


def test_a_server_that_always_hangs_up(host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "TRIES", 3)
    came: list[int] = []

    def answer(sock: socket.socket) -> None:
        came.append(1)
        sock.close()

    with server(answer) as port:
        one.add(host, port=port)
        with pytest.raises(LockedOut, match="hangs up before it says hello") as failed:
            one.transport("h1").run(["true"])
    assert len(came) == 3
    assert "MaxStartups" in str(failed.value.hint)


def test_a_server_with_too_many_logins_is_tried_again(tmp_path: Path, one: Operator) -> None:
    with ssh_hosts(tmp_path / "ssh", ["busy"], lines=["MaxStartups 1"]) as (busy,):
        one.add(busy)
        waiting = socket.create_connection(("127.0.0.1", busy.port))  # a login that does not go on
        waiting.recv(10)
        found: list[str] = []
        work = threading.Thread(target=lambda: found.append(one.transport("busy").run(["echo", "in"]).out))
        work.start()
        eventually(lambda: "MaxStartups" in busy.log)
        waiting.close()
        work.join(60)
        assert found == ["in\n"]


# ── the login ──


def test_keys_that_are_not_taken(host: SshHost, one: Operator) -> None:
    other = make_key(one.folder / "other")
    one.add(host, identity=f'"{other}"')
    with pytest.raises(AuthRejected, match="takes none of our keys") as failed:
        one.transport("h1").run(["true"])
    assert failed.value.hint == f"ssh-copy-id -i {other} -p {host.port} root@127.0.0.1"
    assert failed.value.details["offered"] == [str(other)]


def test_a_key_with_a_passphrase_is_to_be_added_to_the_agent(host: SshHost, one: Operator) -> None:
    locked = one.folder / "locked key"
    shutil.copy(host.client_key, locked)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-P", "", "-f", str(locked)], check=True)
    one.add(host, identity=f'"{locked}"')
    with pytest.raises(AuthRejected) as failed:
        one.transport("h1").run(["true"])
    assert failed.value.hint == f"ssh-add '{locked}'"


def test_no_key_at_all(host: SshHost, one: Operator) -> None:
    one.add(host)
    one.entries["h1"] = "\n".join(line for line in one.entries["h1"].splitlines() if not line.startswith("identity"))
    with pytest.raises(AuthRejected, match="no key file") as failed:
        one.transport("h1").run(["true"])
    assert failed.value.hint == f"ssh-copy-id -p {host.port} root@127.0.0.1"


def test_more_keys_than_the_server_bears(tmp_path: Path, one: Operator) -> None:
    with ssh_hosts(tmp_path / "ssh", ["strict"], lines=["MaxAuthTries 2"]) as (strict,):
        keys = [make_key(one.folder / f"key{number}") for number in range(4)]
        (one.home / ".ssh" / "config").write_text("".join(f"IdentityFile {key}\n" for key in keys))
        one.add(strict, identity=f'"{keys[0]}"')
        with pytest.raises(AuthRejected):
            one.transport("strict").run(["true"])


# ── a connection that breaks ──


@pytest.mark.parametrize("reset", [False, True])
def test_a_program_is_unknown_when_the_connection_breaks(host: SshHost, one: Operator, reset: bool) -> None:
    with CuttingProxy(host.port, reset=reset) as proxy:
        one.add(host, port=proxy.port)
        transport = one.transport("h1")
        seen: list[str] = []

        def on_out(line: str) -> None:
            seen.append(line)
            proxy.cut()

        with pytest.raises(TransportCut, match="sh may or may not have been done") as failed:
            transport.run(["sh", "-c", "echo begun; sleep 2; echo done"], on_out=on_out)
        assert (failed.value.code, failed.value.exit_code) == ("unknown", 4)
        assert seen == ["begun"]
        with pytest.raises(Unreachable) as after:
            transport.run(["true"])
        assert not isinstance(after.value, TransportCut)


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_f04_a_cut_at_any_byte_of_a_login_and_a_command_is_a_named_error(
    host: SshHost, one: Operator, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "TRIES", 1)
    with CuttingProxy(host.port) as proxy:
        one.add(host, port=proxy.port)
        transport = one.transport("h1")
        transport.run(["echo", "x"])
        transport.close()
        eventually(lambda: proxy.passed[direction] > 1000)
        whole = proxy.passed[direction]
    codes = set()
    for after in [0, 1, 20, *range(100, whole - 40, whole // 12)]:
        with CuttingProxy(host.port, after_bytes=after, direction=direction) as proxy:
            one.add(host, port=proxy.port)
            with pytest.raises(Unreachable) as failed:
                one.transport("h1").run(["echo", "x"])
            codes.add(failed.value.code)
    assert codes >= {"locked_out", "unknown"}


def test_f04_a_cut_while_a_file_is_put_leaves_the_old_one(host: SshHost, one: Operator) -> None:
    one.add(host)
    one.transport("h1").put(b"old", "cut/file")
    data = os.urandom(2**20)
    for after in (10_000, 200_000, 900_000):
        with CuttingProxy(host.port, after_bytes=after, direction=UP) as proxy:
            one.add(host, port=proxy.port)
            with pytest.raises(TransportCut, match="writing cut/file may or may not"):
                one.transport("h1").put(data, "cut/file")
            folder = host.home / "cut"
            eventually(lambda folder=folder: os.listdir(folder) == ["file"])
            assert (folder / "file").read_bytes() == b"old"


def test_a_fetch_that_was_cut_goes_on(host: SshHost, one: Operator) -> None:
    data, target = os.urandom(2**20), one.folder / "fetched"
    (host.home / "source").write_bytes(data)
    with CuttingProxy(host.port, after_bytes=500_000, direction=DOWN, cuts=1) as proxy:
        one.add(host, port=proxy.port)
        with pytest.raises(TransportCut):
            one.transport("h1").get("source", target)
        here = target.stat().st_size
        assert 100_000 < here < 500_000
        first: list[int] = []
        one.transport("h1").get("source", target, on_bytes=lambda done, total: first.append(done))
        assert first[0] > here
        assert target.read_bytes() == data
        assert proxy.passed[DOWN] < 500_000 + 2**20 - here + 100_000


def test_a_program_that_is_followed_ends_when_the_connection_does(host: SshHost, one: Operator) -> None:
    with CuttingProxy(host.port) as proxy:
        one.add(host, port=proxy.port)
        stream = one.transport("h1").stream(["sh", "-c", "echo $$; exec sleep 600"])
        pid = int(next(stream))
        assert not gone(pid)
        proxy.cut()
        with pytest.raises(TransportCut):
            next(stream)
        eventually(lambda: gone(pid))


def test_a_program_that_is_held_sees_the_connection_break(host: SshHost, one: Operator) -> None:
    with CuttingProxy(host.port) as proxy:
        one.add(host, port=proxy.port)
        with pytest.raises(TransportCut):
            one.transport("h1").run(
                ["sh", "-c", "echo in; cat >/dev/null; echo seen > end"], hold=True, on_out=lambda _: proxy.cut()
            )
        eventually((host.home / "end").exists)


def test_f04_a_connection_that_freezes_is_noticed(
    host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 * link.PING_EVERY + link.PING_WAIT <= 30
    monkeypatch.setattr(link, "PING_EVERY", 0.3)
    monkeypatch.setattr(link, "PING_WAIT", 0.7)
    with CuttingProxy(host.port) as proxy:
        one.add(host, port=proxy.port)
        with pytest.raises(TransportCut):
            one.transport("h1").run(["sh", "-c", "echo in; sleep 30"], timeout=300, on_out=lambda _: proxy.freeze())


def test_f04_a_connection_that_freezes_under_an_upload_is_noticed(
    host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PING_EVERY", 0.3)
    monkeypatch.setattr(link, "PING_WAIT", 0.7)

    def freeze(done: int, total: int) -> None:
        if done > 2**20:
            proxy.freeze()

    with CuttingProxy(host.port) as proxy:
        one.add(host, port=proxy.port)
        with pytest.raises(TransportCut):
            one.transport("h1").put(bytes(64 * 2**20), "frozen", on_bytes=freeze)


def test_a_quiet_program_is_not_taken_for_a_dead_connection(
    host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PING_EVERY", 0.2)
    monkeypatch.setattr(link, "PING_WAIT", 1.0)
    one.add(host)
    assert one.transport("h1").run(["sh", "-c", "sleep 2; echo woke"]).out == "woke\n"


def test_a_slow_transfer_takes_its_time(host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SILENCE", 1.5)
    monkeypatch.setattr(link, "PING_EVERY", 0.5)
    monkeypatch.setattr(link, "PING_WAIT", 1.0)
    data = os.urandom(400_000)
    with CuttingProxy(host.port, rate=125_000) as proxy:  # 1 Mbit/s, so more than three seconds each way
        one.add(host, port=proxy.port)
        transport = one.transport("h1")
        transport.put(data, "slow")
        transport.get("slow", one.folder / "slow")
    assert (one.folder / "slow").read_bytes() == data


def test_a_transfer_in_which_nothing_moves_ends(host: SshHost, one: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SILENCE", 1.0)
    os.mkfifo(host.home / "stuck")  # as a disk that does not answer: who opens it waits
    one.add(host)
    with pytest.raises(LlmctlError, match="stuck"):
        one.transport("h1").get("stuck", one.folder / "x")


# ── what is not shown ──


def test_s09_nothing_but_the_error_reaches_the_terminal(host: SshHost, one: Operator) -> None:
    with CuttingProxy(host.port, reset=True) as proxy:
        one.add(host, port=proxy.port)
        code = """
import sys, threading
from pathlib import Path
from llmctl import config
from llmctl.errors import TransportCut
from llmctl.fleet.opening import connect
folder, state = map(Path, sys.argv[1:])
loaded = config.load(folder)
transport = connect(loaded.host("h1"), loaded, state)
try:
    script = "cat >/dev/null; echo in; sleep 5"
    transport.run(["sh", "-c", script], stdin=b"hf_secret", on_out=lambda _: print("cut", flush=True))
except TransportCut as error:
    print(error.message)
transport.close()
"""
        one.transport("h1")
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(one.folder), str(one.state)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with child:
            assert child.stdout
            assert child.stdout.readline() == "cut\n"
            proxy.cut()
            out, err = child.communicate(timeout=60)
        assert "the connection to h1 broke" in out
        assert err == ""
        assert "hf_secret" not in out + host.log
