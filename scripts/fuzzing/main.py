"""`scripts/fuzz`: each target for its time, the inputs that broke one, and how to replay them."""

from __future__ import annotations

import argparse
import base64
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from scripts.fuzzing import http_target
from scripts.fuzzing.targets import TARGETS

ROOT = Path(__file__).parents[2]
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmctl-fuzz"
HTTP_SECONDS, SECONDS = 600, 300
SHOWN, LINES = 600, 60  # bytes of an input, lines of a log
NO_ENVIRONMENT = 5


def main() -> int:
    """0: nothing broke; 1: something did; 5: the fuzzers cannot be installed here."""
    names = [*TARGETS, *http_target.ENGINES]
    options = argparse.ArgumentParser("scripts/fuzz", description=__doc__)
    options.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names)}; default: all")
    options.add_argument("--seconds", type=int, help=f"for each; default: {SECONDS}, {HTTP_SECONDS} for http-*")
    options.add_argument("--replay", type=Path, metavar="FILE", help="run one kept input of TARGET")
    asked = options.parse_args()
    if unknown := sorted({*asked.targets} - {*names}):
        options.error(f"no target {', '.join(unknown)}; there are {', '.join(names)}")
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "own-environment", "fuzz"], stdout=subprocess.PIPE, text=True
    )
    if made.returncode:
        return NO_ENVIRONMENT
    python = Path(made.stdout.strip())
    if asked.replay:
        return atheris(python, asked.targets[0], [str(asked.replay)])
    broken = []
    for name in asked.targets or names:
        if name in TARGETS:
            broken += fuzz(python, name, asked.seconds or SECONDS)
        elif not http_target.run(python, name, asked.seconds or HTTP_SECONDS, KEPT / "http"):
            broken.append(name)
    print(f"broke: {', '.join(broken)}" if broken else "nothing broke", flush=True)
    return 1 if broken else 0


def fuzz(python: Path, name: str, seconds: int) -> list[str]:
    """[name] when an input of this run broke the target; the corpus is kept for the next run."""
    corpus, crashes = KEPT / "corpus" / name, KEPT / "crashes" / name
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    before = {*crashes.iterdir()}
    limits = [f"-max_total_time={seconds}", "-timeout=120", "-rss_limit_mb=2048", "-max_len=65536"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        code = atheris(python, name, [*limits, f"-artifact_prefix={crashes}/", str(corpus)], output)
        output.seek(0)
        lines = output.read().splitlines()
    print(f"{name}: {next((line for line in lines if line.startswith('Done')), f'ended with {code}')}", flush=True)
    if not code:
        return []
    print("\n".join(lines[-LINES:]))
    for path in sorted({*crashes.iterdir()} - before):
        data = path.read_bytes()
        print(f"{name} broke with {len(data)} bytes, in base64: {base64.b64encode(data[:SHOWN]).decode()}")
        print(f"replay it: scripts/fuzz {name} --replay {path}", flush=True)
    return [name]


def atheris(python: Path, name: str, arguments: Sequence[str], output: TextIO | None = None) -> int:
    """The exit code of one target's process: it has llmctl's own packages beside the fuzzer."""
    paths = os.pathsep.join((str(ROOT), sysconfig.get_path("purelib")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    argv = [python, "-m", "scripts.fuzzing.harness", name, *arguments]
    return subprocess.run(argv, cwd=ROOT, env=environment, stdout=output, stderr=output).returncode


if __name__ == "__main__":
    sys.exit(main())
