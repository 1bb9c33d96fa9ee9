"""The native build of llama.cpp: its source is the pinned one, its build is proven, and the wheel serves without it."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.errors import LlmctlError, Refused, Unsupported
from llmctl.jobs.context import Silent
from llmctl.native import build, builds, machine, source
from llmctl.runner.engine_process import worker_environment
from llmctl.sdist import Sdist

COMPILER = machine.Compiler("/usr/bin/cc", "/usr/bin/c++", "c++ 1.0")
XEON = "processor : 0\nmodel name : Xeon\ncpu MHz : {}\nflags : {}\n\nprocessor : 1\nmodel name : Xeon\nflags : sse\n"


def test_the_source_is_that_of_the_pinned_wheel():
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text()
    assert f"{source.SOURCE.project}=={source.VERSION}" in constraints


def test_a_cpu_is_what_it_can_do():
    first = machine.kind(XEON.format(2600, "fpu avx2 sse"), "x86_64")
    assert machine.kind(XEON.format(3100, "sse avx2 fpu"), "x86_64") == first
    assert machine.kind(XEON.format(2600, "fpu avx2 sse avx512f"), "x86_64") != first
    assert machine.kind(XEON.format(2600, "fpu avx2 sse"), "aarch64") != first
    assert first.startswith("x86_64-")


def test_a_build_is_known_by_all_that_made_it():
    one = builds.Build("cpu", "source", "recipe", "compiler")
    others = [replace(one, **{name: "other"}) for name in ("cpu", "source", "recipe", "compiler")]
    assert len({one.key, *(other.key for other in others)}) == 5
    assert replace(one, why="no", seconds=5.0).key == one.key


# ── which library serves ────────────────────────────────────────────────────────────────────────────────────────────


def made(home, **fields):
    """A build that is there, as far as its files tell."""
    one = replace(builds.wanted(COMPILER), **fields)
    path = builds.folder(home) / one.key
    (path / "lib").mkdir(parents=True)
    (path / "lib" / builds.LIBRARY).touch()
    builds.note(path, one)
    return path


def test_engines_are_told_of_a_build_that_works(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCTL_HOME", str(tmp_path))
    assert "LLMCTL_NATIVE" not in worker_environment({})
    path = made(tmp_path)
    assert worker_environment({})["LLMCTL_NATIVE"] == str(path / "lib" / builds.LIBRARY)


@pytest.mark.parametrize(
    "fields",
    [{"cpu": "another"}, {"source": "older"}, {"recipe": "older"}, {"why": "it was killed by signal 4"}],
    ids=str,
)
def test_a_build_for_something_else_serves_nobody(tmp_path, fields):
    made(tmp_path, **fields)
    assert builds.library(tmp_path) is None
    assert builds.environment(tmp_path) == {}


def test_a_build_that_was_not_finished_is_none(tmp_path):
    path = made(tmp_path)
    (path / "build.json").unlink()
    assert builds.library(tmp_path) is None
    (path / "build.json").write_text("{torn")
    assert builds.library(tmp_path) is None
    shutil.rmtree(path)
    path = made(tmp_path)
    (path / "lib" / builds.LIBRARY).unlink()
    assert builds.library(tmp_path) is None


def test_what_was_tried_is_not_due_again(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "compiler", lambda: COMPILER)
    assert builds.due(tmp_path)
    path = made(tmp_path, why="it was killed by signal 4")
    assert not builds.due(tmp_path)
    assert "it was killed by signal 4" in builds.described(tmp_path)["serves"]
    shutil.rmtree(path)
    made(tmp_path, source="older")
    assert builds.due(tmp_path)
    monkeypatch.setattr(machine, "compiler", lambda: None)
    assert not builds.due(tmp_path)


def test_on_a_mac_nothing_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(builds.platform, "system", lambda: "Darwin")
    assert not builds.due(tmp_path)
    with pytest.raises(Unsupported, match="Metal"):
        build.able()


def test_without_a_compiler_the_wheel_serves_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match=r"no C\+\+ compiler here; llama\.cpp's wheel serves") as caught:
        build.run({"home": str(tmp_path)}, Silent())
    assert "apt-get install g++" in caught.value.hint
    assert builds.described(tmp_path)["serves"] == "the wheel: there is no C++ compiler here"


def test_older_builds_of_this_cpu_are_swept(tmp_path):
    kept, older, others = made(tmp_path), made(tmp_path, source="older"), made(tmp_path, cpu="another")
    assert builds.sweep(tmp_path, kept) == [older.name]
    assert kept.exists() and others.exists()
    assert sorted(builds.remove(tmp_path)) == sorted([kept.name, others.name])
    assert builds.library(tmp_path) is None


# ── the source ──────────────────────────────────────────────────────────────────────────────────────────────────────


def archive(path, *members):
    """A source distribution with these members: (name, bytes), or (name, TarInfo type, target)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, *what in members:
            info = tarfile.TarInfo(source.SOURCE.inside + name)
            if isinstance(what[0], bytes) and len(what) == 1:
                info.size = len(what[0])
                tar.addfile(info, io.BytesIO(what[0]))
            else:
                info.type, info.linkname = what
                tar.addfile(info)
    return path


@pytest.mark.parametrize("place", [0, 1])
def test_an_archive_with_another_hash_is_not_unpacked(tmp_path, place):
    path = source.places(tmp_path)[place]
    path.parent.mkdir(parents=True)
    archive(path, ("CMakeLists.txt", b"evil"))
    with pytest.raises(Refused, match="not c17ee116"):
        source.here(tmp_path)
    with pytest.raises(Refused, match="not c17ee116"):
        source.SOURCE.fetch(path.parent)


@pytest.mark.parametrize(
    "member",
    [("src/../../../evil", b"x"), ("src/link", tarfile.SYMTYPE, "/etc/passwd"),
     ("src/hard", tarfile.LNKTYPE, "/etc/passwd"),     ("src/device", tarfile.CHRTYPE, "")],
    ids=lambda member: member[0],
)  # fmt: skip
def test_an_archive_with_a_way_out_is_refused(tmp_path, member):
    path = archive(tmp_path / "a.tar.gz", ("CMakeLists.txt", b"fine"), member)
    with pytest.raises(Refused, match="does not unpack"):
        source.SOURCE.unpack(path, tmp_path / "in")
    assert not (tmp_path / "evil").exists()


def test_what_the_libraries_are_not_built_of_stays_packed(tmp_path):
    path = archive(
        tmp_path / "a.tar.gz", ("CMakeLists.txt", b"fine"), ("src/llama.cpp", b"code"), ("docs/x.md", b"long")
    )
    source.SOURCE.unpack(path, tmp_path / "in")
    found = {str(p.relative_to(tmp_path / "in")) for p in (tmp_path / "in").rglob("*") if p.is_file()}
    assert found == {"CMakeLists.txt", "src/llama.cpp"}


# ── building, with small programs in place of llama.cpp ─────────────────────────────────────────────────────────────

needs_compiler = pytest.mark.skipif(machine.compiler() is None or machine.tool("cmake") is None, reason="no compiler")
PROJECT = b"""cmake_minimum_required(VERSION 3.14)
project(small C)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(llama SHARED src/llama.c)
add_library(mtmd SHARED src/llama.c)
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Puts a small project in the place of the source; `run()` builds it."""

    def put(code):
        path = source.places(tmp_path)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        archive(path, ("CMakeLists.txt", PROJECT), ("src/llama.c", code))
        return lambda **more: build.run({"home": str(tmp_path), "jobs": 1, **more}, Silent())

    monkeypatch.setattr(Sdist, "check", lambda self, path: None)
    monkeypatch.setattr(os, "nice", lambda by: by)
    return put


@needs_compiler
def test_a_build_that_dies_on_a_wrong_instruction_is_remembered(small, tmp_path):
    run = small(b"__attribute__((constructor)) static void trap(void) { __builtin_trap(); }\n")
    with pytest.raises(build.BuildFailed, match="killed by signal"):
        run()
    assert builds.library(tmp_path) is None and not builds.due(tmp_path)
    assert [one.why for _, one in builds.tried(tmp_path)] == [
        "what was built does not work here: it was killed by signal 4"
    ]
    assert not list(builds.folder(tmp_path).glob("*/lib")), "the libraries of a build that does not work were kept"


@needs_compiler
def test_a_library_that_is_another_is_no_build(small, tmp_path):
    run = small(b"int nothing(void) { return 0; }\n")
    with pytest.raises(build.BuildFailed, match="its check failed") as caught:
        run()
    assert "undefined symbol: llama_" in " ".join(caught.value.details["log"])
    assert builds.library(tmp_path) is None


@needs_compiler
def test_source_that_does_not_compile_says_where(small, tmp_path):
    run = small(b"int broken(void) { return }\n")
    with pytest.raises(build.BuildFailed, match="compile ended with status") as caught:
        run()
    assert "llama.c" in " ".join(caught.value.details["log"])
    assert not list(builds.folder(tmp_path).glob(".*/")), "what it was built in was left"


@needs_compiler
def test_what_works_is_built_once(small, tmp_path, monkeypatch):
    run = small(b"int works(void) { return 0; }\n")
    monkeypatch.setattr(build, "prove", lambda folder: None)
    first = run()
    assert first["made"] and Path(first["path"]) == builds.library(tmp_path)
    assert not run()["made"]
    before = Path(first["path"]).stat().st_ino
    assert run(force=True)["made"]
    assert Path(first["path"]).stat().st_ino != before


def test_cmake_of_a_wheel_serves_where_the_system_has_none(tmp_path, monkeypatch):
    import zipfile

    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.BuildFailed, match="no cmake here"):
        build.program("cmake", tmp_path, tmp_path)
    assert build.program("ninja", tmp_path, tmp_path, needed=False) is None
    (tmp_path / "wheelhouse").mkdir()
    with zipfile.ZipFile(tmp_path / "wheelhouse" / "cmake-4.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("cmake/data/bin/cmake", "#!/bin/sh\necho cmake version 4\n")
    found = build.program("cmake", tmp_path, tmp_path / "temp")
    assert subprocess.run([found, "--version"], capture_output=True, text=True).stdout == "cmake version 4\n"


def test_a_job_knows_the_work():
    from llmctl.jobs import kinds

    assert kinds.load("native") is build.run
    assert isinstance(build.BuildFailed("x"), LlmctlError)
    json.dumps(builds.described(Path("/nonexistent")))
