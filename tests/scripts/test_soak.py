"""The soak's verdicts, of values; and its traffic on a real slot for some seconds."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llmctl.domain import SlotSpec
from scripts.soaking import report, trend
from scripts.soaking.look import Sample, is_zombie, look
from scripts.soaking.report import Soak, judged
from scripts.soaking.traffic import BAD, CUT, IMAGE, PLAIN, STREAM, Outcome, Traffic, deal, picture
from scripts.soaking.trend import BROKEN, MET, UNDECIDED
from tests.checks.test_bench_servers import elsewhere
from tests.conftest import REPO, RunningSlot, eventually

__all__ = ["elsewhere"]


def series(count: int, value: Callable[[int], float], every: float = 60.0) -> list[tuple[float, float]]:
    return [(n * every, value(n)) for n in range(count)]


# ── slopes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slope_is_found_under_noise_and_outliers() -> None:
    noise = random.Random(0)
    points = series(120, lambda n: 3.0 * n / 60 + noise.gauss(0, 0.5) + (500 if n in (7, 30) else 0))
    found = trend.trend(points)
    assert found.slope == pytest.approx(3.0, abs=0.5)
    assert found.low < 3.0 < found.high and found.high - found.low < 2.0
    assert found.hours == pytest.approx(119 / 60)


def test_few_points_decide_nothing() -> None:
    found = trend.trend(series(3, lambda n: n * 1e9))
    assert trend.verdict(found.low, found.high, 1.0) == UNDECIDED
    assert trend.trend([(0.0, 5.0)]).slope == 0.0


def test_a_block_is_the_median_of_its_time() -> None:
    assert trend.blocks([(0, 1), (10, 99), (20, 2), (60, 5)], 60) == [(30.0, 2), (90.0, 5)]


@pytest.mark.parametrize(("each_hour", "verdict"), [(0.0, MET), (0.9e6, MET), (1.2e6, BROKEN), (-5e6, MET)])
def test_k1_memory_that_grows_more_than_a_megabyte_an_hour_breaks_its_limit(each_hour: float, verdict: str) -> None:
    noise = random.Random(1)
    points = series(480, lambda n: 4e7 + each_hour * n / 60 + noise.gauss(0, 1e5))
    assert trend.memory("it", points).verdict == verdict


def test_k1_a_short_run_says_that_it_cannot_tell() -> None:
    noise = random.Random(2)
    assert trend.memory("it", series(5, lambda n: 4e7 + noise.gauss(0, 1e6))).verdict == UNDECIDED


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (lambda n: 17 + n % 3, MET),
        (lambda n: 17, MET),
        (lambda n: 17 + n // 40, BROKEN),
        (lambda n: 17 - n // 40, MET),
    ],
)
def test_k2_a_count_that_rises_breaks_flatness_and_one_that_moves_does_not(
    value: Callable[[int], float], verdict: str
) -> None:
    assert trend.flat("it", series(480, value)).verdict == verdict


def test_k3_a_p99_that_drifts_is_found_whichever_model_serves() -> None:
    def points(worse: float) -> list[tuple[float, float, str]]:
        return [(n * 300, (0.1, 0.4)[n % 2] * (1 + worse * n / 95), ("a", "b")[n % 2]) for n in range(96)]

    assert trend.drift("it", points(0.0)).verdict == MET
    assert trend.drift("it", points(0.05)).verdict == MET
    assert trend.drift("it", points(0.5)).verdict == BROKEN
    assert trend.drift("it", points(0.0)[:2]).verdict == UNDECIDED


# ── the verdict of a run ────────────────────────────────────────────────────────────────────────────────────────────


def sample(at: float, **fields: Any) -> Sample:
    usual = {
        "model": "a", "engine": 5, "steady": True, "memory": 40_000_000, "engine_memory": 20_000_000,
        "descriptors": 17, "threads": 2, "children": 1, "zombies": frozenset(), "temporary": 0, "series": 100,
        "log": 1000, "crashes": 0,
    }  # fmt: skip
    return Sample(at, **{**usual, **fields})


def hour(fields: Callable[[int], dict[str, Any]]) -> list[Sample]:
    """The looks of an hour; `fields` of each are not the usual ones."""
    return [sample(n * 10.0, **fields(n)) for n in range(360)]


def soak(samples: Sequence[Sample] = (), outcomes: Sequence[Outcome] = (), failed: Sequence[str] = ()) -> Soak:
    kept = samples or hour(lambda n: {})
    said = outcomes or [Outcome(PLAIN, at / 2, 0.1) for at in range(7200)]
    return Soak("scripted", 60.0, 10.0, 300.0, 11, failed, said, kept)


def verdicts(run: Soak) -> dict[str, str]:
    return {row.what: row.verdict for row in judged(run)}


def test_k1_a_run_in_which_nothing_grew_is_met() -> None:
    found = verdicts(soak())
    found.pop("memory of a's engines, each at its end")  # there was one
    assert set(found.values()) == {MET}, found


LATE = [Outcome(STREAM, at / 2, 0.1 + at / 7200) for at in range(7200)]


@pytest.mark.parametrize(
    ("run", "row"),
    [
        (soak(outcomes=[Outcome(PLAIN, 1.0, 0.1, "plain: refused")]), "requests lost"),
        (soak(failed=["swap 3 cut 1 answers"]), "swaps that failed or cut an answer, and other mishaps"),
        (soak(hour(lambda n: {"crashes": n == 300})), "engines that died"),
        (soak(hour(lambda n: {"zombies": frozenset({9} if n in (50, 51) else ())})), "zombies that stayed"),
        (soak(hour(lambda n: {"log": 5_000_000 * (n == 7)})), "largest log file"),
        (soak(hour(lambda n: {"memory": 40_000_000 + 30_000 * n})), "memory of the slot server"),
        (soak(hour(lambda n: {"descriptors": 17 + n // 50})), "open descriptors of the slot server"),
        (soak(hour(lambda n: {"threads": 2 + n // 50})), "its threads"),
        (soak(hour(lambda n: {"children": 1 + n // 50})), "processes below it"),
        (soak(hour(lambda n: {"temporary": n // 50})), "temporary files"),
        (soak(hour(lambda n: {"series": 100 + n // 50})), "series of /metrics"),
        (soak(outcomes=LATE), "p99 of text, from when it was due"),
    ],
)
def test_k4_each_limit_breaks_a_run_by_itself(run: Soak, row: str) -> None:
    found = verdicts(run)
    assert [what for what, verdict in found.items() if verdict == BROKEN] == [row]
    assert report.broken(judged(run))


def test_what_comes_before_the_warm_up_and_a_zombie_of_a_moment_do_not_count() -> None:
    samples = [sample(at * 10.0, memory=40_000_000 * (1 + (at < 80)), zombies=frozenset({at})) for at in range(360)]
    assert BROKEN not in verdicts(soak(samples)).values()
    (memory,) = (row for row in judged(soak(samples)) if row.what == "memory of the slot server")
    assert memory.seen.startswith("40.0 → 40.0 MB")
    assert UNDECIDED in verdicts(soak([sample(1.0)])).values()


def test_engines_are_followed_over_their_lives() -> None:
    def one(at: int) -> Sample:
        life = at * 10 // 300
        return sample(at * 10.0, engine=100 + life, model="ab"[life % 2], engine_memory=20_000_000 + 5_000_000 * life)

    found = report.lives([one(at) for at in range(360)], 300)
    assert [memory for _, memory in found["a"]] == [20e6 + 5e6 * life for life in range(0, 12, 2)]
    assert verdicts(soak([one(at) for at in range(360)]))["memory of a's engines, each at its end"] == BROKEN
    assert report.lives([sample(0.0), sample(10.0)], 300) == {}


def test_the_page_is_made_anew_between_its_marks(tmp_path: Path) -> None:
    run = soak(outcomes=[Outcome(PLAIN, 1.0, 0.1, "plain: refused")])
    kept = report.result(run, judged(run), "2026-01-01", "a machine", {"plain": 1})
    with pytest.raises(FileNotFoundError):
        report.write(kept, tmp_path)
    page = tmp_path / "soak.md"
    page.write_text("# Soak\n")
    with pytest.raises(ValueError, match="no place for the results"):
        report.write(kept, tmp_path)
    page.write_text(f"# Soak\n\n{report.MARKS[0]}old{report.MARKS[1]}\nafter\n")
    for _ in range(2):
        report.write(kept, tmp_path)
    text = page.read_text()
    assert text.startswith("# Soak") and text.endswith("after\n") and "old" not in text
    assert text.count("### scripted, 60 minutes") == 1 and "| **broken** |" in text and "plain: refused" in text
    assert json.loads((tmp_path / "soak.json").read_text())["scripted 60"]["rows"]


# ── traffic ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_ten_requests_have_the_mix_of_row_k() -> None:
    cards = deal(random.Random(3))
    for _ in range(20):
        assert Counter(next(cards) for _ in range(10)) == {STREAM: 5, CUT: 2, IMAGE: 1, BAD: 1, PLAIN: 1}


def test_a_picture_is_one_and_no_two_are_the_same() -> None:
    assert Image.open(io.BytesIO(picture(1))).size == (64, 64)
    assert len({picture(n) for n in range(300)}) == 300


def test_traffic_over_a_swap_loses_nothing_and_a_slot_that_goes_is_noticed(
    slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec], tmp_path: Path
) -> None:
    slot = slots(script("alpha", parallel=8, step=0.001))
    with Traffic(slot.port, 40.0, tokens=4) as traffic:
        eventually(lambda: len(traffic.outcomes) > 40)
        before = look(slot.home, slot.port, tmp_path, 1.0)
        slot.change("swap", script("beta", parallel=8, step=0.001))
        seen = len(traffic.outcomes)
        eventually(lambda: len(traffic.outcomes) > seen + 60)
        assert traffic.lost == [] and traffic.losses == 0 and set(traffic.models) == {"alpha", "beta"}
        assert set(traffic.counts()) == {STREAM, CUT, IMAGE, BAD, PLAIN}
        after = look(slot.home, slot.port, tmp_path, 2.0)
        slot.kill()
        eventually(lambda: traffic.losses)
    assert (before.model, after.model) == ("alpha", "beta") and before.engine != after.engine
    for found in (before, after):
        assert found.memory > 1e7 and found.descriptors > 5 and found.threads and found.children >= 1
        assert found.series > 20 and found.log and found.steady and not found.zombies and found.temporary == 0


def test_a_cut_stream_and_nonsense_that_is_taken_are_lost(elsewhere: Callable[..., tuple[str, Any]]) -> None:
    url, _ = elsewhere(cut=True)
    with Traffic(int(url.rpartition(":")[2]), 40.0, tokens=4) as traffic:
        eventually(lambda: traffic.counts().get(BAD, 0) > 8)
    said = {one.lost.partition("'")[0] for one in traffic.lost}
    assert "stream: a stream ended before its end: " in said
    assert any(text.startswith("bad: status 200 for a bad request") for text in said)
    assert not any(text.startswith("cut: ") for text in said)


def test_a_zombie_is_told_from_the_living() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    eventually(lambda: is_zombie(child.pid))
    assert not is_zombie(1)
    child.wait()
    assert not is_zombie(child.pid)


def test_a_run_that_is_interrupted_tells_what_was_seen_and_leaves_the_docs_alone(tmp_path: Path) -> None:
    out, page = tmp_path / "soak.json", report.DOCS / "soak.md"
    before = page.read_bytes()
    words = ["--engine", "scripted", "--minutes", "60", "--swap-every", "1", "--rate", "20", "--json", str(out)]
    argv = [sys.executable, "-m", "scripts.soaking.main", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO) as soaking:
        assert soaking.stderr and soaking.stdout
        assert "1 swaps" in soaking.stderr.readline()
        soaking.send_signal(signal.SIGINT)
        text = soaking.stdout.read()
        assert soaking.wait(60) == 1
    assert "interrupted after" in text and "### scripted, 60 minutes" in text and page.read_bytes() == before
    found = json.loads(out.read_text())
    assert found["swaps"] >= 1 and found["lost"] == [] and found["requests"][STREAM]
