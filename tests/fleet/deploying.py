"""Whole deploys for tests: an operator with several versions of llmctl, and bare hosts over real ssh."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from threading import Event, Thread
from typing import Any

from llmctl import __version__
from llmctl.environments import wheel
from llmctl.slots import verbs
from llmctl.slots.verbs import SlotStatus
from tests.conftest import REPO, eventually, free_port
from tests.environments.conftest import WHEELS
from tests.testbed.sshd import SshHost

FIRST = "from __future__ import annotations\n"
RESUMED = "    resumed = handover.receive"
CHANGES = {
    "same": {},
    "next": {"llmctl/paths.py": (FIRST, f"{FIRST}# the next release\n")},
    "engine": {"llmctl/engines/scripted.py": (FIRST, f"{FIRST}# a release with another engine\n")},
    "dead": {"llmctl/runner/server.py": (FIRST, f"{FIRST}raise SystemExit('this slot server was built broken')\n")},
    "crash": {"llmctl/runner/server.py": (RESUMED, f"    os._exit(3)\n{RESUMED}")},
    "newer": {"llmctl/__init__.py": ('__version__ = "', '__version__ = "9.')},
}
"""Releases by name: files, and what is replaced in each by what."""


SILENCE = 2.0
PATCH = "from llmctl.fleet.deploy.side import HostSide; HostSide"
"""The beginning of Python that changes how the operator's end behaves."""


def told_as(folder: Path, version: str) -> None:
    """What tells a Python that the llmctl in `folder` is installed as that version."""
    info = folder / f"llmctl_fleet-{version}.dist-info"
    info.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        text = distribution("llmctl-fleet").read_text(name) or ""
        (info / name).write_text(text.replace(f"\nVersion: {__version__}\n", f"\nVersion: {version}\n", 1))


def copy(folder: Path, name: str) -> Path:
    """The llmctl of this checkout with a change; a folder for PYTHONPATH."""
    shutil.copytree(REPO / "llmctl", folder / "llmctl", ignore=shutil.ignore_patterns("__pycache__"))
    for path, (old, new) in CHANGES[name].items():
        text = (folder / path).read_text()
        assert old in text, f"{path} has changed: mend CHANGES"
        (folder / path).write_text(text.replace(old, new, 1))
    if name == "newer":
        told_as(folder, f"9.{__version__}")
    return folder


@dataclass(frozen=True)
class Result:
    """What one command line did."""

    code: int
    data: dict[str, Any]
    errors: list[dict[str, Any]]
    err: str

    @property
    def host(self) -> dict[str, Any]:
        """The only host's row."""
        (row,) = self.data["hosts"]
        return dict(row)


@dataclass
class Operator:
    """Somebody with hosts.toml, a state folder, and each of CHANGES as a release."""

    folder: Path
    hosts: Sequence[SshHost]
    ports: Mapping[str, tuple[int, int]]
    codes: dict[str, Path] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)

    def set_up(self) -> None:
        (self.folder / "home" / "cache").mkdir(parents=True)
        (self.folder / "home" / "cache" / "wheels").symlink_to(WHEELS)
        (self.folder / "home" / "known_hosts").write_text("".join(host.known() for host in self.hosts))
        (self.folder / "profiles").mkdir()
        low, high = next(iter(self.ports.values()))
        slots = [f'[[slots]]\nport = {port}\nmodel = "{model}"\n' for port, model in ((low, "alpha"), (high, "beta"))]
        (self.folder / "profiles" / "demo.toml").write_text("\n".join(slots))
        models = []
        for name in ("alpha", "beta", "broken"):
            path = self.folder / f"{name}.json"
            path.write_text(
                json.dumps({"fail": "load"} if name == "broken" else {"answers": {"Who?": f"I am {name}."}})
            )
            models.append(f'[models.{name}]\nartifacts = [{{ format = "script", path = "{path}" }}]\n')
        (self.folder / "models.toml").write_text("".join(models))
        self.configure()

    def configure(self, **ports_of_ssh: int) -> None:
        """Write hosts.toml; the ssh port of a host may be another, as that of a proxy."""
        entries = []
        for host in self.hosts:
            low, high = self.ports[host.name]
            said = {"service": '"none"', "engines": "[]", "ports": f"[{low}, {high}]", **self.more}
            if host.name in ports_of_ssh:
                said["ssh_port"] = str(ports_of_ssh[host.name])
            entries.append(host.entry(**said))
        (self.folder / "hosts.toml").write_text("\n".join(entries))

    def trust(self, line: str) -> None:
        with open(self.folder / "home" / "known_hosts", "a") as file:
            file.write(line)

    def code(self, name: str) -> Path:
        if name not in self.codes:
            self.codes[name] = copy(self.folder / "code" / name, name)
        return self.codes[name]

    def wheel(self, code: str) -> Path:
        """The wheel of a release, as a deploy makes it."""
        folder = self.folder / "wheels" / code
        if not folder.exists():
            script = "import pathlib, sys; from llmctl.environments import wheel; wheel.make(pathlib.Path(sys.argv[1]))"
            told = {**os.environ, "PYTHONPATH": str(self.code(code)), "PYTHONSAFEPATH": "1"}
            subprocess.run([sys.executable, "-c", script, folder], env=told, check=True)
        return next(folder.glob("*.whl"))

    def release(self, code: str) -> str:
        """Its id."""
        return wheel.release_id(self.wheel(code))

    def argv(self, *words: object, code: str = "same", before: str = "") -> list[str]:
        script = f"import sys\n{before}\nfrom llmctl.__main__ import main\nsys.exit(main())"
        return [sys.executable, "-c", script, "--json", "--yes", *map(str, words)]

    def start(self, *words: object, code: str = "same", before: str = "", **env: str) -> subprocess.Popen[str]:
        told = {**os.environ, "LLMCTL_HOME": str(self.folder / "home"), "LLMCTL_CONFIG": str(self.folder), **env}
        told |= {"PYTHONPATH": str(self.code(code)), "PYTHONSAFEPATH": "1"}
        return subprocess.Popen(
            self.argv(*words, code=code, before=before), env=told, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, cwd=self.folder,
        )  # fmt: skip

    def __call__(self, *words: object, code: str = "same", before: str = "", **env: str) -> Result:
        """Run `llmctl WORDS --json` of release `code`; `before` is Python that runs first."""
        return finish(self.start(*words, code=code, before=before, **env))

    def deploy(self, *words: object, code: str = "same", before: str = "", **env: str) -> Result:
        """Deploy with the profile to the first host."""
        return self(*self.to(*words), code=code, before=before, **env)

    def to(self, *words: object) -> list[object]:
        return ["deploy", self.hosts[0].name, "--profile", "demo", "--offline", *words]


def finish(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    if process.returncode < 0:
        return Result(process.returncode, {}, [], err)
    envelope = json.loads(out)
    assert envelope["exit_code"] == process.returncode
    return Result(process.returncode, envelope["data"], envelope["errors"], err)


def state(host: SshHost) -> Path:
    return host.home / ".llmctl"


def tree(host: SshHost) -> dict[str, str]:
    """All that a deploy manages on a host, by its path; what slots and Python itself write left out."""
    found = {}
    for path in sorted(host.home.rglob("*")):
        name = str(path.relative_to(host.home))
        if "__pycache__" in name or "/slots/" in name or "/proof/" in name:
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def slots(host: SshHost) -> dict[int, SlotStatus]:
    return {slot.port: slot for slot in verbs.status(state(host))}


def running(host: SshHost) -> dict[int, tuple[int | None, int | None]]:
    """The pids of the slot server and of the engine of each slot."""
    return {port: (slot.runner_pid, slot.pid) for port, slot in slots(host).items()}


def current(host: SshHost) -> str | None:
    link = state(host) / "current"
    return link.readlink().name if link.is_symlink() else None


def audit(host: SshHost) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state(host) / "audit.log").read_text().splitlines()]


def new_ports() -> tuple[int, int]:
    low = free_port()
    return low, next(port for port in iter(free_port, None) if port > low)


@dataclass
class Load:
    """What happened to requests while something else went on."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)


@contextmanager
def load_on(port: int) -> Iterator[Load]:
    """A client that asks the slot on `port` all the while, each time on a connection of its own."""
    import httpx

    load, done = Load(), Event()
    body = {"model": "default", "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 8}

    def ask() -> None:
        while not done.is_set():
            try:
                answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
            except httpx.HTTPError as error:
                load.failed.append(repr(error))
            else:
                if answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]:
                    load.answered += 1
                else:
                    load.failed.append(answer.text)
            time.sleep(0.02)

    threads = [Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        done.set()
        for thread in threads:
            thread.join()


def other(operator: Operator) -> str:
    """The one of two releases that is not in use; the host has it no more."""
    code = "next" if operator.release("same") == current(operator.hosts[0]) else "same"
    shutil.rmtree(state(operator.hosts[0]) / "releases" / operator.release(code), ignore_errors=True)
    return code


def assert_serving(operator: Operator) -> None:
    with load_on(operator.ports["h1"][0]) as load:
        eventually(lambda: load.answered or load.failed)
    assert not load.failed
