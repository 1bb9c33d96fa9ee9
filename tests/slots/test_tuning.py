"""Drafts, adapters, cache and other hosts: from a profile's words to a spec, what they cost, and back to words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl import catalog as catalogs
from llmctl import config, profiles
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.config import Host, ProfileSlot
from llmctl.domain import NGRAM, SlotSpec
from llmctl.errors import LlmctlError, Refused, UnknownName, Unsupported, UsageError
from llmctl.models import fit
from llmctl.profiles import KEEP, SWAP, Now
from llmctl.slots import fits, tuning, uses
from llmctl.slots.resolve import Wish, profile_slot, resolve
from llmctl.slots.state import Desired, SlotFolder

ADAPTER_BYTES = 4096


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with two adapters in its models' folder."""
    for name in ("french.gguf", "polite/adapter_model.safetensors"):
        path = tmp_path / "models" / "adapters" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(ADAPTER_BYTES))
    return Host("here", backend="cpu", models_dir=tmp_path / "models")


@pytest.fixture
def known(tmp_path: Path, checkpoint: Callable[[Path], Path]) -> Catalog:
    """`big` and `small` as safetensors, `other` as a script, `gone` nowhere."""
    script = tmp_path / "other.json"
    script.write_text('{"needed": 1}')
    elsewhere = Artifact("gguf", "q4_0", "org/gone-gguf:a.gguf")
    return Catalog([
        Model("big", ("large",), artifacts=(Artifact("safetensors", path=checkpoint(tmp_path / "big")),)),
        Model("small", artifacts=(Artifact("safetensors", path=checkpoint(tmp_path / "small")),)),
        Model("other", artifacts=(Artifact("script", path=script), replace(elsewhere, format="safetensors"))),
        Model("gone", artifacts=(elsewhere,)),
    ])  # fmt: skip


@pytest.fixture
def checkpoint() -> Callable[[Path], Path]:
    shape = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "intermediate_size": 128,
        "max_position_embeddings": 512, "torch_dtype": "float32",
    }  # fmt: skip

    def make(folder: Path) -> Path:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(shape))
        (folder / "tokenizer.json").write_text("{}")
        header = json.dumps({"w": {"dtype": "F32", "shape": [100, 64], "data_offsets": [0, 25600]}}).encode()
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(25600))
        return folder

    return make


def test_words_become_paths_of_the_host_and_words_again(known: Catalog, host: Host, tmp_path: Path) -> None:
    elsewhere = tmp_path / "models" / "adapters" / "polite"
    slot = ProfileSlot(
        8101, "big", draft="small", adapters=("polite", "french", f"kind={elsewhere}"), cache_bits=8,
        cache_bytes=10**9,
    )  # fmt: skip
    engine = profile_slot(known, host, slot).engine
    adapters = tmp_path / "models" / "adapters"
    assert engine.draft == str(tmp_path / "small") and (engine.cache_bits, engine.cache_bytes) == (8, 10**9)
    assert engine.adapters == {
        "polite": str(adapters / "polite"), "french": str(adapters / "french.gguf"), "kind": str(elsewhere),
    }  # fmt: skip
    back = SlotSpec.from_dict(json.loads(json.dumps(profile_slot(known, host, slot).to_dict())))
    assert tuning.said(back.engine, known, tmp_path / "models") == slot.tuning()


def test_the_draft_ngram_is_no_model(known: Catalog, host: Host) -> None:
    assert resolve(known, host, Wish("big", draft=NGRAM)).engine.draft == NGRAM


@pytest.mark.parametrize(
    ("wish", "error", "message", "hint"),
    [
        (Wish("big", draft="smal"), UnknownName, "no model 'smal'", "small"),
        (Wish("big", draft=""), UsageError, "a draft needs a name", NGRAM),
        (Wish("big", draft="gone"), Refused, "gone is not on here", "llmctl pull gone"),
        (Wish("big", draft="other"), Unsupported, "the draft other is on here as script, and torch reads safetensors",
         "llmctl pull other --format safetensors"),
        (Wish("big", adapters=("rude",)), Refused, "the adapter rude is not on here", "--adapter rude=/PATH"),
        (Wish("big", adapters=("rude=/no/such",)), Refused, "there is no /no/such", "rude=/PATH"),
        (Wish("big", adapters=("../x",)), UsageError, "is not a adapter name", "lower-case"),
        (Wish("big", adapters=("a=b",)), UsageError, "must be an absolute path", None),
        (Wish("big", adapters=("polite", "polite=/x")), UsageError, "polite is there twice", None),
        (Wish("other", cache_bits=8), UsageError, "other is a script", None),
    ],
)  # fmt: skip
def test_what_is_not_here_is_refused_with_what_to_type(
    known: Catalog, host: Host, wish: Wish, error: type[LlmctlError], message: str, hint: str | None
) -> None:
    with pytest.raises(error) as caught:
        resolve(known, host, wish)
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_all_of_it_counts_in_the_memory(known: Catalog, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmctl.backends.cpu.fast_bf16", lambda: True)

    def needed(**more: object) -> int:
        return resolve(known, host, Wish("big", parallel=1, **more)).needed_bytes  # type: ignore[arg-type]

    kv = 512 * 2 * 2 * 2 * 16 * 4  # tokens × layers × (k, v) × heads × head size × bytes
    plain = needed()
    assert needed(draft="small") - plain == plain - fit.PROCESS["torch"]
    assert needed(adapters=("polite", "french")) - plain == 2 * ADAPTER_BYTES
    assert plain - needed(cache_bits=8) == kv - kv * 8.5 / 32 and plain - needed(cache_bits=4) == kv - kv * 4.5 / 32
    assert plain - needed(cache_bytes=1000) == kv - 1000 and needed(cache_bytes=10**12) == plain
    question = fits.Question(known.resolve("big"), known, parallel=1, draft="small")
    (row,) = fits.fits(question, [host], host.models_dir or Path())
    assert row.total == needed(draft="small")
    (row,) = fits.fits(replace(question, draft="gone"), [host], host.models_dir or Path())
    assert not row.fits and row.problem == "gone is not on here"


def test_what_drifted_is_named(known: Catalog, host: Host, tmp_path: Path) -> None:
    wanted = ProfileSlot(8101, "big", draft="small", adapters=("polite",), cache_bits=8)

    def step(slot: ProfileSlot, spec: SlotSpec) -> tuple[str, tuple[str, ...]]:
        now = Now(spec, tuning=tuning.said(spec.engine, known, tmp_path / "models"))
        (found,) = profiles.plan([slot], {8101: now}, lambda taken: 0)
        return found.action, found.differs

    assert step(wanted, profile_slot(known, host, wanted)) == (KEEP, ())
    plain = profile_slot(known, host, ProfileSlot(8101, "big"))
    changes = ("draft none → small", "adapters none → polite", "cache_bits none → 8")
    assert step(wanted, plain) == (SWAP, changes)
    assert step(ProfileSlot(8101, "big"), profile_slot(known, host, wanted))[1][0] == "draft small → none"


def test_a_saved_profile_has_it_and_an_edit_changes_it(tmp_path: Path) -> None:
    (tmp_path / "hosts.toml").write_text('default = "local"\n[hosts.local]\n[hosts.other]\n')
    (tmp_path / "profiles").mkdir()
    file = tmp_path / "profiles" / "p.toml"
    slot = ProfileSlot(
        8101, "tiny-llama", draft="tiny-qwen2", adapters=("a", "b=/x y/z"), cache_bits=4, cache_bytes=2 * 10**9,
        spread=("local", "other"),
    )  # fmt: skip
    file.write_text(profiles.as_toml("d", [slot]))
    cfg, known = config.load(tmp_path), catalogs.load()
    assert config.profile(cfg, known, "p").slots == (slot,)
    profiles.edit_slot(cfg, known, "local", 8101, {"adapters": ("c",), "draft": None, "spread": ()}, None).write()
    assert config.profile(cfg, known, "p").slots == (replace(slot, adapters=("c",), draft=None, spread=()),)
    file.write_text(file.read_text().replace('["c"]', '[\n"c"]'))
    with pytest.raises(LlmctlError, match=r"p.toml:\d+: adapters is not written on one line"):
        profiles.edit_slot(cfg, known, "local", 8101, {"adapters": ("d",)}, None)


def test_a_draft_and_adapters_are_files_in_use(known: Catalog, host: Host, tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder = SlotFolder(home, 8101)
    folder.make()
    spec = resolve(known, host, Wish("big", draft="small", adapters=("polite",)))
    folder.write_desired(Desired(spec))
    used = uses.used(home)
    with pytest.raises(Refused, match="port 8101 uses small"):
        uses.refuse("small", tmp_path / "small", used)
    with pytest.raises(Refused, match="port 8101 uses polite"):
        uses.refuse("polite", tmp_path / "models" / "adapters" / "polite", used)


def test_a_spare_is_kept_where_the_host_or_the_operator_says_so(known: Catalog, host: Host) -> None:
    def kept(on: Host, spare: bool | None) -> int:
        return resolve(known, on, Wish("big", spare=spare)).spare_bytes

    keeping = replace(host, spare=True)
    assert kept(host, None) == kept(host, False) == kept(keeping, False) == 0
    assert kept(host, True) == kept(keeping, None) == fit.PROCESS["torch"]
