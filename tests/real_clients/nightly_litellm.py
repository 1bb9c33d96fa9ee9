"""The real LiteLLM in place of the gateway, over real slots, and two of them over a real Redis. By hand or at night:
scripts/nightly-gateway."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmctl import keys
from llmctl.domain import SlotSpec
from llmctl.environments import build
from llmctl.gateway import life, litellm_env, litellm_plan, registry
from llmctl.gateway.litellm import Redis
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually, free_port

STARTS_WITHIN = 300.0
PACKAGES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmctl-nightly" / "packages"
LOOKS_EVERY = 10.5
"""Seconds after which a LiteLLM looks at the Redis again (its redis_batch_cache_expiry); a cooldown is of 30."""
CANARY = "a canary in a mine"
HI = [{"role": "user", "content": CANARY}]
PASSWORD = "the password of this Redis"

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]


@pytest.fixture
def home(home: Path) -> Path:
    """A state folder of the test's own; what is installed there is fetched once for all nights."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    (home / "gateway" / "envs").mkdir(mode=0o700, parents=True)
    (home / "gateway" / "envs" / build.UV_CACHE).symlink_to(PACKAGES)
    (home / "hosts.toml").write_text('[hosts.here]\ntransport = "local"\nservice = "none"\n')
    return home


def llmctl(home: Path, *words: str) -> dict[str, Any]:
    """The envelope of a command line."""
    environment = {**os.environ, "LLMCTL_HOME": str(home), "LLMCTL_CONFIG": str(home)}
    argv = [sys.executable, "-m", "llmctl", "--json", *words]
    ran = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, timeout=1200, check=False)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def chat(home: Path, port: int, model: str, **fields: Any) -> httpx.Response:
    return httpx.post(
        f"http://127.0.0.1:{port}/v1/chat/completions", json={"model": model, "messages": HI, **fields},
        headers={"authorization": f"Bearer {keys.show(home)['client']}"}, timeout=STARTS_WITHIN, trust_env=False,
    )  # fmt: skip


def test_it_routes_by_handle_to_slots_and_follows_them(home: Path, slots: Slots, script: Script) -> None:
    first, _, _ = slots(script("alpha")), slots(script("alpha")), slots(script("beta"))
    port = free_port()
    up = llmctl(home, "gateway", "up", "--engine", "litellm", "--port", str(port))
    assert up["exit_code"] == 0 and up["data"]["started"]
    gateway = RunningSlot(home, port, Launch())
    try:
        assert chat(home, port, "beta", max_tokens=4).json()["usage"]["completion_tokens"] == 4
        streamed = chat(home, port, "alpha", max_tokens=8, stream=True).text
        assert streamed.count("data: ") > 3 and streamed.rstrip().endswith("data: [DONE]")
        for _ in range(10):
            assert chat(home, port, "alpha", max_tokens=2).status_code == 200
        first.kill()
        assert {chat(home, port, "alpha", max_tokens=2).status_code for _ in range(20)} == {200}
        slots(script("gamma"))
        assert llmctl(home, "handles", "sync")["exit_code"] == 0
        eventually(lambda: chat(home, port, "gamma", max_tokens=2).status_code == 200, STARTS_WITHIN, 1.0)
        assert gateway.state() == "ready" and set(gateway.status().handles) == {"alpha", "beta", "gamma"}
        assert llmctl(home, "gateway", "down", "--port", str(port))["exit_code"] == 0
    finally:
        gateway.kill()
    assert CANARY not in gateway.log()


@dataclass
class Broken:
    """A server that fails always, and counts how often a client's request came to it; health checks come as well."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def serving(self) -> Iterator[Broken]:
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if CANARY.encode() in self.rfile.read(int(self.headers["content-length"])):
                    asked.append(self.path)
                self.send_response(500)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_port
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield self
            server.shutdown()


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[int]:
    """A real Redis of this test alone, with a password; its port."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("apt-get install redis-server")
    port = free_port()
    (folder / "redis.conf").write_text(f'port {port}\nbind 127.0.0.1\nrequirepass "{PASSWORD}"\nsave ""\n')
    with subprocess.Popen([program, str(folder / "redis.conf")], stdout=subprocess.DEVNULL, cwd=folder) as served:
        try:
            yield port
        finally:
            served.terminate()


def cooling(port: int) -> str:
    """What the Redis knows of slots that rest."""
    argv = [
        "redis-cli",
        "--no-auth-warning",
        "-p",
        str(port),
        "-a",
        PASSWORD,
        "--scan",
        "--pattern",
        "deployment:*:cooldown",
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_two_of_them_share_through_redis_which_slot_has_failed(
    home: Path, slots: Slots, script: Script, tmp_path: Path
) -> None:
    good = slots(script("alpha"))
    python = litellm_env.made(home, print)
    litellm_plan.keep_password(home, PASSWORD)
    with Broken().serving() as broken, redis(tmp_path) as where:
        replicas = tuple(
            Replica("here", port, "alpha", "scripted", f"127.0.0.1:{port}") for port in (good.port, broken.port)
        )
        frail = Handle("frail", replicas[1:], fallbacks=("alpha",))
        handles = (Handle("alpha", replicas), Handle("good", replicas[:1]), frail)
        registry.write(home, Registry({one.name: one for one in handles}, "alpha"))
        pair = [RunningSlot(home, free_port(), Launch()) for _ in range(2)]
        try:
            for one in pair:
                life.up(home, one.port, one.launch, litellm_plan.spec(python, Redis("127.0.0.1", where)))
            a, b = (one.port for one in pair)
            assert chat(home, b, "good", max_tokens=2).status_code == 200  # it is up, and has not met the broken one
            eventually(lambda: chat(home, a, "alpha", max_tokens=2) and cooling(where))
            learnt = len(broken.asked)
            time.sleep(LOOKS_EVERY)
            codes = {chat(home, port, "alpha", max_tokens=2).status_code for port in (b, a) for _ in range(15)}
            print(f"asked {learnt} times until it rests, {len(broken.asked) - learnt} times after")
            assert codes == {200} and 0 < learnt == len(broken.asked)
            assert chat(home, a, "frail", max_tokens=2).status_code == 200
            assert all(CANARY not in one.log() for one in pair)
        finally:
            for one in pair:
                one.kill()
