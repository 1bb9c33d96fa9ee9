"""Makes an environment on the host, at its final place, out of a wheelhouse or from the index; or finds it made.

It counts as made when its marker is there, which is written last. A half-made one is removed and made anew. The lock
is inherited by the programs at work, so that what a killed builder left running is waited for.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from llmctl.environments import Wanted
from llmctl.environments.managers import MANAGERS, Plan
from llmctl.errors import DeployFailed, LlmctlError, NoPython, NoSpace
from llmctl.files import locked, sync

MARKER = ".llmctl-complete"
UV_CACHE = ".uv-cache"
LOG_LINES = 20
SCRAPS = 16 * 2**20  # with fewer bytes free than that, this is why it failed
OnLine = Callable[[str], None]

FULL = ("no space left on device", "os error 28", "disk quota exceeded", "os error 122")
TAMPERED = ("hash mismatch", "do not match the hashes", "hashes are required", "has hash mismatch")
ABSENT = ("no solution found", "no matching distribution", "could not find a version", "has no wheels", "not found in")

_LIBRARY = re.compile(r"(lib\S+?\.so[\d.]*): cannot open shared object")
SYSTEM_PACKAGES = {"libgomp.so.1": "libgomp1 (Debian, Ubuntu; libgomp on Fedora)"}


def python_of(folder: Path) -> Path:
    """The Python of an environment's folder."""
    return folder / "bin" / "python"


def is_complete(folder: Path) -> bool:
    """It was made to its end, and its Python is still there."""
    return (folder / MARKER).is_file() and python_of(folder).exists()


def build(
    wanted: Wanted,
    manager: str,
    python: Path,
    envs: Path,
    *,
    wheelhouse: Path | None,
    tool: Path | None,
    on_line: OnLine = lambda line: None,
) -> Path:
    """The environment's Python, made if it is not there yet. `tool` is the manager's program (managers.Plan).

    With a wheelhouse no index is asked. NoPython, NoSpace, or DeployFailed with the program's last lines in `details`.
    """
    folder = envs / wanted.folder
    if is_complete(folder):
        return python_of(folder)
    try:
        envs.mkdir(parents=True, exist_ok=True)
        with locked(envs / f".{wanted.folder}.lock", what=f"the environment {wanted.name}") as lock:
            if is_complete(folder):
                return python_of(folder)
            _remove(folder)
            try:
                _make(wanted, manager, python, folder, wheelhouse, tool, on_line, lock)
            except BaseException:
                _remove(folder)
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(wanted, envs, []) from None
        raise DeployFailed(f"the environment {wanted.name} cannot be made: {error}") from error
    return python_of(folder)


def _make(
    wanted: Wanted,
    manager: str,
    python: Path,
    folder: Path,
    wheelhouse: Path | None,
    tool: Path | None,
    on_line: OnLine,
    lock: int,
) -> None:
    requirements = folder.with_name(f".{folder.name}.txt")
    requirements.write_text(wanted.requirements)
    try:
        plan = Plan(folder, requirements, python, _version(python), tool, wheelhouse)
        for argv in MANAGERS[manager](plan):
            _run(argv, wanted, folder.parent, bool(wheelhouse), on_line, lock)
    finally:
        requirements.unlink()
    if not python_of(folder).exists():
        raise DeployFailed(f"{manager} made no Python in {folder}")
    if wanted.proof:
        proof = [str(python_of(folder)), "-c", f"import {', '.join(wanted.proof)}"]
        _run(proof, wanted, folder.parent, bool(wheelhouse), on_line, lock)
    os.sync()  # before the marker: after a power cut it must not stand for files that are not there
    with open(folder / MARKER, "x") as file:
        file.write(f"{manager}\n")
        file.flush()
        os.fsync(file.fileno())
    sync(folder)
    sync(folder.parent)


def _version(python: Path) -> str:
    """ "3.11" of an interpreter; NoPython when it does not run, or has no venv to make environments with."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoPython(f"{python} does not run: {error}", hint="install Python 3.10 or newer there") from None
    if done.returncode:
        raise NoPython(
            f"{python} does not run", hint="install Python 3.10 or newer there", details={"log": _last(done.stderr)}
        )
    return done.stdout.strip()


def _run(argv: list[str], wanted: Wanted, envs: Path, offline: bool, on_line: OnLine, lock: int) -> None:
    """One program to its end; its lines go to `on_line`, its failure is a typed error."""
    last: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", env=environment(envs, offline), pass_fds=(lock,),
        )  # fmt: skip
    except OSError as error:
        raise DeployFailed(f"the environment {wanted.name}: cannot start {argv[0]}: {error}") from None
    with process:
        assert process.stdout
        try:
            for line in process.stdout:
                last.append(line.rstrip())
                on_line(last[-1])
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise failure(wanted, envs, argv, process.returncode, list(last))


def environment(envs: Path, offline: bool, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the programs see: nothing of another Python, and of the host's own indexes only where they may be asked."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")
    kept = {k: v for k, v in base.items() if k not in ours and not (offline and k.startswith(("PIP_", "UV_")))}
    told = {"UV_CACHE_DIR": str(envs / UV_CACHE), "LC_ALL": "C.UTF-8"}
    # uv brings certificates of its own, and those of an index behind a company's proxy are only in the system's
    return {"UV_SYSTEM_CERTS": "1", **kept, **told} if _has_certificates() else {**kept, **told}


def _has_certificates() -> bool:
    return bool(ssl.get_default_verify_paths().cafile)


def failure(wanted: Wanted, envs: Path, argv: list[str], status: int, log: list[str]) -> LlmctlError:
    """The typed error that a program's last lines mean."""
    said = "\n".join(log).casefold()
    full = shutil.disk_usage(envs).free < SCRAPS  # venv does not say why its ensurepip failed
    if full or any(word in said for word in FULL):
        return _no_space(wanted, envs, log)
    what = f"the environment {wanted.name}"
    if any(word in said for word in TAMPERED):
        return DeployFailed(
            f"{what}: a package does not have the hash that its lock names, and was not installed",
            hint="remove it from the wheelhouse and deploy again: it is fetched anew",
            details={"log": log},
        )
    if library := _LIBRARY.search(said):
        package = SYSTEM_PACKAGES.get(library[1], f"the package that has {library[1]}")
        return DeployFailed(
            f"{what}: this host lacks the system library {library[1]}",
            hint=f"install {package} there, and deploy again",
            details={"log": log},
        )
    if "ensurepip" in said:
        return DeployFailed(
            f"{what}: this host's Python has no pip to make environments with",
            hint='apt-get install python3-venv there, or environment = "uv" in hosts.toml',
            details={"log": log},
        )
    if any(word in said for word in ABSENT):
        return DeployFailed(f"{what}: a package is missing", hint="its last lines name it", details={"log": log})
    end = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return DeployFailed(f"{what}: {Path(argv[0]).name} {end}", details={"log": log})


def _no_space(wanted: Wanted, envs: Path, log: list[str]) -> NoSpace:
    free = shutil.disk_usage(envs).free
    return NoSpace(
        f"no room for the environment {wanted.name} in {envs}",
        hint="free some, or `llmctl deploy HOST --prune` removes old releases",
        details={"path": str(envs), "free": free, "log": log},
    )


def sweep(envs: Path, keep: Collection[str]) -> list[str]:
    """Remove the environments whose folders are not in `keep`, and what uv kept of their packages; their names."""
    gone = [path for path in sorted(envs.glob("[!.]*")) if path.is_dir() and path.name not in keep]
    for folder in gone:
        with locked(envs / f".{folder.name}.lock", what=f"the environment {folder.name}"):
            _remove(folder)
        (envs / f".{folder.name}.lock").unlink(missing_ok=True)
    if gone:
        shutil.rmtree(envs / UV_CACHE, ignore_errors=True)
    return [folder.name for folder in gone]


def _remove(folder: Path) -> None:
    """Its marker first: an environment that is half gone must not count as made."""
    (folder / MARKER).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _last(text: str) -> list[str]:
    return text.strip().splitlines()[-LOG_LINES:]
