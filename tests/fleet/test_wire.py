"""What an ssh connection's bytes go through."""

from __future__ import annotations

from llmctl.fleet.ssh.wire import Wire


class Gone:
    """A channel whose gateway is gone: it cannot say goodbye, as paramiko's fails then."""

    def close(self) -> None:
        raise EOFError


def test_a_wire_closes_though_the_gateway_behind_it_is_gone() -> None:
    wire = Wire(Gone())
    wire.close()
    assert wire._closed
