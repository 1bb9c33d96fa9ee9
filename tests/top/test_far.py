"""The verbs of the live view on a host over real ssh: the same answers, and no follower of a log left behind there."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.cli.slot_acts import SlotActs
from llmctl.errors import LlmctlError, LoadFailed, UnknownName
from tests.conftest import eventually, free_port
from tests.testbed.sshd import SshHost, introduce, needs_sshd, running, ssh_hosts

pytestmark = needs_sshd
MODELS = {"alpha": {}, "beta": {}, "broken": {"fail": "load"}}


@pytest.fixture(scope="module")
def machine() -> Iterator[tuple[SshHost, int]]:
    with tempfile.TemporaryDirectory(prefix="top-") as folder, ssh_hosts(Path(folder), ["gpu1"]) as (host,):
        host.install()
        port, models = free_port(), '[models.away]\nartifacts = [{ format = "script", path = "nowhere.json" }]\n'
        for name, play in MODELS.items():
            path = host.home / f"{name}.json"
            path.write_text(json.dumps(play))
            models += f'[models.{name}]\nartifacts = [{{ format = "script", path = "{path}" }}]\n'
        host.configure(f"[hosts.gpu1]\nports = [{port}, {port + 1}]\n", models)
        yield host, port


@pytest.fixture
def acts(machine: tuple[SshHost, int], home: Path, tmp_path: Path) -> Iterator[SlotActs]:
    introduce([machine[0]], tmp_path, home)
    with Reach(Session(config_dir=str(tmp_path))) as reach:
        yield SlotActs(reach)


def followers() -> list[int]:
    """The processes that follow a log on the host."""
    return running(lambda words: b"--follow" in words and b"--as-host=gpu1" in words and words[0].endswith(b"python"))


def test_all_verbs(acts: SlotActs, machine: tuple[SshHost, int]) -> None:
    port, told = machine[1], list[dict[str, object]]()
    assert sorted(acts.models("gpu1")) == sorted(MODELS)
    assert acts.change("load", "gpu1", None, "alpha", told.append)["port"] == port
    assert any(event["event"] == "stage" for event in told)
    assert acts.change("swap", "gpu1", port, "beta", told.append)["previous"] == "alpha"
    with pytest.raises(LoadFailed):
        acts.change("swap", "gpu1", port, "broken", told.append)
    assert acts.change("restart", "gpu1", port, None, told.append)["model"] == "beta"
    assert acts.change("unload", "gpu1", port, None, told.append)["model"] is None
    with pytest.raises(UnknownName):
        acts.change("load", "gpu1", port, "no-such", told.append)
    with pytest.raises(LlmctlError):
        acts.change("swap", "nobody", port, "beta", told.append)


def test_a_log_is_followed_and_its_follower_ends_there_too(acts: SlotActs, machine: tuple[SshHost, int]) -> None:
    host, port = machine
    acts.change("load", "gpu1", port, "alpha", lambda event: None)
    log = host.home / ".llmctl" / "slots" / str(port) / "engine.log"
    following, came = acts.follow("gpu1", port, 5), list[str]()

    def read() -> None:
        for line in following.lines():
            came.append(line.strip())

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: followers() and came)
    with log.open("a") as file:
        file.write("a new line\n")
    eventually(lambda: "a new line" in came)
    following.cut()
    reader.join(30)
    assert not reader.is_alive()
    eventually(lambda: not followers())
    assert acts.models("gpu1"), "the connection of the verbs is another one"
    with pytest.raises(UnknownName):
        list(acts.follow("gpu1", 8999, 5).lines())
