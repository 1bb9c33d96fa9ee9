"""Whole deploys to a host over real ssh: a bare one serves, a second run changes nothing, a broken release neither."""

from __future__ import annotations

import json
import os

import pytest

from tests.fleet.deploying import Operator, audit, current, load_on, running, slots, state, tree
from tests.testbed.sshd import needs_sshd

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def operator(bare: Operator) -> Operator:
    return bare


@pytest.fixture
def deployed(operator: Operator) -> Operator:
    """Its host has release `same` and the slots of the profile."""
    done = operator.deploy()
    assert done.code == 0, done
    return operator


def test_a_dry_run_on_a_bare_host_explains_itself_and_changes_nothing(operator: Operator) -> None:
    host = operator.hosts[0]
    if state(host).exists():
        pytest.skip("runs first, on a bare host")
    before = set(os.listdir("/tmp"))
    done = operator.deploy("--dry-run")
    assert done.code == 0 and done.host["status"] == "planned"
    said = {row["what"]: row for row in done.host["choice"]}
    assert {"backend", "service", "environments", "packages", "python"} <= set(said)
    assert all(row["why"] for row in said.values()) and said["packages"]["taken"] == "wheelhouse"
    assert done.host["environments"] == ["base"] and any("alpha" in note for note in done.host["notes"])
    assert tree(host) == {}
    assert not [name for name in set(os.listdir("/tmp")) - before if name.startswith("llmctl-")]


def test_a_bare_host_serves_after_one_deploy_and_a_second_changes_nothing(operator: Operator) -> None:
    host = operator.hosts[0]
    done = operator.deploy("--message", "first light")
    assert done.code == 0, done
    assert done.host["status"] == "deployed" or state(host).exists()
    assert {slot.state for slot in slots(host).values()} == {"ready"}
    with load_on(operator.ports["h1"][0]) as load:
        pass
    assert load.answered and not load.failed
    before, pids, log = tree(host), running(host), audit(host)
    again = operator.deploy()
    assert (again.code, again.host["status"]) == (0, "unchanged")
    assert (tree(host), running(host), audit(host)) == (before, pids, log)
    dry = operator.deploy("--dry-run")
    assert (dry.host["status"], dry.host["notes"]) == ("unchanged", [])
    assert tree(host) == before


def test_a_new_release_reaches_the_slot_servers_under_load_and_leaves_engines_alone(deployed: Operator) -> None:
    host = deployed.hosts[0]
    before, release = running(host), current(host)
    with load_on(deployed.ports["h1"][0]) as load:
        done = deployed.deploy(code="next")
    assert done.code == 0, done
    assert not load.failed and load.answered
    assert running(host) == before, "a slot server keeps its pid and its engine"
    assert done.host["before"] == release != done.host["release"] == current(host)
    assert {row["port"]: row["did"] for row in done.host["slots"]} == {port: ["reexec"] for port in before}


def test_a_release_with_another_engine_swaps_the_engines_under_load(deployed: Operator) -> None:
    host = deployed.hosts[0]
    before = running(host)
    with load_on(deployed.ports["h1"][0]) as load:
        done = deployed.deploy(code="engine")
    assert done.code == 0, done
    assert not load.failed and load.answered
    after = running(host)
    assert {port: pids[0] for port, pids in after.items()} == {port: pids[0] for port, pids in before.items()}
    assert all(after[port][1] != before[port][1] for port in before)


@pytest.mark.parametrize("code", ["dead", "crash"])
def test_a_broken_release_goes_back_by_itself_and_says_why(deployed: Operator, code: str) -> None:
    """`dead` cannot start, `crash` passes its check and dies in the moment it has taken over."""
    host = deployed.hosts[0]
    before, release = tree(host), current(host)
    pids = running(host)
    done = deployed.deploy(code=code)
    assert done.code == 1
    (error,) = done.errors
    assert error["code"] == "deploy_failed" and error["host"] == "h1" and error["port"] in deployed.ports["h1"]
    assert f"h1 runs {release} again" in error["message"]
    if code == "dead":
        assert "this slot server was built broken" in json.dumps(done.data["log"])
        assert running(host) == pids, "nothing was restarted"
    assert current(host) == release
    assert {slot.state for slot in slots(host).values()} == {"ready"}
    assert audit(host)[-1]["outcome"] != "ok" and audit(host)[-1]["to"] != release
    new = {name for name in set(tree(host)) - set(before) if "/releases/" not in name and "/incoming/" not in name}
    assert new <= {".llmctl/deploy.bak"}, "what failed leaves its release and nothing else"
    assert deployed.deploy().host["status"] == "unchanged"
    with load_on(deployed.ports["h1"][0]) as load:
        pass
    assert load.answered and not load.failed


def test_a_model_that_does_not_start_fails_the_deploy_with_its_last_lines(deployed: Operator) -> None:
    host, port = deployed.hosts[0], deployed.ports["h1"][1]
    release = current(host)
    (deployed.folder / "profiles" / "bad.toml").write_text(f'[[slots]]\nport = {port}\nmodel = "broken"\n')
    done = deployed("deploy", "h1", "--profile", "bad", "--offline", code="next")
    assert done.code == 1 and done.errors[0]["port"] == port
    assert done.data["log"]
    assert current(host) == release and slots(host)[port].model == "beta"
    assert {slot.state for slot in slots(host).values()} == {"ready"}


def test_rollback_goes_to_the_release_before_and_to_one_that_is_named(deployed: Operator) -> None:
    host = deployed.hosts[0]
    first = current(host)
    second = deployed.deploy(code="next").host["release"]
    before = running(host)
    with load_on(deployed.ports["h1"][0]) as load:
        done = deployed("rollback", "h1", code="next")
    assert (done.code, done.host["release"], done.host["before"]) == (0, first, second)
    assert current(host) == first and running(host) == before and not load.failed
    assert audit(host)[-1] | {"at": 0} == {
        "at": 0, "who": audit(host)[-1]["who"], "message": "", "what": "rollback", "from": second, "to": first,
        "outcome": "ok",
    }  # fmt: skip
    assert deployed("rollback", "h1", second).host["release"] == second
    unknown = deployed("rollback", "h1", "9.9.9")
    assert unknown.code == 2 and first in unknown.errors[0]["hint"]
    assert current(host) == second


def test_a_newer_version_is_deployed_and_rolled_back(deployed: Operator) -> None:
    """The operator's llmctl and the host's differ in version on either way."""
    host = deployed.hosts[0]
    release = current(host)
    up = deployed.deploy(code="newer")
    assert up.code == 0 and up.host["release"].startswith("9.")
    back = deployed("rollback", "h1", release, code="newer")
    assert back.code == 0, back
    assert current(host) == release and {slot.state for slot in slots(host).values()} == {"ready"}


def test_what_was_torn_is_made_anew(deployed: Operator) -> None:
    host = deployed.hosts[0]
    home, release = state(host), current(host)
    pids = running(host)
    (home / "releases" / str(release) / "lib" / "llmctl" / "paths.py").write_text("torn")
    (home / "bin" / "llmctl").unlink()
    (home / "config" / "hosts.toml").write_text("# changed by hand")
    done = deployed.deploy()
    assert (done.code, done.host["status"]) == (0, "deployed"), done
    (home / "current").unlink()
    (home / "current").symlink_to("releases/gone")
    done = deployed.deploy()
    assert (done.code, done.host["status"]) == (0, "deployed"), done
    assert current(host) == release and running(host) == pids


def test_a_slot_that_is_down_is_started_again(deployed: Operator) -> None:
    host, port = deployed.hosts[0], deployed.ports["h1"][0]
    os.kill(running(host)[port][0] or 0, 9)
    done = deployed("deploy", "h1", "--profile", "demo", "--offline")
    assert done.code == 0 and [row["did"] for row in done.host["slots"] if row["port"] == port] == [["start"]]
    assert slots(host)[port].state == "ready"


def test_releases_tells_what_is_there_and_who_did_what(deployed: Operator) -> None:
    before = tree(deployed.hosts[0])
    row = deployed("releases", "h1").host
    assert row["current"] == current(deployed.hosts[0]) and row["lease"] is None
    assert row["audit"][-1]["what"] in ("deploy", "rollback") and row["audit"][-1]["who"]
    assert tree(deployed.hosts[0]) == before


def test_prune_removes_packages_and_remove_leaves_models(deployed: Operator) -> None:
    """Last: the host is bare again afterwards."""
    host = deployed.hosts[0]
    kept = state(host) / "models" / "m"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("weights")
    pids = running(host)
    pruned = deployed("deploy", "h1", "--prune")
    assert pruned.code == 0 and pruned.data["prunes"][0]["wheels"] > 0
    assert running(host) == pids and not (state(host) / "wheelhouse").exists()
    removed = deployed("deploy", "h1", "--remove")
    assert removed.code == 0, removed
    assert not {"current", "bin", "releases", "envs", "config"} & set(os.listdir(state(host)))
    assert kept.read_text() == "weights" and audit(host)[-1]["what"] == "remove"
    assert {slot.state for slot in slots(host).values()} == {"down"}
    again = deployed("rollback", "h1")
    assert again.errors[0]["code"] == "not_deployed" and "llmctl deploy h1" in again.errors[0]["hint"]
