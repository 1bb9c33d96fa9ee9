"""The header readers on good files, on hostile ones, and on 300 random mutations each."""

import builtins
import json
import os
import random
import struct
import time

import pytest

from llmctl.errors import BadCheckpoint
from llmctl.models import gguf_header, safetensors_header
from tests.models.making import make_gguf, safetensors_bytes

TENSORS = {"a.weight": ("F32", [4, 8], 128), "b.weight": ("BF16", [8], 16), "c.weight": ("I64", [], 8)}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return make_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf")


@pytest.fixture
def counted(monkeypatch):
    """The bytes that the readers take from files; appended to as they read."""
    sizes = []

    class Counting:
        def __init__(self, path, mode, buffering):
            self.file = builtins.open(path, mode, buffering=buffering)  # noqa: SIM115

        def read(self, n):
            data = self.file.read(n)
            sizes.append(len(data))
            return data

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    for module in (gguf_header, safetensors_header):
        monkeypatch.setattr(module, "open", Counting, raising=False)
    return sizes


def test_gguf_header(gguf):
    header = gguf_header.read(gguf)
    assert header.architecture == "qwen2"
    assert (header.get("block_count"), header.get("attention.head_count_kv")) == (2, 2)
    assert header.metadata["tokenizer.ggml.tokens"] == gguf_header.SkippedArray(265)
    table = {t.name: t for t in header.tensors}
    assert table["blk.1.ffn_down.weight"].shape == (128, 64)
    assert table["blk.1.ffn_down.weight"].type_name == "F32"
    assert header.data_offset + sum(t.bytes for t in header.tensors) <= header.file_bytes


def test_gguf_agrees_with_the_reference_reader(gguf):
    from gguf import GGUFReader

    reference = GGUFReader(gguf)
    ours = gguf_header.read(gguf)
    assert [t.name for t in ours.tensors] == [t.name for t in reference.tensors]
    assert [list(t.shape) for t in ours.tensors] == [list(t.shape) for t in reference.tensors]
    assert [ours.data_offset + t.offset for t in ours.tensors] == [t.data_offset for t in reference.tensors]
    assert [t.bytes for t in ours.tensors] == [t.n_bytes for t in reference.tensors]


def gguf_bytes(*parts, keys=1, tensors=0, order="<", version=3):
    return b"GGUF" + struct.pack(f"{order}IQQ", version, tensors, keys) + b"".join(parts)


def text(value, order="<"):
    return struct.pack(f"{order}Q", len(value)) + value


def tensor(dims, *numbers):
    """A tensor's entry: its dimensions, its type, its offset."""
    *shape, kind, offset = numbers or (0, 0)
    return text(b"t") + struct.pack(f"<I{len(shape)}QIQ", dims, *shape, kind, offset)


def test_gguf_big_endian(tmp_path):
    path = tmp_path / "big.gguf"
    value = text(b"llama.block_count", ">") + struct.pack(">II", 4, 7)
    path.write_bytes(gguf_bytes(text(b"general.architecture", ">") + struct.pack(">I", 8) + text(b"llama", ">"), value,
                                keys=2, order=">"))  # fmt: skip
    assert gguf_header.read(path).get("block_count") == 7


HOSTILE = {
    "empty": (b"", "ends at byte 0"),
    "cut in the header": (gguf_bytes(text(b"k") + b"\4"), "ends at byte 34"),
    "another format": (b"PK\x03\x04" + bytes(100), "does not begin with GGUF"),
    "version 1": (gguf_bytes(version=1), "version 1"),
    "version 99": (gguf_bytes(version=99), "version 99"),
    "2^60 keys": (gguf_bytes(keys=2**60), "keys announced"),
    "2^60 tensors": (gguf_bytes(keys=0, tensors=2**60), "tensors and"),
    "a key of 2^62 bytes": (gguf_bytes(struct.pack("<Q", 2**62)), "a string of"),
    "a value of 2^62 bytes": (gguf_bytes(text(b"k") + struct.pack("<IQ", 8, 2**62)), "a string of"),
    "an unknown type": (gguf_bytes(text(b"k") + struct.pack("<I", 77)), "value type 77"),
    "2^62 numbers": (gguf_bytes(text(b"k") + struct.pack("<IIQ", 9, 4, 2**62)), "numbers does not fit"),
    "2^62 strings": (gguf_bytes(text(b"k") + struct.pack("<IIQ", 9, 8, 2**62)), "strings in arrays"),
    "an array of arrays": (gguf_bytes(text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)), "an array of type 9"),
    "a long string in an array": (gguf_bytes(text(b"k") + struct.pack("<IIQQ", 9, 8, 1, 2**62)), "a string of"),
    "2^200 elements": (gguf_bytes(tensor(4, *[2**50] * 4, 0, 0), keys=0, tensors=1), "of shape"),
    "an offset of 2^63": (gguf_bytes(tensor(1, 64, 0, 2**63), keys=0, tensors=1), "of shape"),
    "99 dimensions": (gguf_bytes(tensor(99), keys=0, tensors=1), "99 dimensions"),
    "a tensor behind the end": (gguf_bytes(tensor(1, 64, 0, 2**40), keys=0, tensors=1), "truncated"),
    "alignment 0": (gguf_bytes(text(b"general.alignment") + struct.pack("<II", 4, 0)), "alignment"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_gguf_hostile(tmp_path, name):
    data, why = HOSTILE[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(BadCheckpoint, match=rf"m\.gguf.*{why}"):
        gguf_header.read(path)


@pytest.mark.parametrize("read", [gguf_header.read, safetensors_header.read])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadCheckpoint, match="no such file"):
        read(tmp_path / "pipe")


def test_gguf_header_without_end_is_read_to_the_cap_only(tmp_path, counted):
    path = tmp_path / "m.gguf"
    with open(path, "wb") as file:
        file.write(gguf_bytes(text(b"k") + struct.pack("<IIQ", 9, 0, 2**28)))
        file.truncate(2**29)  # a hole
    with pytest.raises(BadCheckpoint, match="does not fit"):
        gguf_header.read(path)
    assert sum(counted) <= gguf_header.HEADER_LIMIT + gguf_header.CHUNK


def test_gguf_of_many_long_values_is_read_to_the_cap_only(tmp_path, counted):
    path = tmp_path / "m.gguf"
    value = struct.pack("<IQ", 8, 2**20) + bytes(2**20)
    path.write_bytes(gguf_bytes(*(text(b"%d" % i) + value for i in range(70)), keys=70))
    with pytest.raises(BadCheckpoint, match="larger than 40 MiB"):
        gguf_header.read(path)
    assert sum(counted) <= gguf_header.HEADER_LIMIT + gguf_header.CHUNK


def test_gguf_of_many_empty_strings_ends_soon(tmp_path):
    path = tmp_path / "m.gguf"
    arrays = b"".join(text(b"%d" % i) + struct.pack("<IIQ", 9, 8, 10**6) + bytes(8 * 10**6) for i in range(3))
    path.write_bytes(gguf_bytes(arrays, keys=3))
    start = time.monotonic()
    with pytest.raises(BadCheckpoint, match="strings"):
        gguf_header.read(path)
    assert time.monotonic() - start < 3


def test_gguf_reads_no_weights(tmp_path, counted):
    path = make_gguf(tmp_path / "m.gguf", layers=8, hidden=256)
    counted.clear()
    header = gguf_header.read(path)
    assert sum(counted) == header.read_bytes <= header.data_offset + gguf_header.CHUNK < header.file_bytes


def test_safetensors_header(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes(TENSORS, {"format": "pt"}))
    header = safetensors_header.read(path)
    assert header.metadata == {"format": "pt"}
    assert [(t.dtype, t.elements, t.bytes) for t in header.tensors.values()] == [
        ("F32", 32, 128), ("BF16", 8, 16), ("I64", 1, 8),
    ]  # fmt: skip


def packed(table):
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


def one(dtype, shape, *offsets):
    return packed({"a": {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}})


HOSTILE_SAFETENSORS = {
    "empty": (b"", "it has 0 bytes"),
    "a header of 2^60 bytes": (struct.pack("<Q", 2**60) + bytes(100), "is announced$"),
    "a header longer than the file": (struct.pack("<Q", 1000) + b"{}", "truncated: a header"),
    "not JSON": (packed(b"{'a'}"), "is not JSON"),
    "an array": (packed([1]), "not a JSON object"),
    "nested 100,000 deep": (packed(b'{"a":' + b"[" * 100_000), "is not JSON"),
    "not UTF-8": (packed(b'{"\xff\xfe": 1}'), "is not JSON"),
    "a tensor that is no object": (packed({"a": 5}), "tensor 'a'"),
    "no offsets": (packed({"a": {"dtype": "F32", "shape": [1]}}), "data_offsets"),
    "a shape that is a number": (one("F32", 1, 0, 4), "wrong type"),
    "a negative offset": (one("F32", [1], -4, 0), "out of range"),
    "offsets backwards": (one("NEW", [0], 0, -8), "out of range"),
    "an end before the beginning": (one("NEW", [0], 8, 4), "ends before it begins"),
    "a shape of 2^80": (one("F32", [2**80], 0, 4), "out of range"),
    "a shape that is too large": (one("F32", [5], 0, 4), "does not fill"),
    "a boolean in the shape": (one("F32", [True], 0, 4), "out of range"),
    "an overlap": (packed({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}), "expected 8"),
    "a hole": (one("F32", [1], 4, 8), "expected 0"),
    "truncated": (safetensors_bytes(TENSORS)[:-1], "truncated: it has"),
    "metadata that is a list": (packed({"__metadata__": ["x"]}), "__metadata__"),
}


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_safetensors_hostile(tmp_path, name):
    data, why = HOSTILE_SAFETENSORS[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadCheckpoint, match=rf"m\.safetensors.*{why}"):
        safetensors_header.read(path)


def shards(folder, weight_map, *present):
    (folder / safetensors_header.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    for name in present:
        (folder / name).write_bytes(safetensors_bytes({"a": ("F32", [1], 4)}))


def test_index_reads_its_shards_in_order(tmp_path):
    shards(tmp_path, {"a": "m-1.safetensors"}, "m-1.safetensors", "stray.safetensors")
    assert [h.path.name for h in safetensors_header.read_folder(tmp_path)] == ["m-1.safetensors"]


@pytest.mark.parametrize(
    ("weight_map", "why"),
    [
        ({"a": "m-1.safetensors", "b": "m-2.safetensors"}, r"m-2\.safetensors .* is missing"),
        ({"z": "m-1.safetensors"}, "'z' .* is missing"),
        ({"a": "../m-1.safetensors"}, "not the name of a shard"),
        ({"a": "/etc/passwd"}, "not the name of a shard"),
        ({"a": 5}, "not the name of a shard"),
        ({}, "empty weight_map"),
    ],
)
def test_index_hostile(tmp_path, weight_map, why):
    shards(tmp_path, weight_map, "m-1.safetensors")
    with pytest.raises(BadCheckpoint, match=why):
        safetensors_header.read_folder(tmp_path)


def mutated(data, head, rng):
    """`data` with a few random changes in its first `head` bytes, or cut off."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(head, len(data)))
        match rng.randrange(5):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            case 2:
                del data[at : at + rng.randint(1, 40)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 40))
            case 4:
                data = data[: max(1, at)]
    return bytes(data)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_300_mutations(tmp_path, gguf, counted, kind):
    read = {"gguf": gguf_header.read, "safetensors": safetensors_header.read}[kind]
    good = gguf.read_bytes() if kind == "gguf" else safetensors_bytes(TENSORS, {"format": "pt"})
    head = gguf_header.read(gguf).data_offset if kind == "gguf" else len(good)
    rng = random.Random(7)
    path = tmp_path / f"m.{kind}"
    refused = 0
    for _ in range(300):
        path.write_bytes(mutated(good, head, rng))
        counted.clear()
        start = time.monotonic()
        try:
            read(path)
        except BadCheckpoint as error:
            refused += 1
            assert str(path) in error.message
        assert time.monotonic() - start < 1
        assert sum(counted) <= path.stat().st_size
    assert refused > 150
