"""What every engine's distributed mode needs: a port that the others can reach, and numbers that divide."""

from __future__ import annotations

import socket
from collections.abc import Callable

from llmctl.domain import EngineSpec
from llmctl.errors import LoadFailed, Unsupported

Place = tuple[str, int]
"""A numeric address and a port."""
DIVIDED = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


class Held:
    """A port at one address of this host, taken until the library listens there itself."""

    def __init__(self, address: str) -> None:
        try:
            self.socket = socket.create_server((address, 0))
        except OSError as error:
            raise LoadFailed(
                f"this host has no address {address} that it could listen at: {error.strerror or error}",
                hint="set spread_address in its entry of hosts.toml: the one that the other hosts see",
            ) from None
        self.place: Place = (self.socket.getsockname()[0], self.socket.getsockname()[1])


def divides(spec: EngineSpec, number: Callable[[str], int | None]) -> None:
    """Unsupported unless all numbers of DIVIDED that the model has can be shared equally."""
    hosts = len(spec.spread)
    for name in DIVIDED:
        found = number(name)
        if found is not None and found % hosts:
            raise Unsupported(f"{spec.model} has {name} = {found}, which {hosts} hosts cannot share equally")
