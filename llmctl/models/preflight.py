"""What is known of a model before its weights are fetched: configuration files and the header of its first file.

They are laid out in a folder of their own, the rest of the weights as a hole, and read as any checkpoint is.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmctl.errors import BadCheckpoint, Refused, Unsupported
from llmctl.models import architectures, checkpoint, checkpoint_folder, gguf_header, selection
from llmctl.models.checkpoint import Checkpoint
from llmctl.models.checkpoint_gguf import SHARD
from llmctl.models.hub import RepoFile
from llmctl.models.safetensors_header import HEADER_LIMIT, INDEX
from llmctl.models.selection import Selection

Read = Callable[[RepoFile, int, int], bytes]
"""read(file, start, stop) → these bytes of a file of the repository."""

READ_FIRST = ("config.json", "tokenizer_config.json", "generation_config.json", INDEX)
CONFIG_LIMIT = 32 * 2**20
SAFETENSORS_STEP = 2**18
GGUF_STEPS = (2**20, 2**23, gguf_header.HEADER_LIMIT)  # most vocabularies end within the second


@dataclass(frozen=True)
class Examined:
    """The checkpoint as its header tells it, and whether each engine of this host takes it (None: not checked)."""

    selection: Selection
    checkpoint: Checkpoint
    engines: Mapping[str, bool | None]


def examine(repo: str, chosen: Selection, read: Read, backend: str, allow_code: bool) -> Examined:
    """Read what comes before the weights; Refused, Unsupported or BadCheckpoint when they need not be fetched.

    The selection that comes back has the weights that the index names, and the format and quantization that are there.
    """
    with tempfile.TemporaryDirectory(prefix="llmctl-") as made:
        folder = Path(made)
        with called(repo, folder):
            if chosen.format == "gguf":
                found = checkpoint.inspect(_gguf(folder, chosen, read))
            else:
                chosen = _lay_out(folder, chosen, read, repo)
                found = checkpoint.inspect(folder)
    if found.needs_code and not allow_code:
        raise Refused(
            f"{repo} runs code of its author ({', '.join(found.needs_code)})",
            hint="allow_code = true in its entry of models.toml, if you trust its author",
        )
    chosen = _labelled(repo, chosen, found)
    return Examined(chosen, found, _engines(repo, chosen, found, backend))


@contextlib.contextmanager
def called(repo: str, folder: Path) -> Iterator[None]:
    """Within, a BadCheckpoint about `folder` is one about `repo`."""
    try:
        yield
    except BadCheckpoint as error:
        raise BadCheckpoint(
            error.message.replace(f"{folder}/", f"{repo}/").replace(str(folder), repo),
            hint="pull the model from another repository or revision",
        ) from error


def _labelled(repo: str, chosen: Selection, found: Checkpoint) -> Selection:
    """The format and quantization by which the artifact is known here."""
    if chosen.format == "safetensors" and found.format == "mlx" and found.quantization:
        raise Unsupported(
            f"{repo} holds weights for MLX, not plain safetensors", hint=f"llmctl pull {repo} --format mlx"
        )
    return replace(chosen, quantization=chosen.quantization or found.quantization)


def _engines(repo: str, chosen: Selection, found: Checkpoint, backend: str) -> Mapping[str, bool | None]:
    if not architectures.engines_for(chosen.format, backend):
        raise Unsupported(f"no engine on {backend} reads {chosen.format}", hint=f"llmctl pull {repo} --format gguf")
    if found.needs_code:  # its own code says what it is
        return dict.fromkeys(architectures.engines_for(chosen.format, backend))
    known = architectures.support(found.architecture, chosen.format, backend)
    if not any(yes is not False for yes in known.values()):
        raise Unsupported(
            f"{repo}: architecture {found.architecture!r} is known to none of the engines that read {chosen.format} on"
            f" {backend} ({', '.join(known)})",
            hint="a newer release of llmctl's engines may know it",
        )
    return known


def _lay_out(folder: Path, chosen: Selection, read: Read, repo: str) -> Selection:
    """The small files as they are (those nobody reads here empty), and the first weights' header."""
    for file in chosen.beside:
        if file.path in READ_FIRST and file.bytes > CONFIG_LIMIT:
            raise BadCheckpoint(f"{folder}/{file.path}: has {file.bytes:,} bytes, more than a configuration needs")
        (folder / file.path).write_bytes(read(file, 0, file.bytes) if file.path in READ_FIRST else b"")
    if chosen.index:
        table = checkpoint_folder.read_json(folder / INDEX).get("weight_map")
        names = list(table.values()) if isinstance(table, dict) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise BadCheckpoint(f"{folder}/{INDEX}: no weight_map in it")
        chosen = selection.narrowed(chosen, names, repo)
        (folder / INDEX).unlink()  # it would ask for the other shards
    first = chosen.weights[0]
    head = b""
    if not chosen.pickled:
        head = read(first, 0, SAFETENSORS_STEP)
        head += read(first, len(head), min(8 + int.from_bytes(head[:8], "little"), HEADER_LIMIT))
    _hole(folder / first.path, head, first.bytes)
    return chosen


def _gguf(folder: Path, chosen: Selection, read: Read) -> Path:
    """The header of the first shard, under a name that asks for no other shards."""
    file, head = chosen.weights[0], b""
    path = folder / SHARD.sub(".gguf", file.name)
    for step in GGUF_STEPS:
        head += read(file, len(head), step)
        _hole(path, head, file.bytes)
        whole = len(head) == min(GGUF_STEPS[-1], file.bytes) or head[:4] != b"GGUF"
        try:
            if whole or gguf_header.read(path).data_offset <= len(head):
                break
        except BadCheckpoint:  # cut: more of it tells
            continue
    return path


def _hole(path: Path, head: bytes, size: int) -> None:
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)
