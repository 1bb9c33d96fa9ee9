"""A fleet with an exporter: two hosts over real ssh with a slot each, one that is down, and one of this machine."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.history.store import Check, History
from tests.cli.fleet import machines
from tests.clients import chat
from tests.conftest import free_port
from tests.exporter.ops import Ops
from tests.testbed.sshd import SshHost, end_slots, introduce

__all__ = ["machines"]


@pytest.fixture(scope="module")
def ops(machines: tuple[dict[str, SshHost], dict[str, tuple[int, int]]]) -> Iterator[Ops]:
    hosts, ports = machines
    with tempfile.TemporaryDirectory(prefix="ops-") as folder:
        config, home = Path(folder) / "c", Path(folder) / "h"
        config.mkdir()
        home.mkdir()
        introduce(list(hosts.values()), config, home)
        local = free_port()
        with open(config / "hosts.toml", "a") as file:
            file.write(f'[hosts.here]\ntransport = "local"\nports = [{local}, {local}]\n')
        (config / "models.toml").write_text(
            "".join(
                f'[models.{name}]\nartifacts = [{{ format = "script", path = "{config / name}.json" }}]\n'
                for name in ("alpha", "beta")
            )
        )
        (config / "alpha.json").write_text(json.dumps({"length": 8}))
        with History.open(home / "history.db") as history:
            now = time.time()
            history.checked([Check("gpu1", ports["gpu1"][0], now, "ok"), Check("gone", 1, now, "ok")])
            history.open_incident("gpu2", None, now, "degraded", "hot")
        found = Ops(hosts, {**ports, "here": (local, local)}, config, home, free_port())
        for name, model in (("gpu1", "alpha"), ("gpu2", "beta"), ("here", "alpha")):
            done = found.llmctl("load", found.slot(name), model)
            assert done.returncode == 0, done.stderr
            chat(found.ports[name][0], "CANARY What is it?")
        done = found.llmctl("--json", "gateway", "up", "--port", found.gateway)
        assert json.loads(done.stdout)["data"]["started"], done.stdout
        chat(found.gateway, "CANARY What is it?")
        yield found
        for process in found.exporters:
            process.terminate()
            process.communicate()
        end_slots(iter([home]))
        assert {process.returncode for process in found.exporters} == {0}


@pytest.fixture(scope="module")
def url(ops: Ops) -> str:
    """The page of an exporter of all hosts."""
    return ops.export()
