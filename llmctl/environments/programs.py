"""uv out of the wheel that a host was sent: its program, for the kind of machine that the wheel was picked for."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from llmctl.errors import DeployFailed

INSIDE = ".data/scripts/uv"


def uv_from(wheel: Path, tools: Path) -> Path:
    """The program's path in the folder `tools`, unpacked there if it is not yet; whole or not at all."""
    version = wheel.name.split("-")[1]
    program = tools / f"uv-{version}"
    if program.is_file():
        return program
    tools.mkdir(parents=True, exist_ok=True)
    temp = tools / f".{program.name}.{os.getpid()}.tmp"
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(INSIDE))
            temp.write_bytes(archive.read(name))
        temp.chmod(0o755)
        with open(temp, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temp, program)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise DeployFailed(f"{wheel.name} holds no uv: {error!r}", hint="deploy again") from None
    finally:
        temp.unlink(missing_ok=True)
    return program
