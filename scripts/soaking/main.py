"""Row K of reliability.md: mixed traffic at a steady rate for hours, a swap every five minutes, and what grows."""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmctl.domain import Probe, SlotSpec
from llmctl.errors import LlmctlError
from llmctl.slots import verbs
from scripts.benchmarks import testbed
from scripts.benchmarks.report import machine
from scripts.soaking.look import Sample, look
from scripts.soaking.report import Soak, broken, judged, result, text, write
from scripts.soaking.traffic import Traffic

LOOK_EVERY = 10.0
HOPELESS = 1000  # lost requests after which nothing more is to be learned
ORDERS = ("new-first", "old-first")
PROBE = Probe("What is a slot?", "A port")  # both were taught that


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=_positive, default=480.0, help="480: the whole run of row K")
    parser.add_argument("--engine", choices=("llamacpp", "torch", "scripted"), default="llamacpp")
    parser.add_argument("--rate", type=_positive, default=10.0, help="requests a second")
    parser.add_argument("--swap-every", type=_positive, default=300.0, help="seconds")
    parser.add_argument("--no-write", action="store_true", help="print only: leave docs/soak.md and soak.json alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also put the result there")
    args = parser.parse_args()
    run, traffic = soaked(
        args.engine, args.minutes, args.rate, args.swap_every, lambda line: print(line, file=sys.stderr)
    )
    found = judged(run)
    kept = result(run, found, datetime.date.today().isoformat(), machine(), traffic.counts())
    print(text(kept), end="")
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not args.no_write and not any(text.startswith("interrupted") for text in run.failed):
        write(kept)
    return 1 if broken(found) else 0


def soaked(
    engine: str, minutes: float, rate: float, swap_every: float, tell: Callable[[str], None]
) -> tuple[Soak, Traffic]:  # fmt: skip
    """The run itself, on a slot of its own."""
    temporary = Path(tempfile.mkdtemp(prefix="soak-"))
    os.environ["TMPDIR"] = str(temporary)  # of the slot server and its engines; this process knows its own already
    try:
        with testbed.home() as home:
            specs = two_models(home, engine)
            port = testbed.free_port()
            verbs.change(home, port, "load", specs[0], launch=testbed.launch())
            samples: list[Sample] = []
            failed: list[str] = []
            with Traffic(port, rate) as traffic:
                swaps = _drive(home, port, temporary, specs, minutes * 60, swap_every, samples, failed, traffic, tell)
            seen = Soak(
                engine, minutes, rate, swap_every, swaps, failed, traffic.outcomes, samples, looked=traffic.seen
            )  # fmt: skip
            return seen, traffic
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _drive(
    home: Path, port: int, temporary: Path, specs: list[SlotSpec], seconds: float, swap_every: float,
    samples: list[Sample], failed: list[str], traffic: Traffic, tell: Callable[[str], None],
) -> int:  # fmt: skip
    """Look and swap in turn until the time is over; the number of swaps."""
    began, swaps, looks = time.monotonic(), 0, 0
    try:
        while (now := time.monotonic() - began) < seconds and traffic.losses < HOPELESS:
            if now >= looks * LOOK_EVERY:
                samples.append(look(home, port, temporary, now))
                looks = int(now // LOOK_EVERY) + 1
            if now >= (swaps + 1) * swap_every:
                failed += _swap(home, port, specs, swaps)
                swaps += 1
                tell(_line(now, swaps, traffic, samples[-1]))
            time.sleep(min(0.5, LOOK_EVERY / 10))
    except KeyboardInterrupt:  # what was seen until then is told
        failed.append(f"interrupted after {(time.monotonic() - began) / 60:.1f} minutes")
    except (OSError, LlmctlError, http.client.HTTPException) as error:
        failed.append(f"the slot could not be looked at: {error}")
    return swaps


def _swap(home: Path, port: int, specs: list[SlotSpec], number: int) -> list[str]:
    """To the other model; what went wrong."""
    try:
        done = verbs.change(home, port, "swap", specs[(number + 1) % 2], order=ORDERS[number % 2])
    except LlmctlError as error:
        return [f"swap {number + 1}: {error.message}"]
    return [f"swap {number + 1} cut {done.cut} answers"] if done.cut else []


def _line(now: float, swaps: int, traffic: Traffic, last: Sample) -> str:
    return (
        f"{now / 60:.1f} min · {swaps} swaps · {len(traffic.outcomes):,} requests, {traffic.losses} lost · "
        f"slot server {last.memory / 1e6:.1f} MB, {last.descriptors} descriptors, {last.threads} threads"
    )


def two_models(home: Path, engine: str) -> list[SlotSpec]:
    """One that sees pictures, and one that reads text alone; the scripted ones do that both."""
    if engine == "scripted":
        return [testbed.scripted(home, name, parallel=8, step=0.002) for name in ("alpha", "beta")]
    vision, text = testbed.made("tiny-vision"), testbed.tiny(*(["--gguf"] if engine == "llamacpp" else []))
    if engine == "torch":
        paths = {"tiny-vision": vision["tiny-vision"], "tiny-llama": text["tiny-llama"]}
    else:
        folder = home / "tiny-vision"  # with its projector beside it
        folder.mkdir()
        shutil.copy(vision["tiny-vision-gguf"], folder / "model.gguf")
        shutil.copy(vision["tiny-vision-mmproj"], folder / "mmproj.gguf")
        paths = {"tiny-vision": folder, "tiny-llama": text["tiny-llama-gguf"]}
    specs = [testbed.real(engine, name, path, context=512, parallel=8) for name, path in paths.items()]
    return [replace(spec, probe=PROBE) for spec in specs]


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
