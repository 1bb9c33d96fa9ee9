"""The frames of a WebSocket's server, as they pass (RFC 6455, section 5.2): how many, and where one ends. Pure."""

from __future__ import annotations

SIZES = {126: 2, 127: 8}
"""Bytes of a length that does not fit into seven bits."""


class Frames:
    """Counts frames of data in the bytes that a server sends, its handshake first; they are not masked."""

    def __init__(self) -> None:
        self.count = 0
        self._head: bytes | None = b""  # of the handshake; None: it has ended
        self._part = b""  # of a frame's head
        self._left = 0  # of its payload

    @property
    def between(self) -> bool:
        """Whether a frame of our own may follow."""
        return self._head is None and not self._part and not self._left

    def feed(self, data: bytes) -> None:
        """More bytes; nothing is kept of them but half a head."""
        if self._head is not None:
            _, end, rest = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = (self._head + data)[-3:]
                return
            self._head, data = None, rest
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
                continue
            self._part += data[:10]
            size = 2 + SIZES.get(self._part[1] & 0x7F, 0) if len(self._part) > 1 else 2
            if len(self._part) < size:
                return
            data = data[size - (len(self._part) - len(data[:10])) :]
            head, self._part = self._part[:size], b""
            self._left = int.from_bytes(head[2:], "big") if size > 2 else head[1] & 0x7F
            self.count += not head[0] & 0x08  # the others are pings and the like


def close(code: int, why: str) -> bytes:
    """A frame that ends the connection; `why` is cut to what fits."""
    payload = code.to_bytes(2, "big") + why.encode()[:100]
    return bytes((0x88, len(payload))) + payload
