"""What a host is: read by one POSIX shell script where there is nothing but ssh, parsed here, kept with its age."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Python:
    """An interpreter on the host: its path and its version, `(3, 11, 2)`."""

    path: str
    version: tuple[int, int, int]


@dataclass(frozen=True)
class Accelerator:
    """A GPU. `memory` is bytes; `driver` and `cuda` (the newest CUDA its driver runs) as the driver says them."""

    name: str
    memory: int
    driver: str | None = None
    cuda: str | None = None


@dataclass(frozen=True)
class Facts:
    """`os` is "linux" or "darwin", `arch` as `uname -m` says; sizes in bytes, `clock` in epoch seconds.

    `libc` is "glibc 2.36", "musl 1.2" or "" (macOS). `services` are those of config.SERVICES that work there;
    `tools` maps uv, mamba, micromamba and conda to their paths; `index`: the package index can be reached.
    """

    os: str
    os_version: str
    arch: str
    libc: str
    chip: str
    cores: int
    memory: int
    disk_free: int
    user: str
    uid: int
    home: str
    pythons: tuple[Python, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    services: tuple[str, ...] = ("none",)
    tools: tuple[tuple[str, str], ...] = ()
    sudo: bool = False
    index: bool = False
    clock: float = 0.0
    boot: str = ""
