"""From a name to a SlotSpec: artifact, engine, memory, and what is refused before anything starts."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from llmctl.catalog import Artifact, Catalog, Model
from llmctl.config import Host, ProfileSlot
from llmctl.domain import Probe
from llmctl.errors import BadCheckpoint, LlmctlError, UnknownName, Unsupported, UsageError
from llmctl.models import manifest
from llmctl.models.manifest import FileEntry, Manifest
from llmctl.slots.resolve import Wish, profile_slot, resolve

HOST = Host("local", backend="cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A complete little safetensors checkpoint, with weights that nobody reads here."""
    folder = tmp_path / "model"
    folder.mkdir()
    shape = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "intermediate_size": 128,
        "max_position_embeddings": 2048, "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [100, 64], "data_offsets": [0, 25600]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(25600))
    return folder


def catalog(path: Path, **changes: object) -> Catalog:
    artifacts = (Artifact("safetensors", "f32", path=path),)
    fields = {"aliases": ("mine",), "context": 1024, "probe": Probe("2+2?", "4"), "artifacts": artifacts, **changes}
    return Catalog([Model("my-model.v1", **fields)])  # type: ignore[arg-type]


def test_a_model_becomes_a_spec(checkpoint: Path) -> None:
    spec = resolve(catalog(checkpoint), HOST, Wish("My_Model-v1", parallel=2, idle_unload=60.0))
    assert (spec.engine.engine, spec.engine.format, spec.engine.path) == ("torch", "safetensors", str(checkpoint))
    assert (spec.engine.context, spec.engine.parallel, spec.idle_unload) == (1024, 2, 60.0)
    assert spec.names == ("mine", "my-model-v1") and spec.probe == Probe("2+2?", "4")
    kv = 2 * 1024 * 2 * 2 * 2 * 16 * 4  # sequences × tokens × layers × (k, v) × heads × head size × bytes
    smaller = resolve(catalog(checkpoint), HOST, Wish("mine", parallel=1))
    logits = 4 * 100
    assert spec.needed_bytes - smaller.needed_bytes == kv / 2 + logits


def test_a_profiles_handle_is_a_name(checkpoint: Path) -> None:
    slot = ProfileSlot(8101, "my-model.v1", handle="fast", context=512)
    spec = profile_slot(catalog(checkpoint), HOST, slot)
    assert "fast" in spec.names and spec.engine.context == 512


@pytest.mark.parametrize(
    ("wish", "error", "why"),
    [
        (Wish("my-modle.v1"), UnknownName, "no model"),
        (Wish("mine", context=4096), UsageError, "context of 1024 tokens, not 4096"),
        (Wish("mine", engine="llamacpp"), Unsupported, "llamacpp"),
        (Wish("mine", engine="quick"), LlmctlError, "quick"),
        (Wish("mine", quantization="q4_0"), LlmctlError, "not on local as q4_0"),
        (Wish("../../etc/passwd"), UnknownName, "no model"),
        (Wish("-oProxyCommand=x"), UnknownName, "no model"),
        (Wish("a\0b\n%2e"), UnknownName, "no model"),
        (Wish("x" * 300), UnknownName, "no model"),
    ],
)
def test_s5_what_cannot_be_is_refused_with_the_reason(
    checkpoint: Path, wish: Wish, error: type[LlmctlError], why: str
) -> None:
    with pytest.raises(error, match=why) as caught:
        resolve(catalog(checkpoint), HOST, wish)
    assert caught.value.hint


def test_code_of_the_author_needs_the_operators_word(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(Unsupported, match="code of its author") as caught:
        resolve(catalog(checkpoint), HOST, Wish("mine"))
    assert "allow_code = true" in str(caught.value.hint)
    assert resolve(catalog(checkpoint, allow_code=True), HOST, Wish("mine")).engine.allow_code


def test_a_model_that_is_not_here_names_the_pull(tmp_path: Path) -> None:
    artifacts = (Artifact("gguf", "q4_k_m", source="org/repo:x.gguf"),)
    with pytest.raises(LlmctlError, match="is not on local") as caught:
        resolve(catalog(tmp_path, artifacts=artifacts), HOST, Wish("mine"))
    assert str(caught.value.hint).startswith("llmctl pull my-model.v1")


def test_a_model_that_pins_other_packages_is_refused_by_their_names(checkpoint: Path) -> None:
    with pytest.raises(Unsupported, match=r"needs pytest 0\.1 \(here: ") as caught:
        resolve(catalog(checkpoint, env={"pytest": "0.1"}), HOST, Wish("mine"))
    assert caught.value.hint
    assert resolve(catalog(checkpoint, env={"pytest": metadata.version("pytest")}), HOST, Wish("mine"))


def test_an_artifact_may_have_a_context_of_its_own(checkpoint: Path) -> None:
    artifacts = (Artifact("safetensors", "f32", path=checkpoint, context=256),)
    assert resolve(catalog(checkpoint, artifacts=artifacts), HOST, Wish("mine")).engine.context == 256


def stored(home: Path, checkpoint: Path, folder: str = "models/my-model.v1") -> Path:
    """The checkpoint in the store under `home`, by links, with its manifest."""
    place = home / folder / "safetensors-f32"
    place.mkdir(parents=True)
    entries = []
    for file in checkpoint.iterdir():
        (place / file.name).symlink_to(file)
        entries.append(FileEntry(file.name, file.stat().st_size, "", file.stat().st_mtime_ns))
    manifest.write(place, Manifest("my-model.v1", "safetensors", "f32", tuple(entries)))
    return place


def damaged(place: Path, what: str) -> None:
    weights = (place / "model.safetensors").resolve()
    if what == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes() + b"more")


@pytest.mark.parametrize(
    ("what", "why"), [("missing", "model.safetensors is missing"), ("longer", "has 25683 bytes instead of 25679")]
)
def test_f07_an_artifact_that_is_not_whole_is_refused_with_its_repair(
    home: Path, checkpoint: Path, what: str, why: str
) -> None:
    place = stored(home, checkpoint)
    known = catalog(checkpoint, artifacts=(Artifact("safetensors", "f32"),))
    assert resolve(known, HOST, Wish("mine")).engine.path == str(place)
    damaged(place, what)
    with pytest.raises(BadCheckpoint, match=why) as caught:
        resolve(known, HOST, Wish("mine"))
    assert caught.value.hint == "llmctl models verify my-model.v1 --repair"


def test_what_is_in_quarantine_is_never_taken(home: Path, checkpoint: Path) -> None:
    stored(home, checkpoint, "models/.quarantine/my-model.v1")
    with pytest.raises(LlmctlError, match="is not on local"):
        resolve(catalog(checkpoint, artifacts=(Artifact("safetensors", "f32", "org/repo"),)), HOST, Wish("mine"))


def test_the_name_of_an_artifact_takes_that_artifact_and_is_answered_to(checkpoint: Path) -> None:
    artifacts = (
        Artifact("safetensors", "f32", path=checkpoint),
        Artifact("safetensors", "bf16", path=checkpoint, names=("my-model-bf16",), context=77),
    )
    known = catalog(checkpoint, artifacts=artifacts)
    named, usual = resolve(known, HOST, Wish("My_Model-BF16")), resolve(known, HOST, Wish("mine"))
    assert (named.engine.context, usual.engine.context) == (77, 1024)
    assert "my-model-bf16" in named.names and "my-model-bf16" not in usual.names
