"""A slot server in the foreground that announces itself as a worker: when, with what, and that it survives a pool."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.domain import SlotSpec
from llmctl.runner.announce import announce
from llmctl.slots import callback
from llmctl.slots.launch import server_argv
from llmctl.slots.state import Launch, SlotFolder
from tests.conftest import eventually, free_port
from tests.runner.fake_slot import FakeService

Script = Callable[..., SlotSpec]


class Pool(HTTPServer):
    """Takes announcements; the first ones are answered with `statuses`."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = list(statuses)
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[int] = []  # what the worker's uri said when it was told

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/workers/ready?pool=a"


class Handler(BaseHTTPRequestHandler):
    server: Pool

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.heard.append((self.path, told))
        with contextlib.suppress(OSError), urllib.request.urlopen(told["uri"] + "/ready", timeout=10) as response:
            self.server.answers.append(response.status)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@contextlib.contextmanager
def pool(*statuses: int) -> Iterator[Pool]:
    with Pool(*statuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_worker_is_announced_once_it_serves(home: Path, script: Script) -> None:
    folder = SlotFolder(home, free_port())
    folder.make()
    with pool() as there:
        to = callback.parse("worker-7", there.url)
        argv = [sys.executable, *server_argv(folder, Launch()), "--foreground"]
        argv += [json.dumps(script("alpha", load=0.5, memory=10**6).to_dict()), "--callback", to.to_json()]
        ran = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            eventually(lambda: there.answers)
            (path, told), *more = there.heard
            assert not more and path == "/v1/workers/ready?pool=a"
            assert told == {"worker_id": "worker-7", "vram_bytes": 10**6, "uri": f"http://127.0.0.1:{folder.port}"}
            assert there.answers == [200], "it was ready before it said so"
            eventually(lambda: "worker worker-7 is announced" in folder.log.read_text())
        finally:
            ran.send_signal(signal.SIGTERM)
            output = ran.communicate(timeout=60)[0]
    assert ran.returncode == 0
    assert "pool=a" not in output and "Traceback" not in output


def told_to(there: Pool, url: str, *, bind: str = "127.0.0.1") -> list[str]:
    """The notes of an announcement with four tries."""
    notes: list[str] = []
    to = callback.parse("w", url)
    asyncio.run(announce(to, bind, 8101, FakeService(), notes.append, delays=(0.01, 0.01, 0.01)))
    return notes


def test_a_pool_that_refuses_is_asked_again_and_not_for_ever() -> None:
    with pool(500, 404) as there:
        notes = told_to(there, there.url)
        assert len(there.heard) == 3 and there.heard[0][1]["vram_bytes"] == 123
        assert [("answered" in note) for note in notes] == [True, True, False]
    with pool(*[500] * 9) as there:
        assert len(told_to(there, there.url)) == len(there.heard) == 4
    port = free_port()
    notes = told_to(there, f"http://127.0.0.1:{port}/")
    assert len(notes) == 4 and all(f"no answer from 127.0.0.1:{port}" in note for note in notes)


def test_a_model_that_never_comes_is_never_announced() -> None:
    service = FakeService(state={"verdict": "degraded", "state": "starting", "ready": False})

    async def run() -> None:
        to = callback.parse("w", there.url)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(announce(to, "127.0.0.1", 8101, service, print), 0.5)

    with pool() as there:
        asyncio.run(run())
        assert not there.heard


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--worker-id", "w"], "go together"), (["--callback-url", "http://pool"], "go together"),
        (["--worker-id", "w", "--callback-url", "pool:80"], "http://HOST"),
    ],
)  # fmt: skip
def test_the_flags_of_serve(home: Path, capsys: pytest.CaptureFixture[str], argv: list[str], says: str) -> None:
    assert main(["serve", "alpha", *argv, "--json"]) == 2
    assert says in json.loads(capsys.readouterr().out)["errors"][0]["message"]


def test_serve_announces_the_worker_that_it_is(home: Path, tmp_path: Path, script: Script) -> None:
    spec, port = script("alpha"), free_port()
    (tmp_path / "models.toml").write_text(
        f'[models.alpha]\nartifacts = [{{ format = "script", path = "{spec.engine.path}" }}]\n'
    )
    (tmp_path / "hosts.toml").write_text(f"[hosts.here]\nports = [{port}, {port}]\n")
    with pool() as there:
        argv = [sys.executable, "-m", "llmctl", "--config-dir", str(tmp_path), "serve", "alpha", "--port", str(port)]
        argv += ["--worker-id", "w-1", "--callback-url", there.url]
        ran = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ})
        try:
            eventually(lambda: there.answers)
            assert there.heard[0][1] | {"vram_bytes": 0} == {
                "worker_id": "w-1", "vram_bytes": 0, "uri": f"http://127.0.0.1:{port}",
            }  # fmt: skip
        finally:
            ran.send_signal(signal.SIGINT)
            output = ran.communicate(timeout=60)[0]
    assert ran.returncode == 0 and "Traceback" not in output
