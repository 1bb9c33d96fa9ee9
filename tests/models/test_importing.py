"""What lies on this host becomes an artifact by links, and what is wrong with it is one clear message."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from llmctl.catalog import Artifact, Catalog, Model
from llmctl.errors import BadCheckpoint, Busy, LlmctlError, Refused, Unsupported, UsageError
from llmctl.jobs.context import Silent
from llmctl.models import manifest, store
from llmctl.models.importing import import_model
from tests.models.making import make_folder, make_gguf

COMMIT = "5" * 40
CATALOG = Catalog(
    [
        Model("some-model", ("mine",), artifacts=(Artifact("safetensors", "bf16", "Org/Some-Model"),)),
        Model("trusted", allow_code=True),
        Model("twin-a", ("twin",)),
        Model("twin-b", ("twin",)),
    ]
)


def bring(path: Path, store_dir: Path, name: str | None = None):
    return import_model(path, store_dir, CATALOG, Silent(), name=name)


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "My Model_v2")


def cached(root: Path, repo: str, source: Path) -> Path:
    """`source` as a snapshot of `repo` in a cache laid out as huggingface-hub's; returns the snapshot."""
    base = root / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / COMMIT
    for made in (base / "blobs", base / "refs", snapshot):
        made.mkdir(parents=True)
    (base / "refs" / "main").write_text(COMMIT)
    for file in source.iterdir():
        etag = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, base / "blobs" / etag)
        (snapshot / file.name).symlink_to(f"../../blobs/{etag}")
    return snapshot


def test_a_folder_becomes_links_with_their_hashes(folder: Path, models_dir: Path) -> None:
    (folder / "README.md").write_text("read me")
    (folder / "onnx").mkdir()
    made = bring(folder, models_dir)
    place = models_dir / "my-model-v2" / "safetensors-bf16"
    assert (made.model, made.format, made.quantization, made.path) == ("my-model-v2", "safetensors", "bf16", str(place))
    kept = manifest.read(place)
    assert kept and {e.path for e in kept.files} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for entry in kept.files:
        assert (place / entry.path).is_symlink() and (place / entry.path).resolve() == (folder / entry.path).resolve()
        assert entry.sha256 == hashlib.sha256((folder / entry.path).read_bytes()).hexdigest()
        assert entry.unchanged(place)
    assert kept.origin["by"] == "import" and kept.origin["from"] == str(folder)
    assert [a.folder for a, _ in store.present(Model("my-model-v2"), models_dir)] == ["safetensors-bf16"]


def test_the_same_import_again_changes_nothing(folder: Path, models_dir: Path) -> None:
    first = bring(folder, models_dir)
    written = os.stat(Path(first.path) / manifest.NAME).st_mtime_ns
    again = bring(folder, models_dir)
    assert (first.already, again.already) == (False, True)
    assert os.stat(Path(again.path) / manifest.NAME).st_mtime_ns == written


def test_another_model_of_the_same_name_does_not_replace_it(folder: Path, models_dir: Path, tmp_path: Path) -> None:
    made = bring(folder, models_dir)
    other = make_folder(tmp_path / "elsewhere" / "My Model_v2")
    with pytest.raises(Refused, match="is there already") as caught:
        bring(other, models_dir)
    assert "llmctl models rm my-model-v2 --format safetensors --quantization bf16" in str(caught.value.hint)
    assert (Path(made.path) / "config.json").resolve().parent == folder.resolve()


def test_a_gguf_file_is_named_by_itself_and_its_quantization(tmp_path: Path, models_dir: Path) -> None:
    made = bring(make_gguf(tmp_path / "Little-Qwen-Q4_K_M.gguf"), models_dir)
    assert (made.model, made.format, made.quantization, made.files) == ("little-qwen", "gguf", "q4_k_m", 1)
    (tmp_path / "nameless").mkdir()
    assert bring(make_gguf(tmp_path / "nameless" / "model.gguf"), models_dir).model == "nameless"


def test_a_snapshot_is_known_by_its_source_and_revision(folder: Path, tmp_path: Path, models_dir: Path) -> None:
    snapshot = cached(tmp_path / "hub", "Org/Some-Model", folder)
    for path in (snapshot, snapshot.parents[1]):
        made = bring(path, models_dir)
        assert (made.model, made.source, made.revision) == ("some-model", "Org/Some-Model", COMMIT)
    link = Path(made.path) / "model.safetensors"
    assert os.readlink(link) == str((snapshot / "model.safetensors").resolve())


def test_a_gguf_of_a_snapshot_keeps_its_file_in_the_source(tmp_path: Path, models_dir: Path) -> None:
    (tmp_path / "made").mkdir()
    make_gguf(tmp_path / "made" / "m-Q8_0.gguf")
    snapshot = cached(tmp_path / "hub", "org/some-GGUF", tmp_path / "made")
    made = bring(snapshot / "m-Q8_0.gguf", models_dir)
    assert (made.model, made.quantization, made.source) == ("some", "q8_0", "org/some-GGUF:m-Q8_0.gguf")


def test_as_names_the_model(folder: Path, models_dir: Path) -> None:
    assert bring(folder, models_dir, "MINE").model == "some-model"
    assert bring(folder, models_dir, "another").model == "another"
    for name, why in (("../x", "not a model name"), ("A b", "not a model name"), ("twin", "may be twin-a, twin-b")):
        with pytest.raises(UsageError, match=why) as caught:
            bring(folder, models_dir, name)
        assert "--as" in str(caught.value.hint)


def test_s06_code_of_the_author_needs_the_entrys_word(folder: Path, models_dir: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit")
    with pytest.raises(Unsupported, match="code of its author"):
        bring(folder, models_dir)
    made = bring(folder, models_dir, "trusted")
    assert (Path(made.path) / "evil.py").is_symlink()


def test_s06_pickled_weights_are_refused(folder: Path, models_dir: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Unsupported, match="pickle weights pytorch_model"):
        bring(folder, models_dir)


def odd(tmp_path: Path, kind: str) -> Path:
    """A path that is no model."""
    if kind == "missing":
        return tmp_path / "nowhere"
    if kind == "zero":
        return Path("/dev/zero")
    folder = make_folder(tmp_path / "odd") if kind not in ("no model", "fifo") else tmp_path / "odd"
    if kind == "no model":
        folder.mkdir()
        (folder / "notes.txt").write_text("nothing")
    elif kind == "fifo":
        os.mkfifo(folder)
    elif kind == "fifo within":
        os.mkfifo(folder / "chat_template.jinja")
    elif kind == "socket within":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(folder / "s.json"))
    elif kind == "device within":
        (folder / "merges.txt").symlink_to("/dev/zero")
    elif kind == "escaping":
        (tmp_path / "secret.json").write_text("{}")
        (folder / "added_tokens.json").symlink_to(tmp_path / "secret.json")
    elif kind == "escaping by ..":
        (tmp_path / "secret.json").write_text("{}")
        (folder / "added_tokens.json").symlink_to("../secret.json")
    elif kind == "broken":
        (folder / "added_tokens.json").symlink_to("gone.json")
    elif kind == "loop":
        (folder / "added_tokens.json").symlink_to("added_tokens.json")
    elif kind == "name":
        (folder / "a\nb.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("missing", "No such file"),
        ("no model", "no config.json and no .gguf file"),
        ("fifo", "is a FIFO"),
        ("fifo within", "chat_template.jinja is a FIFO"),
        ("socket within", "s.json is a socket"),
        ("zero", "/dev/zero is a device"),
        ("device within", "merges.txt is a device"),
        ("escaping", "added_tokens.json leads out of the folder, to .*/secret.json"),
        ("escaping by ..", "added_tokens.json leads out of the folder"),
        ("broken", "added_tokens.json: this link leads nowhere"),
        ("loop", "added_tokens.json: this link leads nowhere"),
        ("name", "has a file named 'a.nb.json'"),
    ],
)
def test_a43_what_is_no_model_is_one_clear_message(tmp_path: Path, models_dir: Path, kind: str, why: str) -> None:
    with pytest.raises((BadCheckpoint, Refused), match=why) as caught:
        bring(odd(tmp_path, kind), models_dir)
    assert caught.value.hint and "\n" not in caught.value.message
    assert not [path for path in models_dir.rglob("*") if path.is_symlink()]


def test_what_lies_in_the_store_is_not_imported_again(folder: Path, models_dir: Path) -> None:
    made = bring(folder, models_dir)
    with pytest.raises(Refused, match="llmctl's own store"):
        bring(Path(made.path), models_dir)


def test_a_failed_import_leaves_nothing(folder: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Silent):
        def progress(self, *told: object) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(LlmctlError):
        import_model(folder, models_dir, CATALOG, Full())
    assert not (models_dir / "my-model-v2").exists()
    assert not list((models_dir / store.STAGING).glob("*/"))


def test_a_file_that_changes_while_it_is_read_is_refused(folder: Path, models_dir: Path) -> None:
    class Growing(Silent):
        def progress(self, *told: object) -> None:
            with open(folder / "tokenizer.json", "a") as file:
                file.write(" ")

    with pytest.raises(Refused, match="changed while it was read"):
        import_model(folder, models_dir, CATALOG, Growing())


def test_c03_no_import_during_another_change_of_the_model(folder: Path, models_dir: Path) -> None:
    with store.changing("my-model-v2", models_dir), pytest.raises(Busy, match="artifacts of my-model-v2"):
        bring(folder, models_dir)
