"""llama.cpp built for this CPU with its own server, once, from the source and by the recipe of `llmctl native`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from llmctl.native import build, builds, source

CACHE = Path.home() / ".cache" / "llmctl-bench"
SERVER = ("-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_TOOLS=ON")


def built() -> Path:
    """The folder of its programs and libraries."""
    folder = CACHE / f"llama.cpp-{source.SOURCE.sha256[:8]}-{builds.RECIPE}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        archive = source.SOURCE.fetch(CACHE)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".") as temp:
            tree, out = Path(temp) / "source", Path(temp) / "build"
            source.SOURCE.unpack(archive, tree)
            subprocess.run(["cmake", "-S", tree, "-B", out, *builds.CMAKE, *SERVER], check=True)
            jobs = str(os.cpu_count() or 2)
            targets = [*builds.TARGETS, "llama-server"]
            subprocess.run(["cmake", "--build", out, "--parallel", jobs, "--target", *targets], check=True)
            (out / "bin").rename(folder)
    return folder


def give(home: Path) -> None:
    """Let the slots of a state folder use the library, as if `llmctl native build` had run there."""
    one = builds.wanted(build.able())
    path = builds.folder(home) / one.key
    shutil.copytree(built(), path / "lib", symlinks=True)
    builds.note(path, one)
