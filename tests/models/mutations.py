"""Random damage to the headers and configuration files of real checkpoints; the same for the same seed."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
DEEP = 100_000


def mutated(header: bytes, rng: random.Random) -> bytes:
    """`header` with one to four random changes."""
    changed = bytearray(header)
    for _ in range(rng.randint(1, 4)):
        if changed:
            rng.choice(CHANGES)(changed, rng)
    return bytes(changed)


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 16)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def number(data: bytearray, rng: random.Random) -> None:
    """A length or count, huge, negative or off by one."""
    at, width = rng.randrange(len(data)), rng.choice("IQ")
    size = struct.calcsize(width)
    old = int.from_bytes(data[at : at + size], "little")
    new = rng.choice((*NUMBERS, old + 1, old - 1, old * 2)) % 2 ** (8 * size)
    data[at : at + size] = struct.pack(f"<{width}", new)


def splice(data: bytearray, rng: random.Random) -> None:
    """A piece of the header once more, or at another place."""
    start, at = rng.randrange(len(data)), rng.randrange(len(data))
    piece = data[start : start + rng.randint(1, 4096)]
    if rng.random() < 0.5:
        data[at : at + len(piece)] = piece
    else:
        data[at:at] = piece


def drop(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 256)]


def noise(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.randint(1, 256))


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, cut, number, number, splice, drop, noise)


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────────

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308, "", "x", "../../etc/passwd", "\0",
    [], [[]], [0], [-1], [2**63], {}, {"a": {}}, "é" * 100,
)  # fmt: skip
RAW = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"\\ud800"', b"9" * 5000)


def mutated_json(text: bytes, rng: random.Random) -> bytes:
    """A JSON object with some of its values replaced, or its text damaged, or keys twice, or nested without end."""
    kind = rng.randrange(8)
    if kind == 0:
        return mutated(text, rng)
    if kind == 1:
        return _nested(text, rng)
    value = json.loads(text)
    for _ in range(rng.randint(1, 4)):
        _replace(value, rng)
    changed = json.dumps(value).encode()
    if kind == 2:  # a key twice, with another value
        key = rng.choice(list(value) or ["x"])
        return changed[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice(VALUES))}}}".encode()
    if kind == 3:
        return changed.replace(b": ", b": " + rng.choice(RAW) + b', "z": ', 1)
    return changed


def _replace(value: Any, rng: random.Random) -> None:
    """Change one value somewhere within."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.7:
            value = inner
            continue
        roll = rng.random()
        if roll < 0.7:
            value[key] = copy.deepcopy(rng.choice(VALUES))
        elif roll < 0.85 and isinstance(value, dict):
            del value[key]
        else:
            value[key] = [inner] * (2 if isinstance(inner, (dict, list)) else rng.choice((2, 17, 3000)))
        return


def _nested(text: bytes, rng: random.Random) -> bytes:
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    depth = rng.choice((100, 900, 1100, DEEP))
    inside = opened * depth + b"0" + closed * depth
    return text.rstrip()[:-1] + b', "deep": ' + inside + b"}"


def mutated_safetensors(header: bytes, rng: random.Random) -> bytes:
    """A header with its length before it: damaged as bytes, as JSON, or in what it says about its tensors."""
    kind = rng.randrange(4)
    if kind < 2:
        return mutated(len(header).to_bytes(8, "little") + header, rng)
    changed = mutated_json(header, rng) if kind == 2 else _moved(header, rng)
    told = len(changed) if rng.random() < 0.9 else rng.choice(NUMBERS)
    return told.to_bytes(8, "little") + changed


def _moved(header: bytes, rng: random.Random) -> bytes:
    """Tensors that overlap, lie outside of the file, end before they begin, or have another shape or type."""
    table = json.loads(header)
    names = [name for name in table if name != "__metadata__"]
    for _ in range(rng.randint(1, 3)):
        entry = table[rng.choice(names)]
        part = rng.choice(("data_offsets", "shape", "dtype"))
        if part == "dtype":
            entry[part] = rng.choice(("F64", "F4", "U8", "NEW", "", 7, None))
        elif entry[part]:
            entry[part][rng.randrange(len(entry[part]))] += rng.choice((-1, 1, -(2**40), 2**40, 2**63, -5, 4096))
    return json.dumps(table).encode()
