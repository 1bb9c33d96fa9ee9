"""OpenVINO's form of a GGUF file: made once, whole or not at all, and never where it may not be."""

import hashlib
import os
import shutil

import pytest

from llmctl.domain import EngineSpec
from llmctl.engines import openvino, openvino_form
from llmctl.engines.openvino_form import MODEL, find_or_make, whole
from llmctl.errors import LoadFailed
from llmctl.jobs.context import Silent
from llmctl.models import store, verify
from llmctl.models.manifest import FileEntry, Manifest, write

pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.models


@pytest.fixture
def file(tiny_models, tmp_path):
    """A model file in a folder of its own."""
    folder = tmp_path / "models" / "tiny" / "gguf"
    folder.mkdir(parents=True)
    return shutil.copy(tiny_models["tiny-qwen2-gguf"], folder / "model.gguf")


@pytest.fixture(scope="module")
def converted(tiny_models, tmp_path_factory):
    """What a conversion of that file leaves."""
    folder = tmp_path_factory.mktemp("converted")
    openvino_form._convert(tiny_models["tiny-qwen2-gguf"], folder, lambda *_: None)
    return folder


@pytest.fixture
def made(monkeypatch, converted):
    """The conversions there were; each is a copy of one that ran."""
    ran = []

    def convert(source, folder, progress):
        ran.append(source.name)
        shutil.copytree(converted, folder, dirs_exist_ok=True)

    monkeypatch.setattr(openvino_form, "_convert", convert)
    return ran


def answered(path):
    spec = EngineSpec("openvino", "m", str(path), "gguf", context=64, parallel=1, dtype="float32", threads=1)
    engine = openvino.load_steps(spec, lambda *_: None)
    return engine.prefill(engine.open(), [1, 2, 3]).argmax()[0]


def test_a_form_is_made_once_and_anew_when_it_is_torn_or_unreadable(file, made):
    first = answered(file)
    (form,) = (file.parent / ".openvino").iterdir()
    assert answered(file) == first and made == ["model.gguf"]
    with open(form / "openvino_model.bin", "r+b") as weights:
        weights.truncate(1000)
    assert not whole(form)
    assert answered(file) == first and len(made) == 2
    damaged = (form / MODEL).read_bytes().replace(b"<layers>", b"<lawyers")
    (form / MODEL).write_bytes(damaged)
    assert whole(form), "the same size: only reading tells"
    assert answered(file) == first and len(made) == 3


def test_another_version_takes_the_place_of_the_old_one(file, made):
    old = find_or_make(file, "1", lambda *_: None)
    (file.parent / ".openvino" / "making-abandoned").mkdir()
    new = find_or_make(file, "2", lambda *_: None)
    assert old != new and new.is_file() and not old.exists()
    assert (file.parent / ".openvino" / "making-abandoned").exists(), "it may be somebody's"


def test_a_changed_file_has_another_form(file, made):
    first = find_or_make(file, "1", lambda *_: None)
    os.utime(file, (1, 1))
    assert find_or_make(file, "1", lambda *_: None) != first


def test_a_folder_that_cannot_be_written_leaves_it_to_the_state_folder(file, made, home):
    (file.parent / ".openvino").write_text("in the way")
    found = find_or_make(file, "1", lambda *_: None)
    assert found.is_relative_to(home) and found.is_file()
    assert find_or_make(file, "1", lambda *_: None) == found and len(made) == 1


def test_no_room_is_said_before_anything_is_made(file, made, home, monkeypatch):
    monkeypatch.setattr(openvino_form, "_has_room", lambda *_: False)
    with pytest.raises(LoadFailed, match="no room") as caught:
        find_or_make(file, "1", lambda *_: None)
    assert "GB" in caught.value.hint and made == []


def test_what_the_reader_cannot_read_is_one_line_and_leaves_nothing(file):
    data = file.read_bytes()
    file.write_bytes(data[:64] + bytes(len(data) - 64))
    with pytest.raises(LoadFailed, match=r"OpenVINO cannot read model\.gguf") as caught:
        find_or_make(file, "1", lambda *_: None)
    assert "\n" not in caught.value.message and caught.value.details["log"]
    assert list((file.parent / ".openvino").iterdir()) == []


def test_the_store_does_not_take_it_for_a_file_of_the_model(file, made):
    data = file.read_bytes()
    entry = FileEntry("model.gguf", len(data), hashlib.sha256(data).hexdigest(), file.stat().st_mtime_ns)
    write(file.parent, Manifest("tiny", "gguf", None, (entry,)))
    find_or_make(file, "1", lambda *_: None)
    found = verify.verify(file.parent, Silent())
    assert found.passed and [one.path for one in found.files] == ["model.gguf"]
    assert store.content(file.parent, "gguf") == file
