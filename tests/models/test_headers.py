"""The header readers on good files, on hostile ones, and on 300 random mutations each."""

import builtins
import json
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


def test_gguf_big_endian(tmp_path):
    path = tmp_path / "big.gguf"
    value = text(b"llama.block_count", ">") + struct.pack(">II", 4, 7)
    path.write_bytes(gguf_bytes(text(b"general.architecture", ">") + struct.pack(">I", 8) + text(b"llama", ">"), value,
                                keys=2, order=">"))  # fmt: skip
    assert gguf_header.read(path).get("block_count") == 7


HOSTILE = {
    "empty": b"",
    "another format": b"PK\x03\x04" + bytes(100),
    "version 1": gguf_bytes(version=1),
    "version 99": gguf_bytes(version=99),
    "2^60 keys": gguf_bytes(keys=2**60),
    "2^60 tensors": gguf_bytes(keys=0, tensors=2**60),
    "a key of 2^62 bytes": gguf_bytes(struct.pack("<Q", 2**62)),
    "a value of 2^62 bytes": gguf_bytes(text(b"k") + struct.pack("<IQ", 8, 2**62)),
    "an unknown type": gguf_bytes(text(b"k") + struct.pack("<I", 77)),
    "an array of 2^62 numbers": gguf_bytes(text(b"k") + struct.pack("<IIQ", 9, 4, 2**62)),
    "an array of 2^62 strings": gguf_bytes(text(b"k") + struct.pack("<IIQ", 9, 8, 2**62)),
    "an array of arrays": gguf_bytes(text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)),
    "a string of 2^62 in an array": gguf_bytes(text(b"k") + struct.pack("<IIQQ", 9, 8, 1, 2**62)),
    "a tensor of 2^200 elements": gguf_bytes(
        text(b"t") + struct.pack("<I4QIQ", 4, *[2**50] * 4, 0, 0), keys=0, tensors=1
    ),
    "a tensor of 99 dimensions": gguf_bytes(text(b"t") + struct.pack("<I", 99), keys=0, tensors=1),
    "a tensor behind the end": gguf_bytes(text(b"t") + struct.pack("<IQIQ", 1, 64, 0, 2**40), keys=0, tensors=1),
    "alignment 0": gguf_bytes(text(b"general.alignment") + struct.pack("<II", 4, 0)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_gguf_hostile(tmp_path, name):
    path = tmp_path / "m.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(BadCheckpoint, match=r"m\.gguf"):
        gguf_header.read(path)


def test_gguf_header_without_end_is_read_to_the_cap_only(tmp_path, counted):
    path = tmp_path / "m.gguf"
    with open(path, "wb") as file:
        file.write(gguf_bytes(text(b"k") + struct.pack("<IIQ", 9, 0, 2**28)))
        file.truncate(2**29)  # a hole
    with pytest.raises(BadCheckpoint):
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


HOSTILE_SAFETENSORS = {
    "empty": b"",
    "a header of 2^60 bytes": struct.pack("<Q", 2**60) + bytes(100),
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "not JSON": packed(b"{'a'}"),
    "an array": packed([1]),
    "nested 100,000 deep": packed(b'{"a":' + b"[" * 100_000),
    "not UTF-8": packed(b'{"\xff\xfe": 1}'),
    "a tensor that is no object": packed({"a": 5}),
    "no offsets": packed({"a": {"dtype": "F32", "shape": [1]}}),
    "a negative offset": packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
    "offsets backwards": packed({"a": {"dtype": "F32", "shape": [0], "data_offsets": [8, 4]}}),
    "a shape of 2^80": packed({"a": {"dtype": "F32", "shape": [2**80], "data_offsets": [0, 4]}}),
    "a shape that is too large": packed({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 4]}}),
    "a boolean in the shape": packed({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}),
    "an overlap": packed({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}),
    "a hole": packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
    "truncated": safetensors_bytes(TENSORS)[:-1],
    "metadata that is a list": packed({"__metadata__": ["x"]}),
}


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_safetensors_hostile(tmp_path, name):
    path = tmp_path / "m.safetensors"
    path.write_bytes(HOSTILE_SAFETENSORS[name])
    with pytest.raises(BadCheckpoint, match=r"m\.safetensors"):
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
