"""Test hosts with this llmctl on them, laid out as a deploy does, on the host's own Python; scripted models only."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tests.conftest import REPO, eventually
from tests.testbed.machines import Machine

HOME = "/home/op/.llmctl"
BASE = f"{HOME}/envs/base-test"
SCRIPT = """\
#!/bin/sh
: "${{LLMCTL_HOME:={home}}}" "${{LLMCTL_CONFIG:={home}/config}}"
export LLMCTL_HOME LLMCTL_CONFIG
PYTHONSAFEPATH=1 PYTHONPATH={home}/releases/{release}/lib exec {base}/bin/python -m {module} "$@"
"""
HOSTS = """\
[hosts.{name}]
transport = "local"
backend = "cpu"
service = "{service}"
"""
MODEL = '[models.{name}]\nartifacts = [{{ format = "script", path = "{path}" }}]\n'


def install(machine: Machine, service: str, release: str = "one", extras: Sequence[str] = ("server",)) -> None:
    """Give the host a release in use and its base environment, with these extras."""
    home = machine.path(HOME)
    home.mkdir(mode=0o700, exist_ok=True)
    if not (home / "envs").exists():
        machine.sh(f"python3 -m venv --without-pip {BASE}")
        site = next(machine.path(f"{BASE}/lib").glob("python3*")) / "site-packages"
        for source, name in _packages(tuple(extras)):
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, site / name)
    add_release(machine, release)
    config = home / "config"
    config.mkdir(exist_ok=True)
    (config / "hosts.toml").write_text(HOSTS.format(name=machine.name, service=service))
    (home / "bin").mkdir(exist_ok=True)
    machine.sh(f"ln -sfn ../current/bin/llmctl {HOME}/bin/llmctl; chown -R op: {HOME}")
    use(machine, release)


def add_release(machine: Machine, release: str) -> None:
    """A copy of this checkout's code as a release."""
    folder = machine.path(f"{HOME}/releases/{release}")
    shutil.copytree(REPO / "llmctl", folder / "lib" / "llmctl", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "bin").mkdir()
    for name, module in {"llmctl": "llmctl", "slot-server": "llmctl.runner.server"}.items():
        script = folder / "bin" / name
        script.write_text(SCRIPT.format(home=HOME, release=release, base=BASE, module=module))
        script.chmod(0o755)
    machine.sh(f"chown -R op: {HOME}/releases")


def use(machine: Machine, release: str) -> None:
    """Flip `current`."""
    machine.sh(f"ln -sfn releases/{release} {HOME}/current", "op")


@cache
def _packages(extras: tuple[str, ...]) -> list[tuple[Path, str]]:
    """(source, path in site-packages) of each file that llmctl with these extras requires."""
    wanted, seen = [("llmctl-fleet", extra) for extra in extras], set[tuple[str, str]]()
    found = []
    while wanted:
        name, extra = wanted.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        distribution = importlib.metadata.distribution(name)
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", extra)):
                wanted.append((requirement.name, "".join(requirement.extras)))
        files = distribution.files or () if name != "llmctl-fleet" else ()
        found += [(Path(str(file.locate())), str(file)) for file in files if ".." not in file.parts]
    return [(source, name) for source, name in set(found) if "__pycache__" not in name and source.is_file()]


class Host:
    """llmctl on a test host, as its user types it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def llmctl(self, words: str, code: int | None = 0, timeout: float = 120) -> dict[str, Any]:
        """A verb with --json, its data and errors; `code` None: whatever becomes of it."""
        ran = self.machine.ran(f"{HOME}/bin/llmctl --json {words}", "op", timeout)
        assert code in (None, ran.returncode), f"{words}: {ran.returncode}: {ran.stdout}{ran.stderr}"
        envelope = json.loads(ran.stdout)
        return {**envelope["data"], "errors": envelope["errors"]}

    def model(self, name: str, **play: Any) -> None:
        """A scripted model (llmctl.engines.scripted) in the host's catalog."""
        path = self.machine.path(f"/home/op/{name}.script.json")
        path.write_text(json.dumps(play))
        models = self.machine.path(f"{HOME}/config/models.toml")
        text = models.read_text() if models.exists() else ""
        models.write_text(text + MODEL.format(name=name, path=f"/home/op/{name}.script.json"))

    def slot(self, port: int) -> dict[str, Any]:
        row: dict[str, Any] = self.llmctl(f"status {port}")["slots"][0]
        return row

    def until(self, port: int, state: str) -> dict[str, Any]:
        """The slot's row once it is in `state`."""
        row: dict[str, Any] = eventually(lambda: (row := self.slot(port))["state"] == state and row, every=0.2)
        return row

    def answers(self, port: int) -> bool:
        """Something listens there and says how it is."""
        return self.machine.ran(f"curl -sf http://127.0.0.1:{port}/health").returncode == 0

    def python(self, code: str, user: str = "op") -> str:
        """What a piece of Python prints in the release in use, with `home` as its state folder."""
        prelude = f"from pathlib import Path\nhome = Path({HOME!r})\n"
        run = f"PYTHONPATH={HOME}/current/lib {BASE}/bin/python -c {shlex.quote(prelude + code)}"
        return self.machine.sh(run, user)

    def ping(self, port: int) -> dict[str, Any]:
        """What the slot server says of itself."""
        asked = f"control.call(home / 'slots' / '{port}' / 'control.sock', 'ping')"
        said = self.python(f"import json\nfrom llmctl.slots import control\nprint(json.dumps({asked}))")
        return dict(json.loads(said))

    def install_units(self, service: str) -> str:
        """What llmctl.units changed so that the host has its unit."""
        return self.python(f"from llmctl import units\nprint(units.get({service!r}).install(home))")

    def show(self, unit: str, *properties: str, user: bool = True) -> list[str]:
        """Properties of a unit, as systemd has them."""
        names = " ".join(f"-p {name}" for name in properties)
        said = self.machine.sh(f"systemctl {'--user' if user else ''} show {names} {unit}", "op")
        found = dict(line.split("=", 1) for line in said.splitlines())
        return [found[name] for name in properties]

    def gone(self, pid: int) -> bool:
        return self.machine.ran(f"kill -0 {pid}").returncode != 0
