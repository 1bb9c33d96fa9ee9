"""Swaps under mixed traffic for a long time; prints what was served, lost, cut, and how the slot server grew."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from llmctl.domain import SlotSpec
from llmctl.processes import memory_bytes
from llmctl.slots import verbs
from scripts.benchmarks import testbed
from tests.clients import Traffic

TINY = {"llamacpp": ("tiny-llama-gguf", "tiny-qwen2-gguf"), "torch": ("tiny-llama", "tiny-qwen2")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--engine", choices=("scripted", *TINY), default="scripted")
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    with testbed.home() as home:
        port, specs = testbed.free_port(), two_models(home, args.engine)
        verbs.change(home, port, "load", specs[0], launch=testbed.launch())
        swaps, cut, sizes = 0, 0, [size(home, port)]
        end = time.monotonic() + args.minutes * 60
        with Traffic(port, clients=args.clients, pause=args.clients / 20) as traffic:  # about 20 requests a second
            while time.monotonic() < end and not traffic.failures:
                order = ("new-first", "old-first")[swaps % 2]
                cut += verbs.change(home, port, "swap", specs[(swaps + 1) % 2], order=order).cut
                swaps += 1
                time.sleep(0.5)
                if swaps in (10, 100) or swaps % 500 == 0:
                    sizes.append(size(home, port))
                    print(f"{swaps} swaps · served {traffic.served} · {describe(sizes[-1])}", file=sys.stderr)
        sizes.append(size(home, port))
    print(
        f"{args.engine}: {swaps} swaps · served {traffic.served} · failed {len(traffic.failures)} · cut {cut} · "
        f"longest gap {traffic.longest_gap * 1000:.0f} ms\nat the start: {describe(sizes[0])}\n"
        f"warm:         {describe(sizes[1])}\nat the end:   {describe(sizes[-1])}"
    )
    for failure in traffic.failures[:5]:
        print(f"failed: {failure}")
    return 1 if traffic.failures or cut else 0


def two_models(home: Path, engine: str) -> list[SlotSpec]:
    if engine == "scripted":
        return [testbed.scripted(home, name, parallel=8, step=0.002) for name in ("alpha", "beta")]
    paths = testbed.tiny("--gguf")
    return [testbed.real(engine, name, paths[name]) for name in TINY[engine]]


def size(home: Path, port: int) -> tuple[int, int, int]:
    """The slot server's resident bytes, open descriptors and threads."""
    pid = verbs.status(home, [port])[0].runner_pid or 0
    return memory_bytes(pid), len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def describe(found: tuple[int, int, int]) -> str:
    return f"{found[0] / 1e6:.1f} MB, {found[1]} descriptors, {found[2]} threads"


if __name__ == "__main__":
    sys.exit(main())
