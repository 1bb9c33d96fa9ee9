"""GPUs from what nvidia-smi, system_profiler and the PCI bus say (pure), and why one that is there cannot be used.

Never run on a Mac, a GPU, or with MIG by this project: parsed after the tools' documented output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmctl.fleet.facts import Accelerator

MIB = 2**20
VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD"}

Said = Mapping[str, list[str]]
Found = tuple[tuple[Accelerator, ...], tuple[str, ...]]


def accelerators(said: Said, memory: int) -> Found:
    """The GPUs, and sentences on those that cannot be used; `memory` is the host's, which Apple's GPU shares."""
    if "display" in said:
        return _apple(said["display"], memory), ()
    gpus, notes = _nvidia(said)
    vendors = {VENDORS[vendor] for vendor in (line.split(" ")[0] for line in said.get("pci", ())) if vendor in VENDORS}
    if "NVIDIA" in vendors and "gpu" not in said:
        notes += ("an NVIDIA GPU is there without its driver (no nvidia-smi)",)
    if "AMD" in vendors:
        notes += ("an AMD GPU is there, and llmctl has no backend for it",)
    return gpus, notes


def _nvidia(said: Said) -> Found:
    gpus: list[Accelerator] = []
    notes: list[str] = []
    version = re.search(r"CUDA Version\s*:\s*(\d+\.\d+)", " ".join(said.get("cuda", ())))
    for at, line in enumerate(line for line in said.get("gpu", ()) if line):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) not in (3, 5):
            notes.append(f"nvidia-smi: {line}")
            continue
        name, size, driver, mig, compute = (*fields, "", "")[:5]
        gpu = Accelerator(
            name=name,
            memory=int(size) * MIB if re.fullmatch(r"[0-9]{1,9}", size) else 0,
            driver=driver,
            cuda=version[1] if version else None,
            compute=compute if re.fullmatch(r"\d{1,2}\.\d", compute) else None,
        )
        parts = _mig(said.get("mig", []), at) if mig == "Enabled" else [(gpu.name, gpu.memory)]
        gpus += [Accelerator(part, room, gpu.driver, gpu.cuda, gpu.compute) for part, room in parts]
        if not parts:
            notes.append(f"{name} is in MIG mode and has no instance: nvidia-smi mig -cgi … -C")
    return tuple(gpus), tuple(notes)


def _mig(lines: list[str], at: int) -> list[tuple[str, int]]:
    """Names and bytes of the instances of GPU number `at`, from `nvidia-smi -L`. A profile's name rounds its GB up or
    down by a twentieth at most (1g.5gb has 4,864 MiB)."""
    found, here = [], ""
    for line in lines:
        if gpu := re.match(r"GPU (\d+): (.*?) \(UUID", line):
            here = gpu[2] if int(gpu[1]) == at else ""
        elif here and (part := re.match(r"MIG (\S*?(\d{1,4})gb\S*)", line)):
            found.append((f"{here} MIG {part[1]}", int(part[2]) * 10**9))
    return found


def _apple(lines: list[str], memory: int) -> tuple[Accelerator, ...]:
    """The chips that `system_profiler SPDisplaysDataType` lists; one with VRAM of its own is an Intel Mac's."""
    chips: list[dict[str, str]] = []
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "Chipset Model":
            chips.append({})
        if chips:
            chips[-1].setdefault(key.partition(" (")[0], value)
    return tuple(
        Accelerator(
            name=chip["Chipset Model"],
            memory=_vram(chip["VRAM"]) if "VRAM" in chip else memory,
            driver=chip.get("Metal Support") or chip.get("Metal Family") or chip.get("Metal"),
            cores=int(cores) if re.fullmatch(r"[0-9]{1,4}", cores := chip.get("Total Number of Cores", "")) else None,
        )
        for chip in chips
    )


def _vram(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6}) ([GM])B", text)
    return int(found[1]) * (2**30 if found[2] == "G" else MIB) if found else 0
