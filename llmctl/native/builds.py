"""The native builds of a host: `native/KEY` has `lib`, and `build.json`, which is written last and may say why not."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmctl.domain import build
from llmctl.errors import LlmctlError
from llmctl.files import read_json, write_json
from llmctl.native import machine, source

LIBRARY = "libllama.so"
TARGETS = ("llama", "mtmd")
NO_AMX = "-U__AMX_INT8__"
"""llama.cpp's AMX kernels copy all weights beside the mapped file, were no faster, and died on q8_0 and q4_0."""
CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_NATIVE=ON", "-DGGML_CCACHE=OFF",
    "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_NUMBER=1",
    "-DLLAMA_BUILD_COMMIT=pinned", f"-DCMAKE_C_FLAGS={NO_AMX}", f"-DCMAKE_CXX_FLAGS={NO_AMX}",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", "-DCMAKE_INSTALL_RPATH=$ORIGIN",
)  # fmt: skip
RECIPE = hashlib.sha256(repr((CMAKE, TARGETS)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Build:
    """One build that was tried: of which source, by which recipe and compiler, for which CPU; `why` it does not work,
    else empty. `seconds` it took."""

    cpu: str
    source: str
    recipe: str
    compiler: str
    seconds: float = 0.0
    why: str = ""

    @property
    def key(self) -> str:
        return f"{self.cpu}-{hashlib.sha256(repr((self.source, self.recipe, self.compiler)).encode()).hexdigest()[:12]}"

    @property
    def current(self) -> bool:
        """For this CPU, of the source and by the recipe of this llmctl."""
        return (self.cpu, self.source, self.recipe) == (machine.cpu(), source.SOURCE.sha256, RECIPE)


def folder(home: Path) -> Path:
    """Where all of them are."""
    return home / "native"


def wanted(compiler: machine.Compiler) -> Build:
    """What this host would build now."""
    return Build(machine.cpu(), source.SOURCE.sha256, RECIPE, compiler.version)


def tried(home: Path) -> Iterator[tuple[Path, Build]]:
    """Every build with its folder; a file that cannot be read is none."""
    for path in sorted(folder(home).glob("*/build.json")):
        try:
            yield path.parent, build(Build, read_json(path) or {})
        except (LlmctlError, TypeError, AttributeError):
            continue


def library(home: Path) -> Path | None:
    """The library that engines of this host load instead of the wheel's; None: there is none that works."""
    for path, one in tried(home):
        if one.current and not one.why and (path / "lib" / LIBRARY).is_file():
            return path / "lib" / LIBRARY
    return None


def environment(home: Path) -> dict[str, str]:
    """What the llamacpp engine is told of it."""
    found = library(home)
    return {"LLMCTL_NATIVE": str(found)} if found else {}


def due(home: Path) -> bool:
    """Whether a build would bring something: there is a compiler, and for this CPU none was tried."""
    return able() is None and not any(one.current for _, one in tried(home)) and machine.compiler() is not None


def able() -> str | None:
    """Why nothing is built on this kind of machine; None where it is."""
    if platform.system() == "Darwin":
        return "the wheel of macOS is native already (Metal)"
    return None if platform.system() == "Linux" else f"never tried on {platform.system()}"


def described(home: Path) -> dict[str, Any]:
    """What `native status` answers: which library serves, and why not the native one; the builds that were tried."""
    found, compiler = library(home), machine.compiler()
    failed = next((one.why for _, one in tried(home) if one.current and one.why), None)
    why = able() or failed or (None if compiler else "there is no C++ compiler here") or "it was not built yet"
    return {
        "serves": f"native, {found}" if found else f"the wheel: {why}",
        "library": str(found) if found else None,
        "compiler": compiler.version if compiler else None,
        "cpu": machine.cpu(),
        "builds": [{"key": path.name, **asdict(one)} for path, one in tried(home)],
    }


def remove(home: Path) -> list[str]:
    """Remove all builds; their names."""
    gone = [path for path, _ in tried(home)]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in gone]


def note(path: Path, one: Build) -> None:
    """Write what came of a build beside it."""
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "build.json", asdict(one))


def sweep(home: Path, keep: Path) -> list[str]:
    """Remove this CPU's other builds, which an engine that runs has open; their names."""
    gone = [path for path, one in tried(home) if one.cpu == machine.cpu() and path != keep]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in gone]
