"""The bytes that each token adds to a text, read off the tokenizer's decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from functools import cache
from typing import Any


def byte_table(backend: Any, silent: Collection[int]) -> Callable[[int], bytes]:
    """A cached function id → bytes for a `tokenizers.Tokenizer`; `silent` ids and unknown ones add nothing."""
    kinds = set(_kinds(json.loads(backend.decoder.__getstate__()))) if backend.decoder is not None else set()
    added = backend.get_added_tokens_decoder()
    alphabet = byte_alphabet()

    @cache
    def token_bytes(id: int) -> bytes:
        token = backend.id_to_token(id) if id >= 0 else None
        if token is None or id in silent:
            return b""
        spaced = bool(kinds & {"ByteFallback", "Metaspace"}) and "ByteLevel" not in kinds
        if id in added:  # Gemma's runs of spaces are added tokens
            return str(added[id].content).replace("▁", " " if spaced else "▁").encode()
        if "ByteLevel" in kinds:
            return b"".join(bytes([alphabet[c]]) if c in alphabet else c.encode() for c in token)
        if spaced:
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                return bytes([int(token[3:5], 16)])
            return str(token).replace("▁", " ").encode()
        return _by_difference(backend, id)

    return token_bytes


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, inverted: printable bytes are themselves, the rest follow U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _kinds(decoder: dict[str, Any]) -> list[str]:
    """The types of a decoder and of those it is a sequence of."""
    return [decoder["type"]] + [kind for part in decoder.get("decoders", ()) for kind in _kinds(part)]


def _by_difference(backend: Any, id: int) -> bytes:
    """For other decoders (WordPiece, suffixed BPE): what the token adds behind a fixed one."""
    alone = backend.decode([id], skip_special_tokens=False)
    twice = backend.decode([id, id], skip_special_tokens=False)
    return str(twice[len(alone) :] if twice.startswith(alone) else alone).encode()
