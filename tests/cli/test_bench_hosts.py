"""`bench run` of other hosts: measured there, kept here; two hosts are measured from here."""

from __future__ import annotations

import json

from tests.cli.fleet import Fleet
from tests.testbed.sshd import needs_sshd

pytestmark = needs_sshd
QUICK = ("--requests", "2", "--prompt", "16", "--new", "4", "--runs", "1")


def test_a_slot_a_model_and_two_hosts(fleet: Fleet, emptied: None) -> None:
    one, two = fleet.at("gpu1"), fleet.at("gpu2")
    assert fleet("bench", "run", one, *QUICK).errors[0]["hint"] == f"llmctl load {one} MODEL"
    for slot, model in ((one, "alpha"), (two, "beta")):
        assert fleet("load", slot, model).code == 0
    done = fleet("bench", "run", one, *QUICK, "--streams", "1,2", "--profile")
    assert done.code == 0, done.errors
    assert (done.data["host"], done.data["model"], len(done.data["cells"])) == ("gpu1", "alpha", 2)
    assert str(fleet.hosts["gpu1"].home) in done.data["profile"]["path"]
    assert "run 1 of 1" in done.err

    scratch = fleet("bench", "run", "beta", "--host", "gpu1", *QUICK)
    assert scratch.code == 0 and scratch.data["scratch"] and scratch.data["host"] == "gpu1"
    assert fleet.model(one) == "alpha"

    both = fleet("bench", "run", one, *QUICK, "--compare", two)
    assert both.code == 0, both.errors
    assert both.data["other"] == two and both.data["cells"][0]["other"]["model"] == "beta"
    assert "another machine" in both.data["cells"][0]["roofline_why"]

    kept = fleet("bench", "list", "--host", "gpu1").data["results"]
    assert [row["id"] for row in kept] == [both.data["id"], scratch.data["id"], done.data["id"]]
    bundle = fleet("bench", "show", done.data["id"]).data["proof"]
    assert "gpu1" not in json.dumps(bundle)


def test_what_two_hosts_cannot_do(fleet: Fleet, emptied: None) -> None:
    one, two = fleet.at("gpu1"), fleet.at("gpu2")
    fleet("load", one, "alpha")
    fleet("load", two, "alpha")
    fleet("unload", two)
    done = fleet("bench", "run", one, *QUICK, "--compare", two)
    assert done.code == 1 and done.errors[0]["hint"] == f"llmctl status {two}"
    fleet("load", two, "alpha")
    for words in (("run", one, "--profile"), ("run", "beta", "--host", "gpu1")):
        done = fleet("bench", *words, *QUICK, "--compare", two)
        assert done.code == 2 and "on its own host" in done.errors[0]["message"]
    done = fleet("bench", "run", "dead:8101", *QUICK)
    assert (done.code, done.errors[0]["host"]) == (4, "dead")
    done = fleet("bench", "run", "alpha", "--host", "gpu*", *QUICK)
    assert done.code == 2 and "works on one host" in done.errors[0]["message"]


def test_a_host_that_reaches_nobody_says_so(fleet: Fleet, emptied: None) -> None:
    fleet("load", fleet.at("gpu1"), "alpha")
    done = fleet("bench", "run", fleet.at("gpu1"), *QUICK, "--compare", "http://127.0.0.1:9")
    assert done.code == 4 and "no answer from http://127.0.0.1:9" in done.errors[0]["message"]
