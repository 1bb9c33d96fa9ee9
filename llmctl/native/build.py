"""The job that builds llama.cpp for this CPU: fetch, unpack, compile at low priority, prove in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError, NoSpace, Unsupported
from llmctl.files import locked
from llmctl.jobs.context import Context
from llmctl.native import builds, machine, source
from llmctl.processes import own_environment

NICE = 10
NEEDED = 10**9  # bytes of disk: the source and what the compiler makes of it
LOG_LINES = 30
STEP = re.compile(r"^\[ *(\d+)(?:/(\d+)|%)\]")  # ninja counts, make gives a percentage
PROBE_TIME = 120.0


class BuildFailed(LlmctlError):
    """llama.cpp could not be built or does not work here; `details["log"]` holds the last lines. The wheel serves."""

    code = "build_failed"


def run(arguments: Mapping[str, Any], job: Context) -> Mapping[str, Any]:
    """Build unless it is there; {"path", "made", "seconds", "compiler"}. `home` is the state folder, `jobs` how many
    compilers run at once (0: as many as there are cores)."""
    home = Path(arguments["home"])
    compiler = able()
    one = builds.wanted(compiler)
    path = builds.folder(home) / one.key
    with locked(builds.folder(home) / ".lock", what="the native build"):
        there = builds.library(home)
        if there and there.parents[1] == path and not arguments.get("force"):
            return {"path": str(there), "made": False, "seconds": 0.0, "compiler": compiler.version}
        os.nice(NICE)
        began = time.monotonic()
        try:
            make(home, path, compiler, int(arguments.get("jobs") or 0), job)
            job.progress("prove what was built")
            prove(path / "lib")
        except BuildFailed as error:
            shutil.rmtree(path, ignore_errors=True)
            builds.note(path, replace(one, why=error.message))
            raise
        one = replace(one, seconds=round(time.monotonic() - began, 1))
        builds.note(path, one)
        builds.sweep(home, path)
    job.note("engines that start from now on use it")
    return {"path": str(path / "lib" / builds.LIBRARY), "made": True, "seconds": one.seconds, "compiler": one.compiler}


def able() -> machine.Compiler:
    """The compiler; Unsupported says what is missing here, and what serves instead."""
    if why := builds.able():
        raise Unsupported(f"no native build: {why}")
    compiler = machine.compiler()
    if compiler is None:
        raise Unsupported(
            "no native build: there is no C++ compiler here; llama.cpp's wheel serves, at half the speed",
            hint="apt-get install g++ (or the like), and llmctl native build",
        )
    return compiler


def make(home: Path, path: Path, compiler: machine.Compiler, jobs: int, job: Context) -> None:
    """Compile the libraries into `path`/lib, whole or not at all."""
    folder = builds.folder(home)
    if shutil.disk_usage(folder).free < NEEDED:
        raise NoSpace(f"{folder} needs {NEEDED / 1e9:.0f} GB to build llama.cpp", details={"path": str(folder)})
    if (archive := source.here(home)) is None:
        job.note(f"fetches the source of llama.cpp ({source.SOURCE.archive}, 38 MB) from the package index")
        job.progress("fetch the source of llama.cpp")
        archive = source.SOURCE.fetch(source.places(home)[-1].parent)
    job.note(f"builds llama.cpp for this CPU with {compiler.version}, at low priority")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temp:
        tree, out = Path(temp) / "source", Path(temp) / "build"
        job.progress("unpack llama.cpp")
        source.SOURCE.unpack(archive, tree)
        cmake, ninja = program("cmake", home, Path(temp)), program("ninja", home, Path(temp), needed=False)
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        compilers = [f"-DCMAKE_C_COMPILER={compiler.c}", f"-DCMAKE_CXX_COMPILER={compiler.cpp}"]
        step("configure", [cmake, "-S", str(tree), "-B", str(out), *generator, *compilers, *builds.CMAKE], job)
        parallel = str(jobs or len(os.sched_getaffinity(0)))
        step("compile", [cmake, "--build", str(out), "--parallel", parallel, "--target", *builds.TARGETS], job)
        made = Path(temp) / "made" / "lib"
        made.mkdir(parents=True)
        for file in sorted(out.glob("bin/*.so*")):
            shutil.copy(file, made / file.name, follow_symlinks=False)
        shutil.rmtree(path, ignore_errors=True)
        os.rename(made.parent, path)


def program(name: str, home: Path, temp: Path, *, needed: bool = True) -> str | None:
    """The system's program, else that of a wheel which a deploy brought; BuildFailed when a needed one is missing."""
    if found := machine.tool(name):
        return found
    for wheel in sorted((home / "wheelhouse").glob(f"{name}-*.whl"), reverse=True):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(temp / name)
        for path in (temp / name).glob(f"**/bin/{name}"):
            path.chmod(0o755)
            if machine.said(str(path), "--version"):
                return str(path)
    if needed:
        raise BuildFailed(f"there is no {name} here", hint=f"apt-get install {name}, or pip install {name}")
    return None


def step(stage: str, argv: Sequence[str | None], job: Context) -> None:
    """Run one program, telling how far it is; BuildFailed with its last lines."""
    job.progress(f"{stage} llama.cpp")
    words = [word for word in argv if word]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout
    lines: list[str] = []
    with process:
        for line in process.stdout:
            lines = [*lines[1 - LOG_LINES :], line.rstrip()]
            if told := STEP.match(line):
                job.progress(f"{stage} llama.cpp", int(told[1]), int(told[2] or 100))
    if process.returncode:
        print("\n".join(lines), flush=True)
        raise BuildFailed(
            f"llama.cpp could not be built: {stage} ended with status {process.returncode}", details={"log": lines}
        )


def prove(folder: Path) -> None:
    """Load the library in a process of its own and have it multiply; BuildFailed when that dies or is wrong."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "llmctl.native.probe", str(folder)], env=own_environment(), timeout=PROBE_TIME,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"what was built does not work: no answer in {PROBE_TIME:.0f} s") from None
    if done.returncode:
        how = f"it was killed by signal {-done.returncode}" if done.returncode < 0 else "its check failed"
        raise BuildFailed(
            f"what was built does not work here: {how}", details={"log": done.stdout.strip().splitlines()[-LOG_LINES:]}
        )
