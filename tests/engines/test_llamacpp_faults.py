"""What can be wrong with a GGUF file, the library or the memory: a typed error each, and nothing is kept."""

import json
import os
import subprocess
import sys

import pytest

from llmctl.domain import EngineSpec
from llmctl.engines import llamacpp
from llmctl.errors import LoadFailed, Unsupported
from llmctl.processes import own_environment
from tests.models.making import make_gguf

pytest.importorskip("xllamacpp")


def load(path, **fields):
    spec = EngineSpec("llamacpp", "m", str(path), "gguf", **{"context": 512, "device": "cpu", "threads": 1, **fields})
    llamacpp.check(spec)
    return llamacpp.load(spec, lambda *_: None, lambda event: None)


def told(path, key, value):
    """Write another number into a GGUF file's metadata."""
    import gguf

    reader = gguf.GGUFReader(path, "r+")
    reader.fields[key].parts[-1][0] = value
    reader.fields[key].parts[-1].base.flush()
    return path


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("qwen2.attention.head_count_kv", 4, "blk.0.attn_k.weight.*wrong shape"),
        ("qwen2.attention.head_count", 0, "wrong shape"),
        ("qwen2.attention.head_count", 7, "wrong shape"),
        ("qwen2.embedding_length", 128, "wrong shape"),
        ("qwen2.block_count", 3, "blk.2.* not found"),
    ],
)
def test_metadata_that_lies_about_the_weights(tmp_path, key, value, words):
    path = told(make_gguf(tmp_path / "m.gguf"), key, value)
    with pytest.raises(LoadFailed, match=words) as caught:
        load(path)
    assert str(path) not in caught.value.message
    assert caught.value.message.startswith("m: llama.cpp: ")


def test_a_shard_that_is_missing(tmp_path):
    with pytest.raises(LoadFailed, match=r"m: llama\.cpp: "):
        load(make_split(tmp_path))


def make_split(folder):
    """The first shard of a model of two; the second is not there."""
    import gguf
    import numpy as np

    path = folder / "s-00001-of-00002.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_uint16("split.no", 0)
    writer.add_uint16("split.count", 2)
    writer.add_int32("split.tensors.count", 2)
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def ran(code, **environment):
    """The last line that a process of its own prints, as JSON. What it frees goes back to the system at once."""
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own_environment({**os.environ, **environment}), capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


CAPPED = """
import json, resource, sys
from pathlib import Path
from llmctl.domain import EngineSpec
from llmctl.engines import llamacpp
from llmctl.engines.llamacpp_library import open_library
from llmctl.errors import LlmctlError

def size():
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096

def load(context, parallel=4):
    spec = EngineSpec("llamacpp", "m", sys.argv[1], "gguf", context=context, parallel=parallel, device="cpu", threads=1)
    return llamacpp.load(spec, lambda *_: None, events.append)

def cap(more):
    resource.setrlimit(resource.RLIMIT_AS, (size() + more if more else resource.RLIM_INFINITY, resource.RLIM_INFINITY))

events = []
load(256).close()  # what is allotted once and for all
"""

AT_LOAD = """
before, found = size(), []
for _ in range(3):
    cap(64 * 2**20)
    try:
        load(2048, 256)
    except LlmctlError as error:
        found.append([error.code, error.message, error.hint])
    cap(0)
load(256).close()
print(json.dumps({"found": found, "grown": size() - before}))
"""

GENERATING = """
engine = load(2048, 2)
steps = engine._engine
seq = steps.open()
steps.forward({seq: [1, 2, 3]})
before = size()
cap(19 * 2**20 // 10)
try:
    steps.forward({seq: [5] * 1900}, {seq})
    found = None
except LlmctlError as error:
    found = [error.code, error.message]
cap(0)
rows = steps.forward({seq: [5] * 1900}, {seq})
print(json.dumps({"found": found, "rows": len(rows.argmax()[0])}))
"""


def of(code, path):
    return CAPPED.replace("sys.argv[1]", repr(str(path))) + code


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds nothing elsewhere")
def test_f14_llamacpp_too_large_to_load_is_a_typed_error_and_gives_all_memory_back(tmp_path):
    said = ran(of(AT_LOAD, make_gguf(tmp_path / "m.gguf", hidden=512, layers=4)))
    assert [code for code, *_ in said["found"]] == ["out_of_memory"] * 3
    assert said["found"][0][1].startswith("m: out of memory: ")
    assert "a shorter context" in said["found"][0][2]
    assert said["grown"] < 64 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds nothing elsewhere")
def test_f14_llamacpp_out_of_memory_while_generating_is_a_typed_error_and_it_goes_on(tmp_path):
    said = ran(of(GENERATING, make_gguf(tmp_path / "m.gguf")))
    assert said["found"][0] == "out_of_memory"
    assert said["rows"] == 1900


def test_a_native_library_that_cannot_be_loaded_leaves_the_wheel(tmp_path):
    (tmp_path / "libllama.so").write_bytes(b"\x7fELF and nothing else")
    code = (
        "import json; from llmctl.engines.llamacpp_library import described, open_library\n"
        "print(json.dumps(described(open_library())))"
    )
    assert ran(code, LLMCTL_NATIVE=str(tmp_path / "libllama.so")).startswith("wheel")
    assert ran(code, LLMCTL_NATIVE="").startswith("wheel")


def test_a_library_that_is_not_there_is_named_with_its_extra(monkeypatch):
    from llmctl.engines import llamacpp_library

    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.delitem(sys.modules, "xllamacpp.xllamacpp", raising=False)
    with pytest.raises(Unsupported, match=r"llama\.cpp cannot be used") as caught:
        llamacpp_library.open_library.__wrapped__()
    assert "llmctl-fleet[llamacpp]" in caught.value.hint
    assert "\n" not in caught.value.message
