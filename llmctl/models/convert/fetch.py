"""llama.cpp's converter: taken once from the source distribution of llama-cpp-python (MIT), pinned by version and hash.

Nothing of it is in this package. A host without a package index gets the archive by hand, into the same folder.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from llmctl.files import locked
from llmctl.jobs.context import Context
from llmctl.sdist import Sdist

VERSION = "0.3.36"
SOURCE = Sdist(
    what="llama.cpp's converter",
    project="llama-cpp-python",
    version=VERSION,
    archive=f"llama_cpp_python-{VERSION}.tar.gz",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    inside=f"llama_cpp_python-{VERSION}/vendor/llama.cpp/",
    wanted=("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE"),
)


def converter(home: Path, job: Context) -> Path:
    """The folder of the unpacked converter under `home`, fetched and checked at first use."""
    downloads = home / "converters"
    tree = downloads / f"llama.cpp-{VERSION}"
    if tree.is_dir():
        return tree
    with locked(downloads / ".lock", what="the converters"):
        if not tree.is_dir():
            if not (downloads / SOURCE.archive).is_file():
                job.note(f"fetching {SOURCE.what} ({SOURCE.project} {VERSION}, 76 MB) from the package index")
                job.progress(f"fetch {SOURCE.what}")
            archive = SOURCE.fetch(downloads)
            job.progress(f"unpack {SOURCE.what}")
            with tempfile.TemporaryDirectory(dir=downloads) as temp:
                SOURCE.unpack(archive, Path(temp) / "tree")
                os.rename(Path(temp) / "tree", tree)
    return tree
