"""An artifact on its way in: where its bytes wait, who may add to them, what clears them away, when it appears."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import pytest

from llmctl.catalog import Catalog
from llmctl.errors import BadCheckpoint, Busy, Refused, UsageError
from llmctl.jobs.context import Silent
from llmctl.models import leftovers, manifest, receiving, store
from llmctl.models.importing import import_model
from llmctl.models.manifest import Manifest
from tests.testbed.repos import random_checkpoint


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """An artifact on another host."""
    source = random_checkpoint(tmp_path / "source", 200_000)
    made = import_model(source or tmp_path / "source", tmp_path / "theirs", Catalog([]), Silent(), name="m")
    return Path(made.path)


@pytest.fixture
def kept(there: Path) -> Manifest:
    found = manifest.read(there)
    assert found
    return receiving.read_manifest(asdict(found))


def send(kept: Manifest, there: Path, here: Path) -> None:
    for entry in kept.files:
        receiving.take(kept, entry.path, 0, BytesIO((there / entry.path).read_bytes()), here)


def test_it_appears_whole_and_then_nothing_is_to_come(kept: Manifest, there: Path, tmp_path: Path) -> None:
    here = tmp_path / "ours"
    plan = receiving.plan(kept, here)
    assert not plan.already and set(plan.have.values()) == {0}
    send(kept, there, here)
    assert receiving.plan(kept, here).have == {entry.path: entry.bytes for entry in kept.files}
    assert not (here / "m").exists()
    receiving.publish(kept, "h1", here)
    found = manifest.read(Path(plan.folder))
    assert found and found.origin["from"]["host"] == "h1" and found.origin["by"] == "import"
    assert all(entry.unchanged(Path(plan.folder)) for entry in found.files)
    assert receiving.plan(kept, here).already
    assert receiving.publish(kept, "h1", here)["path"] == plan.folder


def test_it_is_not_published_before_all_has_come(kept: Manifest, there: Path, tmp_path: Path) -> None:
    here = tmp_path / "ours"
    with pytest.raises(BadCheckpoint, match="has not come"):
        receiving.publish(kept, "h1", here)
    receiving.plan(kept, here)
    send(kept, there, here)
    partial = Path(receiving.plan(kept, here).partial[kept.files[0].path])
    os.truncate(partial, kept.files[0].bytes - 1)
    with pytest.raises(BadCheckpoint, match=f"{kept.files[0].bytes - 1} of {kept.files[0].bytes} bytes"):
        receiving.publish(kept, "h1", here)
    assert partial.exists() and not (here / "m").exists()


def test_two_senders_do_not_mix_their_bytes(kept: Manifest, tmp_path: Path) -> None:
    here, path = tmp_path / "ours", kept.files[0].path
    receiving.plan(kept, here)
    assert receiving.take(kept, path, 0, BytesIO(b"ab"), here) == 2
    with pytest.raises(Busy, match="has 2 bytes here, and not 0"):
        receiving.take(kept, path, 0, BytesIO(b"xy"), here)
    assert receiving.take(kept, path, 2, BytesIO(b"c"), here) == 3


def test_more_than_the_file_has_is_not_taken(kept: Manifest, tmp_path: Path) -> None:
    entry, here = kept.files[0], tmp_path / "ours"
    receiving.plan(kept, here)
    assert receiving.take(kept, entry.path, 0, BytesIO(b"x" * (entry.bytes + 5)), here) == entry.bytes
    with pytest.raises(UsageError, match="has no file"):
        receiving.take(kept, "other", 0, BytesIO(b""), here)


def test_what_is_no_artifact_is_not_replaced(kept: Manifest, tmp_path: Path) -> None:
    here = tmp_path / "ours"
    folder = Path(receiving.plan(kept, here).folder)
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match="is no artifact"):
        receiving.plan(kept, here)
    with pytest.raises(Refused):
        receiving.publish(kept, "h1", here)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_changed_artifact_is_replaced(kept: Manifest, there: Path, tmp_path: Path) -> None:
    here = tmp_path / "ours"
    receiving.plan(kept, here)
    send(kept, there, here)
    folder = Path(str(receiving.publish(kept, "h1", here)["path"]))
    os.truncate(folder / kept.files[0].path, 1)
    assert not receiving.plan(kept, here).already
    send(kept, there, here)
    receiving.publish(kept, "h1", here)
    assert receiving.plan(kept, here).already


def test_gc_takes_half_copies_that_nobody_goes_on_with(kept: Manifest, tmp_path: Path) -> None:
    here = tmp_path / "ours"
    path = Path(receiving.plan(kept, here).partial[kept.files[0].path])
    receiving.take(kept, kept.files[0].path, 0, BytesIO(b"abc"), here)
    with store.staging(here):
        assert path.exists()
    assert [one for one in leftovers.find(here, tmp_path / "hub", []) if one.kind == leftovers.COPY] == []
    old = time.time() - 2 * leftovers.COPY_AGE
    os.utime(path, (old, old))
    found = [one for one in leftovers.find(here, tmp_path / "hub", []) if one.kind == leftovers.COPY]
    assert [(one.path, one.bytes) for one in found] == [(path, 3)]
    assert leftovers.clear(found, here, []) == found and not path.exists()


def test_a_manifest_says_which_hash(kept: Manifest) -> None:
    bad = replace(kept, files=(replace(kept.files[0], sha256="A" * 64),))
    with pytest.raises(UsageError):
        receiving.read_manifest(asdict(bad))
