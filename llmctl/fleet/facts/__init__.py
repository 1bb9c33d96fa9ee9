"""What a host is: read by one POSIX shell script where there is nothing but ssh, kept with its age."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmctl.domain import build


@dataclass(frozen=True)
class Python:
    """An interpreter on the host: its path and its version, `(3, 11, 2)`."""

    path: str
    version: tuple[int, int, int]


@dataclass(frozen=True)
class Accelerator:
    """A GPU. `memory` is bytes (of Apple's: the host's); `driver` and `cuda` (the newest CUDA its driver runs) as the
    driver says them, `compute` is NVIDIA's compute capability ("9.0"), `cores` are those of an Apple GPU."""

    name: str
    memory: int
    driver: str | None = None
    cuda: str | None = None
    compute: str | None = None
    cores: int | None = None


@dataclass(frozen=True)
class Facts:
    """`os` is "linux" or "darwin", `arch` as `uname -m` says; sizes in bytes, `clock` in epoch seconds.

    `libc` is "glibc 2.36", "musl 1.2" or "" (macOS). `distro` holds ID and ID_LIKE of os-release. `services` are those
    of config.SERVICES that work there; `tools` maps uv, mamba, micromamba and conda to their paths; `index`: the
    package index can be reached; `sudo`: root, or without a password. `skew` is how many seconds its clock is ahead of
    the operator's (0 within what can be told), `release` the id of the llmctl that is there, `disk_free` is where
    llmctl's state lies. `notes` are sentences on what is there and cannot be used.
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
    distro: tuple[str, ...] = ()
    systemd: str = ""
    linger: bool = False
    skew: float = 0.0
    release: str = ""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Facts:
        """From JSON; keys of a newer version are ignored. TypeError, KeyError or ValueError when it is none."""
        nested = {
            "pythons": tuple(Python(str(p["path"]), _version(p["version"])) for p in data.get("pythons", ())),
            "accelerators": tuple(build(Accelerator, a) for a in data.get("accelerators", ())),
            "tools": tuple((str(name), str(path)) for name, path in data.get("tools", ())),
        }
        return build(Facts, {**data, **nested})

    @property
    def version(self) -> str | None:
        """The version of the llmctl that is there (its release id is `<version>-<hash>`); None without one."""
        return self.release.rpartition("-")[0] or None


def _version(given: Any) -> tuple[int, int, int]:
    major, minor, patch = map(int, given)
    return major, minor, patch
