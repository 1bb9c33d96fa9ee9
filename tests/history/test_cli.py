"""`llmctl history` over a fleet: real hosts over ssh, what happened there, and what health kept here."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest

from llmctl import events
from llmctl.history.export import as_text
from llmctl.history.store import Check, History
from llmctl.render.history import BLOCKS, sparkline
from tests.cli.fleet import Fleet


def kept(home: Path) -> float:
    """A day of checks of two slots, and an incident; when it began."""
    began = time.time() - 86400
    with History.open(home / "history.db") as history:
        rows = []
        for n in range(48):
            at = began + 1800 * n + 900
            rows.append(Check("gpu1", None, at, "ok"))
            rows.append(Check("gpu1", 8101, at, "ok", "", "alpha", 0.2 + n / 1000, 40.0 + n, 0, 10**9))
            down = 12 <= n < 24
            rows.append(Check("gpu2", 8101, at, "down" if down else "ok", "wedged" if down else "", "beta", 0.5, 9.0))
        history.checked(rows)
        one = history.open_incident("gpu2", 8101, began + 1800 * 12, "down", "no answer in 30 s")
        history.note("gpu2", "heal", port=8101, outcome="ok", what="restarted", at=began + 1800 * 13)
        history.close_incident(one, began + 1800 * 24)
        history.open_incident("gpu2", None, time.time() - 60, "unknown", "unreachable")
    return began


def test_it_tells_uptime_speed_incidents_and_events(fleet: Fleet, home: Path) -> None:
    kept(home)
    said = fleet("history")
    assert said.code == 0
    one, two = said.data["slots"]
    assert (one["host"], one["port"], one["model"], one["uptime"]) == ("gpu1", 8101, "alpha", 1.0)
    assert two["uptime"] == pytest.approx(0.75, abs=0.02)
    assert (one["rate_p50"], one["rate_p95"], one["checks"]) == (64.0, 42.0, 48)
    assert len(one["series"]["first"]) == 24 and one["series"]["rate"][0] < one["series"]["rate"][-1]
    assert [(i["host"], i["port"], i["heals"], i["closed"] is None) for i in said.data["incidents"]] == [
        ("gpu2", 8101, 1, False), ("gpu2", None, 0, True),
    ]  # fmt: skip
    assert [event["kind"] for event in said.data["events"]] == ["incident", "heal", "recovered", "incident"]
    code, out, _ = fleet.text("history")
    assert code == 0
    assert "gpu1:8101" in out and "100 %" in out and "no answer in 30 s" in out and "open" in out
    assert any(block in out for block in BLOCKS)
    assert "\x1b" not in out


def test_a_slot_a_host_a_kind_and_a_time_may_be_asked_for(fleet: Fleet, home: Path) -> None:
    kept(home)
    only = fleet("history", "--slot", "gpu2:8101").data
    assert [slot["host"] for slot in only["slots"]] == ["gpu2"] and len(only["incidents"]) == 1
    assert len(fleet("history", "--slot", "8101").data["slots"]) == 2
    assert fleet("history", "--host", "@left").data["incidents"] == []
    assert [event["kind"] for event in fleet("history", "--kind", "heal").data["events"]] == ["heal"]
    assert fleet("history", "--kind", "heal").data["incidents"] == []
    assert fleet("history", "--most", "1").data["events"][0]["port"] is None
    late = fleet("history", "--since", "1h").data
    assert [incident["port"] for incident in late["incidents"]] == [None]
    assert fleet.text("history", "--since", "1s", "--slot", "gpu1:8101")[1].startswith("nothing happened since 20")


def test_without_anything_kept_it_says_what_keeps_it_and_makes_no_file(fleet: Fleet, home: Path) -> None:
    code, out, _ = fleet.text("history")
    assert (code, out.strip()) == (0, "nothing is kept yet: llmctl health keeps what it finds")
    assert not (home / "history.db").exists()


@pytest.mark.parametrize(
    "argv, part, hint",
    [
        (("--kind", "haal"), "no kind of event is 'haal'", "did you mean 'heal'?"),
        (("--kind", "zzzz"), "no kind", "kinds: load, swap"),
        (("--since", "yesterday"), "is not a number with a unit", None),
        (("--slot", "gpu1"), "is not a port", "HOST:8101"),
        (("--slot", "gpu1:auto"), "auto is no port", "8101"),
        (("--slot", "8101", "--host", "gpu1"), "names its host", "leave one"),
        (("--host", "gpu9"), "no host 'gpu9'", "did you mean"),
        (("export", "--format", "xml"), "xml", "llmctl history export --help"),
    ],
)
def test_mistakes_are_told_with_what_to_type(fleet: Fleet, argv: tuple[str, ...], part: str, hint: str | None) -> None:
    said = fleet("history", *argv)
    assert said.code == 2 and part in said.errors[0]["message"]
    assert hint is None or hint in said.errors[0]["hint"]


def test_sync_takes_what_happened_on_every_host_once(fleet: Fleet, home: Path) -> None:
    for name in ("gpu1", "gpu2"):
        state = fleet.hosts[name].home / ".llmctl"
        assert events.note(
            state, "swap", port=8101, model="alpha", outcome="ok", previous="beta", seconds=2.5, who="me"
        )
        assert events.note(state, "crash", port=8101, model="alpha", outcome="failed", what=f"on {name}")
    taken = fleet("history", "--sync", "--host", "gpu*")
    assert taken.code == 0 and taken.data["synced"] == {"gpu1": 2, "gpu2": 2}
    assert fleet("history", "--sync", "--host", "gpu*").data["synced"] == {"gpu1": 0, "gpu2": 0}
    found = fleet("history", "--kind", "crash").data["events"]
    assert sorted(event["what"] for event in found) == ["on gpu1", "on gpu2"]
    out = fleet.text("history", "--slot", "gpu1:8101")[1]
    assert "instead of beta, after 2.5s, by me" in out


def test_a_host_that_cannot_be_asked_is_told_and_the_rest_is_shown(fleet: Fleet, home: Path) -> None:
    kept(home)
    said = fleet("history", "--sync")
    assert said.code == 3 and [error["host"] for error in said.errors] == ["dead"]
    assert len(said.data["slots"]) == 2 and set(said.data["synced"]) == {"gpu1", "gpu2"}


def test_more_events_than_one_answer_holds_are_all_taken(
    fleet: Fleet, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.configure('default = "here"\n[hosts.here]\ntransport = "local"\n')
    for n in range(2500):
        events.note(home, "swap", what=str(n))
    assert fleet("history", "--sync", "--host", "here").data["synced"] == {"here": 2500}


def test_an_export_has_a_row_for_every_record(fleet: Fleet, home: Path, tmp_path: Path) -> None:
    kept(home)
    code, out, _ = fleet.text("history", "export", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["record"] for row in rows] == ["check"] * 144 + ["event"] * 4 + ["incident"] * 2
    assert rows[13]["why"] == "" and float(rows[1]["rate"]) == 40.0 and rows[1]["time"].endswith("+00:00")
    code, out, _ = fleet.text("history", "export")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 150 and lines[-2]["closed"] and lines[-1]["closed"] is None
    assert len(fleet("history", "export", "--slot", "gpu2:8101").data["rows"]) == 52
    assert len(fleet("history", "export", "--since", "1h").data["rows"]) < 10
    target = tmp_path / "out" / "history.jsonl"
    assert fleet("history", "export", "--out", str(target)).data == {"out": str(target), "count": 150}
    assert len(target.read_text().splitlines()) == 150 and target.stat().st_mode & 0o777 == 0o600


def test_no_cell_of_an_export_is_a_formula() -> None:
    text = as_text([{"record": "check", "why": '=HYPERLINK("x")', "model": "-1+1", "rate": -2.5}], "csv")
    (cells,) = csv.DictReader(io.StringIO("".join(text)))
    assert (cells["why"], cells["model"], cells["rate"]) == ('\'=HYPERLINK("x")', "'-1+1", "-2.5")


def test_f8_a_torn_history_is_told_and_sync_begins_a_new_one(fleet: Fleet, home: Path) -> None:
    (home / "history.db").write_bytes(b"x" * 5000)
    said = fleet("history")
    assert said.code == 1 and said.errors[0]["code"] == "history" and "--sync" in said.errors[0]["hint"]
    again = fleet("history", "--sync", "--host", "gpu1")
    assert again.code == 0 and "torn-" in again.data["notes"][-1]
    assert fleet("history").code == 0


def test_a_line_of_blocks_shows_gaps_and_grows_from_nothing() -> None:
    assert sparkline([0.0, None, 5.0, 10.0]) == "▁ ▅█"
    assert sparkline([None, None]) == "  " and sparkline([0.0]) == "▁" and sparkline([3.0, 3.0]) == "██"
