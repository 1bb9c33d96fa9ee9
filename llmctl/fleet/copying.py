"""An artifact from host to host: through this machine, over a connection to each, resumed where it was cut.

The bytes of an ssh destination rest here file by file: its source is fetched, proved, and sent on in pieces.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.errors import BadCheckpoint, NoSpace
from llmctl.files import blocks
from llmctl.fleet.transport import Transport

PIECE = 16 * 2**20
"""Bytes that go to a destination by one call of its llmctl."""

Ask = Callable[[str, bytes], Mapping[str, Any]]
"""Ask a destination for a step (plan, take, publish) with this stdin; its data."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """Where an artifact lies: the host's name, its folder there, and its manifest as JSON."""

    host: str
    transport: Transport
    folder: str
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Destination:
    """Where it goes. `local`: its folders are this machine's."""

    host: str
    ask: Ask
    local: bool


@dataclass(frozen=True)
class Copied:
    """What was done; `received` is what this run moved, in bytes."""

    path: str
    bytes: int
    files: int
    received: int
    already: bool


def copy(source: Source, destination: Destination, spool: Path, progress: Progress) -> Copied:
    """Bring the artifact over; what an earlier try left is gone on with. It appears whole, or not at all."""
    asked = json.dumps({"manifest": source.manifest, "source": source.host}).encode()
    plan = destination.ask("plan", asked)
    files = source.manifest["files"]
    total = sum(int(entry["bytes"]) for entry in files)
    if plan["already"]:
        return Copied(plan["folder"], total, len(files), 0, True)
    done = received = 0
    way = _Way(source, destination, spool)
    for entry in files:
        size, have = int(entry["bytes"]), int(plan["have"][entry["path"]])
        before = done

        def on_bytes(at: int, _: int, before: int = before) -> None:
            progress("copying", before + at, total)

        if destination.local:
            source.transport.get(
                f"{source.folder}/{entry['path']}", Path(plan["partial"][entry["path"]]), on_bytes=on_bytes
            )
        elif have < size:
            way.through(entry, have, on_bytes)
        done += size
        received += size - have
    progress("checking", total, total)
    published = destination.ask("publish", asked)
    return Copied(published["path"], total, len(files), received, False)


@dataclass(frozen=True)
class _Way:
    """The way of a file to a host that only ssh reaches."""

    source: Source
    destination: Destination
    spool: Path

    def through(self, entry: Mapping[str, Any], have: int, on_bytes: Callable[[int, int], None]) -> None:
        """Fetch it (or take it as it lies here), and send what is missing of it there."""
        path = self._here(entry)
        with open(path, "rb") as file:
            file.seek(have)
            at = have
            while piece := file.read(PIECE):
                head = {"manifest": self.source.manifest, "path": entry["path"], "at": at}
                at = int(self.destination.ask("take", json.dumps(head).encode() + b"\n" + piece)["have"])
                on_bytes(at, int(entry["bytes"]))
        if path.parent == self.spool:
            path.unlink()

    def _here(self, entry: Mapping[str, Any]) -> Path:
        """The file on this machine: the source's own, or fetched into the spool and proved."""
        if self.source.transport.host.transport == "local":
            return Path(self.source.folder) / str(entry["path"])
        path = self.spool / str(entry["sha256"])
        self.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._check_room(path, int(entry["bytes"]))
        self.source.transport.get(f"{self.source.folder}/{entry['path']}", path)
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            for block in blocks(file):
                digest.update(block)
        if digest.hexdigest() != entry["sha256"]:
            path.unlink()
            raise BadCheckpoint(
                f"{entry['path']} is not what {self.source.host}'s manifest says (sha256), and was not sent on",
                hint=f"check it there: llmctl models verify {self.source.manifest['model']} --host {self.source.host}",
            )
        return path

    def _check_room(self, path: Path, size: int) -> None:
        needed = size - (path.stat().st_size if path.exists() else 0)
        free = shutil.disk_usage(self.spool).free
        if needed > free:
            raise NoSpace(
                f"a file of {size:,} bytes rests here on its way, and {free:,} bytes are free at {self.spool}",
                hint="set LLMCTL_HOME to a larger disk, or pull from a host of which this machine is the destination",
                details={"needed": needed, "free": free, "path": str(self.spool)},
            )
