"""Bytes of the hub into the cache: what is interrupted goes on, what is wrong is never visible, nothing is left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmctl.errors import HubError, NoSpace
from llmctl.files import locked
from llmctl.models import hub as hubs
from llmctl.models.cache import LITTER_AGE, RepoCache
from llmctl.models.download import Download, Fetched, check_room
from llmctl.models.hub import Listing
from llmctl.models.hub_errors import Patience
from tests.models.conftest import Place
from tests.testbed.hub import Hub
from tests.testbed.repos import random_checkpoint

SIZE = 8 * 2**20
NAME = "model.safetensors"


@pytest.fixture
def repo(hub: Hub) -> Path:
    return random_checkpoint(hub.root / "org" / "model", SIZE)


class Pair:
    """One download after another into the same cache."""

    def __init__(self, place: Place) -> None:
        self.place, self.cache = place, RepoCache(place.cache, "org/model")
        self.hub = hubs.Hub(place.hub.url, Patience(first=0.01))

    def listing(self) -> Listing:
        return self.hub.listing("org/model", None)

    def fetch(self) -> dict[str, Fetched]:
        listing = self.listing()
        return Download(self.hub, self.cache, listing.commit, self.place.job).run(listing.files)

    @property
    def blob(self) -> Path:
        file = self.listing().file(NAME)
        assert file
        return self.cache.blob(file)

    @property
    def partial(self) -> Path:
        file = self.listing().file(NAME)
        assert file
        return self.cache.partial(file)


@pytest.fixture
def pair(place: Place, repo: Path) -> Pair:
    return Pair(place)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole(pair: Pair, repo: Path, fetched: dict[str, Fetched]) -> bool:
    """Whether all is right: bytes, sha256, the library's layout, and nothing left beside."""
    for path in repo.iterdir():
        found = fetched[path.name]
        assert found.blob.read_bytes() == path.read_bytes() and found.sha256 == sha256(path)
        shown = pair.cache.folder / "snapshots" / pair.place.hub.commit("org/model") / path.name
        assert shown.is_symlink() and shown.resolve() == found.blob
    return not pair.place.partials()


def test_f07_a_cut_connection_is_resumed_where_it_stopped(pair: Pair, repo: Path, hub: Hub) -> None:
    hub.fault("cut", NAME, after=3_000_000, times=2)
    assert whole(pair, repo, pair.fetch())
    assert [seen.range for seen in hub.log if NAME in seen.path][1:] == [
        f"bytes={at}-{(repo / NAME).stat().st_size - 1}" for at in (3_000_000, 6_000_000)
    ]
    assert hub.sent(NAME) == (repo / NAME).stat().st_size


def test_f07_another_run_goes_on_with_the_partial_file(pair: Pair, repo: Path, hub: Hub) -> None:
    listing = pair.listing()
    pair.partial.parent.mkdir(parents=True)
    pair.partial.write_bytes((repo / NAME).read_bytes()[:5_000_001])
    assert whole(pair, repo, Download(pair.hub, pair.cache, listing.commit, pair.place.job).run(listing.files))
    assert hub.sent(NAME) == (repo / NAME).stat().st_size - 5_000_001


def test_f07_a_partial_file_with_wrong_bytes_is_found_out(pair: Pair, repo: Path, hub: Hub) -> None:
    pair.partial.parent.mkdir(parents=True)
    pair.partial.write_bytes(bytes(5_000_001))
    assert whole(pair, repo, pair.fetch())
    assert any("damaged" in note for note in pair.place.job.notes)


def test_a_partial_file_longer_than_the_file_is_dropped(pair: Pair, repo: Path) -> None:
    pair.partial.parent.mkdir(parents=True)
    pair.partial.write_bytes(bytes(SIZE + 10_000))
    assert whole(pair, repo, pair.fetch())


def test_a_hub_that_ignores_ranges_is_read_from_the_start(pair: Pair, repo: Path, hub: Hub) -> None:
    hub.fault("cut", NAME, after=3_000_000, times=1)
    hub.fault("no_range")
    assert whole(pair, repo, pair.fetch())


def test_a_hub_that_ignores_ranges_and_cuts_is_given_up(pair: Pair, repo: Path, hub: Hub) -> None:
    hub.fault("cut", NAME, after=3_000_000)
    hub.fault("no_range")
    with pytest.raises(Exception, match="does not answer"):
        pair.fetch()
    assert not pair.blob.exists()


@contextlib.contextmanager
def watched(path: Path) -> Iterator[list[str]]:
    """The hash of `path` each time it was seen there, looked for without a pause."""
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                seen.append(sha256(path))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_f07_a_flipped_bit_is_fetched_again_and_never_visible(pair: Pair, repo: Path, hub: Hub) -> None:
    hub.fault("corrupt", NAME, after=4_000_000, times=1)
    with watched(pair.blob) as seen:
        assert whole(pair, repo, pair.fetch())
    assert set(seen) <= {sha256(repo / NAME)}
    assert f"{NAME} came damaged: it is fetched again from its start" in pair.place.job.notes


@pytest.mark.parametrize("how", ["corrupt", "lie"])
def test_f07_wrong_bytes_that_stay_wrong_are_an_error_and_leave_nothing(pair, repo, hub, how) -> None:
    if how == "corrupt":
        hub.fault("corrupt", NAME, after=4_000_000)
    else:
        hub.lies[NAME] = "0" * 64
    with pytest.raises(HubError, match=f"{NAME} of org/model came damaged twice: its hash should be") as caught:
        pair.fetch()
    assert caught.value.code == "corrupt" and caught.value.hint
    assert not pair.blob.exists() and not pair.partial.exists()
    assert hub.sent(NAME) == 2 * (repo / NAME).stat().st_size


def test_f07_a_file_shorter_than_listed_is_never_visible(pair: Pair, repo: Path, hub: Hub) -> None:
    hub.fault("short", NAME, after=4_000_000)
    with pytest.raises(HubError):
        pair.fetch()
    assert not pair.blob.exists()
    hub.heal()
    assert whole(pair, repo, pair.fetch())
    assert hub.sent(NAME) == (repo / NAME).stat().st_size - 4_000_000


def test_a_small_file_has_its_git_hash_checked(pair: Pair, repo: Path, hub: Hub) -> None:
    hub.fault("corrupt", "config.json", after=5)
    with pytest.raises(HubError, match=r"config\.json of org/model came damaged twice"):
        pair.fetch()


def test_a_blob_in_the_cache_is_hashed_before_it_is_trusted(pair: Pair, repo: Path, hub: Hub) -> None:
    pair.fetch()
    hub.log.clear()
    assert whole(pair, repo, pair.fetch())
    assert hub.sent() == 0
    flipped = bytearray(pair.blob.read_bytes())
    flipped[4_000_000] ^= 1
    pair.blob.write_bytes(flipped)
    assert whole(pair, repo, pair.fetch())
    assert hub.sent() == (repo / NAME).stat().st_size
    assert f"{NAME} in the cache is damaged: it is fetched again" in pair.place.job.notes


def test_a_proven_blob_is_not_read_again(pair: Pair, repo: Path) -> None:
    first = pair.fetch()
    listing = pair.listing()
    pair.blob.write_bytes(b"changed, but said to be proven")
    proven = {found.file.etag: found.sha256 for found in first.values()}
    again = Download(pair.hub, pair.cache, listing.commit, pair.place.job, proven).run(listing.files)
    assert again[NAME].sha256 == first[NAME].sha256


def test_the_library_finds_what_was_fetched_and_the_other_way_round(pair: Pair, repo: Path, hub: Hub) -> None:
    """Its own process, since huggingface-hub reads its environment once."""
    code = (
        "import sys; from huggingface_hub import snapshot_download as get\n"
        "print(get('org/model', local_files_only=sys.argv[1] == 'local'))"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(pair.place.cache), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}

    def library(how: str) -> Path:
        done = subprocess.run([sys.executable, "-c", code, how], env=env, capture_output=True, text=True, check=True)
        return Path(done.stdout.strip())

    fetched = pair.fetch()
    pair.cache.remember(None, pair.listing().commit)
    for how in ("local", "hub"):
        hub.log.clear()
        assert {path.name: sha256(path) for path in library(how).iterdir()} == {
            path.name: sha256(path) for path in repo.iterdir()
        }
        assert hub.sent() == 0
    for found in fetched.values():
        found.blob.unlink()
    for link in (pair.cache.folder / "snapshots").rglob("*.*"):
        link.unlink()
    library("hub")
    hub.log.clear()
    assert whole(pair, repo, pair.fetch())
    assert hub.sent() == 0


def test_s09_weights_from_a_second_host_come_without_the_token(
    tmp_path: Path, make_place: Callable[[Hub, str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret_0123456789")
    repo = random_checkpoint(tmp_path / "hub" / "org" / "model", SIZE)
    with Hub(tmp_path / "hub", redirect=True) as running:
        pair = Pair(make_place(running, "here"))
        running.fault("cut", NAME, after=3_000_000, times=1)
        assert whole(pair, repo, pair.fetch())
        assert {seen.token for seen in running.log if seen.second} == {None}
        assert all(seen.token for seen in running.log if not seen.second)


def test_litter_goes_and_what_is_alive_stays(pair: Pair, repo: Path) -> None:
    pair.fetch()
    blobs = pair.cache.folder / "blobs"
    etag = "c" * 64
    old = time.time() - LITTER_AGE - 60
    names = {
        "dead": f"{etag}.0a1b2c3d.incomplete", "ours": f"{'d' * 64}.llmctl.incomplete",
        "young": f"{'e' * 64}.0a1b2c3d.incomplete", "held": f"{'f' * 64}.0a1b2c3d.incomplete",
        "wanted": f"{'a' * 64}.llmctl.incomplete",
    }  # fmt: skip
    for name in names.values():
        (blobs / name).write_bytes(b"some")
        if name != names["young"]:
            os.utime(blobs / name, (old, old))
    with locked(pair.place.cache / ".locks" / "models--org--model" / f"{'f' * 64}.lock"):
        assert pair.cache.sweep(["a" * 64]) == 8
    left = {path.name for path in blobs.glob("*.incomplete")}
    assert left == {names["young"], names["held"], names["wanted"]}


def test_several_files_come_at_once_and_the_first_error_ends_all(pair: Pair, repo: Path, hub: Hub) -> None:
    for i in range(6):
        (repo / f"extra-{i}.safetensors").write_bytes(os.urandom(2**20))
    hub.fault("slow", "extra-*", seconds=0.05)
    hub.fault("status", "model*", status=404, headers={"X-Error-Code": "EntryNotFound"})
    began = time.monotonic()
    with pytest.raises(HubError, match="there is no such file"):
        pair.fetch()
    assert time.monotonic() - began < 5
    hub.heal()
    assert whole(pair, repo, pair.fetch())


def test_f06_what_does_not_fit_is_refused_with_numbers_before_it_is_fetched(pair: Pair, repo: Path, tiny_disk) -> None:
    cache = RepoCache(tiny_disk, "org/model")
    listing = pair.listing()
    with pytest.raises(NoSpace, match=r"org/model needs 8,38\d,\d{3} more bytes, [\d,]+ are free, at ") as caught:
        check_room(cache, listing.files)
    assert caught.value.details["needed"] == sum(file.bytes for file in listing.files)
    assert 0 < caught.value.details["free"] <= 2**20 and caught.value.details["path"] == str(tiny_disk)


def test_f06_a_disk_that_fills_up_on_the_way_keeps_what_has_come(pair: Pair, repo: Path, tiny_disk, hub: Hub) -> None:
    cache = RepoCache(tiny_disk, "org/model")
    listing = pair.listing()
    with pytest.raises(NoSpace) as caught:
        Download(pair.hub, cache, listing.commit, pair.place.job).run(listing.files)
    file = listing.file(NAME)
    assert file and not cache.blob(file).exists()
    kept = cache.partial(file).stat().st_size
    assert kept > 500_000 and cache.partial(file).read_bytes() == (repo / NAME).read_bytes()[:kept]
    assert caught.value.details["needed"] == sum(cache.missing_bytes(file) for file in listing.files)
    assert str(caught.value.hint).endswith("what has come is kept")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)
