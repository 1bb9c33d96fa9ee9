"""LiteLLM's own environment on this machine: made once from the shipped lock, and never of a release known as bad."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from llmctl.environments import Wanted, build, locks
from llmctl.environments.pins import installed
from llmctl.errors import Refused
from llmctl.gateway.kinds import LITELLM

BAD = ("1.82.7", "1.82.8")
"""Releases that were published with code that steals credentials: never run, whatever asks for them."""


def made(home: Path, note: Callable[[str], None]) -> Path:
    """The Python of the environment, made if it is not there yet, which is noted. DeployFailed or NoSpace where it
    cannot be made."""
    wanted, envs = Wanted(LITELLM, locks.shipped(LITELLM)), home / "gateway" / "envs"
    if not build.is_complete(envs / wanted.folder):
        note(f"making LiteLLM's environment in {envs / wanted.folder}: once, 0.6 GB")
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin") or shutil.which("uv")
    python = build.build(
        wanted, "uv" if uv else "venv", Path(sys.executable), envs,
        wheelhouse=None, tool=Path(uv) if uv else None,
    )  # fmt: skip
    check(python)
    return python


def check(python: Path) -> str:
    """The version of LiteLLM in an environment; Refused where there is none, and for those known as bad."""
    version = installed(LITELLM, python)
    if version is None or not program(python).is_file():
        raise Refused(f"{python} has no LiteLLM", hint="llmctl gateway up --engine litellm, without --python")
    if version in BAD:
        raise Refused(
            f"LiteLLM {version} is known as bad: it was published with code that steals credentials",
            hint=f"remove that environment ({python.parents[1]}), and change the keys that it could see; "
            "llmctl gateway up --engine litellm installs another release",
        )
    return version


def program(python: Path) -> Path:
    return python.with_name("litellm")
