"""Adapters, quantized and bounded keys and values, and drafts on llama.cpp."""

import re
import shutil
from collections import deque

import numpy as np
import pytest

from llmctl.domain import Chunk, EngineSpec, GenerateRequest, Sampling
from llmctl.engines import llamacpp
from llmctl.engines.llamacpp_cache import token_bytes
from llmctl.errors import DoesNotFit, LoadFailed, RequestError, Unsupported
from tests.models.making import make_gguf

pytest.importorskip("xllamacpp")

from llmctl.engines.llamacpp_library import open_library

CLOSE = {"rtol": 1e-3, "atol": 1e-1}
PROMPT = [(7 * i) % 256 for i in range(40)]


def spec(path, **fields):
    fields = {"context": 512, "parallel": 4, "device": "cpu", "threads": 1, **fields}
    return EngineSpec("llamacpp", "m", str(path), "gguf", **fields)


def loaded(path, **fields):
    return llamacpp.load_steps(spec(path, **fields), lambda *_: None)


def row(engine, ids=PROMPT, adapter=None):
    seq = engine.open(adapter=adapter)
    found = engine.forward({seq: ids}).row(0)
    engine.free(seq)
    return found


# ── adapters ────────────────────────────────────────────────────────────────────────────────────────────────────────

RANK, ALPHA, HIDDEN = 4, 8.0, 64
TARGETS = ("blk.0.attn_q.weight", "blk.1.ffn_up.weight")
WIDE = {"blk.0.attn_q.weight": HIDDEN, "blk.1.ffn_up.weight": 2 * HIDDEN}


def factors(seed):
    random = np.random.default_rng(seed)
    return {
        name: (random.standard_normal((RANK, HIDDEN)) * 0.2, random.standard_normal((WIDE[name], RANK)) * 0.2)
        for name in TARGETS
    }


def make_lora(path, seed, architecture="qwen2"):
    """A LoRA adapter as a GGUF file."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name, (a, b) in factors(seed).items():
        writer.add_tensor(f"{name}.lora_a", a.astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", b.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(base, path, seed):
    """The model with an adapter's weights in its own."""
    import gguf

    shutil.copy(base, path)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path, "r+").tensors}
    for name, (a, b) in factors(seed).items():
        tensors[name].data[:] += (ALPHA / RANK * b @ a).astype(np.float32)
    tensors[TARGETS[0]].data.base.flush()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lora")
    make_gguf(path / "m.gguf")
    for seed in (1, 2):
        make_lora(path / f"lora{seed}.gguf", seed)
        merged(path / "m.gguf", path / f"merged{seed}.gguf", seed)
    return path


@pytest.fixture(scope="module")
def adapted(folder):
    made = loaded(folder / "m.gguf", adapters={"one": str(folder / "lora1.gguf"), "two": str(folder / "lora2.gguf")})
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(folder):
    """The logits of the prompt, and of it with one token more, by adapter."""
    found = {}
    for name, file in ((None, "m"), ("one", "merged1"), ("two", "merged2")):
        engine = loaded(folder / f"{file}.gguf")
        found[name] = row(engine), row(engine, [*PROMPT, 9])
        engine.close()
    return found


def test_an_adapter_is_what_its_merged_weights_are(adapted, expected):
    assert adapted.identity.adapters == ("one", "two")
    for name in (None, "one", "two", None):
        np.testing.assert_allclose(row(adapted, adapter=name), expected[name][0], **CLOSE)
    assert np.abs(expected["one"][0] - expected[None][0]).max() > 1
    assert np.abs(expected["one"][0] - expected["two"][0]).max() > 1


def test_sequences_of_several_adapters_in_one_pass(adapted, expected):
    names = ["two", None, "one", "two"]
    seqs = {adapted.open(adapter=name): name for name in names}
    for feed, at in ((PROMPT, 0), ([9], 1)):
        rows = adapted.forward(dict.fromkeys(seqs, feed))
        for i, name in enumerate(names):
            np.testing.assert_allclose(rows.row(i), expected[name][at], **CLOSE)
    for seq in seqs:
        adapted.free(seq)


def test_no_beginning_is_reused_of_another_adapter(adapted):
    for name in ("one", "two", None):
        row(adapted, adapter=name)
    for name in ("one", "two", None):
        seq = adapted.open(adapter=name)
        assert adapted.reuse(seq, PROMPT) == len(PROMPT) - 1
        adapted.free(seq)
    row(adapted, adapter="one")
    for _ in range(4):
        row(adapted, [1] * 50, adapter="two")
    seq = adapted.open(adapter="one")
    assert adapted.reuse(seq, [1] * 50) == 0
    adapted.free(seq)


def test_an_adapter_that_is_not_loaded(adapted):
    with pytest.raises(RequestError, match="no adapter 'three'") as caught:
        adapted.open(adapter="three")
    assert (caught.value.status, caught.value.param) == (404, "adapter")


def test_adapters_that_cannot_be_loaded(folder, tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    make_lora(tmp_path / "llama.gguf", 1, architecture="llama")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_model.safetensors").touch()
    for name, error, words in (
        ("no.gguf", Unsupported, "not a GGUF file"),
        ("peft", Unsupported, "holds no GGUF files"),
        ("missing.gguf", Unsupported, "holds no GGUF files"),
        ("llama.gguf", LoadFailed, "adapter x .*llama.gguf.*arch"),
    ):
        with pytest.raises(error, match=words):
            loaded(folder / "m.gguf", adapters={"x": str(tmp_path / name)})


# ── keys and values ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model with heads of 32, which quantization needs."""
    return make_gguf(tmp_path_factory.mktemp("wide") / "m.gguf", hidden=128)


@pytest.fixture
def allotted(monkeypatch):
    """The bytes of keys and values of the context made last, as llama.cpp tells them."""
    log = deque(maxlen=5000)
    monkeypatch.setattr(open_library(), "log", log)

    def told():
        line = [line for line in log if "llama_kv_cache: size" in line][-1]
        return float(re.search(r"size = +([0-9.]+) MiB", line)[1]) * 2**20

    return told


@pytest.mark.parametrize(("bits", "share", "off"), [(8, 34 / 64, 1.5), (4, 18 / 64, 12.0)])
def test_quantized_keys_take_less_and_say_nearly_the_same(wide, allotted, bits, share, off):
    plain = loaded(wide, context=2048)
    theirs, large = row(plain), allotted()
    plain.close()
    quantized = loaded(wide, context=2048, cache_bits=bits)
    ours, small = row(quantized), allotted()
    assert 0 < np.abs(ours - theirs).max() < off
    assert small == pytest.approx(share * large, rel=0.01)
    token = token_bytes(spec(wide, cache_bits=bits), quantized._lib, quantized._model)
    assert small == pytest.approx(token * 2048 * 4, rel=0.01)
    quantized.close()


def test_keys_that_cannot_be_quantized(folder, wide):
    with pytest.raises(Unsupported, match="heads are 16 wide"):
        loaded(folder / "m.gguf", cache_bits=8)
    with pytest.raises(Unsupported, match="8 or 4 bits, not 3"):
        loaded(wide, cache_bits=3)


def test_the_context_is_what_the_cap_holds(wide, allotted):
    token = 2 * 2 * (2 * 32) * 2  # keys and values × layers × width × bytes
    engine = loaded(wide, context=2048, cache_bytes=4 * 800 * token)
    assert engine.identity.context == 768
    assert allotted() <= 4 * 800 * token
    assert row(engine).size
    engine.close()
    wider = loaded(wide, context=2048, cache_bytes=4 * 800 * token, cache_bits=4)
    assert wider.identity.context == 2048
    wider.close()


def test_a_cap_that_holds_no_context(wide):
    with pytest.raises(DoesNotFit, match="4 × 256 tokens take 524,288 bytes") as caught:
        loaded(wide, cache_bytes=500_000)
    assert "cache_bits" in caught.value.hint
    assert caught.value.details == {"needed": 524_288, "budget": 500_000}


# ── drafts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def generated(path, **fields):
    """What it says, and its usage."""
    events = []
    engine = llamacpp.load(spec(path, **fields), lambda *_: None, events.append)
    for seed, temperature in ((0, 0.0), (3, 0.9)):
        sampling = Sampling(temperature=temperature, seed=seed)
        engine.submit(
            GenerateRequest(f"{seed}", prompt=tuple(PROMPT), sampling=sampling, max_tokens=30, ignore_eos=True)
        )
        while engine.step():
            pass
    engine.close()
    chunks = [event for event in events if isinstance(event, Chunk)]
    text = ["".join(chunk.text for chunk in chunks if chunk.id == id) for id in ("0", "3")]
    return text, [chunk.usage for chunk in chunks if chunk.usage]


def test_a_draft_changes_no_text_and_is_agreed_with(folder):
    text, usage = generated(folder / "m.gguf")
    drafted, told = generated(folder / "m.gguf", draft=str(folder / "m.gguf"))
    assert drafted == text
    assert usage[0].drafted == 0
    assert told[0].drafted >= 12
    assert (
        told[0].agreed >= told[0].drafted - 1
    )  # the same model, but what is computed together differs in its last bits
    wrong, told = generated(folder / "m.gguf", draft=str(folder / "merged1.gguf"))
    assert wrong == text
    assert told[0].agreed < told[0].drafted


def test_drafts_of_another_vocabulary(folder, tmp_path):
    make_gguf(tmp_path / "spm.gguf", spm=True)
    with pytest.raises(Unsupported, match="tokens"):
        generated(folder / "m.gguf", draft=str(tmp_path / "spm.gguf"))


def test_a_draft_whose_tokens_mean_something_else(folder, tmp_path, monkeypatch):
    make_gguf(tmp_path / "other.gguf")
    data = (tmp_path / "other.gguf").read_bytes()
    assert data.count(b"hello") == 1
    (tmp_path / "other.gguf").write_bytes(data.replace(b"hello", b"jello"))
    with pytest.raises(Unsupported, match="another vocabulary of the same size"):
        generated(folder / "m.gguf", draft=str(tmp_path / "other.gguf"))
