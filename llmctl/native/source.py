"""The source of llama.cpp: that of xllamacpp's pinned version (MIT), which its wheel is made of.

So the library that is built has the wheel's C interface, to the byte. The archive is looked for in the wheelhouse that
a deploy fills and in the operator's cache, else pip fetches it; none of it is in this package.
"""

from __future__ import annotations

from pathlib import Path

from llmctl.sdist import Sdist

VERSION = "2026.10.11549"
SOURCE = Sdist(
    what="the source of llama.cpp",
    project="xllamacpp",
    version=VERSION,
    archive=f"xllamacpp-{VERSION}.tar.gz",
    sha256="c17ee1163006f70726abb9f72137830818f3d8cb60bfc34cb232d08428eaa22b",
    inside=f"xllamacpp-{VERSION}/thirdparty/llama.cpp/",
    wanted=(
        "CMakeLists.txt", "LICENSE", "cmake/", "common/", "ggml/", "include/", "licenses/", "src/", "tools/", "vendor/",
    ),
)  # fmt: skip


def places(home: Path) -> tuple[Path, ...]:
    """Where the archive may lie: as a deploy brought it, and as this machine fetched it."""
    return (home / "wheelhouse" / SOURCE.archive, home / "cache" / "wheels" / SOURCE.archive)


def here(home: Path) -> Path | None:
    """The archive where it lies; a file with another hash is Refused, not taken for it."""
    found = next((path for path in places(home) if path.is_file()), None)
    if found is not None:
        SOURCE.check(found)
    return found
