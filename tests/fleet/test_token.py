"""The token of Hugging Face: to a host by stdin, 0600 there, used where there is no other, and shown nowhere (S9)."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl import hf_token
from llmctl.errors import UsageError
from llmctl.jobs.state import Jobs
from llmctl.jobs.worker import Worker
from tests.conftest import REPO, eventually
from tests.models.making import make_folder
from tests.testbed.hub import Hub
from tests.testbed.sshd import SshHost, needs_sshd, ssh_hosts

TOKEN = "hf_planted_secret_0123456789"

_PROGRAM = """\
#!/bin/sh
LLMCTL_CONFIG=$HOME/.llmctl/config; HF_HOME=$HOME/hf; HF_ENDPOINT={hub}
export LLMCTL_CONFIG HF_HOME HF_ENDPOINT
exec {python} -m llmctl "$@"
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as running:
        make_folder(running.root / "org" / "model")
        running.gate = TOKEN
        running.fault("gated")
        yield running


class Operator:
    """Types commands with a configuration in which h1 is reached by ssh."""

    def __init__(self, folder: Path, host: SshHost, home: Path) -> None:
        self.host, self.home = host, home
        self.seen: list[str] = []
        folder.mkdir(exist_ok=True)
        (folder / "hosts.toml").write_text('default = "here"\n[hosts.here]\n' + host.entry())
        (home / "known_hosts").write_text(host.known())
        gone = ("HF_", "HUGGING", "SSH_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(gone)}
        self.environment |= {"LLMCTL_HOME": str(home), "LLMCTL_CONFIG": str(folder), "HF_HOME": str(home / "hf")}

    def types(self, *words: str, stdin: str | None = None, **environment: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr; meanwhile the command lines of all processes are looked at."""
        process = subprocess.Popen(
            [sys.executable, "-m", "llmctl", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**self.environment, **environment}, cwd=self.home,
        )  # fmt: skip
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,))
        watcher.start()
        try:
            out, err = process.communicate(stdin or "", timeout=120)
        finally:
            over.set()
            watcher.join()
        return process.returncode, out, err

    def _watch(self, over: threading.Event) -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                if TOKEN.encode() in line:
                    self.seen.append(line.decode(errors="replace"))
                if b"host\0token" in line:
                    self.seen.append("the verb itself")


@pytest.fixture
def operator(tmp_path: Path, home: Path, hub: Hub) -> Iterator[Operator]:
    with ssh_hosts(tmp_path / "hosts", ("h1",)) as (host,):
        host.install()
        program = host.home / ".llmctl" / "bin" / "llmctl"
        program.write_text(_PROGRAM.format(hub=hub.url, python=REPO / ".venv" / "bin" / "python"))
        host.configure("[hosts.h1]\n")
        yield Operator(tmp_path / "config", host, home)


def kept(operator: Operator) -> Path:
    return operator.host.home / ".llmctl" / "hf_token"


@needs_sshd
def test_s09_the_token_goes_by_stdin_and_is_shown_nowhere(operator: Operator, hub: Hub) -> None:
    said = [operator.types("hosts", "token", "h1", "--debug", stdin=f"{TOKEN}\n")]
    assert said[0][0] == 0 and "h1  has the token" in said[0][1], said
    assert kept(operator).read_text() == f"{TOKEN}\n" and kept(operator).stat().st_mode & 0o777 == 0o600
    assert "the verb itself" in operator.seen  # the watch did see the host's command line
    assert [line for line in operator.seen if TOKEN in line] == []
    said.append(operator.types("pull", "org/model", "--host", "h1", "--debug"))
    assert said[-1][0] == 0, said
    said.append(operator.types("pull", "org/none", "--host", "h1", "--debug"))
    said.append(operator.types("jobs", "logs", "1", "--host", "h1", "--debug"))
    assert said[-2][0] == 1
    assert {seen.token for seen in hub.log if "org/" in seen.path} == {f"Bearer {TOKEN}"}
    assert [text for _, *texts in said for text in texts if TOKEN in text] == []
    assert [line for line in operator.seen if TOKEN in line] == []
    written = [path for path in operator.host.folder.rglob("*") if path.is_file() and path != kept(operator)]
    written += [path for path in operator.home.rglob("*") if path.is_file()]
    assert len(written) > 10 and [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    code, out, _ = operator.types("hosts", "token", "h1", "--remove", "--json")
    assert code == 0 and json.loads(out)["data"]["tokens"] == [{"host": "h1", "stored": False, "removed": True}]
    assert not kept(operator).exists()


@needs_sshd
def test_s09_an_error_on_the_way_does_not_show_it(operator: Operator) -> None:
    operator.host.stop()
    code, out, err = operator.types("hosts", "token", "h1", "--debug", stdin=TOKEN)
    assert code == 4 and TOKEN not in out + err
    code, out, err = operator.types("hosts", "token", "h1", "--debug", stdin=f"{TOKEN} with more")
    assert code == 2 and TOKEN not in out + err and "this is no token" in err


@needs_sshd
def test_from_a_variable(operator: Operator) -> None:
    assert operator.types("hosts", "token", "h1", "--from-env", "MY_TOKEN", MY_TOKEN=TOKEN)[0] == 0
    assert kept(operator).read_text() == f"{TOKEN}\n"
    code, _, err = operator.types("hosts", "token", "h1", "--from-env", "NO_SUCH")
    assert code == 2 and "'NO_SUCH' is not set" in err


@needs_sshd
def test_s09_what_is_typed_at_a_terminal_is_not_shown(operator: Operator) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmctl", "hosts", "token", "h1"], stdin=theirs, stdout=theirs, stderr=theirs,
        env=operator.environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""

    def read() -> bool:
        nonlocal shown
        shown += os.read(ours, 4096)
        return b"Token of Hugging Face" in shown

    eventually(read)
    eventually(lambda: not termios.tcgetattr(ours)[3] & termios.ECHO)  # what is typed before is thrown away
    os.write(ours, f"{TOKEN}\n".encode())
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:  # the other end is closed
        pass
    assert process.wait(60) == 0, shown
    os.close(ours)
    assert TOKEN.encode() not in shown and b"has the token" in shown
    assert kept(operator).read_text() == f"{TOKEN}\n"


def test_the_hubs_own_places_come_first(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert hf_token.fallback() is None
    hf_token.store(home, TOKEN)
    assert hf_token.fallback() == TOKEN
    monkeypatch.setenv("HF_TOKEN", "hf_another_0123")
    assert hf_token.fallback() is None


def test_s09_a_job_hides_the_token_that_is_kept(home: Path) -> None:
    hf_token.store(home, TOKEN)
    jobs = Jobs(home)
    jobs.folder(1).mkdir(parents=True)
    worker = Worker(jobs, 1)
    worker.log.close()
    assert worker.secrets.hide(f"the hub did not like {TOKEN}") == "the hub did not like ***"


@pytest.mark.parametrize("text", ["", " \n", "hf_a hf_b", "hf_\x00", "hf_ä", "x" * 600, "a\nb"])
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        hf_token.check(text)
    assert caught.value.hint and (not text.strip() or text not in caught.value.message)


def test_hosts_must_be_named(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    from llmctl.__main__ import main

    assert main(["hosts", "token", "--json"]) == 2
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["errors"][0]["hint"] == "llmctl hosts token HOST"
