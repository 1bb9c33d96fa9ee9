"""The kept ssh connection to a host: one for all, opened again when it broke, never waited for by the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl import config
from llmctl.errors import Busy, Unreachable
from llmctl.fleet.ssh import link, settings
from llmctl.gateway import tunnel as tunnels
from llmctl.gateway.registry import Replica
from llmctl.gateway.tunnel import CHANNELS, Tunnel
from llmctl.gateway.upstream import Pool
from llmctl.gateway.ways import Ways
from tests.conftest import eventually, free_port
from tests.testbed.sshd import SshHost, introduce, needs_sshd, ssh_hosts

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    folder = tmp_path_factory.mktemp("tunnel")
    with ssh_hosts(folder, ["h1"]) as (found,):
        introduce([found], folder, folder)
        yield found


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        server.settimeout(30)
        yield server


def logins(host: SshHost) -> int:
    return host.log.count("Accepted publickey")


def opened(host: SshHost) -> Callable[[], Any]:
    """What logs in to the host."""
    folder = host.folder.parent
    known = config.load(folder)
    return lambda: link.open_link(settings.login(known.host("h1"), known), folder / "known_hosts")


def run(host: SshHost, work: Callable[[Tunnel], Awaitable[None]], **options: Any) -> None:
    async def go() -> None:
        made = Tunnel("h1", **{"opened": opened(host), **options})
        try:
            await work(made)
        finally:
            made.close()

    asyncio.run(go())


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_many_at_once_share_one_login(host: SshHost, listener: socket.socket) -> None:
    before = logins(host)

    async def work(tunnel: Tunnel) -> None:
        socks = await asyncio.gather(*(tunnel.dial(port_of(listener)) for _ in range(20)))
        assert len({sock.fileno() for sock in socks}) == 20
        for sock in socks:
            sock.close()

    run(host, work)
    assert logins(host) == before + 1


def test_a_connection_that_broke_is_replaced_by_the_next_dial(host: SshHost, listener: socket.socket) -> None:
    before = logins(host)

    async def work(tunnel: Tunnel) -> None:
        with await tunnel.dial(port_of(listener)) as first, listener.accept()[0]:
            for pid in sessions(host):
                os.kill(pid, signal.SIGKILL)
            assert await asyncio.to_thread(first.recv, 1) == b""
        with await tunnel.dial(port_of(listener)) as sock, listener.accept()[0] as far:
            far.sendall(b"x")
            assert await asyncio.to_thread(sock.recv, 1) == b"x"

    run(host, work)
    assert logins(host) == before + 2


def sessions(host: SshHost) -> list[int]:
    """The processes that the sshd has for its connections."""
    assert host.process
    return [int(pid) for pid in Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children").read_text().split()]


def test_a_port_that_nobody_has_costs_no_connection(host: SshHost) -> None:
    before = logins(host)

    async def work(tunnel: Tunnel) -> None:
        for _ in range(2):
            with pytest.raises(Unreachable, match="nothing answers on port"):
                await tunnel.dial(free_port())

    run(host, work)
    assert logins(host) == before + 1


def test_a_host_that_is_away_is_asked_seldom_and_the_loop_goes_on(host: SshHost) -> None:
    now, tried, gate = [0.0], list[float](), threading.Event()

    def away() -> Any:
        tried.append(now[0])
        gate.wait(30)
        raise Unreachable("h1 is away", hint="switch it on")

    async def work(tunnel: Tunnel) -> None:
        first = asyncio.ensure_future(tunnel.dial(1))
        while not tried:
            await asyncio.sleep(0.01)
        assert not first.done()  # the loop goes on while the login hangs
        gate.set()
        with pytest.raises(Unreachable, match="h1 is away"):
            await first
        for _ in range(40):
            now[0] += 0.25
            with pytest.raises(Unreachable, match="h1 is away") as met:
                await tunnel.dial(1)
            assert met.value.hint == "switch it on"

    run(host, work, opened=away, clock=lambda: now[0])
    assert tried == [0.0, 0.5, 1.5, 3.5, 7.5]


def test_whatever_a_login_fails_with_reaches_who_waits(host: SshHost) -> None:
    def broken() -> Any:
        raise ZeroDivisionError

    async def work(tunnel: Tunnel) -> None:
        for _ in range(2 * tunnels.DIALS):
            with pytest.raises(Unreachable, match="no way to h1"):
                await asyncio.wait_for(tunnel.dial(1), 30)

    run(host, work, opened=broken)


def test_a_machine_without_threads_is_no_way_and_keeps_no_turn(
    host: SshHost, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def work(tunnel: Tunnel) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for _ in range(2 * tunnels.DIALS):
                with pytest.raises(Unreachable, match="no way to h1: can't start"):
                    await asyncio.wait_for(tunnel.dial(1), 30)
        (await tunnel.dial(port_of(listener))).close()

    run(host, work)


def test_it_carries_a_bounded_number_and_a_probe_beside(host: SshHost, listener: socket.socket) -> None:
    async def work(tunnel: Tunnel) -> None:
        pool = Pool(lambda made: through(tunnel, listener, made), lambda: tunnel.full)
        made = await asyncio.gather(*(pool.fresh() for _ in range(CHANNELS)))
        with pytest.raises(Busy):
            await pool.fresh()
        made.append(await pool.fresh(probes=True))
        for one in made:
            one.transport.abort()
        while tunnel.full:
            await asyncio.sleep(0.01)
        (await pool.fresh()).transport.abort()
        await asyncio.sleep(0.1)

    run(host, work)


def test_what_rests_makes_room_for_another_slot_of_the_host(
    host: SshHost, listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "CHANNELS", 4)

    async def work(tunnel: Tunnel) -> None:
        ways = Ways(tmp_path)
        ways._tunnels["h1"] = tunnel
        one, two = (ways.live(Replica("h1", port_of(listener), "alpha")).pool for _ in range(2))
        made = [await one.fresh() for _ in range(3)] + [await two.fresh()]
        with pytest.raises(Busy):
            await two.fresh()
        for rests in made[:3]:
            one.give_back(rests)
        made.append(await two.fresh())
        assert made[0].closed and not made[1].closed and not made[2].closed, "who rests longest goes, and no other"
        made += [await two.fresh(), await two.fresh()]
        with pytest.raises(Busy):
            await two.fresh()
        assert [one.closed for one in made] == [True] * 3 + [False] * 4
        for left in made:
            left.transport.abort()
        await asyncio.sleep(0.1)

    run(host, work)


async def through(tunnel: Tunnel, listener: socket.socket, made: Any) -> Any:
    sock = await tunnel.dial(port_of(listener))
    return await asyncio.get_running_loop().create_connection(made, sock=sock)


def test_a_dial_that_nobody_waits_for_any_more_leaves_nothing(host: SshHost, listener: socket.socket) -> None:
    gate, before = threading.Event(), threading.active_count()

    def late() -> Any:
        gate.wait(30)
        return opened(host)()

    async def work(tunnel: Tunnel) -> None:
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(tunnel.dial(port_of(listener)), 0.1)
        gate.set()
        with listener.accept()[0] as far:
            assert await asyncio.to_thread(far.recv, 1) == b""  # it was closed
        (await tunnel.dial(port_of(listener))).close()

    run(host, work, opened=late)
    eventually(lambda: threading.active_count() <= before)
