"""What rm and gc take away, and what they must leave: on artifacts pulled from a hub into huggingface-hub's cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmctl.catalog import Catalog
from llmctl.errors import Busy, Refused
from llmctl.files import locked
from llmctl.jobs.context import Silent
from llmctl.models import leftovers, manifest, removing, store
from llmctl.models.cache import RepoCache
from llmctl.models.importing import import_model
from llmctl.models.leftovers import PARTIAL, QUARANTINED, STAGED, SUPERSEDED
from tests.models.conftest import Place
from tests.models.making import make_folder
from tests.testbed.repos import random_checkpoint

SIZE = 200_000


def nothing() -> None:
    """No slot uses anything."""


@pytest.fixture
def pulled(place: Place) -> Path:
    """org/model as an artifact; its folder."""
    random_checkpoint(place.hub.root / "org" / "model", SIZE)
    return Path(place.pull()["path"])


def rm(place: Place, folder: Path, check: Callable[[], None] = nothing) -> removing.Removal:
    return removing.remove(folder.parent.name, [folder], place.models, check)


def test_rm_takes_the_artifact_and_its_blobs(place: Place, pulled: Path) -> None:
    blobs = {path.resolve() for path in pulled.iterdir() if path.is_symlink()}
    planned = removing.plan([pulled], place.models)
    assert set(planned.blobs) == blobs and pulled.exists()
    own = (pulled / manifest.NAME).stat().st_size
    assert planned.bytes == own + sum(blob.stat().st_size for blob in blobs) > SIZE
    gone = rm(place, pulled)
    assert gone == planned
    assert not pulled.parent.exists() and not list(place.cache.glob("models--*"))
    assert not list((place.models / store.STAGING).glob("*/"))


def test_rm_keeps_what_another_artifact_links_to(place: Place, pulled: Path) -> None:
    twin = Path(place.pull(model="twin")["path"])
    gone = rm(place, pulled)
    assert not gone.blobs and set(gone.kept.values()) == {"another artifact uses it"}
    assert all(entry.unchanged(twin) for entry in (manifest.read(twin) or pytest.fail()).files)
    assert len(rm(place, twin).blobs) == len(gone.kept)
    assert not list(place.cache.glob("models--*"))


def test_rm_keeps_what_an_artifact_in_quarantine_links_to(place: Place, pulled: Path) -> None:
    twin = Path(place.pull(model="twin")["path"])
    (place.models / store.QUARANTINE / "twin").mkdir(parents=True)
    twin.rename(place.models / store.QUARANTINE / "twin" / twin.name)
    assert not rm(place, pulled).blobs


def test_rm_keeps_what_another_snapshot_has(place: Place, pulled: Path) -> None:
    cache = RepoCache(place.cache, "org/model")
    (snapshot,) = (cache.folder / "snapshots").iterdir()
    other = cache.folder / "snapshots" / ("7" * 40)
    other.mkdir()
    (other / "model.safetensors").symlink_to(os.readlink(snapshot / "model.safetensors"))
    gone = rm(place, pulled)
    weights = (other / "model.safetensors").resolve()
    assert weights.exists() and gone.kept == {weights: "another snapshot in the cache has it"}
    assert len(gone.blobs) == 2


def test_rm_leaves_a_blob_that_is_being_downloaded(place: Place, pulled: Path) -> None:
    blob = (pulled / "model.safetensors").resolve()
    with RepoCache(place.cache, "org/model").locked(blob.name):
        gone = rm(place, pulled)
    assert blob.exists() and gone.kept == {blob: "another process downloads it"}
    assert gone.bytes < SIZE


def test_rm_of_an_import_leaves_the_originals(tmp_path: Path, place: Place, pulled: Path) -> None:
    original = make_folder(tmp_path / "mine")
    snapshot = (pulled / "model.safetensors").resolve().parents[1] / "snapshots"
    for path in (original, next(snapshot.iterdir())):
        before = sorted(os.listdir(path))
        made = import_model(path, place.models, Catalog([]), Silent(), name="imported")
        gone = removing.remove("imported", [Path(made.path)], place.models, nothing)
        assert not gone.blobs and set(gone.kept.values()) == {"llmctl did not bring it here"}
        assert sorted(os.listdir(path)) == before and all((path / name).exists() for name in before)


def test_c03_no_rm_while_the_model_is_pulled(place: Place, pulled: Path) -> None:
    with store.changing("model", place.models), pytest.raises(Busy, match="artifacts of model"):
        rm(place, pulled)
    assert pulled.exists()


def test_a_slot_that_took_it_at_the_last_moment_stops_it(place: Place, pulled: Path) -> None:
    def taken() -> None:
        raise Refused("port 8101 uses it")

    with pytest.raises(Refused, match="8101"):
        rm(place, pulled, taken)
    assert pulled.exists()


# ── leftovers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def swept(place: Place, *kinds: str, used: tuple[Path, ...] = ()) -> list[Path]:
    """Clear the leftovers of these kinds; what is gone."""
    found = [one for one in leftovers.find(place.models, place.cache, used) if one.kind in kinds]
    return [one.path for one in leftovers.clear(found, place.models, used)]


def test_gc_without_leftovers_finds_none(place: Place, pulled: Path) -> None:
    assert leftovers.find(place.models, place.cache, ()) == []
    assert leftovers.find(place.root / "none", place.root / "none", ()) == []


def test_f04_staging_of_the_dead_goes_and_that_of_the_living_stays(place: Place, pulled: Path) -> None:
    dead = place.models / store.STAGING / "dead"
    dead.mkdir()
    (dead / "half").write_bytes(bytes(1000))
    with store.staging(place.models) as living:  # it sweeps, so make it anew
        dead.mkdir(exist_ok=True)
        (dead / "half").write_bytes(bytes(1000))
        found = leftovers.find(place.models, place.cache, ())
        assert [(one.kind, one.path, one.bytes) for one in found] == [(STAGED, dead, 1000)]
        assert swept(place, STAGED) == [dead] and living.is_dir() and not dead.exists()


def test_gc_takes_the_quarantine_only_when_told(place: Place) -> None:
    failed = place.models / store.QUARANTINE / "model" / "mlx-4bit"
    failed.mkdir(parents=True)
    (failed / "model.safetensors").write_bytes(bytes(5000))
    found = leftovers.find(place.models, place.cache, ())
    assert [(one.kind, one.bytes) for one in found] == [(QUARANTINED, 5000)]
    assert swept(place, STAGED) == [] and failed.exists()
    assert swept(place, QUARANTINED) == [failed] and not failed.parent.exists()


def partial(place: Place, name: str, age: float) -> Path:
    blobs = place.cache / "models--org--half" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    path = blobs / f"{name}.llmctl.incomplete"
    path.write_bytes(bytes(700))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_gc_takes_partial_downloads_that_nobody_holds(place: Place) -> None:
    old, fresh, held = (partial(place, name * 64, age) for name, age in (("a", 9999), ("b", 1), ("c", 9999)))
    with RepoCache(place.cache, "org/half").locked("c" * 64):
        assert swept(place, PARTIAL) == [old]
    assert not old.exists() and fresh.exists() and held.exists()


def newer(place: Place) -> tuple[Path, Path]:
    """org/model pulled, changed on the hub, and pulled again: the snapshots, old and new."""
    (place.hub.root / "org" / "model" / "config.json").write_text(
        (place.hub.root / "org" / "model" / "config.json").read_text() + "\n"
    )
    snapshots = place.cache / "models--org--model" / "snapshots"
    (before,) = snapshots.iterdir()
    os.utime(before, (time.time() - 1000,) * 2)
    for link in before.iterdir():
        os.utime(link, (time.time() - 1000,) * 2, follow_symlinks=False)
    place.pull()
    (after,) = set(snapshots.iterdir()) - {before}
    return before, after


def test_gc_takes_the_snapshot_that_a_newer_pull_superseded(place: Place, pulled: Path) -> None:
    config = (pulled / "config.json").resolve()
    before, after = newer(place)
    found = leftovers.find(place.models, place.cache, ())
    assert [(one.kind, one.path) for one in found] == [(SUPERSEDED, before)]
    assert found[0].bytes >= config.stat().st_size
    assert swept(place, SUPERSEDED) == [before]
    assert not before.exists() and not config.exists()
    kept = manifest.read(pulled)
    assert kept and kept.revision == after.name and all(entry.unchanged(pulled) for entry in kept.files)


def test_gc_leaves_snapshots_in_use(place: Place, pulled: Path) -> None:
    before, _ = newer(place)
    assert swept(place, SUPERSEDED, used=(before / "model.safetensors",)) == []
    (place.cache / "models--org--model" / "refs" / "v1").write_text(before.name)
    assert leftovers.find(place.models, place.cache, ()) == []
    (place.cache / "models--org--model" / "refs" / "v1").unlink()
    import_model(before, place.models, Catalog([]), Silent(), name="old-one")
    assert leftovers.find(place.models, place.cache, ()) == []


def test_gc_leaves_repositories_that_no_artifact_comes_from(place: Place, pulled: Path) -> None:
    newer(place)
    rm(place, pulled)
    assert leftovers.find(place.models, place.cache, ()) == []


def test_what_was_taken_up_again_is_left(place: Place, pulled: Path) -> None:
    before, _ = newer(place)
    found = leftovers.find(place.models, place.cache, ())
    import_model(before, place.models, Catalog([]), Silent(), name="old-one")
    assert leftovers.clear(found, place.models, ()) == [] and before.exists()
    stale = partial(place, "a" * 64, 9999)
    half = [one for one in leftovers.find(place.models, place.cache, ()) if one.kind == PARTIAL]
    with locked(place.cache / ".locks" / "models--org--half" / f"{'a' * 64}.lock"):
        assert leftovers.clear(half, place.models, ()) == [] and stale.exists()
