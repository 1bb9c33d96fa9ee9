"""Which environments a host is to have, with hash-locked requirements: those shipped, or solved anew for own pins."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from llmctl import paths
from llmctl.environments import BASE, WITHOUT, Wanted, stack
from llmctl.errors import DeployFailed, Refused, UsageError
from llmctl.files import write_text
from llmctl.fleet.facts import Accelerator, Facts

LOCKS = Path(__file__).parent / "locks"
SHIPPED_CUDA = "cu130"  # the one that the package index has under torch's plain version
BUILDS = "https://download.pytorch.org/whl/"
ONLY_CUDA = ("nvidia-", "cuda-", "triton==")  # what torch's CUDA builds need and its CPU build does not
OLDEST = "3.10"
TURING, BLACKWELL = (7, 5), (10, 0)  # compute capabilities
INDEXES = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX", "PIP_FIND_LINKS": "UV_FIND_LINKS"}
"""pip's words for where packages are, and uv's."""

Pins = Mapping[str, str]


def wanted(
    engines: Collection[str], facts: Facts, pins: Sequence[tuple[str, Pins]] = (), *, solved: Path | None = None
) -> list[Wanted]:
    """The environments of a host with these engines ("convert" may be one): the base always, first.

    `pins` are the stacks of its models: an engine and what they pin (catalog.Model.env). What is solved for them, and
    for a torch that is not shipped here, is kept in `solved` (None: in the state folder). Refused or DeployFailed when
    it cannot be solved; UsageError for an engine without an environment.
    """
    kept = solved or cache() / "locks"
    names = [BASE, *sorted(set(engines) - {*WITHOUT, BASE})]
    plain = [Wanted(name, _built(shipped(name), facts, {}, kept)) for name in names]
    own = {stack(engine, own): _built(shipped(engine), facts, own, kept) for engine, own in pins if own}
    return [*plain, *(Wanted(name, text) for name, text in sorted(own.items()))]


def shipped(name: str) -> str:
    """The text of a lock of this llmctl."""
    path = LOCKS / f"{name}.txt"
    known = sorted(path.stem for path in LOCKS.glob("*.txt"))
    if path.stem not in known:
        raise UsageError(f"no lock for {name[:40]!r}", hint=f"there are {', '.join(known)}")
    return path.read_text(encoding="utf-8")


def cache() -> Path:
    """Where what was solved and fetched for environments is kept on the operator's machine."""
    return paths.home() / "cache"


def tool(name: str) -> Wanted:
    """A program that hosts are brought: "uv", or the "pip" that venv is filled with."""
    return Wanted(name, next(text for text in entries(shipped("tools")) if text.startswith(f"{name}==")))


def torch_build(facts: Facts) -> str:
    """Which build of torch this host runs: "mps", "cpu", or the newest CUDA that its driver does ("cu126", "cu130").

    A build for CUDA 12.6 runs on every driver for CUDA 12, and has the kernels of GPUs from Maxwell to Hopper; that for
    CUDA 13 has those from Turing on. Refused for a driver, or a GPU with a driver, that none of them serves.
    """
    if facts.os == "darwin":
        return "mps"
    drivers = [accelerator for accelerator in facts.accelerators if accelerator.cuda]
    if not drivers:
        return "cpu"
    oldest = min(drivers, key=lambda a: _numbers(a.cuda))
    oldest_gpu, newest_gpu = min(drivers, key=_compute), max(drivers, key=_compute)
    if _numbers(oldest.cuda) >= (13,) and _compute(oldest_gpu) >= TURING:
        return "cu130"
    if _numbers(oldest.cuda) >= (12,):
        if _compute(newest_gpu) < BLACKWELL:
            return "cu126"
        raise Refused(
            f"no build of torch serves {newest_gpu.name} (compute capability {newest_gpu.compute}) together with "
            f"{oldest_gpu.name} and the driver {oldest.driver} (CUDA {oldest.cuda})",
            hint="update the driver to one for CUDA 13, or hide the older GPU with CUDA_VISIBLE_DEVICES",
        )
    raise Refused(
        f"the driver {oldest.driver} of {oldest.name} runs CUDA {oldest.cuda} at most, and torch needs 12 or newer",
        hint='update the driver, or set engines = ["llamacpp"] for this host',
    )


def _compute(accelerator: Accelerator) -> tuple[int, ...]:
    """Its compute capability; one that is not known is taken for a common one."""
    return _numbers(accelerator.compute) or TURING


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version or "")))


def _built(lock: str, facts: Facts, pins: Pins, cache: Path) -> str:
    """The lock for this host's torch and these pins."""
    torch = re.search(r"^torch==(\S+)", lock, re.MULTILINE)
    build = torch_build(facts) if torch else ""
    if build not in ("", "mps", "cpu", SHIPPED_CUDA):
        lock = solve(lock, pins, cache, build)
    elif pins:
        lock = solve(lock, pins, cache, None)
    return _with_cpu_torch(lock) if build == "cpu" else lock


def _with_cpu_torch(lock: str) -> str:
    """The lock with torch's CPU build, and without the gigabytes of CUDA that only the other one needs."""
    kept = [text for text in entries(lock) if not text.startswith(ONLY_CUDA)]
    pin = next(text.split()[0] for text in kept if text.startswith("torch=="))
    builds = [text for text in entries(shipped("torch-builds")) if text.startswith(f"{pin}+cpu ")]
    if not builds:
        raise Refused(f"no hash of the CPU build of {pin} is known", hint="pin the version of torch that llmctl ships")
    kept = [builds[0] if text.startswith("torch==") else text for text in kept]
    return "".join([f"--extra-index-url {BUILDS}cpu\n", *kept])


def entries(lock: str) -> list[str]:
    """The requirements of a lock, each with the lines of its hashes."""
    return re.findall(r"^[A-Za-z0-9][^\n]*\n(?: [^\n]*\n)*", lock, re.MULTILINE)


def solve(lock: str, pins: Pins, cache: Path, build: str | None) -> str:
    """The lock solved anew with these pins and this build of torch; every other version stays where it can.

    Asks the package index once, then the cache. Refused without uv, DeployFailed when nothing meets the pins.
    """
    key = hashlib.sha256(repr((lock, sorted(pins.items()), build)).encode()).hexdigest()[:16]
    kept = cache / f"{key}.txt"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    direct = re.search(r"^# For: (.*)$", lock, re.MULTILINE)
    assert direct, "scripts/locks writes this line"
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        (folder / "in.txt").write_text("\n".join([*direct[1].split(" | "), *(f"{k}=={v}" for k, v in pins.items())]))
        (folder / "out.txt").write_text(lock)  # uv prefers the versions that are there
        argv = [*_uv(), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate", "--no-header"]
        argv += ["--python-version", OLDEST, "--python", sys.executable, "--no-python-downloads"]
        argv += ["--output-file", "out.txt", "in.txt"]
        argv += ["--torch-backend", build] if build else []
        done = subprocess.run(
            argv, cwd=folder, env=_indexes(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            words = ", ".join(f"{name} {pin}" for name, pin in sorted(pins.items())) or f"torch for {build}"
            raise DeployFailed(
                f"no environment with {words} can be locked",
                hint="it takes a route to the package index; change env of the model in models.toml if nothing fits",
                details={"log": done.stderr.strip().splitlines()[-20:]},
            )
        found = (folder / "out.txt").read_text(encoding="utf-8")
    text = f"--extra-index-url {BUILDS}{build}\n{found}" if build else found
    write_text(kept, text)
    return text


def _uv() -> list[str]:
    """The uv of this very Python, or the one on the PATH."""
    if find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    if program := shutil.which("uv"):
        return [program]
    raise Refused("this machine has no uv to lock packages with", hint="pip install 'llmctl-fleet[deploy]'")


def _indexes(environment: Mapping[str, str]) -> dict[str, str]:
    """The operator's environment, in which uv finds the indexes that pip is told of."""
    told = {uv: environment[pip] for pip, uv in INDEXES.items() if environment.get(pip)}
    return {**told, **environment}
