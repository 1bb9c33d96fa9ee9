"""A pull makes a whole artifact or none, goes on where it was interrupted, and does nothing twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.catalog import Artifact, Model
from llmctl.errors import Busy, HubError, NoSpace, Refused, Unreachable
from llmctl.jobs.context import Cancelled, Silent
from llmctl.models import checkpoint, manifest, pull, removing, store
from llmctl.models.cache import RepoCache
from tests.conftest import eventually
from tests.models.conftest import Place
from tests.models.making import make_folder, make_gguf
from tests.testbed.hub import Hub
from tests.testbed.repos import random_checkpoint

MB = 2**20
SIZE = 12 * MB
HEADER = 2**18  # what a look at the first file reads
REPO = Path(__file__).parents[2]


@pytest.fixture
def repo(hub: Hub) -> Path:
    return random_checkpoint(hub.root / "org" / "model", SIZE, shards=3)


def same(artifact: Path, repo: Path) -> bool:
    """Whether the artifact has the bytes of the repository, under links into the cache, and a right manifest."""
    kept = manifest.read(artifact)
    assert kept
    for entry in kept.files:
        data = (artifact / entry.path).read_bytes()
        assert data == next(repo.rglob(entry.path)).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.sha256 and entry.unchanged(artifact)
        link = Path(os.readlink(artifact / entry.path))
        assert link.is_absolute() and link.parent.name == "blobs"
    assert {path.name for path in artifact.iterdir()} == {manifest.NAME, *(entry.path for entry in kept.files)}
    return True


def test_an_artifact_is_links_and_a_manifest_that_says_where_it_came_from(place: Place, repo: Path, hub: Hub) -> None:
    done = place.pull(revision="main")
    artifact = place.models / "model" / "safetensors"
    assert done == {
        "model": "model", "format": "safetensors", "quantization": None, "path": str(artifact), "files": 6,
        "bytes": done["bytes"], "received": done["bytes"], "source": "org/model", "revision": hub.commit("org/model"),
        "licence": "apache-2.0", "already": False,
    }  # fmt: skip
    assert same(artifact, repo) and checkpoint.inspect(artifact).format == "safetensors"
    kept = manifest.read(artifact)
    assert kept and (kept.source, kept.revision) == ("org/model", hub.commit("org/model"))
    assert kept.origin["by"] == "pull" and kept.origin["asked_revision"] == "main" and kept.origin["at"]
    assert [a for a, _ in store.present(Model("model"), place.models)] == [
        Artifact("safetensors", source="org/model", bytes=kept.bytes, revision=kept.revision)
    ]
    assert not [path for path in (place.models / ".staging").iterdir() if path.is_dir()]


def test_a_second_pull_asks_once_and_reads_nothing(place: Place, repo: Path, hub: Hub) -> None:
    place.pull()
    blob = max(place.blobs(), key=lambda path: path.stat().st_size)
    times = blob.stat()
    blob.write_bytes(bytes(times.st_size))  # hashing would find this out
    os.utime(blob, ns=(times.st_atime_ns, times.st_mtime_ns))
    hub.log.clear()
    done = place.pull()
    assert done["already"] and done["received"] == 0
    assert [seen.path for seen in hub.log] == ["/api/models/org/model"]
    hub.log.clear()
    assert place.pull(revision=hub.commit("org/model"))["already"] and not hub.log


def test_a_file_that_was_touched_is_looked_at_again(place: Place, repo: Path, hub: Hub) -> None:
    artifact = Path(place.pull()["path"])
    blob = max(place.blobs(), key=lambda path: path.stat().st_size)
    blob.write_bytes(bytes(blob.stat().st_size))
    hub.log.clear()
    assert place.pull()["received"] == blob.stat().st_size == hub.sent("*.safetensors") - HEADER
    assert same(artifact, repo)


def test_a_new_commit_brings_what_changed_and_nothing_else(place: Place, repo: Path, hub: Hub) -> None:
    artifact = Path(place.pull()["path"])
    first = hub.commit("org/model")
    (repo / "generation_config.json").write_text('{"eos_token_id": 2}')
    big = max(place.blobs(), key=lambda path: path.stat().st_size)
    times = big.stat()
    big.write_bytes(big.read_bytes()[:-1] + b"!")  # an unchanged artifact links to it: it is not read again
    os.utime(big, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = place.pull()
    assert not done["already"] and done["revision"] != first
    assert done["received"] == (repo / "generation_config.json").stat().st_size
    assert (artifact / "generation_config.json").is_file()


def test_an_artifact_that_is_here_needs_no_hub(place: Place, repo: Path, hub: Hub) -> None:
    place.pull()
    hub.fault("status", status=503)
    assert place.pull()["already"]
    assert any("what is here is" in note for note in place.job.notes)
    assert place.pull(endpoint="http://127.0.0.1:9")["already"]


def test_a_cache_that_is_complete_needs_no_hub(place: Place, repo: Path, hub: Hub) -> None:
    artifact = Path(place.pull()["path"])
    removing_links(artifact)
    done = place.pull(endpoint="http://127.0.0.1:9")
    assert done["received"] == 0 and done["revision"] == hub.commit("org/model") and same(artifact, repo)
    assert any("as it lies in the cache" in note for note in place.job.notes)


def test_a_cache_that_is_not_complete_is_no_substitute_for_the_hub(place: Place, repo: Path) -> None:
    artifact = Path(place.pull()["path"])
    removing_links(artifact)
    max(place.blobs(), key=lambda path: path.stat().st_size).unlink()
    with pytest.raises(Unreachable, match="does not answer"):
        place.pull(endpoint="http://127.0.0.1:9")
    assert not artifact.exists()


def test_a_cache_with_a_flipped_bit_is_no_substitute_for_the_hub(place: Place, repo: Path) -> None:
    artifact = Path(place.pull()["path"])
    removing_links(artifact)
    blob = max(place.blobs(), key=lambda path: path.stat().st_size)
    flipped = bytearray(blob.read_bytes())
    flipped[-1] ^= 1
    blob.write_bytes(flipped)
    with pytest.raises(Unreachable):
        place.pull(endpoint="http://127.0.0.1:9")
    assert not artifact.exists()


def removing_links(artifact: Path) -> None:
    """As if the artifact had never been, while the cache keeps its bytes."""
    for path in artifact.iterdir():
        path.unlink()
    artifact.rmdir()


def test_gguf_shards_in_a_folder_of_the_repository_lie_side_by_side(place: Place, hub: Hub) -> None:
    folder = hub.root / "org" / "model" / "Q8_0"
    folder.mkdir(parents=True)
    names = [f"m-Q8_0-0000{i}-of-00002.gguf" for i in (1, 2)]
    for name in names:
        make_gguf(folder / name)
    (folder.parent / "mmproj-f16.gguf").write_bytes(b"GGUF")
    done = place.pull(format="gguf")
    assert done["source"] == f"org/model:Q8_0/{names[0]}" and done["quantization"] == "q8_0"
    assert same(Path(done["path"]), hub.root / "org" / "model")
    assert sorted(path.name for path in Path(done["path"]).glob("*.gguf")) == [*names, "mmproj-f16.gguf"]
    assert place.pull(source=f"org/model:Q8_0/{names[0]}", format="gguf", quantization="q8_0", model="model")["already"]


@pytest.mark.parametrize(("backend", "format"), [("cpu", "gguf"), ("cuda", "safetensors"), ("metal", "safetensors")])
def test_auto_takes_what_the_backends_first_engine_reads(place: Place, hub: Hub, backend: str, format: str) -> None:
    make_gguf(make_folder(hub.root / "org" / "model") / "model-f16.gguf")
    assert pull.plan(place.wanted(format="auto", backend=backend), place.job).examined.selection.format == format


def test_an_artifact_that_a_conversion_made_is_not_replaced(place: Place, repo: Path, hub: Hub) -> None:
    made = place.models / "model" / "safetensors"
    made.mkdir(parents=True)
    (made / "weights").write_text("precious")
    with pytest.raises(Refused, match="made by something else"):
        place.pull()
    manifest.write(made, manifest.Manifest("model", "safetensors", None, (), origin={"by": "convert"}))
    with pytest.raises(Refused, match="made by convert") as caught:
        place.pull()
    assert "llmctl models rm model" in str(caught.value.hint) and (made / "weights").read_text() == "precious"
    assert hub.sent("*.safetensors") < MB


def test_progress_has_the_whole_and_its_parts(place: Place, repo: Path, hub: Hub) -> None:
    seen: list[tuple[str, int, int, dict[str, tuple[int, int]]]] = []

    class Watcher(Silent):
        def progress(self, stage: str, done: int = 0, total: int = 0, parts: Any = None) -> None:
            seen.append((stage, done, total, dict(parts or {})))

    hub.fault("slow", "model-*", seconds=0.01)
    place.job = Watcher()
    done = place.pull()
    downloading = [event for event in seen if event[0] == "downloading"]
    assert downloading[-1][1] == downloading[-1][2] == done["bytes"]
    assert [event[1] for event in downloading] == sorted(event[1] for event in downloading)
    assert any(len(parts) == 3 for *_, parts in downloading)
    size = (repo / "model-00001-of-00003.safetensors").stat().st_size
    assert {parts["model-00001-of-00003.safetensors"][1] for *_, parts in downloading if len(parts) == 3} == {size}


def test_f06_a_models_folder_without_room_is_named(place: Place, repo: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place.models.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=6", "tmpfs", place.models]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        with pytest.raises(NoSpace, match="too few for the links and the manifest of model"):
            place.pull()
        assert not (place.models / "model").exists()
    finally:
        subprocess.run(["umount", place.models], check=True)
    assert place.pull()["received"] == 0  # what has come was kept


# ── at once ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Runs `work` beside; its result or error is in the list at the end."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ended
    finally:
        thread.join()


PULL = (
    "import json, sys; from llmctl.models import pull; from llmctl.jobs.context import Silent\n"
    "print(json.dumps(pull.run(json.loads(sys.argv[1]), Silent())))"
)


@contextlib.contextmanager
def library(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """huggingface-hub's own download into the same cache."""
    code = "from huggingface_hub import snapshot_download as get; get('org/model')"
    env = {**os.environ, "HF_HUB_CACHE": str(place.cache), "HF_ENDPOINT": place.hub.url, "HF_HUB_DISABLE_XET": "1"}
    running = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def process(place: Place, **more: Any) -> subprocess.Popen[str]:
    """The same pull in a process of its own."""
    argv = [sys.executable, "-c", PULL, json.dumps(place.wanted(**more).to_dict())]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO)


def test_c03_the_same_pull_twice_at_once_downloads_once(place: Place, repo: Path, hub: Hub) -> None:
    hub.fault("slow", "model-*", seconds=0.002)
    both = [process(place) for _ in range(2)]
    ended = [json.loads(one.communicate(timeout=60)[0]) for one in both]
    assert sorted(one["already"] for one in ended) == [False, True]
    assert hub.sent("model-*") - HEADER <= SIZE + 1000
    assert same(Path(ended[0]["path"]), repo)


def test_c03_two_models_of_one_repository_at_once_download_once(place: Place, repo: Path, hub: Hub) -> None:
    hub.fault("slow", "model-*", seconds=0.002)
    both = [process(place, model=name) for name in ("one", "two")]
    ended = [json.loads(one.communicate(timeout=60)[0]) for one in both]
    assert sum(one["received"] for one in ended) == ended[0]["bytes"]
    assert all(same(Path(one["path"]), repo) for one in ended)


def test_c03_a_reader_never_sees_a_partial_artifact(place: Place, repo: Path, hub: Hub) -> None:
    hub.fault("slow", "model-*", seconds=0.002)
    seen = 0
    with in_thread(place.pull) as ended:
        while not ended:
            for _, path in store.present(Model("model"), place.models):
                kept = manifest.read(path)
                assert kept and len(kept.files) == 6 and all(entry.unchanged(path) for entry in kept.files)
                seen += 1
    assert not isinstance(ended[0], BaseException) and not ended[0]["already"]
    for _ in range(3):  # and while it is replaced by that of another commit
        (repo / "generation_config.json").write_text(f'{{"eos_token_id": {seen}}}')
        with in_thread(place.pull) as ended:
            while not ended:
                path = place.models / "model" / "safetensors"
                with contextlib.suppress(OSError):
                    assert len(list(path.iterdir())) in (0, 7, 8)
        assert not isinstance(ended[0], BaseException)


def test_c03_rm_during_a_pull_is_refused_and_a_pull_during_rm_waits(place: Place, repo: Path, hub: Hub) -> None:
    hub.fault("slow", "model-*", seconds=0.005)
    folder = place.models / "model" / "safetensors"
    with in_thread(place.pull) as ended:
        eventually(lambda: hub.sent("model-*") > MB)
        with pytest.raises(Busy):
            removing.remove("model", [folder], place.models, lambda: None)
    assert not isinstance(ended[0], BaseException) and same(folder, repo)
    hub.heal()
    removal = contextlib.ExitStack()
    removal.enter_context(store.changing("model", place.models))
    with in_thread(lambda: place.pull(revision="main")) as ended, removal:
        eventually(lambda: any("another command changes model" in note for note in place.job.notes))
        assert not ended
        removing_links(folder)
    assert ended[0]["received"] == 0 and same(folder, repo)


def test_c03_a_pull_and_the_librarys_own_download_fetch_a_file_once(place: Place, repo: Path, hub: Hub) -> None:
    hub.fault("slow", "model-*", seconds=0.01)
    with library(place) as running:
        eventually(lambda: hub.sent("model-*") > MB)
        done = place.pull()
        assert running.wait(60) == 0
    assert hub.sent("model-*") <= SIZE + 1000 + HEADER and same(Path(done["path"]), repo)


# ── interrupted ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
def test_f07_a_pull_that_is_killed_at_random_points_ends_right(place: Place, repo: Path, hub: Hub, seed: int) -> None:
    """kill -9 three times; with reruns, less than twice the bytes go over the wire."""
    chance = random.Random(seed)
    hub.fault("slow", "model-*", seconds=0.004)
    for _ in range(3):
        running = process(place)
        goal = hub.sent("*") + chance.randrange(MB // 4, 3 * MB)
        end = time.monotonic() + 60
        while hub.sent("*") < goal and running.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        running.kill()
        running.communicate()
        assert not (place.models / "model" / "safetensors").exists() or running.returncode == 0
    hub.faults.clear()
    done = place.pull()
    assert same(Path(done["path"]), repo) and not place.partials()
    assert hub.sent("*") < 2 * done["bytes"]
    assert not [path for path in (place.models / ".staging").iterdir() if path.is_dir()]


def test_f07_finished_files_are_kept_when_a_later_one_fails(place: Place, repo: Path, hub: Hub) -> None:
    hub.fault("status", "model-00003*", status=404, headers={"X-Error-Code": "EntryNotFound"})
    hub.fault("slow", "model-00003*", seconds=1)
    with pytest.raises(HubError):
        place.pull()
    assert not (place.models / "model").exists()
    hub.faults.clear()
    hub.log.clear()
    done = place.pull()
    assert done["received"] < done["bytes"] and same(Path(done["path"]), repo)


def test_a_cancelled_pull_leaves_no_artifact_and_goes_on_later(place: Place, repo: Path, hub: Hub) -> None:
    class Cancelling(Silent):
        def progress(self, stage: str, done: int = 0, total: int = 0, parts: Any = None) -> None:
            if done > 3 * MB:
                raise Cancelled

    hub.fault("slow", "model-*", seconds=0.005)
    place.job = Cancelling()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        place.pull()
    assert time.monotonic() - began < 10 and not (place.models / "model").exists()
    assert not [path for path in (place.models / ".staging").iterdir() if path.is_dir()]
    place.job = Silent()
    hub.heal()
    done = place.pull()
    assert done["received"] <= done["bytes"] - 3 * MB and same(Path(done["path"]), repo)


def test_a_gate_before_the_files_is_met_before_the_weights(place: Place, repo: Path, hub: Hub) -> None:
    """The public hub lists a gated repository for everybody, and refuses its files."""
    hub.fault("gated", "*.json")
    with pytest.raises(HubError) as caught:
        place.pull()
    assert caught.value.code == "gated" and f"{hub.url}/org/model, then" in str(caught.value.hint)
    assert hub.sent() == 0 and not place.blobs()


def test_a_repository_with_a_hostile_name_brings_nothing(place: Place, repo: Path, hub: Hub, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if place.models not in (path, *path.parents)}
    hub.extra["org/model"] = ("../../../../evil.json",)
    with pytest.raises(HubError, match=r"no name on this disk: nothing was fetched"):
        place.pull()
    assert {path for path in tmp_path.rglob("*") if place.models not in (path, *path.parents)} == before


def test_the_cache_of_another_tool_is_used(place: Place, repo: Path, hub: Hub) -> None:
    """What `hf download` has brought is found by its hash, and hashed once."""
    with library(place) as running:
        assert running.wait(60) == 0
    hub.log.clear()
    done = place.pull()
    assert done["received"] == 0 and hub.sent("model-*") <= HEADER and same(Path(done["path"]), repo)
    assert RepoCache(place.cache, "org/model").commit(None) == done["revision"]
