"""The openvino engine on the trained models: torch's logits, one text however it is batched, typed errors."""

import json
import random
import shutil
import subprocess
import sys
from functools import cache

import pytest

from llmctl.domain import Chunk, EngineSpec, Failure, GenerateRequest, Sampling
from llmctl.engines import openvino, openvino_check
from llmctl.engines.batch import BatchEngine
from llmctl.engines.drafts import Ngrams
from llmctl.errors import BadCheckpoint, RequestError, Unsupported
from tests.conftest import REPO
from tests.engines.test_equality import GREEDY, NEW, answers, prompts, request
from tests.engines.test_llamacpp import questions

pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.models

NAMES = ["tiny-llama", "tiny-qwen2", "tiny-qwen3"]
SEEDED = Sampling(seed=11, top_p=0.95, repetition_penalty=1.1)


def spec_of(path, **fields):
    fields = {"context": 512, "parallel": 4, "device": "cpu", "dtype": "float32", "threads": 1, **fields}
    return EngineSpec("openvino", "m", str(path), "gguf", **fields)


def loaded(path, **fields):
    return openvino.load_steps(spec_of(path, **fields), lambda *_: None)


@pytest.fixture(scope="module")
def steps(tiny_models):
    """steps("tiny-llama") → its StepEngine in float32, loaded once."""

    @cache
    def load(name, **fields):
        return loaded(tiny_models[name], **fields)

    return lambda name, **fields: load(f"{name}-gguf" if "gguf" not in name else name, **fields)


def greedy(engine, prompt, count):
    """Greedy tokens with nothing kept: the whole sequence is computed anew for each of them."""
    ids = list(prompt)
    for _ in range(count):
        seq = engine.open()
        ids.append(engine.forward({seq: ids}).argmax()[0][0])
        engine.free(seq)
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", NAMES)
def test_openvino_computes_what_torch_computes(tiny_models, steps, name):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_models[name], dtype=torch.float32).eval()
    for weight in model.parameters():
        weight.data = weight.data.half().float()  # as the file has them
    engine = steps(name)
    for prompt in prompts(engine.tokenizer).values():
        seq = engine.open()
        rows = engine.forward({seq: prompt}, every=[seq])
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0].numpy()
        found = [rows.row(i) for i in range(len(prompt))]
        engine.free(seq)
        assert abs(found - expected).max() < 2e-3 * abs(expected).max()


@pytest.mark.parametrize("name", [*NAMES, "tiny-qwen2-gguf-q8_0"])
def test_openvino_with_cache_equals_full_recompute(steps, name):
    engine = steps(name)
    for id, prompt in prompts(engine.tokenizer).items():
        assert answers(engine, [request(id, prompt)])[id, 0] == greedy(engine, prompt, NEW)


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_openvino_batch_equals_alone_with_requests_joining_and_leaving(steps, name, sampling):
    engine = steps(name)
    work = prompts(engine.tokenizer, (1, 7, 31, 32, 33, 100))
    requests = [request(id, p, sampling, max_tokens=6 + 5 * i) for i, (id, p) in enumerate(work.items())]
    alone = {}
    for one in requests:
        alone |= answers(engine, [one])
    for seed in (1, 2):
        assert answers(engine, requests, shuffle=random.Random(seed)) == alone


def test_openvino_chunked_prefill_equals_one_piece(steps):
    engine = steps("tiny-qwen2")
    prompt = prompts(engine.tokenizer, (100,))["p100"]
    whole = answers(engine, [request("a", prompt)])
    for chunk in (1, 13, 64):
        engine.prefill_chunk = chunk
        assert answers(engine, [request("a", prompt)]) == whole


def test_openvino_n_sequences_are_those_of_their_streams(steps):
    engine = steps("tiny-qwen2")
    work = prompts(engine.tokenizer, (20, 50))
    many = [request(id, p, Sampling(seed=3), n=4) for id, p in work.items()]
    found = answers(engine, many, shuffle=random.Random(0))
    assert len({tuple(ids) for ids in found.values()}) == 8
    assert found == answers(engine, many[:1]) | answers(engine, many[1:])


def test_openvino_drafts_change_nothing(steps):
    engine = steps("tiny-qwen2")
    prompt = prompts(engine.tokenizer, (100,))["p100"]
    plain = answers(engine, [request("a", prompt), request("b", prompt[:40], SEEDED)])
    events = []
    batch = BatchEngine(engine, events.append, draft=Ngrams())
    batch.submit(request("a", prompt))
    batch.submit(request("b", prompt[:40], SEEDED))
    while batch.step():
        pass
    drafted = {}
    for chunk in (e for e in events if isinstance(e, Chunk)):
        drafted.setdefault((chunk.id, 0), []).extend(p.id for p in chunk.logprobs)
    assert drafted == plain
    assert sum(e.usage.drafted for e in events if isinstance(e, Chunk) and e.usage) > 0, "nothing was drafted"


def run(batch, *requests):
    """The usage and text of each request, or its error."""
    events = batch._emit.__self__
    events.clear()
    for one in requests:
        batch.submit(one)
    while batch.step():
        pass
    ended = {e.id: e.error for e in events if isinstance(e, Failure)}
    for id in {e.id for e in events if isinstance(e, Chunk)} - set(ended):
        chunks = [e for e in events if isinstance(e, Chunk) and e.id == id]
        ended[id] = "".join(e.text for e in chunks), next(e.usage for e in chunks if e.usage)
    return ended


def test_openvino_a_shared_beginning_is_computed_once(steps, monkeypatch):
    engine = steps("tiny-qwen2")
    batch = BatchEngine(engine, [].append)
    ids = engine.tokenizer.encode("Alpha beta gamma: one, two, three; all of it again and again. " * 20)[:200]
    computed = []
    infer = engine._infer

    def counting(work, every):
        computed.extend(len(held.tokens) - past for held, past in work)
        infer(work, every)

    monkeypatch.setattr(engine, "_infer", counting)
    first = run(batch, request("a", ids))["a"]
    assert sum(computed) == len(ids) + NEW - 1
    computed.clear()
    again = run(batch, request("a", ids))["a"]
    assert sum(computed) == len(ids) % 32 + NEW - 1
    assert first[0] == again[0]
    assert (first[1].cached, again[1].cached) == (0, 192)


def test_openvino_nan_in_old_blocks_reaches_nobody(steps):
    import numpy as np

    engine = steps("tiny-llama")
    work = prompts(engine.tokenizer, (30, 45, 10))
    fresh = answers(engine, [request(id, p) for id, p in work.items()])
    for array in engine._caches:
        array[:] = np.nan
    engine._pool._known.clear()
    assert answers(engine, [request(id, p) for id, p in work.items()]) == fresh


@pytest.mark.parametrize("fields", [{"dtype": "bfloat16", "threads": 2}, {"cache_bits": 8}])
def test_openvino_answers_right_in_other_precisions(tiny_models, fields):
    if fields.get("dtype") and openvino.threads(spec_of("", **fields)) < openvino.BF16_THREADS:
        pytest.skip("needs two cores")
    engine = loaded(tiny_models["tiny-llama-gguf-q8_0"], **fields)
    batch = BatchEngine(engine, [].append)
    asked = questions()
    requests = [
        GenerateRequest(id, messages=({"role": "user", "content": question},), sampling=GREEDY, max_tokens=80)
        for id, (question, _) in asked.items()
    ]
    found = run(batch, *requests)
    assert {id: text for id, (text, _) in found.items()} == {id: answer for id, (_, answer) in asked.items()}


def test_f14_openvino_a_full_cache_ends_the_request_that_overflows_it(tiny_models):
    engine = loaded(tiny_models["tiny-qwen2-gguf"], cache_bytes=5 * 32 * 4 * 4 * 2 * 64, parallel=2)
    assert engine._pool.count == 5
    batch = BatchEngine(engine, [].append)
    work = prompts(engine.tokenizer, (33, 90))
    alone = run(batch, request("a", work["p33"]))["a"][0]
    found = run(batch, request("b", work["p90"], max_tokens=60), request("a", work["p33"]))
    assert found["a"][0] == alone
    assert found["b"]["code"] == "out_of_memory" and "cache" in found["b"]["message"]
    assert run(batch, request("c", work["p90"], max_tokens=60))["c"][1].completion == 60, "its blocks were lost"


AT_LOAD = """
import json, resource, sys
from llmctl.engines import openvino
from llmctl.errors import LlmctlError
from tests.engines.test_openvino import spec_of
openvino.load_steps(spec_of(sys.argv[1]), lambda *_: None).close()  # the libraries are there, the form is made
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, size + 2**28))
try:
    openvino.load_steps(spec_of(sys.argv[1], parallel=10**6), lambda *_: None)
except LlmctlError as error:
    print(json.dumps([error.code, error.message, error.hint]))
openvino.load_steps(spec_of(sys.argv[1]), lambda *_: None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds nothing elsewhere")
def test_f14_openvino_too_large_a_cache_is_a_typed_error_and_the_form_stays(tiny_models):
    argv = [sys.executable, "-c", AT_LOAD, str(tiny_models["tiny-qwen2-gguf"])]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code, message, hint = json.loads(done.stdout)
    assert code == "out_of_memory" and message.startswith("m: out of memory: ") and "a shorter context" in hint


def test_openvino_a_cache_too_small_for_a_block_is_refused(tiny_models):
    with pytest.raises(Unsupported, match="not one block"):
        loaded(tiny_models["tiny-qwen2-gguf"], cache_bytes=1000)


REFUSED = [
    ("tiny-phi-gguf", {}, "architecture 'phi2' is not supported"),
    ("tiny-phi3-gguf", {}, "architecture 'phi3' is not supported"),
    ("tiny-gemma3-gguf", {}, "architecture 'gemma3' is not supported"),
    ("tiny-llama-gguf", {"device": "cuda"}, "CPUs only, not on cuda"),
    ("tiny-llama-gguf", {"dtype": "float16"}, "no dtype 'float16'"),
    ("tiny-llama-gguf", {"dtype": "bfloat16"}, "two threads"),
    ("tiny-llama-gguf", {"cache_bits": 4}, "no cache of 4 bits"),
    ("tiny-llama-gguf", {"adapters": {"a": "/a"}}, "no adapters"),
    ("tiny-llama-gguf", {"spread": ({},)}, "one host"),
]


@pytest.mark.parametrize(("name", "fields", "words"), REFUSED)
def test_openvino_refuses_by_name(tiny_models, name, fields, words):
    with pytest.raises(Unsupported, match=words):
        openvino.check(spec_of(tiny_models[name], **fields))


HEADERS = [
    ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, {}, "yarn scaling"),
    ({"attention.sliding_window": 64}, {}, "sliding window"),
    ({"rope.dimension_count": 16}, {}, "a part of each head"),
    ({"expert_count": 8}, {}, "mixtures of experts"),
    ({"pooling_type": 1}, {}, "models that embed"),
    ({}, {"rope_freqs.weight": 0}, "rope_freqs"),
    ({}, {"blk.0.attn_q.weight": 12}, "Q4_K weights"),
    ({}, {"blk.0.attn_q.weight": 3}, "Q4_1 weights"),
    ({}, {"blk.0.attn_q.weight": 0}, "F32 weights"),
    ({}, {"blk.0.attn_q.weight": 30}, "BF16 weights"),
]


@pytest.mark.parametrize(("values", "types", "words"), HEADERS)
def test_openvino_refuses_what_its_reader_would_compute_wrong(tiny_models, values, types, words):
    from llmctl.models import gguf_header

    header = gguf_header.read(tiny_models["tiny-llama-gguf"])
    assert openvino_check._obstacle(header) is None
    header.metadata.update({f"llama.{key}": value for key, value in values.items()})
    one = header.tensors[0]
    extra = tuple(gguf_header.TensorInfo(name, type, one.shape, 0) for name, type in types.items())
    object.__setattr__(header, "tensors", header.tensors + extra)
    assert words in openvino_check._obstacle(header)


def test_openvino_refuses_split_files_and_projectors(tiny_models, tmp_path):
    path = shutil.copy(tiny_models["tiny-llama-gguf"], tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(Unsupported, match="split"):
        openvino.check(spec_of(path))
    path = path.rename(tmp_path / "m.gguf")
    shutil.copy(path, tmp_path / "mmproj-m.gguf")
    with pytest.raises(Unsupported, match="vision projector"):
        openvino.check(spec_of(path))


def test_openvino_that_is_not_installed_says_which_extra(tiny_models, monkeypatch):
    monkeypatch.setattr(openvino, "LIBRARY", "openvino-genai-of-nobody")
    with pytest.raises(Unsupported, match="not installed") as caught:
        openvino.check(spec_of(tiny_models["tiny-llama-gguf"]))
    assert "llmctl-fleet[openvino]" in caught.value.hint


def test_openvino_a_truncated_file_is_named(tiny_models, tmp_path):
    data = tiny_models["tiny-llama-gguf"].read_bytes()
    (tmp_path / "m.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadCheckpoint, match="truncated"):
        openvino.check(spec_of(tmp_path / "m.gguf"))


def test_openvino_an_unknown_adapter_is_a_404(steps):
    with pytest.raises(RequestError) as caught:
        steps("tiny-qwen2").open(adapter="x")
    assert caught.value.status == 404


def changed(path, folder, change):
    """A copy of a GGUF file, changed through its reader."""
    from gguf import GGUFReader

    copy = shutil.copy(path, folder / "m.gguf")
    reader = GGUFReader(copy, "r+")
    change(reader)
    reader.data.flush()
    return copy


def test_openvino_nan_weights_are_an_error_not_tokens(tiny_models, tmp_path):
    def poison(reader):
        next(t for t in reader.tensors if t.name == "output_norm.weight").data[:] = float("nan")

    batch = BatchEngine(loaded(changed(tiny_models["tiny-qwen2-gguf"], tmp_path, poison)), [].append)
    found = run(batch, request("a", [1, 2, 3]), request("b", [1, 2, 3], SEEDED))
    assert len(found) == 2
    assert all("finite" in error["message"] for error in found.values())


@pytest.mark.parametrize(
    ("key", "value"), [("attention.head_count", 8), ("attention.head_count_kv", 4), ("block_count", 9)]
)
def test_openvino_a_header_that_lies_is_caught_by_its_weights(tiny_models, tmp_path, key, value):
    def lie(reader):
        reader.fields[f"qwen2.{key}"].parts[-1][0] = value

    path = changed(tiny_models["tiny-qwen2-gguf"], tmp_path, lie)
    with pytest.raises(BadCheckpoint, match="its header says") as caught:
        openvino.check(spec_of(path))
    assert "verify" in caught.value.hint
