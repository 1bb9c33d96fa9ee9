"""How long an image takes to its first token through a slot, against transformers called bare in a warm process."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmctl.slots import verbs
from scripts.benchmarks import image_model, testbed
from scripts.benchmarks.report import Row, row

RUNS, SIDE, CONTEXT = 9, 336, 1024
QUESTION = "What is in the picture?"


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder, testbed.home() as home:
        path = image_model.write(Path(folder) / "random-vision")
        port = testbed.free_port()
        spec = testbed.real("torch", "random-vision", path, context=CONTEXT, parallel=1)
        verbs.change(home, port, "load", spec, launch=testbed.launch())
        argv = [sys.executable, "-m", "scripts.benchmarks.bare_image", str(path)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=testbed.REPO) as bare:
            try:
                ratios = [pair(port, bare, run) for run in range(-2, RUNS)][2:]  # the first two warm up
            finally:
                bare.kill()
        yield row(
            "image to first token ÷ transformers bare", ratios, "≤ 1.1",
            f"a JPEG of {SIDE} × {SIDE} and a question, one greedy token, float32, random weights (0.4 B); over "
            "HTTP as a data URL, against image processor and generate() in a process that has the model loaded",
        )  # fmt: skip


def pair(port: int, bare: subprocess.Popen[str], run: int) -> float:
    """Seconds through the slot ÷ seconds of the bare library, for a new picture; the order changes every time."""
    data = base64.b64encode(photograph(run)).decode()
    ours, theirs = (0.0, 0), (0.0, 0)
    for first in (run % 2 == 0, run % 2 == 1):
        if first:
            ours = through_slot(port, data)
        else:
            theirs = from_bare(bare, data)
    assert ours[1] == theirs[1], f"prompts of {ours[1]} and {theirs[1]} tokens"
    return ours[0] / theirs[0]


def photograph(run: int) -> bytes:
    """A JPEG that no run has twice."""
    from PIL import Image

    file = io.BytesIO()
    Image.effect_noise((SIDE, SIDE), 60 + run).convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()


def through_slot(port: int, data: str) -> tuple[float, int]:
    """Seconds, and tokens of the prompt."""
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}]
    asked: list[dict[str, Any]] = [{"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}]
    body = json.dumps({"messages": asked, "max_tokens": 1, "temperature": 0}).encode()
    began = time.perf_counter()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        answer = json.loads(response.read())
    return time.perf_counter() - began, int(answer["usage"]["prompt_tokens"])


def from_bare(bare: subprocess.Popen[str], data: str) -> tuple[float, int]:
    assert bare.stdin is not None and bare.stdout is not None
    bare.stdin.write(json.dumps({"data": data, "question": QUESTION}) + "\n")
    bare.stdin.flush()
    answer = json.loads(bare.stdout.readline())
    return float(answer["seconds"]), int(answer["prompt"])
