"""What supervises a LiteLLM, with a stand-in for it: the port stays, proxies come and go."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmctl import keys
from llmctl.domain import Limits
from llmctl.engines.upstream_keeper import GRACE
from llmctl.errors import Refused
from llmctl.files import write_json
from llmctl.gateway import hosts, life, litellm_plan, registry
from llmctl.gateway.litellm import Redis
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.health import here, verdict
from llmctl.slots import verbs
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually, free_port
from tests.gateway.test_litellm_env import environment

STAND_IN = Path(__file__).with_name("stand_in_litellm.py")


def stand_in(folder: Path) -> Path:
    """The Python of an environment whose LiteLLM is the stand-in."""
    found = environment(folder, "1.106.2")
    program = found.with_name("litellm")
    program.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
    program.chmod(0o755)
    return found


@pytest.fixture
def python(home: Path) -> Path:
    return stand_in(home / "env")


@pytest.fixture
def fronted(home: Path, python: Path) -> Iterator[RunningSlot]:
    """A gateway's port with a proxy behind it that has one handle."""
    with running(home, python, Limits()) as one:
        yield one


@contextlib.contextmanager
def running(home: Path, python: Path, limits: Limits) -> Iterator[RunningSlot]:
    know(home, "alpha")
    one = RunningSlot(home, free_port(), Launch(limits=limits))
    life.up(home, one.port, one.launch, litellm_plan.spec(python, None))
    try:
        yield one
    finally:
        one.kill()


def know(home: Path, *names: str) -> None:
    slot = Replica("gpu-1", 8101, "qwen", "torch", "127.0.0.1:9")
    registry.write(home, Registry({name: Handle(name, (slot,)) for name in names}, names[0]))


def ask(one: RunningSlot, path: str = "/v1/models", client: Any = httpx, key: str | None = None) -> Any:
    headers = {"authorization": f"Bearer {key or keys.show(one.home)['client']}"}
    options = {"trust_env": False} if client is httpx else {}
    return client.get(f"{one.base_url}{path}", headers=headers, timeout=60, **options)


def listed(one: RunningSlot) -> list[str]:
    return [row["id"] for row in ask(one).json()["data"]]


def told(one: RunningSlot) -> dict[str, Any]:
    return life.status(one.home, one.port)


def children(pid: int) -> list[int]:
    """All below a process."""
    found = [int(line) for line in subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()]  # fmt: skip
    return [*found, *(below for child in found for below in children(child))]


def test_clients_reach_it_by_the_key_of_this_machine_and_it_is_a_slot_like_any_other(fronted: RunningSlot) -> None:
    assert listed(fronted) == ["alpha"]  # waited for: the port answers before the proxy does
    assert ask(fronted, key="wrong").status_code == 401
    row = fronted.status()
    assert (row.model, row.engine, row.state, row.handles) == ("litellm", "gateway", "ready", ("alpha",))
    assert told(fronted)["release"] == "1.106.2"
    assert not life.up(fronted.home, fronted.port, fronted.launch, fronted.folder.read_desired().spec or life.SPEC)
    with pytest.raises(Refused, match="is a LiteLLM"):
        life.up(fronted.home, fronted.port, fronted.launch)
    with pytest.raises(Refused, match="has no model of its own"):
        verbs.unload(fronted.home, fronted.port)
    below = children(fronted.server_pid() or 0)
    assert len(below) == 2
    life.down(fronted.home, fronted.port)
    assert fronted.status().state == "empty" and not any(os.path.exists(f"/proc/{pid}") for pid in below)


def test_s9_it_sees_the_keys_that_it_needs_and_nobody_else_does(
    home: Path, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-the-operator")
    know(home, "alpha")
    write_json(home / "gateway" / hosts.NAME, {"config": None, "keys": {"gpu-1": "key-of-the-slots"}})
    litellm_plan.keep_password(home, "password-of-redis")
    one = RunningSlot(home, free_port(), Launch())
    life.up(home, one.port, one.launch, litellm_plan.spec(python, Redis("127.0.0.1", 1)))
    try:
        seen = ask(one, "/environment").json()
        pids = [one.server_pid() or 0, *children(one.server_pid() or 0)]
        argv = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)
    finally:
        one.kill()
    assert {"LITELLM_MASTER_KEY", "LLMCTL_GPU_1_KEY", "REDIS_PASSWORD"} <= set(seen["names"])
    assert "HF_TOKEN" not in seen["names"] and seen["home"] == seen["folder"] == str(one.folder.path)
    config = one.folder.path / "litellm.yaml"
    everywhere = one.log() + config.read_text() + argv.decode() + (one.folder.path / "desired.json").read_text()
    for secret in (keys.show(home)["client"], "key-of-the-slots", "password-of-redis", "a-secret-of-the-operator"):
        assert secret not in everywhere
    for file in (config, home / "gateway" / "redis.json"):
        assert os.stat(file).st_mode & 0o077 == 0


def test_what_handles_sync_wrote_is_taken_up_by_a_new_proxy_without_losing_a_request(home: Path, python: Path) -> None:
    with running(home, python, Limits(drain=0.5)) as one, httpx.Client(trust_env=False) as kept:
        before = ask(one, client=kept).json()["pid"]
        over, codes = threading.Event(), list[int]()

        def asks() -> None:
            while not over.is_set():
                codes.append(ask(one).status_code)

        slow = list[Any]()
        asking = [threading.Thread(target=asks), threading.Thread(target=lambda: slow.append(ask(one, "/slow")))]
        for thread in asking:
            thread.start()
        eventually(lambda: len(codes) > 3)
        know(home, "alpha", "beta")
        eventually(lambda: listed(one) == ["alpha", "beta"])
        over.set()
        asking[0].join()
        eventually(lambda: told(one)["active"] == 1)  # the slow one: the one that is kept was idle
        assert ask(one, client=kept).json()["pid"] != before
        time.sleep(GRACE + 1)  # longer than one that must end now is given, and than a drain
        (one.folder.path / "enough").touch()
        asking[1].join()
        assert set(codes) == {200}
        assert slow[0].json()["pid"] == before  # what was under way ended with the proxy that it began with
        eventually(lambda: not os.path.exists(f"/proc/{before}"))


def test_what_is_none_of_its_business_starts_no_new_proxy(fronted: RunningSlot) -> None:
    before = ask(fronted).json()["pid"]
    found = registry.read(fronted.home)
    registry.write(
        fronted.home, Registry({"alpha": Handle("alpha", found.find("alpha").replicas, tags=("x",))}, "alpha")
    )
    eventually(lambda: told(fronted)["registry"] != found.hash)
    time.sleep(1.5)  # three looks
    assert ask(fronted).json()["pid"] == before and fronted.log().count("starts with") == 1


def test_a_proxy_that_dies_comes_back_and_who_asks_meanwhile_waits(fronted: RunningSlot) -> None:
    before = ask(fronted).json()["pid"]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: "ended with exit status" in fronted.log())
    assert ask(fronted).json()["pid"] != before
    assert "again in 1 s" in fronted.log() and told(fronted)["why"] is None


def test_each_proxy_that_soon_ends_is_waited_for_longer_and_leaves_nothing_open(fronted: RunningSlot) -> None:
    def pipes() -> int:
        found = 0
        for one in Path(f"/proc/{fronted.server_pid()}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(one).startswith("pipe:")
        return found

    ask(fronted)
    before = pipes()
    for pause in (1, 2):
        os.kill(ask(fronted).json()["pid"], signal.SIGKILL)
        eventually(lambda pause=pause: f"again in {pause} s" in fronted.log())
    ask(fronted)
    eventually(lambda: pipes() == before)


def test_what_makes_no_sense_leaves_the_proxy_that_there_is(fronted: RunningSlot) -> None:
    before = ask(fronted).json()["pid"]
    registry.path(fronted.home).write_text("{")
    registry.path(fronted.home).with_suffix(".bak").unlink(missing_ok=True)
    eventually(lambda: "cannot be read" in (told(fronted)["why"] or ""))
    judged = verdict.slot("h", here.slot(fronted.home, fronted.status(), 5.0), verdict.Baseline())
    assert judged.verdict == verdict.DEGRADED and ask(fronted).json()["pid"] == before
    know(fronted.home, "alpha")
    hosts.path(fronted.home).write_text('{"version": 1, "data": []}')
    eventually(lambda: f"{hosts.path(fronted.home)} makes no sense" in (told(fronted)["why"] or ""))
    assert ask(fronted).json()["pid"] == before
    hosts.path(fronted.home).unlink()
    (fronted.folder.path / "dies").touch()
    know(fronted.home, "beta")
    eventually(lambda: "exit status 3 before it was ready" in (told(fronted)["why"] or ""))
    assert ask(fronted).json()["pid"] == before and listed(fronted) == ["alpha"] and fronted.state() == "ready"
    (fronted.folder.path / "dies").unlink()
    eventually(lambda: listed(fronted) == ["beta"])
    assert told(fronted)["why"] is None


def test_what_cannot_be_written_or_read_now_is_tried_again(fronted: RunningSlot) -> None:
    before, config, kept = ask(fronted).json()["pid"], fronted.folder.path / "litellm.yaml", keys.show(fronted.home)
    config.unlink()
    config.mkdir()
    know(fronted.home, "beta")
    eventually(lambda: str(config) in (told(fronted)["why"] or ""))
    assert ask(fronted).json()["pid"] == before and listed(fronted) == ["alpha"]
    config.rmdir()
    eventually(lambda: listed(fronted) == ["beta"])
    home = fronted.home / "keys.json"
    home.rename(home.with_suffix(".away"))
    home.mkdir()
    eventually(lambda: str(home) in (told(fronted)["why"] or ""))
    home.rmdir()
    home.with_suffix(".away").rename(home)
    eventually(lambda: told(fronted)["why"] is None)
    assert keys.show(fronted.home) == kept and listed(fronted) == ["beta"]


def test_a_release_known_as_bad_is_not_run_even_where_it_came_by_itself(fronted: RunningSlot, python: Path) -> None:
    before = ask(fronted).json()["pid"]
    shutil.rmtree(python.parents[1])
    environment(python.parents[1], "1.82.8")
    know(fronted.home, "beta")
    eventually(lambda: "known as bad" in (told(fronted)["why"] or ""))
    assert ask(fronted).json()["pid"] == before and listed(fronted) == ["alpha"]


def test_it_is_restarted_and_re_executed_and_its_port_never_closes(fronted: RunningSlot) -> None:
    before, server = ask(fronted).json()["pid"], fronted.server_pid()
    assert verbs.restart(fronted.home, fronted.port).model == "litellm"
    again = ask(fronted).json()["pid"]
    verbs.restart(fronted.home, fronted.port, reexec=True)
    assert ask(fronted).json()["pid"] not in (before, again) and fronted.server_pid() == server
    assert "re-executes" in fronted.log()


def test_without_a_proxy_a_client_is_told(home: Path, python: Path) -> None:
    know(home, "alpha")
    one = RunningSlot(home, free_port(), Launch(limits=Limits(queue_timeout=1.0)))
    one.folder.make()
    (one.folder.path / "dies").touch()
    life.up(home, one.port, one.launch, litellm_plan.spec(python, None))
    try:
        answer = ask(one)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "unavailable"
        assert answer.headers["retry-after"]
        eventually(lambda: one.state() == "backoff")
    finally:
        one.kill()


def test_connections_are_bounded(home: Path, python: Path) -> None:
    with running(home, python, Limits(connections=2)) as one:
        with contextlib.ExitStack() as stack:
            for count in (1, 2):
                stack.enter_context(socket.create_connection(("127.0.0.1", one.port)))
                eventually(lambda count=count: told(one)["active"] == count)
            with socket.create_connection(("127.0.0.1", one.port), timeout=60) as third:
                assert third.recv(1) == b""
        eventually(lambda: told(one)["active"] == 0)
        assert ask(one).status_code == 200
