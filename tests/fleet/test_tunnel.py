"""Ports that only a host itself reaches, reached through its ssh connection."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmctl.config import Host
from llmctl.errors import Refused, TransportCut, Unreachable
from llmctl.fleet.local import LocalTransport
from llmctl.fleet.transport import Transport
from tests.conftest import eventually, free_port
from tests.fleet.reaching import Operator
from tests.testbed.sshd import SshHost, needs_sshd, ssh_hosts

Peer = Callable[[], socket.socket]


@pytest.fixture(params=[pytest.param("ssh", marks=needs_sshd), "local"])
def transport(request: pytest.FixtureRequest, one: Operator) -> Transport:
    """The same tests for both kinds."""
    if request.param == "local":
        return LocalTransport(Host("here"))
    host: SshHost = request.getfixturevalue("host")
    one.add(host)
    return one.transport("h1")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_bytes_go_both_ways_and_much_of_them(transport: Transport, listener: socket.socket) -> None:
    data = os.urandom(3 * 2**20)
    with transport.dial("127.0.0.1", port_of(listener)) as near, listener.accept()[0] as far:
        sender = threading.Thread(target=near.sendall, args=(data,))
        sender.start()
        assert received(far, len(data)) == data
        sender.join()
        sender = threading.Thread(target=far.sendall, args=(data[::-1],))
        sender.start()
        assert received(near, len(data)) == data[::-1]
        sender.join()


def received(sock: socket.socket, count: int) -> bytes:
    sock.settimeout(30)
    found = b""
    while len(found) < count:
        block = sock.recv(2**16)
        assert block, "it ended early"
        found += block
    return found


def test_each_side_sees_that_the_other_ends(transport: Transport, listener: socket.socket) -> None:
    near = transport.dial("127.0.0.1", port_of(listener))
    with listener.accept()[0] as far:
        far.settimeout(30)
        near.close()
        assert far.recv(1) == b""
    with transport.dial("127.0.0.1", port_of(listener)) as near:
        far = listener.accept()[0]
        far.sendall(b"bye")
        far.close()
        assert received(near, 3) == b"bye"
        assert near.recv(1) == b""


def test_several_at_once(transport: Transport, listener: socket.socket) -> None:
    pairs = []
    for i in range(5):
        near = transport.dial("127.0.0.1", port_of(listener))
        far = listener.accept()[0]
        far.sendall(b"%d" % i)
        pairs.append((near, far))
    assert [received(near, 1) for near, _ in pairs] == [b"0", b"1", b"2", b"3", b"4"]
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_nobody_there(transport: Transport) -> None:
    port = free_port()
    with pytest.raises(Unreachable, match=f"nothing answers on port {port}"):
        transport.dial("127.0.0.1", port)
    assert transport.run(["true"]).code == 0  # the connection itself is as it was


@needs_sshd
def test_no_thread_stays_behind(host: SshHost, one: Operator, listener: socket.socket) -> None:
    one.add(host)
    transport = one.transport("h1")
    transport.run(["true"])
    before = threading.active_count()
    for _ in range(3):
        with transport.dial("127.0.0.1", port_of(listener)), listener.accept()[0]:
            assert threading.active_count() > before
    eventually(lambda: threading.active_count() <= before)


@needs_sshd
def test_a_server_that_forwards_nothing_is_told_what_to_allow(tmp_path: Path, one: Operator) -> None:
    with ssh_hosts(tmp_path / "ssh", ["closed"], lines=["AllowTcpForwarding no"]) as (closed,):
        one.add(closed)
        with pytest.raises(Refused, match="forwards no connections") as caught:
            one.transport("closed").dial("127.0.0.1", 22)
        assert "AllowTcpForwarding local" in str(caught.value.hint)


@needs_sshd
def test_a_connection_that_went_away_is_a_cut(tmp_path: Path, one: Operator, listener: socket.socket) -> None:
    with ssh_hosts(tmp_path / "ssh", ["weak"]) as (weak,):
        one.add(weak)
        transport = one.transport("weak")
        with transport.dial("127.0.0.1", port_of(listener)) as near, listener.accept()[0] as far:
            near.settimeout(30)
            far.sendall(b"x")
            assert received(near, 1) == b"x"
            lines = transport.stream(["sh", "-c", "echo $$; sleep 60"])
            os.kill(session_of(int(next(lines))), signal.SIGKILL)
            assert near.recv(1) == b""
            with pytest.raises(TransportCut):
                next(lines)
        with pytest.raises(TransportCut):
            transport.dial("127.0.0.1", port_of(listener))


def session_of(pid: int) -> int:
    """The sshd that holds the connection of a program which it started."""
    while b"sshd" not in Path(f"/proc/{pid}/comm").read_bytes():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid
