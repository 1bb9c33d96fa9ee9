"""What the tests of environments share: this machine as a host, its wheels fetched once, and wheels of their own."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import sys
import zipfile
from pathlib import Path

import pytest

from llmctl.environments import Wanted, locks, wheelhouse
from llmctl.errors import DeployFailed
from llmctl.fleet.facts import Facts

WHEELS = Path.home() / ".cache" / "llmctl-testbed" / "wheels"
PYTHON = sys.version_info[:3]
UV = Path(sys.executable).with_name("uv")


def facts_here() -> Facts:
    """This machine, as a host without a GPU."""
    libc = " ".join(platform.libc_ver())
    return Facts("linux", "", platform.machine(), libc, "", 2, 0, 0, "", os.getuid(), str(Path.home()))


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse with the base and llamacpp for this machine, and uv and pip; fetched once for all runs."""
    wanted = [*locks.wanted(["llamacpp"], facts_here()), locks.tool("uv"), locks.tool("pip")]
    try:
        found = wheelhouse.collect(wanted, PYTHON, facts_here(), WHEELS)
    except DeployFailed as error:
        pytest.skip(f"needs the package index once: {error}")
    folder = tmp_path_factory.mktemp("house")
    wheelhouse.fill(folder, found)
    return folder


def base() -> Wanted:
    """The base environment."""
    return locks.wanted([], facts_here())[0]


def make_wheel(
    folder: Path, name: str, version: str, tag: str = "py3-none-any", says: str = "", extra: int = 0, code: str = ""
) -> Path:
    """A real wheel of one module `name` with SAYS and `code` in it, and `extra` bytes that do not compress."""
    info, files = f"{name}-{version}.dist-info", {f"{name}.py": f"SAYS = {says!r}\n{code}\n".encode()}
    if extra:
        files[f"{name}_data.bin"] = os.urandom(extra)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    rows = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, content in files.items():
            archive.writestr(inside, content)
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def lock_of(*paths: Path) -> str:
    """A lock of wheels, in the shape of scripts/locks."""
    pins = [(path.name.split("-")[0], path.name.split("-")[1], wheelhouse.sha256(path)) for path in paths]
    return "".join(f"{name}=={version} \\\n    --hash=sha256:{digest}\n" for name, version, digest in pins)
