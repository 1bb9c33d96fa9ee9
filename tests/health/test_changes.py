"""Who is told what, and how often: runs in, messages out."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from llmctl.health import changes, standing
from llmctl.health.changes import Key, Run, Was
from llmctl.health.message import PROBLEM, RECOVERY, Message
from llmctl.health.settings import MessageSettings
from llmctl.health.standing import Standing
from llmctl.health.verdict import DEGRADED, DOWN, OK, SKIPPED, UNKNOWN, Finding, Judged

START, STEP = 1_000_000.0, 300.0
SLOT: Key = ("box", 8101)
HOST: Key = ("box", None)
WELL = Judged(OK)


def judged(verdict: str, why: str = "no token within 30 s", fix: str = "llmctl restart box:8101") -> Judged:
    return Judged(verdict, (Finding(verdict, why, fix, "wedged"),)) if verdict != OK else WELL


class Listener:
    """Somebody who is told of runs that are five minutes apart, and gets all messages unless `deaf`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = MessageSettings(**settings)
        self.standings: dict[Key, Standing] = {}
        self.at = START
        self.deaf = False

    def run(self, verdicts: dict[Key, Judged], **healing: Any) -> Message | None:
        self.at += STEP
        run = Run(self.at, verdicts, **healing)
        observed = standing.observe(self.standings, run, self.settings)
        message, after = standing.message(observed, run, self.settings)
        kept = json.loads(json.dumps(changes.to_rows(observed if self.deaf else after)))
        self.standings = standing.from_rows(kept)
        return None if self.deaf else message

    def lines(self, verdict: str, **healing: Any) -> tuple[str, ...]:
        """What is told of one slot of a host that is well."""
        message = self.run({HOST: WELL, SLOT: judged(verdict)}, **healing)
        return message.lines if message else ()


# ── --quiet ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def quiet(*runs: dict[Key, Judged]) -> list[list[Key]]:
    before: dict[Key, Was] = {}
    found = []
    for verdicts in runs:
        found.append(changes.new(before, verdicts))
        kept = json.loads(json.dumps(changes.to_rows(changes.seen(before, Run(START, verdicts)))))
        before = changes.from_rows(kept)
    return found


def test_quiet_shows_what_is_not_as_before_and_nothing_else() -> None:
    slow = Judged(DEGRADED, (Finding(DEGRADED, "first token after 3.00 s, usually 1.00 s", "", "slow_first"),))
    slower = Judged(DEGRADED, (Finding(DEGRADED, "first token after 4.00 s, usually 1.00 s", "", "slow_first"),))
    full = Judged(DEGRADED, (Finding(DEGRADED, "8 of 8 places", "", "queue"),))
    runs = [{SLOT: one} for one in (WELL, slow, slower, full, judged(DOWN), judged(DOWN), WELL, WELL)]
    assert quiet(*runs) == [[], [SLOT], [], [SLOT], [SLOT], [], [SLOT], []]


def test_quiet_a_swap_between_two_runs_is_no_change_but_what_came_of_it_is() -> None:
    swap = {SLOT: judged(SKIPPED)}
    assert quiet({SLOT: WELL}, swap, {SLOT: WELL}) == [[], [], []]
    assert quiet({SLOT: judged(DOWN)}, swap, {SLOT: WELL}) == [[SLOT], [], [SLOT]]


def test_quiet_forgets_slots_that_are_gone_and_keeps_those_that_nobody_could_ask() -> None:
    down = {HOST: WELL, SLOT: judged(DOWN)}
    assert quiet(down, {HOST: WELL}, down)[2] == [SLOT]
    assert quiet(down, {HOST: judged(UNKNOWN)}, down)[2] == [HOST]


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slot_that_goes_down_is_told_once_and_its_recovery_when_it_lasts() -> None:
    ear = Listener()
    said = [ear.lines(verdict) for verdict in (OK, DOWN, DOWN, DOWN, OK, OK, OK, OK, DOWN)]
    assert said == [
        (),
        ("box:8101 is down: no token within 30 s · llmctl restart box:8101",),
        (),
        (),
        (),
        (),
        ("box:8101 is well again; it was down for 15m00s",),
        (),
        ("box:8101 is down: no token within 30 s · llmctl restart box:8101",),
    ]


@pytest.mark.parametrize(
    "verdicts, said",
    [
        ([UNKNOWN, OK, UNKNOWN, OK], [0, 0, 0, 0]),
        ([UNKNOWN, UNKNOWN, UNKNOWN], [0, 1, 0]),
        ([DEGRADED, DEGRADED, DOWN, UNKNOWN, UNKNOWN, DEGRADED], [0, 1, 1, 0, 0, 0]),
        ([UNKNOWN, UNKNOWN, DOWN], [0, 1, 1]),
        ([DOWN, SKIPPED, DOWN, SKIPPED, OK], [1, 0, 0, 0, 0]),
        ([SKIPPED, SKIPPED], [0, 0]),
    ],
)
def test_f9_what_lasts_only_one_run_is_not_told_and_what_gets_worse_is(verdicts: list[str], said: list[int]) -> None:
    ear = Listener()
    assert [len(ear.lines(verdict)) for verdict in verdicts] == said


def test_a_swap_between_two_looks_holds_no_recovery_back() -> None:
    ear = Listener()
    assert [len(ear.lines(verdict)) for verdict in (DOWN, OK, SKIPPED, OK)] == [1, 0, 0, 1]


def test_what_is_not_to_be_told_is_not() -> None:
    ear = Listener(degraded=0, unknown=0, down=0)
    assert [ear.lines(v) for v in (DEGRADED, DEGRADED, UNKNOWN, UNKNOWN, DOWN, DOWN, OK, OK, OK)] == [()] * 9


def test_thirty_flapping_slots_are_one_message_and_one_when_they_are_steady() -> None:
    ear, messages = Listener(), []
    for turn in range(20):
        now = judged(DOWN if turn % 2 == 0 else OK)
        messages.append(ear.run({HOST: WELL, **{("box", 8100 + n): now for n in range(30)}}))
    for _ in range(4):
        messages.append(ear.run({HOST: WELL, **{("box", 8100 + n): WELL for n in range(30)}}))
    told = [message for message in messages if message]
    assert [message.kind for message in told] == [PROBLEM, RECOVERY]
    assert told[0].title == "30 slots are down" and len(told[0].slots) == 30
    assert len(told[0].lines) == 21 and told[0].lines[-1] == "and 10 more: llmctl health"
    assert "down 10 times within" in told[1].lines[0]


def test_thirty_slots_that_flap_each_at_its_own_time_are_each_told_once() -> None:
    ear, dice, lines = Listener(), random.Random(7), 0
    for _ in range(100):
        verdicts = {("box", 8100 + n): judged(dice.choice((OK, DOWN))) for n in range(30)}
        # nobody is well for two runs after it was down: `steady` is two
        for key, one in ear.standings.items():
            if one.verdict == OK and one.told:
                verdicts[key] = judged(DOWN)
        message = ear.run(verdicts)
        lines += len(message.slots) if message else 0
    assert lines == 30


def test_a_slot_that_was_healed_in_the_run_is_told_once_as_both() -> None:
    ear = Listener()
    healed = {"was_down": {SLOT: "no token within 30 s"}, "done": {SLOT: "restarted"}}
    ear.lines(OK)
    assert ear.lines(OK, **healed) == ("box:8101 was down (no token within 30 s), restarted, and is well again",)
    assert [ear.lines(OK) for _ in range(3)] == [()] * 3
    assert ear.lines(OK, **healed), "it was well for long enough to be news again"
    assert ear.lines(OK, **healed) == (), "and now it flaps"
    assert ear.lines(DOWN) == ("box:8101 is down for 10m00s: no token within 30 s · llmctl restart box:8101",)


def test_what_healing_does_is_told_with_it_and_that_it_gave_up_once() -> None:
    ear = Listener()
    done = {"done": {SLOT: "restarted in vain"}}
    assert ear.lines(DOWN, **done) == (
        "box:8101 is down: no token within 30 s · restarted in vain · llmctl restart box:8101",
    )
    assert ear.lines(DOWN, **done) == ()
    gave_up = {"done": {SLOT: "restarted 3 times in vain"}, "gave_up": frozenset({SLOT})}
    assert "restarted 3 times in vain" in ear.lines(DOWN, **gave_up)[0]
    assert ear.lines(DOWN, **gave_up) == ()


def test_reminders_come_when_they_are_asked_for() -> None:
    assert sum(len(lines) for lines in map(Listener().lines, [DOWN] * 50)) == 1
    assert sum(len(lines) for lines in map(Listener(remind=3600).lines, [DOWN] * 25)) == 3


def test_a_host_that_cannot_be_reached_is_one_line_with_all_its_slots() -> None:
    ear = Listener()
    away = {key: judged(UNKNOWN, "no route to box", "") for key in (HOST, SLOT, ("box", 8102))}
    well = dict.fromkeys(away, WELL)
    assert ear.run(well) is None and ear.run(away) is None
    message = ear.run(away)
    assert message and message.lines == ("box is unknown for 5m00s: no route to box",)
    said = [ear.run(well) for _ in range(4)]
    assert [message.lines for message in said if message] == [("box is well again; it was unknown for 10m00s",)]


def test_what_could_not_be_told_is_told_with_the_next_run() -> None:
    ear = Listener()
    ear.deaf = True
    assert [ear.lines(verdict) for verdict in (DOWN, DOWN, OK, OK, OK, OK)] == [()] * 6
    ear.deaf = False
    assert ear.lines(OK) == ("box:8101 was down for 10m00s (no token within 30 s), and is well again",)
    assert [ear.lines(OK) for _ in range(3)] == [()] * 3
    ear.deaf = True
    ear.lines(DOWN)
    ear.deaf = False
    assert ear.lines(DOWN) == ("box:8101 is down for 5m00s: no token within 30 s · llmctl restart box:8101",)


def test_a_slot_or_host_that_is_taken_away_ends_its_alarm() -> None:
    ear = Listener()
    assert ear.lines(DOWN)
    assert ear.run({HOST: WELL}, partly=frozenset({"box"})) is None, "only another slot was asked"
    message = ear.run({HOST: WELL})
    assert message and (message.kind, message.title) == (RECOVERY, "box:8101 is not asked for any more")
    assert SLOT not in ear.standings
    assert ear.lines(DOWN)
    message = ear.run({}, hosts=frozenset({"other"}))
    assert message and message.lines == ("box:8101 is not asked for any more",)
    assert ear.standings == {}


def test_problems_and_recoveries_of_a_run_are_one_message_with_the_worst_first() -> None:
    ear, two = Listener(steady=0.0), ("box", 8102)
    ear.run({SLOT: judged(DOWN)})
    message = ear.run({SLOT: WELL, two: judged(DOWN, "crash loop"), ("attic", None): judged(DOWN, "off")})
    assert message and (message.kind, message.title) == (PROBLEM, "1 host is down, 1 slot is down")
    assert [line.partition(" ")[0] for line in message.lines] == ["attic", "box:8102", "box:8101"]
    data = json.loads(json.dumps(message.to_dict()))
    assert data["text"].splitlines()[0] == data["title"] and data["id"] == message.id
    assert data["slots"][1] == {
        "host": "box", "port": 8102, "kind": "problem", "verdict": "down", "worst": "down", "why": "crash loop",
        "fix": "llmctl restart box:8101", "done": "", "since": ear.at,
    }  # fmt: skip


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_f13_a_clock_that_jumps_holds_no_recovery_back(jump: float) -> None:
    ear = Listener()
    ear.lines(DOWN)
    ear.lines(OK)
    ear.at += jump
    said = [ear.lines(OK) for _ in range(3)]
    assert len([lines for lines in said if lines]) == 1 and "well again" in "".join(map(str, said))


def every(count: int) -> Iterator[Key]:
    yield from ((f"h{n}", None) for n in range(count))


def test_a_message_about_a_whole_fleet_stays_short() -> None:
    message = Listener(unknown=1).run({key: judged(UNKNOWN, "no route") for key in every(500)})
    assert message and len(message.lines) == 21 and len(message.slots) == 200
    assert message.title == "500 hosts are unknown" and message.lines[-1] == "and 480 more: llmctl health"
