"""A plain CPU: memory is the host's, or the cgroup's where that is less."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from llmctl.backends import Memory
from llmctl.errors import Unsupported
from llmctl.processes import asked

NAME = "cpu"
CGROUPS = Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")


# How long a thread of GNU OpenMP (torch's and llama.cpp's) spins for its next piece of work. Its own default is so
# long that a model loading beside one that serves stops both: seconds without a token on two cores, against some
# 50 ms with this. Less costs a lone engine its speed: 0 a quarter, 1,000 one in twenty, this 2 or 3 %.
SPIN = "1500"


SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


def detect() -> bool:
    return True


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base` for an engine: nothing is fetched, no accelerator is seen, engines set their own thread counts, and two
    of them can share the cores (`SPIN`)."""
    return {"GOMP_SPINCOUNT": SPIN, **offline(base), "CUDA_VISIBLE_DEVICES": ""}


def offline(base: Mapping[str, str]) -> dict[str, str]:
    """`base` without outbound connections, the hub's secrets and an inherited OMP_NUM_THREADS, which would overrule the
    spec's thread count. The tokenizers' own threads are off: they warn after a fork and gain nothing at one prompt a
    time."""
    left = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", *SECRETS)
    kept = {key: value for key, value in base.items() if key not in left}
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def memory() -> Memory:
    """MemTotal and MemAvailable, bounded by every cgroup v2 limit above this process; on macOS see `metal`."""
    if platform.system() == "Darwin":
        return darwin_memory()
    try:
        memory = parse_meminfo(Path("/proc/meminfo").read_text())
    except OSError as error:
        raise Unsupported(f"free memory cannot be measured on {platform.system()}") from error
    for folder in cgroup_folders(_read(Path("/proc/self/cgroup")), CGROUPS):
        memory = within_cgroup(
            memory, _read(folder / "memory.max"), _read(folder / "memory.current"), _read(folder / "memory.stat")
        )
    return memory


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def parse_meminfo(text: str) -> Memory:
    """/proc/meminfo, whose numbers are KiB."""
    lines = (line.partition(":") for line in text.splitlines())
    values = {name: int(rest.split()[0]) * 1024 for name, _, rest in lines if rest.split()}
    if "MemTotal" not in values or "MemAvailable" not in values:
        raise Unsupported("/proc/meminfo has no MemTotal or MemAvailable")
    return Memory(values["MemTotal"], values["MemAvailable"])


def cgroup_folders(text: str, root: Path) -> list[Path]:
    """The cgroup v2 folders of a process from its /proc/PID/cgroup, its own first, the root's last."""
    for line in text.splitlines():
        if line.startswith("0::/"):
            parts = [part for part in line[4:].split("/") if part not in ("", "..")]
            return [root.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
    return []


def within_cgroup(memory: Memory, limit: str, current: str, stat: str) -> Memory:
    """`memory` bounded by one cgroup's memory.max ("max" or empty is no limit); its inactive file cache is free."""
    if not limit.strip().isdigit():
        return memory
    bound = int(limit)
    pairs = dict(line.split() for line in stat.splitlines() if len(line.split()) == 2)
    used = int(current) if current.strip().isdigit() else 0
    used -= min(used, int(pairs.get("inactive_file", 0)))
    return Memory(min(memory.total, bound), min(memory.free, max(0, bound - used)))


def darwin_memory() -> Memory:
    """hw.memsize and vm_stat. Never run by this project: it has no Mac."""
    return Memory(int(command("sysctl", "-n", "hw.memsize")), parse_vm_stat(command("vm_stat")))


def command(*argv: str) -> str:
    """The output of a short query; Unsupported when it fails, so that admission says why it cannot decide."""
    done = asked(argv, 10)
    if done is None or done.returncode:
        how = "did not answer" if done is None else f"ended with {done.returncode}"
        raise Unsupported(f"`{' '.join(argv)}` {how}")
    return done.stdout


def parse_vm_stat(text: str) -> int:
    """Free bytes from macOS `vm_stat`: free, inactive, speculative and purgeable pages, which it gives up on demand."""
    head, *lines = text.splitlines()
    page = int("".join(c for c in head if c.isdigit()) or 4096)
    pages = dict(line.rsplit(":", 1) for line in lines if ":" in line)
    names = ("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable")
    return page * sum(int(pages.get(name, "0").strip(" .")) for name in names)


def physical_cores() -> int:
    """Cores this process may run on, hyper-threads counted once: llama.cpp and torch are slower with more threads."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    siblings = {_read(TOPOLOGY / f"cpu{n}/topology/thread_siblings_list") or str(n) for n in cpus}
    return max(1, len(siblings))


def fast_bf16() -> bool:
    """Whether this CPU computes in bfloat16; torch falls back to float32 where it does not."""
    return has_bf16(_read(Path("/proc/cpuinfo")))


def has_bf16(text: str) -> bool:
    """Whether /proc/cpuinfo lists a bfloat16 instruction set (x86 `flags`, Arm `Features`)."""
    lines = (line.partition(":") for line in text.splitlines())
    flags = {flag for name, _, rest in lines if name.strip() in ("flags", "Features") for flag in rest.split()}
    return not flags.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))
