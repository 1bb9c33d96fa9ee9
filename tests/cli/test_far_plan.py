"""plan, apply and profiles over a fleet with one host down."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.fleet import Fleet, Result
from tests.conftest import eventually
from tests.testbed.sshd import needs_sshd

pytestmark = [needs_sshd, pytest.mark.usefixtures("emptied")]


@pytest.fixture
def profiles(fleet: Fleet) -> Fleet:
    """gpu1 is to run alpha and beta, by two profiles; gpu2 alpha; dead too."""
    one, two = fleet.ports["gpu1"]
    three = fleet.ports["gpu2"][0]
    fleet.profile("pair", f'[[slots]]\nport = {one}\nmodel = "alpha"\n[[slots]]\nport = {two}\nmodel = "beta"\n')
    fleet.profile("named", f'[[slots]]\nhost = "gpu2"\nport = {three}\nmodel = "alpha"\nhandle = "quick"\n')
    fleet.profile("lost", '[[slots]]\nport = 8999\nmodel = "beta"\n')
    fleet.profile("all", '[[slots]]\nhost = "dead"\nport = 8101\nmodel = "beta"\n')
    fleet.configure(gpu1={"profiles": '["pair"]', "labels": '["fast"]'})
    return fleet


def actions(data: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(step["host"], step["action"], step["model"]) for step in data["steps"]]


def test_plan_shows_and_apply_makes_it_so_on_all_hosts(profiles: Fleet) -> None:
    fleet = profiles
    want = [("gpu1", "load", "alpha"), ("gpu1", "load", "beta"), ("gpu2", "load", "alpha")]
    done = fleet("plan")
    assert (done.code, actions(done.data)) == (3, want)
    assert [(host["host"], host["state"]) for host in done.data["hosts"]][2] == ("dead", "unknown")
    assert "profile lost belongs to no host" in done.data["notes"][0]
    done = fleet("plan", "--host", "gpu*")
    assert (done.code, actions(done.data)) == (1, want)
    code, out, _ = fleet.text("plan", "--host", "gpu*")
    assert out.splitlines()[0].split() == ["HOST", "PORT", "ACTION", "MODEL", "NOW", "DIFFERS"]
    assert code == 1 and "--profile lost" in out

    done = fleet("apply", "--host", "gpu*")
    assert (done.code, done.errors[0]["code"], done.errors[0]["hint"]) == (1, "consent", "add --yes")
    assert done.errors[0]["message"].startswith("Make 3 changes on gpu1, gpu2?")
    assert fleet("apply", "--host", "gpu*", "--dry-run").code == 1
    assert all(row["model"] is None for row in fleet("status", "--host", "gpu*").data["slots"])

    done = fleet("apply", "--yes")
    assert (done.code, [error["host"] for error in done.errors]) == (3, ["dead"])
    assert [step["result"]["state"] for step in done.data["steps"]] == ["ready"] * 3
    assert {json.loads(line)["host"] for line in done.err.splitlines()} == {"gpu1", "gpu2"}
    assert fleet("ask", "quick", "Who?", "--host", "gpu*").data["answer"] == "I am alpha."
    done = fleet("plan", "--host", "gpu*")
    assert (done.code, {step["action"] for step in done.data["steps"]}) == (0, {"keep"})
    code, out, err = fleet.text("apply", "--host", "gpu*")  # nothing to ask about
    assert (code, err) == (0, "") and "keep" in out


def test_what_drifted_is_swapped_what_is_held_or_extra_is_left_and_a_failure_is_one_of_many(profiles: Fleet) -> None:
    fleet = profiles
    (one, two), three = fleet.ports["gpu1"], fleet.at("gpu2")
    fleet("load", f"gpu1:{one}", "beta")
    fleet("load", f"gpu1:{two}", "alpha")
    fleet("disable", f"gpu1:{two}", "--why", "new fan")
    fleet("load", fleet.at("gpu2", 1), "beta")
    fleet.profile("named", f'[[slots]]\nhost = "gpu2"\nport = {three[5:]}\nmodel = "broken"\n')
    done = fleet("plan", "--host", "gpu*")
    assert actions(done.data) == [
        ("gpu1", "swap", "alpha"), ("gpu1", "held", "beta"), ("gpu2", "load", "broken"), ("gpu2", "extra", None),
    ]  # fmt: skip
    assert done.data["steps"][1]["differs"] == ["disabled: new fan"]

    done = fleet("apply", "--yes", "--host", "gpu*")
    assert (done.code, [(e["code"], e["host"], e["port"]) for e in done.errors]) == (
        3, [("load_failed", "gpu2", int(three[5:]))],
    )  # fmt: skip
    assert fleet.model(f"gpu1:{one}") == "alpha" and fleet.model(fleet.at("gpu2", 1)) == "beta"
    assert fleet("status", f"gpu1:{two}").data["slots"][0]["state"] == "disabled"
    assert "error: gpu2: port" in fleet.text("apply", "--yes", "--host", "gpu*")[2]

    assert fleet("apply", "--prune", "--profile", "named").errors[0]["code"] == "usage"
    done = fleet("apply", "--prune", "--yes", "--host", "gpu*")
    assert ("gpu2", "unload", None) in actions(done.data)
    assert fleet.model(fleet.at("gpu2", 1)) is None


def test_a_model_that_is_not_there_is_told_before(profiles: Fleet) -> None:
    fleet = profiles
    fleet.profile("named", '[[slots]]\nhost = "gpu2"\nport = 8999\nmodel = "qwen2-0.5b"\n')
    (step,) = fleet("plan", "--host", "gpu2").data["steps"]
    assert (step["action"], step["problem"]) == ("load", "qwen2-0.5b is not on gpu2")
    assert "qwen2-0.5b is not on gpu2" in fleet.text("plan", "--host", "gpu2")[1]
    done = fleet("apply", "--host", "gpu2", "--yes")
    assert (done.code, done.errors[0]["hint"]) == (1, "llmctl pull qwen2-0.5b --host gpu2")


def test_two_profiles_that_collide_are_named(profiles: Fleet) -> None:
    fleet = profiles
    one = fleet.ports["gpu1"][0]
    fleet.profile("other", f'[[slots]]\nport = {one}\nmodel = "beta"\nhost = "gpu1"\n')
    done = fleet("plan")
    assert (done.code, done.errors[0]["code"]) == (2, "config")
    assert "other.toml:2 and" in done.errors[0]["message"] and "pair.toml:2 want" in done.errors[0]["message"]
    assert fleet("plan", "--profile", "pair", "--host", "gpu1").code == 1


def test_a_profile_there(profiles: Fleet, tmp_path: Path) -> None:
    fleet = profiles
    one, two = fleet.ports["gpu1"]
    assert [step["host"] for step in fleet("profile", "diff", "pair").data["steps"]] == ["gpu1", "gpu1"]
    assert fleet("profile", "load", "pair", "--dry-run").code == 0
    done = fleet("profile", "load", "pair")
    assert (done.code, [(slot["host"], slot["port"]) for slot in done.data["slots"]]) == (
        0, [("gpu1", one), ("gpu1", two)],
    )  # fmt: skip
    assert fleet("profile", "diff", "pair").code == 0
    assert "gpu1:" in fleet.text("profile", "load", "pair")[1]

    done = fleet("profile", "save", "now", "--host", "gpu1")
    text = Path(done.data["path"]).read_text()
    assert text.count('host = "gpu1"') == 2 and 'model = "beta"' in text
    assert fleet("profile", "diff", "now").code == 0
    assert fleet("profile", "diff", "pair", "--host", "dead").code == 4
    assert fleet("profile", "load", "named", "--host", "gpu1").errors[0]["code"] == "usage"

    done = fleet("profile", "unload", "pair")
    assert (done.code, [slot["state"] for slot in done.data["slots"]]) == (0, ["empty", "empty"])
    assert fleet("profile", "load", "all").code == 4


def test_a_profile_is_put_on_each_host_that_is_named(profiles: Fleet) -> None:
    fleet = profiles
    fleet.profile("any", '[[slots]]\nport = "auto"\nmodel = "beta"\n')
    done = fleet("apply", "--profile", "any", "--host", "gpu*", "--yes")
    assert (done.code, actions(done.data)) == (0, [("gpu1", "load", "beta"), ("gpu2", "load", "beta")])
    assert fleet("plan", "--profile", "any", "--host", "gpu*").code == 0


NONE = (
    "",
    "{",
    "[]",
    '{"slots": 3}',
    '{"slots": [3]}',
    '{"slots": [{"port": 8101}]}',
    '{"slots": [], "prune": 3}',
    '{"slots": [{"port": 8101, "model": "alpha", "surprise": 1}]}',
)


@pytest.mark.parametrize("text", NONE)
@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_a_request_that_is_none_is_refused(home: Path, verb: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmctl.__main__ import main

    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["--json", "host", verb]) == 2


def test_one_slot_there_makes_room_for_itself_and_names_who_is_in_its_way(fleet: Fleet) -> None:
    one, two = fleet.ports["gpu1"]
    text = '[[slots]]\nport = {}\nmodel = "{}"\nhost = "gpu1"\non_demand = true\nexclusive = "only"\n'
    fleet.profile("demand", text.format(one, "chatty") + text.format(two, "beta"))
    assert fleet("profile", "load", "demand").data["slots"] == [], "on demand, they are loaded one by one"

    def load(port: int, *options: str) -> Result:
        return fleet("profile", "load", "demand", "--slot", f"gpu1:{port}", *options)

    assert load(one).data["slots"][0]["model"] == "chatty"
    url, body = f"http://127.0.0.1:{one}/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 400}
    with httpx.stream("POST", url, json=body, trust_env=False, timeout=60) as answer:
        rows = answer.iter_lines()  # kept, or its end would close the connection
        next(rows)
        busy = load(two)
    assert (busy.code, busy.errors[0]["code"], busy.errors[0]["port"]) == (1, "busy", one)
    eventually(lambda: load(two, "--dry-run").data["steps"][0]["evicts"])
    done = load(two)
    assert (done.code, done.data["slots"][0]["model"], fleet.model(f"gpu1:{one}")) == (0, "beta", None)
    assert "unload chatty" in done.err

    for slot in ("gpu1:x", "nowhere:8101", "gpu1:1", "gpu1"):
        wrong = fleet("profile", "load", "demand", "--slot", slot)
        assert wrong.code == 2 and wrong.errors[0]["hint"], slot
