"""`llmctl quality` over real slots: what is a baseline, what is worse than that, and what may never be."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.history import NAME
from llmctl.history.store import History
from tests.conftest import RunningSlot, free_port
from tests.quality.conftest import Ask

Own = Callable[[str], str]
Slot = Callable[..., RunningSlot]
SUMS = """
[prompts.sum]
ask = "What is 2 plus 2?"
number = 4
[prompts.city]
ask = "The capital of France?"
says = ["Paris"]
"""
RIGHT = {"What is 2 plus 2?": "It is 4.", "The capital of France?": "Paris, of course."}
WRONG = {**RIGHT, "What is 2 plus 2?": "It is 5."}


def run_of(envelope: dict[str, Any]) -> dict[str, Any]:
    (run,) = envelope["data"]["runs"]
    return dict(run)


def statuses(envelope: dict[str, Any]) -> dict[str, str]:
    return {row["prompt"]: row["status"] for row in run_of(envelope)["rows"]}


def test_the_first_run_is_the_baseline_and_what_fails_later_is_worse(ask: Ask, own: Own, slot: Slot) -> None:
    port, prompts = str(slot(RIGHT).port), own(SUMS)
    code, first = ask(port, prompts)
    assert (code, statuses(first), run_of(first)["baseline"]) == (0, {"sum": "pass", "city": "pass"}, None)
    slot(WRONG, "beta")
    for _ in range(2):  # what is worse stays so: a second run is not held against the first bad one
        code, worse = ask(port, prompts)
        assert (code, statuses(worse)) == (1, {"sum": "regressed", "city": "pass"})
        assert run_of(worse)["rows"][0]["failed"] == {"number": "it ends in 5, not 4"}
        assert run_of(worse)["model"] == "beta"
    slot(RIGHT, "gamma")
    assert ask(port, prompts)[0] == 0


def test_what_failed_from_the_beginning_is_no_finding_until_it_has_passed_once(ask: Ask, own: Own, slot: Slot) -> None:
    port, prompts = str(slot(WRONG).port), own(SUMS)
    assert (ask(port, prompts)[0], statuses(ask(port, prompts)[1])["sum"]) == (0, "fail")
    slot(RIGHT, "beta")
    code, better = ask(port, prompts)
    assert (code, run_of(better)["gained"]) == (0, ["sum"])
    slot(WRONG, "gamma")
    assert (ask(port, prompts)[0], statuses(ask(port, prompts)[1])["sum"]) == (1, "regressed")


def test_a_run_that_is_worse_does_not_move_the_baseline(ask: Ask, own: Own, slot: Slot) -> None:
    port, prompts = str(slot(WRONG).port), own(SUMS)
    assert ask(port, prompts)[0] == 0
    slot({**RIGHT, "The capital of France?": "Lyon"}, "beta")  # better in one, worse in another
    assert ask(port, prompts)[0] == 1
    slot(WRONG, "gamma")
    code, found = ask(port, prompts)
    assert (code, statuses(found)) == (0, {"sum": "fail", "city": "pass"})


def test_accept_makes_the_present_run_the_baseline(ask: Ask, own: Own, slot: Slot) -> None:
    port, prompts = str(slot(RIGHT).port), own(SUMS)
    ask(port, prompts)
    slot(WRONG, "beta")
    assert ask(port, prompts)[0] == 1
    assert ask(port, prompts, "--accept")[0] == 0
    assert (ask(port, prompts)[0], statuses(ask(port, prompts)[1])["sum"]) == (0, "fail")


def test_a_prompt_that_was_changed_is_a_new_one(ask: Ask, own: Own, slot: Slot) -> None:
    port = str(slot(RIGHT).port)
    ask(port, own(SUMS))
    code, changed = ask(port, own(SUMS.replace("number = 4", "number = 7")))
    assert (code, statuses(changed)) == (0, {"sum": "fail", "city": "pass"})


def test_only_some_prompts_leave_the_baseline_of_the_others(ask: Ask, own: Own, slot: Slot) -> None:
    port, prompts = str(slot(RIGHT).port), own(SUMS)
    ask(port, prompts)
    slot(WRONG, "beta")
    code, one = ask(port, prompts, "--only", "c*", "--accept")
    assert (code, statuses(one)) == (0, {"city": "pass"})
    assert ask(port, prompts)[0] == 1


def test_a_leak_is_never_a_baseline_and_never_accepted(ask: Ask, own: Own, slot: Slot) -> None:
    leaking = {**RIGHT, "What is 2 plus 2?": "<think>2 and 2</think> It is 4."}
    port, prompts = str(slot(leaking).port), own(SUMS)
    for option in ([], ["--accept"]):
        code, found = ask(port, prompts, *option)
        assert (code, statuses(found)) == (1, {"sum": "fault", "city": "pass"})
        assert run_of(found)["rows"][0]["failed"] == {"leak": "the answer has '<think>', '</think>'"}


def test_a_prompt_that_must_pass_fails_the_first_run_too(ask: Ask, own: Own, slot: Slot) -> None:
    port = str(slot(WRONG).port)
    assert ask(port, own(SUMS))[0] == 0
    code, found = ask(port, own(SUMS.replace("number = 4", "number = 4\nmust = true")), "--accept")
    assert (code, statuses(found)["sum"]) == (1, "fault")


def test_a_prompt_passes_when_enough_of_its_tries_do(ask: Ask, own: Own, slot: Slot) -> None:
    tries = SUMS.replace("number = 4", "number = 4\ntries = 3\nneed = 2")
    started = slot(RIGHT, odd=[3])  # the first two are the probe's; the odd answer ends in 4 too, but is no bare number
    prompts = own(tries.replace("number = 4", 'exactly = "It is 4."'))
    code, found = ask(str(started.port), prompts, "--only", "sum")
    (row,) = run_of(found)["rows"]
    assert (code, row["status"], row["hits"], row["tries"]) == (0, "pass", 2, 3)
    slot(RIGHT, "beta", odd=[3, 4])
    code, found = ask(str(started.port), prompts, "--only", "sum")
    assert (code, run_of(found)["rows"][0]["hits"], statuses(found)) == (1, 1, {"sum": "regressed"})


def test_an_answer_that_never_ends_is_cut_and_counts_as_none(ask: Ask, own: Own, slot: Slot) -> None:
    started = slot(RIGHT, slow={"What is 2 plus 2?": 30.0})
    code, found = ask(str(started.port), own(SUMS), "--patience=3s")
    assert (code, statuses(found)) == (0, {"sum": "fail", "city": "pass"})
    assert run_of(found)["rows"][0]["failed"] == {"answer": "there was no whole answer within 3 s"}


def test_what_the_server_refuses_is_a_failure_and_says_why(ask: Ask, own: Own, slot: Slot) -> None:
    forced = '[prompts.forced]\nask = "Anything."\nforced = true\nschema = { type = "object" }'
    code, found = ask(str(slot(RIGHT).port), own(forced))
    assert (code, run_of(found)["rows"][0]["failed"]) == (0, {"answer": "a script's answers match no format"})


def test_stream_and_whole_answer_are_compared(ask: Ask, own: Own, slot: Slot) -> None:
    prompts = own('[prompts.same]\nask = "What is 2 plus 2?"\nstream = true')
    started = slot(RIGHT)
    assert ask(str(started.port), prompts)[0] == 0
    slot(RIGHT, "beta", odd=[4])  # the answer in one piece
    code, found = ask(str(started.port), prompts)
    said = "streamed it is 'It is 4.', and in one piece 'Something else, It is 4.'"
    assert (code, run_of(found)["rows"][0]["failed"]) == (1, {"stream": said})


def test_a_call_of_a_tool_is_checked(ask: Ask, own: Own, slot: Slot) -> None:
    tool = """
    [prompts.tool]
    ask = "Weather?"
    calls = [{ name = "weather", arguments = { city = "Oslo" } }]
    tools = [{ name = "weather", parameters = { type = "object", properties = { city = { type = "string" } } } }]
    """
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "%s"}}\n</tool_call>'
    started = slot({"Weather?": call % "Oslo"}, tool_parser="hermes")
    assert ask(str(started.port), own(tool))[0] == 0
    slot({"Weather?": call % "Rome"}, "beta", tool_parser="hermes")
    code, found = ask(str(started.port), own(tool))
    assert code == 1
    assert "not weather with {'city': 'Oslo'}" in run_of(found)["rows"][0]["failed"]["tools"]


# ── what is kept and shown ──────────────────────────────────────────────────────────────────────────────────────────


def test_s10_history_has_the_run_and_nothing_that_was_said(ask: Ask, own: Own, slot: Slot, home: Path) -> None:
    port, prompts = str(slot(RIGHT).port), own(SUMS)
    ask(port, prompts)
    slot(WRONG, "beta")
    ask(port, prompts)
    with History.open(home / NAME, write=False) as history:
        good, bad = history.events(kinds=["quality"])
        kept = str(history.ask("SELECT * FROM baselines")) + str(history.ask("SELECT * FROM events"))
    assert (good.outcome, bad.outcome, bad.model) == ("ok", "failed", "beta")
    assert bad.what == f"local:{port}: 1 of 2 passed; got worse: sum"
    assert bad.details["rows"][0]["failed"] == ["number"]
    assert not any(said in kept for said in ("What is 2", "It is 5", "It is 4", "of course"))


def test_a_history_that_cannot_be_used_is_told_and_the_result_is_not_lost(
    ask: Ask, own: Own, slot: Slot, home: Path
) -> None:
    port = str(slot(RIGHT).port)
    (home / NAME).mkdir()
    code, found = ask(port, own(SUMS))
    assert (code, statuses(found)["sum"], found["errors"][0]["code"]) == (3, "pass", "history")


def test_people_see_a_matrix_and_why(
    ask: Ask, own: Own, slot: Slot, slots: Callable[..., RunningSlot], script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    port, other = str(slot(RIGHT).port), str(slots(script("second", answers=WRONG)).port)
    prompts = own(SUMS)
    assert main(["quality", port, other, prompts]) == 0
    shown = capsys.readouterr().out
    assert [line.split() for line in shown.splitlines()[:3]] == [
        ["PROMPT", f"local:{port}", f"local:{other}"], ["sum", "ok", "no"], ["city", "ok", "ok"],
    ]  # fmt: skip
    assert "no    sum: number: it ends in 5, not 4" in shown
    assert "2 of 2 passed" in shown
    assert "1 of 2 passed" in shown
    assert shown.count("the first run: the baseline") == 2
    assert main(["quality", port, prompts]) == 0
    assert "held against 20" in capsys.readouterr().out
    slot(WRONG, "beta")
    assert main(["quality", port, prompts]) == 1
    shown = capsys.readouterr().out
    assert "WORSE sum: number: it ends in 5, not 4" in shown
    assert f"local:{port} (beta) at the slot local:{port}: 1 of 2 passed, 1 worse than before" in shown
    assert main(["quality", port, prompts, "--accept"]) == 0
    assert "this run is the baseline from now on" in capsys.readouterr().out


def test_people_see_the_prompts(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", "--list", "--only", "tool-not-*", "--only", "json"]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "PROMPT",
        "tool-not-needed",
        "json",
    ]


# ── whom and what ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slot_that_is_not_there_is_4_and_beside_one_that_is_3(ask: Ask, own: Own, slot: Slot) -> None:
    port, nobody = str(slot(RIGHT).port), str(free_port())
    code, found = ask(nobody, own(SUMS))
    assert (code, found["errors"][0]["code"]) == (4, "unreachable")
    code, found = ask(nobody, port, own(SUMS))
    assert (code, len(found["data"]["runs"])) == (3, 1)


def test_a_server_that_takes_the_connection_and_says_nothing(ask: Ask, own: Own) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, found = ask(str(silent.getsockname()[1]), own(SUMS), "--patience=1s")
    assert (code, found["errors"][0]["code"], found["data"]) == (1, "timed_out", {})


def test_a_name_that_no_slot_has(ask: Ask, slot: Slot) -> None:
    slot(RIGHT)
    code, found = ask("nobody")
    assert (code, found["errors"][0]["message"]) == (1, "no slot serves 'nobody'")


def test_nobody_to_ask_and_prompts_that_there_are_not(ask: Ask) -> None:
    assert (ask()[0], ask()[1]["errors"][0]["message"]) == (2, "whose quality?")
    code, found = ask("--list", "--only", "helo")
    assert (code, found["errors"][0]["hint"]) == (2, "did you mean 'hello'?")
    code, found = ask("--list", "--prompts=nowhere.toml")
    assert code == 2
    assert "nowhere.toml: cannot be read" in found["errors"][0]["message"]


def test_the_list_has_at_least_twenty_prompts(ask: Ask) -> None:
    code, found = ask("--list")
    assert code == 0
    assert len(found["data"]["prompts"]) >= 20
    assert json.dumps(found)
