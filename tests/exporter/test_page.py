"""Hosts asked side by side with a deadline, and the page of what they told; over values, without a network."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmctl.domain import STATES
from llmctl.errors import Unreachable
from llmctl.exporter import known
from llmctl.exporter.asking import Asking, Told
from llmctl.exporter.fleet import Exporter
from llmctl.exporter.page import Checked, fleet
from llmctl.exporter.text import Page
from llmctl.history.store import Check, History
from tests.conftest import eventually
from tests.exporter.ops import samples

DATA = {"version": "1.0", "memory": {"free": 5, "total": 10}, "disk": {"free": 3, "total": 4}, "load": 0.5, "slots": []}


def page_of(told: Told, *checked: Checked) -> dict[str, float]:
    page = Page()
    fleet(page, [told], checked)
    return samples(page.text())


def slot_page(**slot: Any) -> dict[str, float]:
    return page_of(Told("gpu1", {**DATA, "slots": [{"port": 8101, **slot}]}))


@pytest.mark.parametrize(
    ("slot", "up"),
    [
        ({"model": "gateway", "state": "ready", "metrics": "# TYPE llmctl_gateway_x gauge\nllmctl_gateway_x 1\n"}, 1),
        ({"model": "gateway", "state": "ready", "metrics": None}, 0),
        ({"model": "litellm", "state": "ready", "metrics": None}, 1),
        ({"model": "litellm", "state": "backoff", "metrics": None}, 0),
    ],
)
def test_a_gateway_is_no_slot(slot: dict[str, Any], up: int) -> None:
    found = slot_page(engine="gateway", **slot)
    assert found['llmctl_gateway_up{host="gpu1",port="8101"}'] == up
    assert not [series for series in found if series.startswith("llmctl_slot_")]


# ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_host_that_hangs_costs_only_itself_and_is_not_asked_again_meanwhile() -> None:
    go, asked = threading.Event(), []

    def ask(host: str) -> Mapping[str, Any]:
        asked.append(host)
        if host == "hangs":
            go.wait(60)
        return DATA

    asking = Asking(["well", "hangs"], ask)
    for _ in range(2):
        well, hangs = asking.all(1.0)
        assert well.data == DATA and hangs.data is None and hangs.code == "timed_out"
    assert asked.count("hangs") == 1 and asked.count("well") == 2
    go.set()
    asking._busy["hangs"].join()  # its answer was to the first scrape: by now it is old
    assert [told.data for told in asking.all(30.0)] == [DATA, DATA] and asked.count("hangs") == 2


def test_an_answer_to_an_earlier_scrape_is_not_served_as_if_it_were_fresh() -> None:
    go = [threading.Event(), threading.Event()]
    times = iter(range(9))

    def ask(host: str) -> Mapping[str, Any]:
        at = next(times)
        go[at].wait(60)
        return {"at": at}

    asking = Asking(["slow"], ask)
    assert asking.all(0.05)[0].data is None
    go[0].set()
    asking._busy["slow"].join()
    go[1].set()
    assert asking.all(30.0)[0].data == {"at": 1}


def test_what_goes_wrong_with_one_host_is_told_and_the_others_are_there() -> None:
    def ask(host: str) -> Mapping[str, Any]:
        if host == "gone":
            raise Unreachable("no route to it")
        return {"slots": {}[host]} if host == "odd" else DATA

    gone, odd, well = Asking(["gone", "odd", "well"], ask).all(30.0)
    assert (gone.code, odd.code, well.code) == ("unreachable", "failed", None)
    assert gone.why == "no route to it" and well.data == DATA


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_host_that_answered() -> None:
    found = page_of(Told("gpu1", DATA, 0.25))
    assert found == {
        'llmctl_host_up{host="gpu1"}': 1, 'llmctl_host_info{host="gpu1",version="1.0"}': 1,
        'llmctl_host_scrape_seconds{host="gpu1"}': 0.25, 'llmctl_host_load1{host="gpu1"}': 0.5,
        'llmctl_host_memory_free_bytes{host="gpu1"}': 5, 'llmctl_host_memory_bytes{host="gpu1"}': 10,
        'llmctl_host_disk_free_bytes{host="gpu1"}': 3, 'llmctl_host_disk_bytes{host="gpu1"}': 4,
    }  # fmt: skip


def test_f9_a_host_that_did_not_answer_says_nothing_of_its_slots() -> None:
    found = page_of(Told("gpu1", code="unreachable", why="no route"))
    assert found == {'llmctl_host_up{host="gpu1"}': 0, 'llmctl_host_error{host="gpu1",code="unreachable"}': 1}


def test_s10_what_a_broken_host_says_becomes_no_label() -> None:
    assert 'llmctl_host_error{host="gpu1",code="failed"}' in page_of(Told("gpu1", code='x"} 1\nevil 1'))
    found = page_of(Told("gpu1", {**DATA, "version": "9" * 99, "memory": "much", "disk": {"free": True}, "load": None}))
    assert set(found) == {
        'llmctl_host_up{host="gpu1"}', 'llmctl_host_scrape_seconds{host="gpu1"}', 'llmctl_host_info{host="gpu1"}',
    }  # fmt: skip


@pytest.mark.parametrize("slots", [None, "many", {"port": 1}, [None], [{"port": "8101"}]])
def test_slots_of_a_host_that_are_none_are_left_out(slots: Any) -> None:
    assert not any("slot" in series for series in page_of(Told("gpu1", {**DATA, "slots": slots})))


def test_a_slot_that_does_not_answer_has_the_state_that_its_host_knows() -> None:
    found = slot_page(state="crash-loop", metrics=None)
    assert found['llmctl_slot_up{host="gpu1",port="8101"}'] == 0
    states = {series: value for series, value in found.items() if "slot_state" in series}
    assert len(states) == len(STATES) and sum(states.values()) == 1
    assert states['llmctl_slot_state{host="gpu1",port="8101",state="crash-loop"}'] == 1


def test_a_slot_that_answers_tells_its_state_itself() -> None:
    text = '# TYPE llmctl_slot_state gauge\nllmctl_slot_state{state="ready"} 1.0\n'
    found = slot_page(state="down", metrics=text)
    assert found['llmctl_slot_up{host="gpu1",port="8101"}'] == 1
    assert found['llmctl_slot_state{host="gpu1",port="8101",state="ready"}'] == 1


@pytest.mark.parametrize("text", ["", "<html>nonsense</html>", 7])
def test_a_slot_that_answers_nonsense_is_not_up(text: Any) -> None:
    assert slot_page(state="ready", metrics=text)['llmctl_slot_up{host="gpu1",port="8101"}'] == 0


# ── history ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_verdicts_and_incidents_of_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known.time, "time", lambda: 100_000.0)
    with History.open(tmp_path / "h.db") as history:
        history.checked([Check("gpu1", 8101, 99_000.0, "ok"), Check("removed", 8101, 99_000.0, "ok")])
        history.checked([Check("gpu1", 8101, 99_500.0, "down")])
        history.open_incident("gpu1", 8101, 1_000.0, "down", "x")
        history.close_incident(history.open_incident("gpu2", None, 90_000.0, "degraded", "hot"), 91_000.0)
        history.close_incident(history.open_incident("gpu2", None, 2_000.0, "degraded", "hot"), 3_000.0)
    found = known.checked(tmp_path / "h.db", ["gpu1", "gpu2"])
    assert found == [Checked("gpu1", 8101, "down", 99_500.0, open=1, day=0), Checked("gpu2", None, day=1)]
    series = page_of(Told("gpu1", DATA), *found)
    assert series['llmctl_health_verdict{host="gpu1",port="8101",verdict="down"}'] == 1
    assert series['llmctl_health_verdict{host="gpu1",port="8101",verdict="ok"}'] == 0
    assert series['llmctl_health_check_timestamp_seconds{host="gpu1",port="8101"}'] == 99_500
    assert series['llmctl_incidents_open{host="gpu1",port="8101"}'] == 1
    assert series['llmctl_incidents_day{host="gpu2"}'] == 1 and series['llmctl_incidents_open{host="gpu2"}'] == 0


def test_no_history_is_no_error_and_none_is_made(tmp_path: Path) -> None:
    assert known.checked(tmp_path / "h.db", ["gpu1"]) == [] and list(tmp_path.iterdir()) == []


def test_a_history_that_cannot_be_read_is_counted_and_the_page_is_there(tmp_path: Path) -> None:
    (tmp_path / "h.db").write_bytes(b"no database" * 500)
    exporter = Exporter(Asking(["gpu1"], lambda host: DATA), lambda: known.checked(tmp_path / "h.db", ["gpu1"]))
    exporter.scrape(30.0)
    found = samples(exporter.scrape(30.0).text)
    assert found['llmctl_host_up{host="gpu1"}'] == 1 and found["llmctl_exporter_scrapes_total"] == 2
    assert found['llmctl_exporter_errors_total{what="history"}'] == 2
    assert found['llmctl_exporter_errors_total{what="host"}'] == 0
    assert (tmp_path / "h.db").read_bytes() == b"no database" * 500


def test_no_threads_pile_up_over_a_host_that_hangs_for_ever() -> None:
    go = threading.Event()
    asking = Asking(["hangs"], lambda host: {"gone": go.wait(60)})
    before = threading.active_count()
    for _ in range(10):
        asking.all(0.02)
    assert threading.active_count() == before + 1
    go.set()
    eventually(lambda: threading.active_count() == before)
