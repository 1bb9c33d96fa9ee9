"""A flipped bit, a short file and a missing one are named, and healed from the very commit they came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmctl.errors import HubError, NoSpace, Refused, StateError, Unreachable
from llmctl.models import hub as hubs
from llmctl.models import manifest, verify
from llmctl.models.hub_errors import Patience
from llmctl.models.verify import CHANGED, MISSING, OK
from tests.models.conftest import Place
from tests.models.making import make_gguf
from tests.testbed.hub import Hub
from tests.testbed.repos import random_checkpoint

MB = 2**20
FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture
def repo(hub: Hub) -> Path:
    return random_checkpoint(hub.root / "org" / "model", 4 * MB, shards=2)


@pytest.fixture
def artifact(place: Place, repo: Path) -> Path:
    return Path(place.pull()["path"])


def flip(path: Path, at: int = MB) -> None:
    """One bit, with size and times as they were: nothing but reading finds it."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def lose_blob(path: Path) -> None:
    path.resolve().unlink()


def lose_link(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"something else")


def states(report: verify.VerifyReport) -> dict[str, str]:
    return {file.path: file.state for file in report.files}


def repaired(place: Place, report: verify.VerifyReport) -> verify.VerifyReport:
    return verify.repair(report, hubs.Hub(place.hub.url, Patience(first=0.01)), place.cache, place.job)


def test_a_whole_artifact_passes(place: Place, artifact: Path) -> None:
    report = verify.verify(artifact, place.job)
    assert report.passed and set(states(report).values()) == {OK} and len(report.files) == 5
    assert repaired(place, report) is report


@pytest.mark.parametrize(
    ("harm", "state"),
    [(flip, CHANGED), (cut, CHANGED), (lose_blob, MISSING), (lose_link, MISSING), (replace, CHANGED)],
)
def test_f07_what_is_harmed_is_named_and_healed(
    place: Place, artifact: Path, repo: Path, hub: Hub, harm: Callable[[Path], None], state: str
) -> None:
    harm(artifact / FIRST)
    report = verify.verify(artifact, place.job)
    assert report.bad == (FIRST,) and states(report)[FIRST] == state
    hub.log.clear()
    healed = repaired(place, report)
    assert healed.passed and healed.healed == (FIRST,)
    assert (artifact / FIRST).is_symlink() and (artifact / FIRST).read_bytes() == (repo / FIRST).read_bytes()
    assert hub.sent() == ((repo / FIRST).stat().st_size if harm in (flip, cut, lose_blob) else 0)
    kept = manifest.read(artifact)
    assert kept and all(entry.unchanged(artifact) for entry in kept.files)
    assert place.pull()["already"]


def test_several_bad_files_are_all_named(place: Place, artifact: Path) -> None:
    flip(artifact / FIRST)
    flip(artifact / "config.json", at=3)
    lose_link(artifact / "tokenizer.json")
    report = verify.verify(artifact, place.job)
    assert set(report.bad) == {FIRST, "config.json", "tokenizer.json"}
    assert repaired(place, report).passed


@pytest.mark.parametrize("lies", [False, True])
def test_it_is_healed_from_the_commit_it_came_from_only(place, artifact, repo, hub, lies) -> None:
    flip(artifact / FIRST)
    revision = hub.commit("org/model")
    (repo / FIRST).write_bytes(bytes(10))  # main has moved on
    if lies:  # and is given out as what it was
        hub.tags["old"] = hub.false_commit = revision
    before = artifact.joinpath(FIRST).read_bytes()
    with pytest.raises(HubError) as caught:
        repaired(place, verify.verify(artifact, place.job))
    assert caught.value.code == ("no_file" if lies else "no_revision")
    assert artifact.joinpath(FIRST).read_bytes() == before


def test_a_hub_that_is_away_leaves_the_bad_file_as_it_is(place: Place, artifact: Path) -> None:
    flip(artifact / FIRST)
    report = verify.verify(artifact, place.job)
    with pytest.raises(Unreachable):
        verify.repair(report, hubs.Hub("http://127.0.0.1:9"), place.cache, place.job)
    assert (artifact / FIRST).is_file()


def test_what_was_not_pulled_cannot_be_fetched_again(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    entry = manifest.FileEntry("x", 3, "0" * 64, 0)
    manifest.write(folder, manifest.Manifest("m", "mlx", "4bit", (entry,), origin={"by": "convert"}))
    report = verify.verify(folder, place.job)
    assert report.bad == ("x",)
    with pytest.raises(Refused, match="made by convert, not pulled: x cannot be fetched again") as caught:
        repaired(place, report)
    assert "llmctl convert m" in str(caught.value.hint)


def test_without_a_manifest_there_is_nothing_to_compare_with(place: Place, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no manifest"):
        verify.verify(tmp_path, place.job)


def test_a_gguf_in_a_folder_of_its_repository_is_healed(place: Place, hub: Hub) -> None:
    folder = hub.root / "org" / "model" / "Q8_0"
    folder.mkdir(parents=True)
    make_gguf(folder / "m-Q8_0.gguf")
    artifact = Path(place.pull(format="gguf")["path"])
    flip(artifact / "m-Q8_0.gguf", at=50_000)
    assert repaired(place, verify.verify(artifact, place.job)).passed


def test_f06_a_repair_without_room_is_refused_with_numbers(place: Place, artifact: Path, monkeypatch) -> None:
    lose_blob(artifact / FIRST)
    report = verify.verify(artifact, place.job)
    monkeypatch.setattr("llmctl.models.download.free_bytes", lambda path: 1000)
    with pytest.raises(NoSpace, match=r"needs 2,097,\d\d\d more bytes, 1,000 are free"):
        repaired(place, report)
