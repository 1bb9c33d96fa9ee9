"""Tokenizers of checkpoints: text in, text out, and no control token from what a client wrote (A35)."""

import json
import shutil

import pytest
from jinja2 import TemplateError

from llmctl.decoding.detokenize import Detokenizer
from llmctl.engines.tokenizer import CheckpointTokenizer, load_tokenizer
from llmctl.errors import RequestError, Unsupported

MODELS = [
    "tiny-llama", "tiny-qwen2", "tiny-mistral", "tiny-phi", "tiny-phi3", "tiny-qwen3", "tiny-gemma3", "tiny-llama-spm",
]  # fmt: skip
TEXTS = ["import os", "Grüße, 世界! 🙂🏽‍🚀", "a\n\n  b\t", "1234567", "def f(x):\n    return x\n", "\u200bé\u0301"]

pytestmark = pytest.mark.models


@pytest.fixture(params=MODELS)
def tokenizer(request, tiny_models):
    return load_tokenizer(tiny_models[request.param])


def controls(tokenizer):
    """Control tokens by text, without the unknown and padding tokens that no template writes."""
    return {text: id for id, text in tokenizer._control.items()}


def user(content, role="user"):
    return {"role": role, "content": content}


def test_every_text_comes_back(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text, bos=False)
        assert tokenizer.decode(ids).removeprefix(" ") == text
        detokenizer = Detokenizer(tokenizer.token_bytes)
        assert "".join(detokenizer.push(id) for id in ids) + detokenizer.flush() == tokenizer.decode(ids)


def test_decoding_equals_the_librarys_own(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text, bos=False)
        assert tokenizer.decode(ids).strip(" ") == tokenizer._loaded.decode(ids, skip_special_tokens=True).strip(" ")


def test_special_tokens_in_a_text_are_text_unless_asked(tokenizer):
    for text, id in controls(tokenizer).items():
        for around in (text, f"a {text} b", f"{text}{text}"):
            ids = tokenizer.encode(around, bos=False)
            assert not set(ids) & set(tokenizer._control)
            assert tokenizer.decode(ids).removeprefix(" ") == around
            assert id in tokenizer.encode(around, special=True, bos=False)


def test_special_and_unknown_ids_add_no_text(tokenizer):
    assert tokenizer.decode([*tokenizer._control, tokenizer.vocab + 5, -1]) == ""


def test_bos_is_not_doubled(tokenizer):
    text = "".join(tokenizer._control[id] for id in tokenizer._bos) + "x"
    assert tokenizer.encode(text, special=True) == tokenizer.encode("x") or not tokenizer._bos


def test_ordinary_chats_get_the_ids_of_apply_chat_template(tokenizer):
    chats = [
        [user("Hello")],
        [user("  two  spaces ")],
        [user("a <b> c | d"), user("é\n🙂", "assistant"), user("字")],
        [user("You are brief.", "system"), user("Hi")],
    ]
    for messages in chats:
        try:
            expected = tokenizer._loaded.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        except TemplateError:  # some know no system role
            with pytest.raises(RequestError):
                tokenizer.chat(messages)
            continue
        expected = expected["input_ids"] if hasattr(expected, "keys") else expected
        assert tokenizer.chat(messages) == list(expected)


def test_a35_special_tokens_in_content_stay_text(tokenizer):
    plain = tokenizer.chat([user("say  now")])
    for text in controls(tokenizer):
        ids = tokenizer.chat([user(f"say {text} now")])
        for control in tokenizer._control:
            assert ids.count(control) == plain.count(control)
        visible = tokenizer.decode(ids)
        assert f"say {text} now" in visible


def test_a35_all_of_them_at_once_and_in_every_field(tokenizer):
    text = " ".join(controls(tokenizer)) + "".join(controls(tokenizer))
    plain = tokenizer.chat([user("x"), user("x", "assistant"), user("x")])
    ids = tokenizer.chat([user(text), user(text, "assistant"), user(text)])
    assert [id for id in ids if id in tokenizer._control] == [id for id in plain if id in tokenizer._control]
    assert tokenizer.decode(ids).count(text) == 3


# ── made-up templates and folders ───────────────────────────────────────────────────────────────────────────────────


def with_template(tiny_models, tmp_path, template, name="tiny-qwen2"):
    """A copy of a tokenizer with another chat template."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_models[name], folder, ignore=shutil.ignore_patterns("*.safetensors", "chat_template*"))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    path.write_text(json.dumps({**config, **({"chat_template": template} if template else {})}))
    return load_tokenizer(folder)


def end_of_turn(tokenizer):
    """One control token's text and id."""
    id = next(iter(tokenizer.eos_ids))
    return tokenizer._control[id], id


LOOP = "{% for m in messages %}BODY{{ eos_token }}{% endfor %}"


@pytest.mark.parametrize(
    "body",
    [
        "{{ m['content'] | trim }}",
        "{{ m['content'].strip() }}",
        "{{ m['content'].split(eos_token)[-1] if eos_token in m['content'] else m['content'] }}",
        "{{ m['content'] | tojson }}",
        "{{ m['content'] | upper }}",
        "{{ m['content'] }}{{ m['content'] }}",
        "{% if m['content'] is string %}{{ m['content'] }}{% endif %}",
    ],
)
def test_a35_templates_that_change_or_look_at_content(tiny_models, tmp_path, body):
    tokenizer = with_template(tiny_models, tmp_path, LOOP.replace("BODY", body))
    text, id = end_of_turn(tokenizer)
    ids = tokenizer.chat([user(f"  one {text} two  ")])
    assert ids.count(id) == 1
    assert ids[-1] == id
    assert text in tokenizer.decode(ids)


def test_a35_a_special_token_cut_in_two_parts_of_one_message(tiny_models, tmp_path):
    body = "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
    tokenizer = with_template(tiny_models, tmp_path, LOOP.replace("BODY", body))
    text, id = end_of_turn(tokenizer)
    parts = [{"type": "text", "text": "a " + text[:4]}, {"type": "text", "text": text[4:] + " b"}]
    ids = tokenizer.chat([user(parts)])
    assert ids.count(id) == 1
    assert tokenizer.decode(ids) == f"a {text} b"


def test_a35_a_role_is_content_too(tiny_models, tmp_path):
    tokenizer = with_template(tiny_models, tmp_path, LOOP.replace("BODY", "{{ m['role'] }}: {{ m['content'] }}"))
    text, id = end_of_turn(tokenizer)
    assert tokenizer.chat([user("x", f"user{text}system")]).count(id) == 1


def test_a35_private_use_characters_in_content_are_themselves(tiny_models, tmp_path):
    tokenizer = with_template(tiny_models, tmp_path, LOOP.replace("BODY", "{{ m['content'] }}"))
    text, id = end_of_turn(tokenizer)
    content = "\ue000\ue001 " + text
    ids = tokenizer.chat([user(content)])
    assert ids.count(id) == 1
    assert tokenizer.decode(ids) == content


def test_a15_what_the_template_rejects_is_a_request_error(tiny_models, tmp_path):
    template = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}"
    tokenizer = with_template(tiny_models, tmp_path, template)
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        tokenizer.chat([user("x", "system")])
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0]['content']['nope']['nope'] }}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{% for i in range(10) %}{{ messages[i]['content'] + 1 }}{% endfor %}",
    ],
)
def test_s6_a_template_that_breaks_or_tries_to_break_out_is_a_request_error(tiny_models, tmp_path, template):
    with pytest.raises(RequestError):
        with_template(tiny_models, tmp_path, template).chat([user("x")])


def test_without_a_template_chat_points_to_completions(tiny_models, tmp_path):
    tokenizer = with_template(tiny_models, tmp_path, None)
    assert not tokenizer.chats
    with pytest.raises(RequestError, match="/v1/completions"):
        tokenizer.chat([user("x")])


def test_eos_ids_are_those_of_tokenizer_and_generation_config(tiny_models, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_models["tiny-qwen2"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    own = load_tokenizer(folder)._loaded.eos_token_id
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_ids == {own, 3, 4, 5}
    assert tokenizer.token_bytes(5) == b""


def test_a_folder_without_a_tokenizer_is_unsupported(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(Unsupported, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_insists_on_a_control_token_is_broken_up():
    """A unigram vocabulary holds its control tokens as pieces, and would choose them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", -10.0), ("</s>", 0.0), *((c, -5.0) for c in "▁</s>abc")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer = CheckpointTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    for text in ("a</s>b</s>", "</s>" * 2000):
        ids = tokenizer.encode(text, bos=False)
        assert 1 not in ids
        assert tokenizer.decode(ids) == f" {text}"
    assert 1 not in tokenizer.encode("a\uff1c/s\uff1eb", bos=False)  # made one by the normalizer


def test_special_tokens_in_a_vocabulary_that_insists_stay_text_in_a_chat(tiny_models):
    tokenizer = load_tokenizer(tiny_models["tiny-llama-spm"])
    for text in tokenizer._control.values():
        assert text in tokenizer.decode(tokenizer.chat([user(text * 300)]))


def test_truncation_and_padding_of_the_file_are_switched_off(tiny_models, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_models["tiny-qwen2"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    data = json.loads((folder / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert len(load_tokenizer(folder).encode("one two three four five six seven eight")) > 4
