"""What the tests of the host side share: a wheel that is no llmctl, environments that were made, and a lease."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmctl.environments.build import MARKER, python_of
from llmctl.host import lease, steps
from llmctl.host.activation import Wanted


def made_environment(home: Path, folder: str) -> str:
    """A complete environment, as far as anybody looks; its folder's name."""
    python = python_of(home / "envs" / folder)
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    (home / "envs" / folder / MARKER).write_text("uv\n")
    return folder


def wanted(release: str, base: str = "base-1", **config: str) -> Wanted:
    return Wanted(release, {"base": base}, {"hosts.toml": "# of the host\n", **config}, "none")


@dataclass(frozen=True)
class Built:
    """A wheel as it was sent: `engine` is what its engine code says."""

    release: str
    path: Path
    sha256: str


def send_wheel(home: Path, release: str, says: str = "", engine: str = "") -> Built:
    """A wheel of a package `llmctl` with these two modules, in `incoming` as a deploy leaves it."""
    files = {"llmctl/__init__.py": says.encode(), "llmctl/domain.py": engine.encode()}
    rows = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    target = home / "incoming" / f"{release}.whl"
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("llmctl-1.0.dist-info/RECORD", "".join([*rows, "llmctl-1.0.dist-info/RECORD,,\n"]))
    return Built(release, target, hashlib.sha256(target.read_bytes()).hexdigest())


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def tree(home: Path) -> dict[str, str]:
    """All that lies in a state folder, by its path; without caches and locks."""
    found = {}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and "__pycache__" not in name and not name.endswith((".lock", ".guard")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture
def ask(home: Path) -> Asker:
    """Does steps on the state folder of this test: ask("step", key=value) → its data."""
    return Asker(home)


class Asker:
    """One operator's deploy; `begin` takes the lease that all that follows carries."""

    def __init__(self, home: Path, owner: str = "ann@desk", token: str = "a") -> None:
        self.home, self.claim = home, {"token": token, "owner": owner, "message": "why", "ttl": lease.TTL}
        self.lease: dict[str, Any] | None = None
        self.events: list[dict[str, Any]] = []

    def __call__(self, step: str, **request: Any) -> dict[str, Any]:
        if step == "begin":
            request = {"claim": self.claim, **request}
        data = steps.run(self.home, {"step": step, "lease": self.lease, **request}, self.events.append)
        self.lease = data["lease"] if step == "begin" else self.lease
        return data

    def release(self, built: Built) -> dict[str, Any]:
        return self("release", release=built.release, version="1.0", sha256=built.sha256)

    def activate(self, what: Wanted) -> list[str]:
        return list(self("activate", wanted=what.__dict__)["changed"])

    def finish(self, outcome: str = "ok", what: str = "deploy") -> dict[str, Any]:
        return self("finish", audit={"what": what, "outcome": outcome})
