"""Runs schemathesis on the OpenAPI document of a live slot, and looks whether the slot is as well afterwards."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from llmctl.domain import EngineSpec, Probe, SlotSpec
from llmctl.slots import verbs
from llmctl.slots.state import Launch, SlotFolder

ROOT = Path(__file__).parents[2]
ENGINES = {"http-scripted": "scripted", "http-torch": "torch"}
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
CONFIG = """[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501"]
"""  # 501: what Ollama's clients may not do here, by design and in the document
GOOD = {"messages": [{"role": "user", "content": "What is a slot?"}], "max_tokens": 4}


def run(python: Path, name: str, seconds: int, kept: Path) -> bool:
    """Whether nothing broke."""
    print(f"== {name}", flush=True)
    home = Path(tempfile.mkdtemp(prefix="llm-fuzz-"))
    port = _free_port()
    try:
        verbs.change(home, port, "load", _spec(ENGINES[name], home), launch=Launch())
        before = verbs.status(home, [port])[0]
        broke = _schemathesis(python, port, seconds, kept)
        after = verbs.status(home, [port])[0]
        good = _answers(port) and (after.pid, after.runner_pid) == (before.pid, before.runner_pid)
        log = SlotFolder(home, port).log.read_text(errors="replace")
        if not good or "Traceback" in log:
            print(f"the slot is not as it was before: {before}, then {after}; its log ends\n{log[-4000:]}", flush=True)
        return not broke and good and "Traceback" not in log
    finally:
        verbs.stop(home, port)
        shutil.rmtree(home, ignore_errors=True)


def _spec(engine: str, home: Path) -> SlotSpec:
    if engine == "scripted":
        path = home / "fuzzed.script.json"
        path.write_text(json.dumps({"answers": {"What is a slot?": "A port on a host."}}))
        spec = EngineSpec("scripted", "fuzzed", str(path), "script", context=1024)
        return SlotSpec(spec, probe=Probe("What is a slot?", "A port"), needed_bytes=10**6)
    made = subprocess.run([ROOT / "scripts" / "tiny-models"], stdout=subprocess.PIPE, check=True)
    path = Path(json.loads(made.stdout)["tiny-qwen2"])
    spec = EngineSpec(engine, "fuzzed", str(path), "safetensors", context=256)
    return SlotSpec(spec, probe=Probe("What is a slot?", "A port", 24), needed_bytes=10**8)


def _schemathesis(python: Path, port: int, seconds: int, kept: Path) -> bool:
    """Whether it found something; it prints each failure with the curl command that shows it again."""
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "schemathesis.toml").write_text(CONFIG)
    argv = [
        python.with_name("st"), "run", f"http://127.0.0.1:{port}/openapi.json", "--max-time", str(seconds),
        "--checks", CHECKS, "--request-timeout", "60", "--continue-on-failure", "--max-failures", "20",
        "--phases", "coverage,fuzzing", "--no-color", "--output-sanitize", "false",
    ]  # fmt: skip
    return subprocess.run(argv, cwd=kept, stdout=sys.stdout).returncode != 0


def _answers(port: int) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(GOOD).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return bool(json.load(response)["choices"])


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
