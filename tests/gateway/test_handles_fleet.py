"""Handles over two hosts reached by ssh, and one that is down: asked, checked, and kept where a host says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctl.gateway import hosts, jsonl, registry
from tests.cli.fleet import Fleet, emptied, fleet, machines
from tests.conftest import eventually
from tests.testbed.sshd import needs_sshd

__all__ = ["emptied", "fleet", "machines"]
pytestmark = [needs_sshd, pytest.mark.usefixtures("emptied")]
PROFILE = """\
[[slots]]
host = "gpu1"
port = {0}
model = "alpha"
handles = [{{ name = "twins", group = "twins" }}]

[[slots]]
host = "gpu2"
port = {1}
model = "alpha"
handles = [{{ name = "twins", group = "twins" }}]

[[slots]]
host = "gpu2"
port = "auto"
model = "beta"
handle = "deep"
"""


def test_f9_handles_of_a_host_that_says_nothing_stay(fleet: Fleet, home: Path) -> None:
    one, two = fleet.at("gpu1"), fleet.at("gpu2")
    fleet.profile("both", PROFILE.format(fleet.ports["gpu1"][0], fleet.ports["gpu2"][0]))
    fleet.configure(gpu2={"bind": '"0.0.0.0"'})
    for where, model in ((one, "alpha"), (two, "alpha"), (fleet.at("gpu2", 1), "beta")):
        assert fleet("load", where, model).code == 0

    registry.path(home).parent.mkdir()
    registry.path(home).write_text("{")
    done = fleet("handles", "sync")
    assert (done.code, [error["host"] for error in done.errors], done.data["kept"]) == (3, ["dead"], [])
    before = registry.read(home)
    assert [(name, [r.where for r in found.replicas]) for name, found in before.handles.items()] == [
        ("twins", [one, two]), ("deep", [fleet.at("gpu2", 1)]), ("alpha", [one, two]), ("beta", [fleet.at("gpu2", 1)]),
    ]  # fmt: skip
    reached = {r.where: r.address for found in before.handles.values() for r in found.replicas}
    assert (reached[one], reached[two]) == (None, f"127.0.0.1:{fleet.ports['gpu2'][0]}")
    told = hosts.read(home)
    assert told == {
        "config": str(fleet.config),
        "keys": {"gpu2": fleet("keys", "show", "--host", "gpu2").data["client"]},
    }

    live = fleet("handles", "check", "--live")
    assert (live.code, live.data["problems"], live.data["not_asked"]) == (3, [], ["the gateway, which is not up"])
    exported = fleet("handles", "export").data["files"]
    first = [Path(path).read_bytes() for path in exported]
    refs = {line.handle: line.endpoint_ref for line in jsonl.parse(first[0])[0]}
    assert refs["deep"] == f"ep_gpu2_scripted_slot_{fleet.ports['gpu2'][1]}"

    fleet.hosts["gpu2"].stop()
    try:
        done = fleet("handles", "sync")
        assert (done.code, done.data["kept"]) == (3, sorted([two, fleet.at("gpu2", 1)]))
        assert registry.read(home) == before and done.data["problems"] == [] and hosts.read(home) == told
        code, out, err = fleet.text("handles", "list")
        assert code == 3 and "as it was before, for their hosts say nothing: " in out and "gpu2" in err
        live = fleet("handles", "check", "--live")
        assert live.data["problems"] == [] and f"{two}, whose host says nothing" in live.data["not_asked"]
        fleet("handles", "export")
        assert [Path(path).read_bytes() for path in exported] == first
    finally:
        fleet.hosts["gpu2"].start()
    eventually(lambda: fleet("status", "--host", "gpu2").code == 0)
    fleet("unload", fleet.at("gpu2", 1))
    after = fleet("handles", "sync")
    assert (after.code, [one["what"] for one in after.data["problems"]]) == (3, ["no slot has beta yet"])
    assert [*registry.read(home).handles] == ["twins", "alpha"]


def test_an_endpoint_that_two_hosts_have_is_asked_for(fleet: Fleet) -> None:
    port = fleet.ports["gpu1"][0]
    slots = "".join(f'[[slots]]\nhost = "{host}"\nport = {port}\nmodel = "alpha"\n' for host in ("gpu1", "gpu2"))
    fleet.profile("both", slots)
    line = jsonl.Line("quick", "model", "openai-chat", "systemd", f"ep_mlx_slot_{port}", {"model": "quick"})
    file = fleet.config / "old.jsonl"
    file.write_text(f"{line.text()}\n")
    done = fleet("handles", "import", file)
    (problem,) = done.data["problems"]
    assert done.code == 1 and f"profile both, gpu1:{port}; profile both, gpu2:{port}" in problem["what"]
    assert problem["hint"] == "add --host HOST or --profile NAME"
    done = fleet("handles", "import", file, "--host", "gpu2")
    assert [one["where"] for one in done.data["added"]] == [f"gpu2:{port}"]
    text = (fleet.config / "profiles" / "both.toml").read_text()
    assert text.endswith(f'port = {port}\nmodel = "alpha"\n\n[[slots.handles]]\nname = "quick"\n')
