"""Who makes an environment (uv, mamba, micromamba, conda, or venv and pip): the choice, and the command lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmctl.errors import Refused

SHIPPED = "uv"
CONDAS = ("mamba", "micromamba", "conda")


@dataclass(frozen=True)
class Plan:
    """What an environment is made with. `tool` is the manager's program; of venv, the wheel of a pip (None: the pip
    that Python brings). `wheelhouse` None: from the package index. `python` is a path, `version` its "3.11"."""

    folder: Path
    requirements: Path
    python: Path
    version: str
    tool: Path | None
    wheelhouse: Path | None

    @property
    def inside(self) -> Path:
        """The environment's own Python."""
        return self.folder / "bin" / "python"


Commands = list[list[str]]


def uv(plan: Plan) -> Commands:
    """uv fetches no Python of its own; it falls back to copies by itself where there are no hard links."""
    program = [str(plan.tool or "uv"), "--no-config", "--no-python-downloads", "--no-progress"]
    if plan.wheelhouse:
        source = ["--offline", "--no-index", "--find-links", str(plan.wheelhouse)]
    else:
        source = ["--index-strategy", "unsafe-best-match"]  # every index may have it: its hash says whether it is it
    return [
        [*program, "venv", "--offline", "--python", str(plan.python), str(plan.folder)],
        [*program, "pip", "sync", "--python", str(plan.inside), "--require-hashes", "--no-build", *source,
         str(plan.requirements)],
    ]  # fmt: skip


def venv(plan: Plan) -> Commands:
    """Python's own: with a pip that was brought along, or with the one of ensurepip."""
    without = ["--without-pip"] if plan.tool else []
    pip = [str(plan.inside), str(plan.tool / "pip")] if plan.tool else [str(plan.inside), "-m", "pip"]
    return [[str(plan.python), "-m", "venv", *without, str(plan.folder)], [*pip, *_install(plan)]]


def conda(plan: Plan) -> Commands:
    """mamba, micromamba and conda: Python and pip are theirs, everything else comes from the lock."""
    offline = ["--offline"] if plan.wheelhouse else []
    create = [str(plan.tool), "create", "--yes", *offline, "--prefix", str(plan.folder)]
    return [[*create, f"python={plan.version}", "pip"], [str(plan.inside), "-m", "pip", *_install(plan)]]


def _install(plan: Plan) -> list[str]:
    """pip's words; `--isolated` keeps a host's own settings out of what is to come from the wheelhouse alone."""
    here = ["--isolated", "--no-index", "--find-links", str(plan.wheelhouse)] if plan.wheelhouse else []
    words = ["install", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar", "off"]
    return [*words, *here, "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(plan.requirements)]


MANAGERS: Mapping[str, Callable[[Plan], Commands]] = {"uv": uv, **dict.fromkeys(CONDAS, conda), "venv": venv}


def choose(asked: str, tools: Mapping[str, str], can_ship: Sequence[str] = (SHIPPED,)) -> tuple[str, str]:
    """The manager of a host and why; `tools` are the programs there, `can_ship` what can be brought along.

    Refused when what was asked for is not there.
    """
    if asked != "auto":
        if asked == "venv" or asked in tools or asked in can_ship:
            return asked, "asked for"
        there = ", ".join(sorted(tools)) or "none of uv, mamba, micromamba, conda"
        raise Refused(
            f"there is no {asked} (there is {there})", hint='environment = "auto" in hosts.toml takes what there is'
        )
    if SHIPPED in tools:
        return SHIPPED, "it is there, and the fastest"
    if SHIPPED in can_ship:
        return SHIPPED, "the fastest, and brought along where it is missing"
    for name in CONDAS:
        if name in tools:
            return name, "it is there, and no uv can be brought along"
    return "venv", "no other is there, and no uv can be brought along"
