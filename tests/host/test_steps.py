"""The steps of a deploy on its host: what each does, and that none does it without the lease."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llmctl import events
from llmctl.errors import Busy, LlmctlError, LostLease, NoSpace, UsageError
from llmctl.files import write_json
from llmctl.host import audit, lease, releases
from llmctl.host.steps import STEPS
from tests.host.conftest import Asker, made_environment, send_wheel, tree, wanted

READS = {"look", "overview", "begin"}


@pytest.fixture
def one(home: Path, ask: Asker) -> Asker:
    """A host with release 1.0-a in use, deployed by ann; she has the lease no more."""
    made_environment(home, "base-1")
    ask("begin")
    ask.release(send_wheel(home, "1.0-a"))
    ask.activate(wanted("1.0-a"))
    ask.finish()
    return ask


def look(ask: Asker, release: str = "1.0-a") -> dict[str, Any]:
    return ask("look", wanted=asdict(wanted(release)))


def test_a_look_says_what_is_missing_and_then_that_nothing_is(home: Path, ask: Asker) -> None:
    there = look(ask)
    assert (there["current"], there["whole"], there["missing"]) == (None, False, ["base"])
    assert "config/hosts.toml" in there["differing"] and there["free"] > 0
    assert not list(home.iterdir()), "a look changes nothing"
    made_environment(home, "base-1")
    ask("begin")
    ask.release(send_wheel(home, "1.0-a"))
    ask.activate(wanted("1.0-a"))
    assert look(ask)["unfinished"] and look(ask)["lease"]["owner"] == "ann@desk"
    ask.finish()
    there = look(ask)
    assert there["current"] == "1.0-a" and there["whole"] and not there["unfinished"]
    assert there["missing"] == there["differing"] == there["slots"] == [] and there["lease"] is None


def test_a_look_sees_a_torn_release_and_what_was_changed_by_hand(home: Path, one: Asker) -> None:
    (home / "releases/1.0-a/lib/llmctl/domain.py").write_text("torn")
    (home / "config/hosts.toml").write_text("# changed by hand")
    (home / "envs/base-1/.llmctl-complete").unlink()
    there = look(one)
    assert (there["whole"], there["missing"], there["differing"]) == (False, ["base"], ["config/hosts.toml"])


def test_two_operators_at_once_the_loser_is_told_who(home: Path, one: Asker) -> None:
    bob = Asker(home, "bob@cafe", "b")
    one("begin")
    with pytest.raises(Busy, match="ann@desk"):
        bob("begin")
    one.finish()
    bob("begin", wait=30)
    bob.finish()


REQUESTS: dict[str, dict[str, Any]] = {
    "renew": {},
    "wheels": {"files": {"x.whl": {"bytes": 1, "sha256": "0"}}},
    "environment": {"name": "x", "requirements": "", "manager": "uv", "tool": None, "wheel": None, "online": False},
    "release": {"release": "1.0-b", "version": "1.0"},
    "activate": {"wanted": asdict(wanted("1.0-a", more="more"))},
    "slots": {},
    "revert": {},
    "rollback": {"to": "1.0-a"},
    "finish": {"audit": {"what": "deploy", "outcome": "ok"}},
    "prune": {},
    "remove": {},
}


def test_every_step_is_either_harmless_or_fenced() -> None:
    assert set(STEPS) == READS | set(REQUESTS)


@pytest.mark.parametrize("step", sorted(REQUESTS))
def test_c05_a_deploy_that_comes_back_after_another_took_over_writes_nothing(home: Path, one: Asker, step: str) -> None:
    """ann's deploy is paused; her lease ends, bob deploys; then hers goes on with whatever its next step is."""
    one("begin")
    built = send_wheel(home, "1.0-b")
    sent = home / "incoming" / "a" / "x.whl"
    sent.parent.mkdir()
    sent.write_text("x")
    write_json(home / "deploy.lock", asdict(replace(lease.read(home), until=time.monotonic() - 1)))
    bob = Asker(home, "bob@cafe", "b")
    assert bob("begin")["took_over"]["owner"] == "ann@desk"
    before, mark = tree(home), (home / "deploy.lock").read_text()
    with pytest.raises(LostLease, match="bob@cafe") as caught:
        one(step, **({"sha256": built.sha256} if step == "release" else {}), **REQUESTS[step])
    assert caught.value.hint
    assert (tree(home), (home / "deploy.lock").read_text()) == (before, mark)
    bob.finish()
    with pytest.raises(LostLease, match="given back"):
        one("renew")
    assert [entry["what"] for entry in audit.read(home, 9)] == ["deploy", "took over", "deploy"]


@pytest.mark.parametrize("step", sorted(REQUESTS))
def test_no_step_that_changes_something_runs_without_a_lease(home: Path, one: Asker, step: str) -> None:
    before = tree(home)
    one.lease = {"number": 0, "token": ""}
    with pytest.raises(LlmctlError):
        one(step, sha256="0", **REQUESTS[step])
    one.lease = None
    with pytest.raises(LlmctlError):
        one(step, sha256="0", **REQUESTS[step])
    assert tree(home) == before


def test_only_missing_and_damaged_packages_are_asked_for(home: Path, one: Asker) -> None:
    one("begin")
    files = {}
    for name in ("good.whl", "damaged.whl", "absent.whl", "sent.whl", "left.whl"):
        files[name] = {"bytes": len(name), "sha256": hashlib.sha256(name.encode()).hexdigest()}
    for place, name, text in (
        ("wheelhouse", "good.whl", "good.whl"), ("wheelhouse", "damaged.whl", "DAMAGED.whl"),
        ("incoming/a", "sent.whl", "sent.whl"), ("incoming/dead", "left.whl", "left.whl"),
        ("incoming/dead", "good.whl", "cut"), ("incoming/dead", "foreign.whl", "foreign"),
    ):  # fmt: skip
        (home / place).mkdir(parents=True, exist_ok=True)
        (home / place / name).write_text(text)
    assert set(one("wheels", files=files)["missing"]) == {"damaged.whl", "absent.whl"}
    assert sorted(path.name for path in (home / "wheelhouse").iterdir()) == [
        "damaged.whl", "good.whl", "left.whl", "sent.whl",
    ]  # fmt: skip
    assert not (home / "incoming/dead").exists()


def test_packages_that_do_not_fit_are_refused_with_numbers_before_they_are_sent(home: Path, one: Asker) -> None:
    before = tree(home)
    free = shutil.disk_usage(home).free
    with pytest.raises(NoSpace) as caught:
        one("begin", needed=free * 2)
    assert (
        caught.value.details["needed"] == free * 2
        and caught.value.details["free"]
        and "--prune" in str(caught.value.hint)
    )
    assert tree(home) == before
    one("begin")
    with pytest.raises(NoSpace):
        one("wheels", files={"big.whl": {"bytes": free * 2, "sha256": "0"}})


def test_a_rollback_is_refused_where_the_release_is_damaged(home: Path, one: Asker) -> None:
    one("begin")
    one.release(send_wheel(home, "1.0-b"))
    one.activate(wanted("1.0-b"))
    one.finish()
    one("begin")
    (home / "releases/1.0-a/lib/llmctl/domain.py").write_text("torn")
    with pytest.raises(UsageError, match="damaged"):
        one("rollback", to=None)
    assert releases.current(home) == "1.0-b"


def test_finish_keeps_five_releases_and_the_environments_that_they_need(home: Path, one: Asker) -> None:
    for number in range(7):
        made_environment(home, f"base-x{number}")
        one("begin")
        one.release(send_wheel(home, f"1.{number}-b"))
        one.activate(wanted(f"1.{number}-b", base=f"base-x{number}"))
        gone = one.finish()["pruned"]
    assert gone == {"releases": ["1.1-b"], "environments": ["base-x1"]}
    assert [release.id for release in releases.listed(home)] == [f"1.{number}-b" for number in range(2, 7)]
    assert sorted(path.name for path in (home / "envs").iterdir() if path.name[0] != ".") == [
        f"base-x{number}" for number in range(2, 7)
    ]
    assert not (home / "incoming").exists()


def test_the_wheel_of_a_deploy_that_waits_outlives_the_one_before_it(home: Path, one: Asker) -> None:
    """It is what the waiting one's end here runs out of."""
    one("begin")
    one.release(send_wheel(home, "1.0-b"))
    one.activate(wanted("1.0-b"))
    waiting, old = send_wheel(home, "1.0-w").path, send_wheel(home, "1.0-o").path
    os.utime(old, (0, 0))
    one.finish()
    assert list((home / "incoming").iterdir()) == [waiting]


def test_what_a_killed_deploy_left_half_written_goes_with_the_next_and_nothing_else(home: Path, one: Asker) -> None:
    litter = (".deploy-undo.json.1.tmp", "config/.hosts.toml.1.tmp", "releases/1.0-a/bin/.llmctl.1.tmp",
              "releases/.staging-1.0-b/lib/x", "bin/.llmctl.tmp")  # fmt: skip
    others = (".keys.json.1.tmp", "slots/8101/.actual.json.1.tmp")
    for name in (*litter, *others):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("half")
    one("begin")
    assert not [name for name in litter if (home / name).exists()]
    assert all((home / name).exists() for name in others)


def test_what_failed_is_in_the_audit_log_and_prunes_nothing(home: Path, one: Asker) -> None:
    one("begin")
    one.release(send_wheel(home, "1.0-b"))
    assert one.finish("no room")["pruned"] == {}
    last = audit.read(home, 1)[0]
    assert (last["who"], last["message"], last["what"], last["outcome"]) == ("ann@desk", "why", "deploy", "no room")
    assert [release.id for release in releases.listed(home)] == ["1.0-b", "1.0-a"]
    assert lease.read(home).left() == 0


def test_the_fleets_history_is_told_of_deploys_and_rollbacks_and_nothing_else(home: Path, one: Asker) -> None:
    one("begin")
    one.release(send_wheel(home, "1.0-b"))
    one.finish("no room")
    audit.note(home, {"what": "rollback", "who": "ann@desk", "from": "1.0-b", "to": "1.0-a", "outcome": "ok"})
    audit.note(home, {"what": "took over", "who": "ann@desk", "of": "bob@desk", "message": "why"})
    told = [(event["kind"], event["outcome"], event["what"]) for event in events.since(home, "")[0]]
    assert told[-2:] == [("deploy", "failed", "no room"), ("rollback", "ok", "1.0-b → 1.0-a")]
    assert events.since(home, "")[0][-1]["details"]["who"] == "ann@desk"


def test_the_audit_log_outlives_a_line_that_was_cut_short(home: Path, one: Asker) -> None:
    with open(home / "audit.log", "a") as file:
        file.write('{"at": "2030-0')
    audit.note(home, {"what": "next"})
    assert [entry["what"] for entry in audit.read(home, 9)] == ["deploy", "next"]
    assert (home / "audit.log").stat().st_mode & 0o777 == 0o600


def test_remove_leaves_models_keys_and_what_happened(home: Path, one: Asker) -> None:
    for path in ("models/m/weights", "keys.json", "hf_token", "history.db", "slots/8101/desired.json"):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text("{}")
    one("begin")
    done = one("remove")
    one.finish(what="remove")
    assert {"current", "bin", "releases", "envs", "config"} <= set(done["removed"])
    left = {path.name for path in home.iterdir()}
    assert left >= {"models", "keys.json", "hf_token", "history.db", "audit.log", "slots"}
    assert not left & {"current", "bin", "releases", "envs", "config", "wheelhouse", "incoming", "service"}
    assert [entry["what"] for entry in audit.read(home, 9)] == ["deploy", "remove"]
    assert (home / "models/m/weights").read_text() == "{}"


def test_an_unknown_step_and_a_request_of_another_version_are_typed_errors(home: Path, ask: Asker) -> None:
    with pytest.raises(UsageError, match="no step"):
        ask("fly")
    with pytest.raises(LlmctlError, match="look") as caught:
        ask("look")
    assert caught.value.hint


def test_the_answers_are_json(home: Path, one: Asker) -> None:
    json.dumps([look(one), one("overview")])
