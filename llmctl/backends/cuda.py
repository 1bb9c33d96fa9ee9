"""NVIDIA GPUs, asked through nvidia-smi so that no CUDA library is needed to decide.

Not yet run on a host with a GPU: the parser is tested on nvidia-smi's documented output.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from llmctl.backends import Memory, cpu
from llmctl.errors import Unsupported

NAME = "cuda"
QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi lists it."""

    index: str
    uuid: str
    name: str
    memory: Memory


def detect() -> bool:
    if not shutil.which(QUERY[0]):
        return False
    try:
        return bool(visible(gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    except Unsupported:  # the driver is not loaded
        return False


def gpus() -> list[Gpu]:
    """All GPUs of the host; Unsupported when nvidia-smi fails."""
    return parse_nvidia_smi(cpu.command(*QUERY))


def memory() -> Memory:
    """Of the GPU with the most free memory: an engine runs on one."""
    seen = visible(gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not seen:
        raise Unsupported("nvidia-smi lists no GPU that CUDA_VISIBLE_DEVICES lets through")
    return max((gpu.memory for gpu in seen), key=lambda memory: memory.free)


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` for an engine; CUDA numbers GPUs as nvidia-smi does, and an operator's choice of GPUs stands."""
    return {**cpu.offline(base), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def parse_nvidia_smi(text: str) -> list[Gpu]:
    """The answer to QUERY, in MiB. A GPU that does not tell its memory ("[N/A]", a MIG parent) is left out."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and fields[3].isdigit() and fields[4].isdigit():
            index, uuid, name, total, free = fields
            found.append(Gpu(index, uuid, name, Memory(int(total) * MIB, int(free) * MIB)))
    return found


def visible(found: list[Gpu], setting: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES (indexes or UUID prefixes; unset is all) lets a process see."""
    if setting is None:
        return found
    names = [name.strip() for name in setting.split(",") if name.strip()]
    return [gpu for gpu in found if any(name == gpu.index or gpu.uuid.startswith(name) for name in names)]
