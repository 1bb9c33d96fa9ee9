"""A way to a port that only the host itself reaches: a channel of its ssh connection, as a socket of this process."""

from __future__ import annotations

import contextlib
import socket
import threading

import paramiko
from paramiko.ssh_exception import ChannelException, SSHException

from llmctl.errors import Refused, Unreachable
from llmctl.fleet.ssh import failures
from llmctl.fleet.ssh.link import CHANNEL, Link

BLOCK = 2**15
PROHIBITED, NOBODY = 1, 2  # RFC 4254, section 5.1
BROKEN = (SSHException, OSError, EOFError)


def open_tunnel(link: Link, host: str, address: str, port: int) -> socket.socket:
    """A connected socket to `address`:`port` as the host reaches it; no port is opened on this machine.

    Unreachable when nobody listens there, Refused when the ssh server forwards nothing, TransportCut when the
    connection is gone.
    """
    try:
        channel = link.transport.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=CHANNEL)
    except ChannelException as error:
        raise _refused(error, host, port) from None
    except BROKEN:
        raise failures.cut(host, f"the way to port {port}") from None
    ours, theirs = socket.socketpair()
    threading.Thread(target=_pump, args=(theirs, channel), daemon=True).start()
    return ours


def _refused(error: ChannelException, host: str, port: int) -> Refused | Unreachable:
    if error.code == NOBODY:
        return Unreachable(f"nothing answers on port {port} of {host}", hint=f"llmctl status {host}:{port}", host=host)
    return Refused(
        f"the ssh server of {host} forwards no connections",
        hint=f"allow it in its sshd_config: AllowTcpForwarding local, PermitOpen any (it said: {error.text})",
        host=host,
    )


def _pump(sock: socket.socket, channel: paramiko.Channel) -> None:
    """Both ways until one side ends; our end closed ends the channel too, and with it an answer that nobody reads."""
    down = threading.Thread(target=_down, args=(sock, channel), daemon=True)
    down.start()
    with contextlib.suppress(*BROKEN):
        while data := sock.recv(BLOCK):
            channel.sendall(data)
    with contextlib.suppress(*BROKEN):
        channel.close()
    down.join()
    sock.close()


def _down(sock: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(*BROKEN):
        while data := channel.recv(BLOCK):
            sock.sendall(data)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
