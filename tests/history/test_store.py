"""What history keeps, and what it answers."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.history import figures, retention
from llmctl.history.records import Percentiles
from llmctl.history.store import Check, Event, History

NOW = time.time()
DAY = 86400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    with History.open(path) as found:
        yield found


def check(port: int | None = 8101, at: float = NOW, verdict: str = "ok", host: str = "gpu1", **said: Any) -> Check:
    return Check(host, port, at, verdict, **said)


def event(id: object, kind: str = "swap", at: object = NOW, **said: object) -> dict[str, object]:
    return {"id": id, "kind": kind, "at": at, **said}


def test_the_last_check_of_each_slot_and_host_is_that_which_was_kept_last(history: History) -> None:
    first = check(why="slow", model="a", first=0.2, rate=40.5, queued=3, memory=10**10, codes=("slow_first", "queue"))
    history.checked([first, check(None, verdict="degraded"), check(host="gpu2")])
    assert history.last() == {
        ("gpu1", 8101): first, ("gpu1", None): check(None, verdict="degraded"), ("gpu2", 8101): check(host="gpu2"),
    }  # fmt: skip
    back = check(at=NOW - DAY, verdict="down")
    history.checked([back])
    assert history.last()["gpu1", 8101] == back, "the clock was set back: what was written last is the newest"
    assert history.checks("gpu1", 8101) == [back, first]


def test_figures_are_those_of_the_last_good_answers_of_one_model(history: History) -> None:
    for n in range(30):
        history.checked([check(at=NOW + n, model="a", first=n / 10, rate=float(n))])
    history.checked([check(model="a", verdict="degraded", first=99.0, rate=99.0), check(model="b", first=77.0)])
    history.checked([check(8102, model="a", first=55.0), check(model="a", first=3.5), check(model="a", rate=5.0)])
    firsts, rates = history.figures("gpu1", 8101, "a", 4)
    assert (firsts, rates) == ([2.8, 2.9, 3.5], [28.0, 29.0, 5.0])
    assert history.figures("gpu1", 8101, None) == history.figures("gone", 1, "a") == ([], [])


def test_a_run_is_kept_whole_or_not_at_all(history: History, path: Path) -> None:
    bad = check(8102, why=object())
    with pytest.raises(TypeError):
        history.checked([check(), bad])
    assert history.last() == {}
    history.checked([check()])
    with History.open(path, write=False) as other:
        assert len(other.last()) == 1


def test_events_of_a_host_are_taken_once(history: History) -> None:
    assert history.cursor("gpu1") == ""
    told = [event("1", port=8101, model="m", outcome="ok", what="w", details={"who": "me"}), event("2", "crash")]
    assert history.take("gpu1", told, "f:1") == 2
    assert history.take("gpu1", [*told, event("3")], "f:2") == 1
    assert history.take("gpu2", told, "g:9") == 2
    assert (history.cursor("gpu1"), history.cursor("gpu2")) == ("f:2", "g:9")
    kept = history.events("gpu1", 8101)
    assert kept == [Event("gpu1", "1", NOW, "swap", 8101, "m", "ok", "w", {"who": "me"})]


@pytest.mark.parametrize(
    "bad",
    [
        7, None, [], {}, event(""), event(5), event("a", kind=""), event("a", at="now"), event("a", at=float("nan")),
        event("a", at=float("inf")), event("a", at=-1.0),
    ],
)  # fmt: skip
def test_what_is_no_event_is_passed_over(history: History, bad: object) -> None:
    assert history.take("gpu1", [bad, event("good")], "c:1") == 1


def test_odd_values_of_another_machine_are_kept_as_far_as_they_make_sense(history: History) -> None:
    far = event("1", at=10**400, port="x", model=5, what="\ud800" + "x" * 10**5, details=[1])
    assert history.take("gpu1", [far, event("2\ud800", port=10**9)], "\ud800") == 2
    found = {found.id: found for found in history.events()}
    assert found["1"].port is None and found["1"].model == "5" and found["1"].details == {}
    assert found["1"].what.startswith("?x") and len(found["1"].what) < 10**4
    assert found["1"].at < time.time() + 2 * DAY, "an event of the far future would never be forgotten"


def test_events_are_asked_by_place_time_and_kind_the_newest_last(history: History) -> None:
    for n in range(10):
        history.note("gpu1", "heal" if n % 2 else "notify", port=8101 + n % 3, at=NOW + n, what=str(n))
    history.note("gpu2", "bench", model="m", outcome="ok", details={"rate": 5}, at=NOW + 20)
    assert [found.what for found in history.events("gpu1", most=3)] == ["7", "8", "9"]
    assert [found.what for found in history.events("gpu1", 8102)] == ["1", "4", "7"]
    assert [found.what for found in history.events(since=NOW + 5, kinds=["heal"])] == ["5", "7", "9"]
    (bench,) = history.events(kinds=["bench"])
    assert (bench.host, bench.model, bench.details) == ("gpu2", "m", {"rate": 5})


def test_an_incident_opens_once_counts_its_heals_and_closes_once(history: History) -> None:
    first = history.open_incident("gpu1", 8101, NOW, "down", "wedged")
    assert history.open_incident("gpu1", 8101, NOW + 5, "degraded", "slow") == first
    other = history.open_incident("gpu1", None, NOW, "unknown", "unreachable")
    for at in (NOW - 1, NOW + 6, NOW + 7, NOW + 20):
        history.note("gpu1", "heal", port=8101, at=at)
    history.note("gpu1", "heal", port=8102, at=NOW + 6)
    history.close_incident(first, NOW + 10)
    history.close_incident(first, NOW + 99)
    (closed,) = history.incidents(host="gpu1", port=8101)
    assert (closed.id, closed.opened, closed.closed, closed.heals) == (first, NOW, NOW + 10, 2)
    assert (closed.verdict, closed.why) == ("degraded", "slow")
    assert [one.id for one in history.incidents(open_only=True)] == [other]
    assert [one.id for one in history.incidents(since=NOW + 11)] == [other]
    again = history.open_incident("gpu1", 8101, NOW + 50, "down", "wedged again")
    assert again not in (first, other)
    told = [(found.kind, found.port, found.what) for found in history.events(kinds=["incident", "recovered"])]
    assert told == [
        ("incident", 8101, "wedged"), ("incident", None, "unreachable"), ("recovered", 8101, "slow"),
        ("incident", 8101, "wedged again"),
    ]  # fmt: skip


def test_f13_a_clock_that_was_set_back_ends_no_incident_before_it_began(history: History) -> None:
    one = history.open_incident("gpu1", 8101, NOW, "down", "wedged")
    history.close_incident(one, NOW - DAY)
    assert history.incidents()[0].closed == NOW


def test_uptime_is_the_share_of_the_known_time() -> None:
    up = figures.uptime
    assert up([], 0, 100) is None
    assert up([(0, "ok"), (60, "down"), (70, "degraded")], 0, 100) == pytest.approx(0.9)
    assert up([(0, "ok"), (50, "unknown"), (90, "down")], 0, 100) == pytest.approx(50 / 60), "a partition is not down"
    assert up([(0, "skipped"), (50, "unknown")], 0, 100) is None
    assert up([(-50, "down"), (50, "ok")], 0, 100) == pytest.approx(0.5), "the check before speaks for the beginning"
    hour, day = figures.LONGEST_GAP, DAY
    assert up([(0, "down"), (day - hour, "ok")], 0, day) == 0.5, "of a night without checks nothing is known"


def test_percentiles_are_the_nearest_ranks_and_p95_is_the_worse_side() -> None:
    found = figures.percentiles([n / 100 for n in range(100, 0, -1)], [float(n) for n in range(1, 101)])
    assert found == Percentiles(0.5, 0.95, 51.0, 6.0, 100)
    assert figures.percentiles([0.2], []) == Percentiles(0.2, 0.2, None, None, 1)
    assert figures.percentiles([], []) == Percentiles()


def test_uptime_percentiles_and_series_of_one_slot(history: History) -> None:
    began = NOW - 1000
    for n in range(10):
        good = n != 4
        said: dict[str, Any] = {"first": 0.1 * n, "rate": 10.0 * n, "queued": n, "memory": n * 10**9} if good else {}
        history.checked([check(at=began + 100 * n, verdict="ok" if good else "down", **said)])
        history.checked([check(8102, at=began + 100 * n, verdict="down")])
    assert history.uptime("gpu1", 8101, began, NOW) == pytest.approx(0.9)
    assert history.uptime("gpu1", 8102, began, NOW) == 0.0
    assert history.uptime("gpu1", 9999, began, NOW) is None
    assert history.percentiles("gpu1", 8101, began + 500).rate_p50 == 70.0
    assert history.percentiles("gpu1", 8102, began).checks == 0
    assert history.series("gpu1", 8101, "rate", began, 5, NOW) == [5.0, 25.0, 50.0, 65.0, 85.0]
    assert history.series("gpu1", 8101, "up", began, 5, NOW) == [1.0, 1.0, 0.5, 1.0, 1.0]
    assert history.series("gpu1", 8101, "first", began - 1000, 2, NOW)[0] is None
    assert history.series("gpu1", 8101, "memory", NOW - 100, 1, NOW) == [9e9]
    assert history.series("gpu1", 8101, "queued", began + 400, 6, NOW)[0] == 0


def test_what_is_too_old_goes_but_open_incidents(history: History) -> None:
    old = NOW - retention.CHECKS - DAY
    history.checked([check(at=old), check(8102, at=NOW)])
    assert list(history.last()) == [("gpu1", 8102)]
    ancient = NOW - retention.EVENTS - DAY
    history.note("gpu1", "heal", at=ancient)
    stays = history.open_incident("gpu1", 8101, ancient, "down", "x")
    gone = history.open_incident("gpu1", 8102, ancient, "down", "x")
    history.close_incident(gone, ancient + 1)
    history.prune(NOW)
    assert [one.id for one in history.incidents()] == [stays]
    assert history.events(most=-1) == []


def test_what_is_too_much_goes_the_oldest_first_and_the_file_shrinks(
    history: History, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(20):
        history.checked([check(at=NOW + n, why="x" * 1000, first=float(n)) for _ in range(100)])
        history.take("gpu1", [event(f"{n}-{m}", at=NOW + n, what="y" * 1000) for m in range(20)], "c")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.stat().st_size
    monkeypatch.setattr(retention, "LARGEST", before // 2)
    history.prune(NOW)
    left = history.checks("gpu1", 8101, most=-1)
    assert 100 < len(left) < 1500 and left[-1].first == 19.0 and (left[0].first or 0.0) > 0.0
    assert len(history.events(most=-1)) == 400, "events stay as long as checks can go"
    monkeypatch.setattr(retention, "LARGEST", 200_000)
    history.prune(NOW)
    kept = history.events(most=-1)
    assert history.checks("gpu1", 8101) == [] and 0 < len(kept) < 400 and kept[-1].at == NOW + 19
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < before // 4


def test_readers_see_what_was_and_never_wait_for_a_writer(history: History, path: Path) -> None:
    history.checked([check()])
    with History.open(path, write=False, patience=0.0) as reader:
        inside = threading.Event()
        over = threading.Event()

        def hold(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM checks")
            inside.set()
            assert over.wait(30)

        writer = threading.Thread(target=lambda: history._database.change(hold))
        writer.start()
        try:
            assert inside.wait(30)
            assert len(reader.last()) == 1
        finally:
            over.set()
            writer.join()
        assert reader.last() == {}


def test_a_writer_never_waits_for_a_reader(history: History, path: Path) -> None:
    history.checked([check()])
    with sqlite3.connect(path, isolation_level=None) as reader:
        reader.execute("BEGIN")
        (before,) = reader.execute("SELECT count(*) FROM checks").fetchone()
        with History.open(path, patience=0.0) as writer:
            writer.checked([check()])
        assert reader.execute("SELECT count(*) FROM checks").fetchone() == (before,)
        reader.execute("COMMIT")


def test_many_threads_share_one(history: History) -> None:
    failed: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for m in range(20):
                history.checked([check(8000 + n, at=NOW + m)])
                assert history.last()["gpu1", 8000 + n].at == NOW + m
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(history.last()) == 8


def test_a_baseline_is_kept_by_its_target_until_it_is_old(history: History) -> None:
    assert history.baseline("fast") is None
    history.keep_baseline("fast", NOW, {"expected": {"sum": "aa"}})
    history.keep_baseline("fast", NOW + 1, {"expected": {"sum": "bb"}})
    history.keep_baseline("deep", NOW + 2, {})
    assert history.baseline("fast") == (NOW + 1, {"expected": {"sum": "bb"}})
    history.prune(NOW + 1 + retention.EVENTS)
    assert history.baseline("fast") is not None
    history.prune(NOW + 1.5 + retention.EVENTS)
    assert history.baseline("fast") is None
    assert history.baseline("deep") is not None
