"""Embedding on torch and llama.cpp: the reference's numbers, whatever else is in the batch."""

import json
import random
import shutil

import numpy as np
import pytest

from llmctl.domain import (
    DETOKENIZE,
    EMBED,
    RERANK,
    TOKENIZE,
    Chunk,
    Done,
    EngineSpec,
    Failure,
    GenerateRequest,
    Sampling,
    Task,
)
from llmctl.engines import llamacpp_embed, torch, torch_embed
from llmctl.engines.checkpoint import read_checkpoint
from llmctl.engines.torch_embed_folder import Recipe, recipe
from llmctl.errors import LoadFailed, RequestError, Unsupported
from tests.engines.asked import Asked

WORDS = [
    "a",
    "slot",
    "is",
    "port",
    "on",
    "host",
    "swap",
    "loads",
    "the",
    "new",
    "engine",
    "beside",
    "old",
    "one",
    "where",
    "memory",
    "allows",
]
TEXTS = [
    "What is a slot?",
    "a",
    "The new engine must load, say who it is and pass the probe twice; then new requests go to it.",
    "Ärger über naïve Zeichen, 你好!",
    "[SEP] is not the end [CLS] of [PAD] a text",
]


@pytest.fixture(scope="module")
def on_torch(embed_model):
    made = Asked(embed_model["tiny-embed"])
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def on_llamacpp(embed_model):
    pytest.importorskip("xllamacpp")
    made = Asked(embed_model["tiny-embed-gguf"])
    yield made
    made.engine.close()


@pytest.fixture(params=["on_torch", "on_llamacpp"])
def engine(request):
    return request.getfixturevalue(request.param)


def vectors(asked, inputs, **more):
    return np.array(asked(EMBED, inputs=inputs, **more)["vectors"])


def states(path, texts):
    """The hidden states by transformers alone, text by text; special tokens in a text are plain text."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    with torch.inference_mode():
        return [
            model(**tokenizer(text, return_tensors="pt", split_special_tokens=True)).last_hidden_state[0].numpy()
            for text in texts
        ]


def unit(rows):
    return np.array([row / np.linalg.norm(row) for row in rows])


def many(count, seed=1):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(1, 90))) for _ in range(count)]


# ── the reference's numbers ─────────────────────────────────────────────────────────────────────────────────────────


def test_vectors_are_the_references(on_torch, embed_model):
    expected = unit([s.mean(0) for s in states(embed_model["tiny-embed"], TEXTS)])
    assert np.abs(vectors(on_torch, TEXTS) - expected).max() < 1e-5
    assert np.abs(expected @ expected.T - np.eye(len(TEXTS))).max() < 0.95  # they do differ


def test_llamacpp_and_torch_agree(on_torch, on_llamacpp):
    texts = [*TEXTS, *many(20)]
    ours, theirs = vectors(on_torch, texts), vectors(on_llamacpp, texts)
    assert ((ours * theirs).sum(1) > 0.9999).all()
    assert on_torch(EMBED, inputs=texts)["tokens"] == on_llamacpp(EMBED, inputs=texts)["tokens"]


def test_a_search_finds_the_text_that_shares_its_words(engine):
    documents = vectors(engine, TEXTS)
    query = vectors(engine, ["the engine must load and pass its probe"])[0]
    assert int((documents @ query).argmax()) == 2


@pytest.mark.parametrize("count", [2, 40])
def test_in_a_batch_as_alone_and_in_order(engine, count):
    texts = many(count)
    together = vectors(engine, texts)
    alone = np.array([vectors(engine, [text])[0] for text in texts])
    assert np.abs(together - alone).max() < 1e-5


def test_padding_never_leaks(on_torch):
    short, long = "a slot", " ".join(WORDS * 9)
    beside = vectors(on_torch, [short, long, short])
    assert np.abs(beside[0] - vectors(on_torch, [short])[0]).max() < 1e-6
    assert (beside[0] == beside[2]).all()


def test_ids_are_taken_as_they_are(engine):
    ids = engine(TOKENIZE, text="What is a slot?")["ids"]
    whole = [2, *ids, 3] if ids[0] != 2 else [*ids, 3]  # [CLS] … [SEP]
    assert np.abs(vectors(engine, [whole, "What is a slot?"])[0] - vectors(engine, ["What is a slot?"])[0]).max() < 1e-6
    assert np.abs(vectors(engine, [ids]) - vectors(engine, [whole])).max() > 1e-3
    assert "slot" in engine(DETOKENIZE, ids=ids)["text"]


# ── sentence-transformers' files ────────────────────────────────────────────────────────────────────────────────────


def variant(embed_model, folder, **files):
    """A copy of the tiny model with other files, given by their names without `.json`."""
    shutil.copytree(embed_model["tiny-embed"], folder)
    for name, value in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.unlink(missing_ok=True)
        if value is not None:
            path.write_text(json.dumps(value))
    return folder


def modules(*kinds):
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}
    return [{"type": f"sentence_transformers.models.{kind}", "path": paths[kind]} for kind in kinds]


def test_without_normalize_a_vector_keeps_its_length(embed_model, tmp_path):
    path = variant(embed_model, tmp_path / "m", modules=modules("Transformer", "Pooling"))
    expected = np.array([s.mean(0) for s in states(path, TEXTS)])
    assert np.abs(vectors(Asked(path), TEXTS) - expected).max() < 1e-5
    assert np.abs(np.linalg.norm(expected, axis=1) - 1).max() > 0.1


@pytest.mark.parametrize(
    ("config", "row"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, 0),
        ({"pooling_mode": "lasttoken"}, -1),
        ({"pooling_mode_lasttoken": True}, -1),
    ],
    ids=["cls", "last by name", "last by switch"],
)
def test_pooling_is_the_folders(embed_model, tmp_path, config, row):
    path = variant(embed_model, tmp_path / "m", **{"1_Pooling__config": config})
    expected = unit([s[row] for s in states(path, TEXTS)])
    assert np.abs(vectors(Asked(path), TEXTS) - expected).max() < 1e-5


def test_a_dense_layer_behind_the_pooling(embed_model, tmp_path):
    import torch
    from safetensors.torch import save_file

    path = variant(embed_model, tmp_path / "m", modules=modules("Transformer", "Pooling", "Dense"))
    torch.manual_seed(1)
    weight, bias = torch.randn(8, 64), torch.randn(8)
    (path / "2_Dense").mkdir()
    save_file({"linear.weight": weight, "linear.bias": bias}, path / "2_Dense" / "model.safetensors")
    dense = {"in_features": 64, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
    (path / "2_Dense" / "config.json").write_text(json.dumps(dense))
    expected = [np.tanh(s.mean(0) @ weight.numpy().T + bias.numpy()) for s in states(path, TEXTS)]
    assert np.abs(vectors(Asked(path), TEXTS) - expected).max() < 1e-5
    (path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(LoadFailed, match="2_Dense"):
        Asked(path)


def test_the_default_prompt_goes_before_each_text(embed_model, tmp_path, on_torch):
    said = {"prompts": {"query": "The new engine: "}, "default_prompt_name": "query"}
    path = variant(embed_model, tmp_path / "m", config_sentence_transformers=said)
    prompted = vectors(on_torch, [f"The new engine: {text}" for text in TEXTS])
    assert np.abs(vectors(Asked(path), TEXTS) - prompted).max() < 1e-6


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"modules": [{"type": "custom.Thing", "path": ""}]}, "custom.Thing"),
        ({"modules": modules("Transformer", "Normalize")}, "no pooling"),
        ({"modules": [{**modules("Transformer")[0], "path": "0_T"}]}, "0_T"),
        ({"modules": ["x"]}, "modules.json"),
        ({"modules": {"x": 1}}, "not a JSON array"),
        ({"1_Pooling__config": {"pooling_mode_max_tokens": True}}, "pools by pooling_mode_max_tokens"),
        ({"1_Pooling__config": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}}, "mean and cls"),
        ({"1_Pooling__config": {"pooling_mode_mean_tokens": True, "include_prompt": False}}, "prompt"),
        ({"config": {"architectures": ["SomeModel"], "model_type": "some"}}, "'some'"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(embed_model, tmp_path, files, why):
    path = variant(embed_model, tmp_path / "m", **files)
    with pytest.raises(Unsupported, match=why):
        torch.check(EngineSpec("torch", "m", str(path), "safetensors"))


def test_what_a_folder_without_modules_is(embed_model, tmp_path):
    def of(**config):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        variant(embed_model, path, modules=None, config=config)
        spec = EngineSpec("torch", "m", str(path), "safetensors")
        return recipe(spec, read_checkpoint(spec))

    assert of(model_type="bert", architectures=["BertModel"]) == Recipe(EMBED, "mean")
    assert of(model_type="xlm-roberta", architectures=["XLMRobertaForMaskedLM"]) == Recipe(EMBED, "mean")
    one = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    assert of(**one, id2label={"0": "LABEL_0"}) == Recipe(RERANK)
    assert of(**one) is of(**one, num_labels=3) is None
    assert of(model_type="qwen2", architectures=["Qwen2ForCausalLM"]) is None
    assert of(model_type="llama", architectures=["LlamaModel"]) is None


def test_the_longest_input_is_the_least_of_all_limits(embed_model, tmp_path):
    def context(wanted, **files):
        path = variant(embed_model, tmp_path / str(len(list(tmp_path.iterdir()))), **files)
        spec = EngineSpec("torch", "m", str(path), "safetensors", context=wanted)
        checkpoint = read_checkpoint(spec)
        return torch_embed.usable_context(spec, checkpoint, recipe(spec, checkpoint))

    assert context(100) == 100
    assert context(4096) == 200  # max_seq_length
    assert context(4096, sentence_bert_config=None) == 256  # positions
    roberta = {"model_type": "roberta", "max_position_embeddings": 258, "pad_token_id": 1}
    assert context(4096, sentence_bert_config=None, config=roberta) == 256


def test_a_checkpoint_without_its_pooler_loads_but_not_without_a_layer(embed_model, tmp_path, on_torch):
    from safetensors.torch import load_file, save_file

    path = variant(embed_model, tmp_path / "m")
    weights = load_file(path / "model.safetensors")
    assert not any(name.startswith("pooler") for name in weights)
    assert (vectors(Asked(path), TEXTS) == vectors(on_torch, TEXTS)).all()
    save_file({k: v for k, v in weights.items() if "layer.1.output" not in k}, path / "model.safetensors")
    with pytest.raises(LoadFailed, match="weights are missing"):
        Asked(path)


# ── what a client sends ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (["slot " * 300], r"30[0-9] tokens; the context is 2"),
        (["x" * 100_000], "at least"),
        ([[]], "empty"),
        ([[5, 100_000]], "100000"),
        ([[-1]], "-1"),
        (["a lone \ud800"], "no text"),
    ],
    ids=["too long", "far too long", "empty", "unknown id", "negative id", "surrogate"],
)
def test_an_input_that_cannot_be_embedded_is_named(engine, inputs, why):
    with pytest.raises(RequestError, match=why) as caught:
        engine(EMBED, inputs=["good", *inputs])
    assert (caught.value.status, caught.value.param) == (400, "input")
    assert vectors(engine, ["good"]).shape == (1, 64)


def test_pooling_of_a_request(engine, embed_model):
    hidden = states(embed_model["tiny-embed"], TEXTS)
    assert np.abs(vectors(engine, TEXTS, pooling="mean") - unit([s.mean(0) for s in hidden])).max() < 1e-3
    with pytest.raises(RequestError, match="pool") as caught:
        engine(EMBED, inputs=TEXTS, pooling="median")
    assert caught.value.param == "pooling"


def test_an_answer_has_a_largest_size(engine, monkeypatch):
    monkeypatch.setattr("llmctl.engines.embedding.FLOATS", 64 * 3)
    assert vectors(engine, TEXTS[:3]).shape == (3, 64)
    with pytest.raises(RequestError, match="4 vectors of 64"):
        engine(EMBED, inputs=TEXTS[:4])


def test_it_does_nothing_else(engine):
    with pytest.raises(RequestError, match="generates no text") as caught:
        engine.engine.submit(GenerateRequest("g", prompt="Hello"))
    assert caught.value.code == "unsupported_task"
    with pytest.raises(RequestError, match="cannot rerank"):
        engine(RERANK, query="a", documents=["b"])
    identity = engine.engine.identity
    assert (identity.capabilities, identity.outputs, identity.chat) == ((EMBED,), (), False)


def test_a_cancelled_task_ends_and_the_others_go_on(engine):
    engine.events.clear()
    engine.engine.ask(Task("long", EMBED, {"inputs": many(30)}))
    engine.engine.ask(Task("short", EMBED, {"inputs": ["a slot"]}))
    for _ in range(8):
        engine.engine.step()
    assert [(type(e), e.id) for e in engine.events] == [(Done, "short")]  # it did not wait for the long one
    engine.engine.cancel("long")
    engine.engine.cancel("unknown")
    assert (type(engine.events[-1]), engine.events[-1].id, engine.events[-1].error["code"]) == (
        Failure,
        "long",
        "cancelled",
    )
    assert not engine.engine.step()
    assert engine.engine.steps > 0


def test_numbers_that_are_not_finite_are_an_error(embed_model, tmp_path):
    from safetensors.torch import load_file, save_file

    path = variant(embed_model, tmp_path / "m")
    weights = load_file(path / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][0] = float("nan")
    save_file(weights, path / "model.safetensors")
    with pytest.raises(Exception, match="not finite"):
        Asked(path)(EMBED, inputs=["a"])


# ── models that generate ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["tiny-qwen2", "tiny-qwen2-gguf"])
def generating(request, tiny_models):
    made = Asked(tiny_models[request.param], context=600)
    yield made
    made.engine.close()


def test_a_generating_model_embeds_only_when_the_request_says_how(generating):
    with pytest.raises(RequestError, match="pooling mean or last") as caught:
        generating(EMBED, inputs=["a"])
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "pooling", "unsupported_task")
    with pytest.raises(RequestError, match="no pooling"):
        generating(EMBED, inputs=["a"], pooling="median")


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooled_vectors_are_the_references_also_over_pieces(generating, tiny_models, pooling):
    texts = ["What is a slot?", "a", " ".join(WORDS * 18)]
    hidden = states(tiny_models["tiny-qwen2"], texts)
    assert len(hidden[-1]) > 256  # more than one piece
    expected = unit([s.mean(0) if pooling == "mean" else s[-1] for s in hidden])
    exact = generating.engine.identity.engine == "torch"
    assert np.abs(vectors(generating, texts, pooling=pooling) - expected).max() < (1e-5 if exact else 0.02)


def test_an_answer_goes_on_while_vectors_are_made(generating):
    request = GenerateRequest(
        "g", prompt="What is a slot?", sampling=Sampling(temperature=0), max_tokens=12, ignore_eos=True, fresh=True
    )
    generating.events.clear()
    generating.engine.submit(request)
    while generating.engine.step():
        pass
    alone = [e for e in generating.events if isinstance(e, Chunk)]
    generating.events.clear()
    generating.engine.ask(Task("t", EMBED, {"inputs": many(12), "pooling": "mean"}))
    generating.engine.submit(request)
    while generating.engine.step():
        pass
    assert [e for e in generating.events if isinstance(e, Chunk)] == alone
    ended = [e.id for e in generating.events if isinstance(e, Done) or (isinstance(e, Chunk) and e.usage)]
    assert ended == ["g", "t"]


def test_a_cancelled_task_of_a_generating_model_ends(generating):
    generating.events.clear()
    generating.engine.ask(Task("t", EMBED, {"inputs": many(12), "pooling": "mean"}))
    for _ in range(14):
        generating.engine.step()
    generating.engine.cancel("t")
    assert [e.error["code"] for e in generating.events if isinstance(e, Failure)] == ["cancelled"]
    assert not generating.engine.step()
    assert vectors(generating, ["a"], pooling="mean").shape == (1, 128)


# ── GGUF files ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_which_gguf_files_llamacpp_would_compute_wrongly(embed_model):
    library = llamacpp_embed.Library.__new__(llamacpp_embed.Library)
    library.model_n_cls_out = lambda model: 1
    library.metadata = lambda model, key: "bert"
    rank = llamacpp_embed.Kind("bert", llamacpp_embed.RANK, causal=False)
    with pytest.raises(Unsupported, match="pooler"):
        llamacpp_embed.able("m", rank, library, 0)
    library.metadata = lambda model, key: "gpt2"
    llamacpp_embed.able("m", rank, library, 0)
    library.model_n_cls_out = lambda model: 3
    with pytest.raises(Unsupported, match="3 classes"):
        llamacpp_embed.able("m", rank, library, 0)
    with pytest.raises(Unsupported, match="pooling type 9"):
        llamacpp_embed.able("m", llamacpp_embed.Kind("bert", 9, causal=False), library, 0)
