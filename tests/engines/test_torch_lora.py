"""LoRA adapters on the torch engine: equal to merged weights, each for its own requests, refused if they do not fit."""

import json
import random
import shutil

import pytest

from llmctl.domain import Chunk, EngineSpec, GenerateRequest, Sampling
from llmctl.engines import adapter
from llmctl.engines.batch import BatchEngine
from llmctl.engines.lora import CONFIG, OTHER_WAYS, WEIGHTS
from llmctl.errors import LoadFailed, RequestError, Unsupported

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.models
TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
SETTINGS = {"peft_type": "LORA", "lora_alpha": 24, "r": 4, "bias": "none", "target_modules": ["q_proj", "v_proj"]}


def spec(path, **fields):
    fields = {"context": 512, "parallel": 6, "device": "cpu", "dtype": "float32", **fields}
    return EngineSpec("torch", path.name, str(path), "safetensors", **fields)


def loaded(path, **fields):
    found = spec(path, **fields)
    adapter("torch").check(found)
    return adapter("torch").load_steps(found, lambda *_: None)


def weights(path):
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def lora(folder, base, seed, targets=TARGETS, rank=4, **settings):
    """An adapter with random matrices for the first two layers, written as peft does."""
    from safetensors.torch import save_file

    random_, shapes = torch.Generator().manual_seed(seed), weights(base)
    tensors = {}
    for layer in range(2):
        for target in targets:
            name = f"model.layers.{layer}.{target}"
            out, into = shapes[f"{name}.weight"].shape
            tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, into, generator=random_) * 0.2
            tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank, generator=random_) * 0.2
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({**SETTINGS, "r": rank, **settings}))
    save_file(tensors, folder / WEIGHTS)
    return folder


def merged(folder, base, path, scale):
    """A copy of the base checkpoint with the adapter's product in its weights: W + scale · B A."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, path)
    pairs, tensors = load_file(folder / WEIGHTS), weights(base)
    for name in pairs:
        if name.endswith(".lora_A.weight"):
            a, b = pairs[name], pairs[name.replace("lora_A", "lora_B")]
            tensors[name.removeprefix("base_model.model.").replace(".lora_A", "")] += scale(name) * (b @ a)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def base(tiny_models):
    return tiny_models["tiny-llama"]


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """Two adapters, and the checkpoints that have them merged."""
    at = tmp_path_factory.mktemp("lora")
    one = lora(at / "one", base, 1)
    two = lora(at / "two", base, 2, rank=8, use_rslora=True, alpha_pattern={"mlp.down_proj": 16, r".*\.1\..*q_proj": 8})

    def scale(name):
        alpha = 16 if "down_proj" in name else 8 if "layers.1." in name and "q_proj" in name else 24
        return alpha / 8**0.5

    return {
        "one": one, "two": two,
        "merged one": merged(one, base, at / "merged-one", lambda name: 24 / 4),
        "merged two": merged(two, base, at / "merged-two", scale),
    }  # fmt: skip


@pytest.fixture(scope="module")
def engine(base, folders):
    return loaded(base, adapters={name: str(folders[name]) for name in ("one", "two")})


@pytest.fixture(scope="module")
def alone(base, folders):
    """The engines of each checkpoint that has an adapter merged, and of the base."""
    return {None: loaded(base), "one": loaded(folders["merged one"]), "two": loaded(folders["merged two"])}


def text(n, first=0):
    return [(7919 * (first + i) + 11) % 900 + 20 for i in range(n)]


def test_the_engine_says_what_it_has(engine, alone):
    assert engine.identity.adapters == ("one", "two")
    assert engine.identity.memory_bytes > alone[None].identity.memory_bytes
    assert alone[None].identity.adapters == ()


@pytest.mark.parametrize("name", [None, "one", "two"])
def test_logits_are_those_of_merged_weights(engine, alone, name):
    """And those of the adapters differ from the base's, so that the equality says something."""
    rows = [e.prefill(e.open(adapter=a), text(40)).row(0) for e, a in ((engine, name), (alone[name], None))]
    assert abs(rows[0] - rows[1]).max() < 1e-3 * abs(rows[0]).max()
    if name:
        plain = alone[None].prefill(alone[None].open(), text(40)).row(0)
        assert abs(rows[0] - plain).max() > 0.1 * abs(plain).max()


def answers(engine, requests):
    events = []
    batch = BatchEngine(engine, events.append)
    for request in requests:
        batch.submit(request)
        batch.step()
    while batch.step():
        pass
    return {r.id: [p.id for e in events if isinstance(e, Chunk) and e.id == r.id for p in e.logprobs] for r in requests}


def test_requests_with_different_adapters_in_one_batch_get_their_own_answers(engine, alone):
    requests = [
        GenerateRequest(
            f"{name}-{n}", prompt=tuple(text(20 + 7 * n)), sampling=Sampling(temperature=0), max_tokens=12,
            ignore_eos=True, logprobs=0, adapter=name,
        )
        for n in range(2) for name in (None, "one", "two")
    ]  # fmt: skip
    random.Random(0).shuffle(requests)
    expected = {}
    for one in requests:
        plain = GenerateRequest(**{**one.__dict__, "adapter": None})
        expected |= answers(alone[one.adapter], [plain])
    assert answers(engine, requests) == expected


def test_a_prompt_is_not_reused_from_another_adapter(engine):
    first = engine.open(adapter="one")
    engine.prefill(first, text(60, 300))
    engine.free(first)
    assert engine.reuse(engine.open(adapter="two"), text(70, 300)) == 0
    assert engine.reuse(engine.open(), text(70, 300)) == 0
    assert engine.reuse(engine.open(adapter="one"), text(70, 300)) == 60


def test_vectors_are_the_bases_own(engine, alone):
    """A sequence with an adapter leaves nothing switched on behind it."""
    engine.prefill(engine.open(adapter="one"), text(5))
    pair = []
    for one in (engine, alone[None]):
        work = one.embed([text(30)], "mean")
        while True:
            try:
                next(work)
            except StopIteration as done:
                pair.append(done.value["vectors"][0])
                break
    assert pair[0] == pytest.approx(pair[1], abs=1e-5)


def test_an_unknown_adapter_is_a_request_error(engine):
    with pytest.raises(RequestError, match="'french'") as caught:
        engine.open(adapter="french")
    assert (caught.value.status, caught.value.param) == (404, "adapter")


def test_in_bfloat16_with_packed_weights(base, folders):
    engine = loaded(base, adapters={"one": str(folders["one"])}, dtype="bfloat16")
    rows = [e.prefill(e.open(adapter=a), text(40)).row(0) for e, a in
            ((engine, "one"), (loaded(folders["merged one"]), None))]  # fmt: skip
    assert abs(rows[0] - rows[1]).mean() < 0.1 * rows[1].std()


def emptied(folder):
    for file in folder.iterdir():
        file.unlink()


def setting(**settings):
    def change(folder):
        (folder / CONFIG).write_text(json.dumps({**SETTINGS, **settings}))

    return change


def pickled(folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def torn(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def tensors(change):
    def edit(folder):
        from safetensors.torch import load_file, save_file

        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return edit


def renamed(old, new):
    return tensors(lambda found: {name.replace(old, new): tensor for name, tensor in found.items()})


def nan(found):
    next(iter(found.values()))[0, 0] = torch.nan
    return found


BAD = {
    "no config": (emptied, Unsupported, "adapter_config.json cannot be used"),
    "no object": (lambda f: (f / CONFIG).write_text("[]"), Unsupported, "not an object"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), Unsupported, "cannot be used"),
    "no alpha": (lambda f: (f / CONFIG).write_text("{}"), Unsupported, "it says no 'lora_alpha'"),
    "alpha of text": (setting(lora_alpha="much"), Unsupported, "cannot be used"),
    "another kind": (setting(peft_type="IA3"), Unsupported, "is a IA3 adapter"),
    "trained biases": (setting(bias="all"), Unsupported, "has bias"),
    **{way: (setting(**{way: True}), Unsupported, f"has {way}") for way in OTHER_WAYS},
    "no weights": (lambda f: (f / WEIGHTS).unlink(), Unsupported, "there is no adapter_model.safetensors"),
    "a pickle": (pickled, Unsupported, "adapter_model.bin is a pickle"),
    "torn weights": (torn, LoadFailed, "cannot be read"),
    "nothing in it": (tensors(lambda found: {}), LoadFailed, "it is empty"),
    "half a pair": (tensors(lambda found: dict(sorted(found.items())[1:])), LoadFailed, "has one matrix of two"),
    "something else": (renamed("lora_A.weight", "lora_magnitude_vector"), LoadFailed, "is no matrix of a LoRA"),
    "an unknown layer": (renamed("q_proj", "w_proj"), LoadFailed, "self_attn.w_proj, which the model does not have"),
    "too many layers": (renamed("layers.1.", "layers.99."), LoadFailed, "layers.99.*does not have"),
    "no linear layer": (renamed("self_attn.q_proj", "input_layernorm"), LoadFailed, "which is no linear layer"),
    "another base": (tensors(lambda all: {k: v.repeat(1, 2) for k, v in all.items()}), LoadFailed, "does not fit"),
    "not finite": (tensors(nan), LoadFailed, "are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_an_adapter_that_cannot_be_used_is_refused(base, folders, tmp_path, case):
    """What its folder tells is refused before any weights of the model are read."""
    change, error, why = BAD[case]
    folder = shutil.copytree(folders["one"], tmp_path / "french")
    change(folder)
    wanted = spec(base, adapters={"french": str(folder)})
    with pytest.raises(error, match=why) as caught:
        adapter("torch").check(wanted)
        assert error is LoadFailed
        adapter("torch").load_steps(wanted, lambda *_: None)
    assert "'french'" in str(caught.value)


def test_the_output_layer_is_not_adapted(base, tmp_path):
    from safetensors.torch import save_file

    folder = lora(tmp_path / "french", base, 1)
    vocab, width = weights(base)["lm_head.weight"].shape
    pair = {"A": torch.zeros(4, width), "B": torch.zeros(vocab, 4)}
    save_file({f"base_model.model.lm_head.lora_{k}.weight": v for k, v in pair.items()}, folder / WEIGHTS)
    with pytest.raises(LoadFailed, match="lm_head, which is no linear layer within the model"):
        loaded(base, adapters={"french": str(folder)})


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_peft_trains_is_what_is_computed(base, tmp_path):
    """An adapter that peft made and saved, against peft's own merge of it."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM",
        rank_pattern={"down_proj": 8}, alpha_pattern={"q_proj": 3},
    )  # fmt: skip
    tuned = peft.get_peft_model(model, config)
    tuned.save_pretrained(tmp_path / "own")
    with torch.inference_mode():
        expected = tuned.merge_and_unload()(torch.tensor([text(30)])).logits[0, -1].numpy()
    engine = loaded(base, adapters={"own": str(tmp_path / "own")})
    found = engine.prefill(engine.open(adapter="own"), text(30)).row(0)
    assert abs(found - expected).max() < 1e-3 * abs(expected).max()
