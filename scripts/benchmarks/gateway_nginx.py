"""nginx as a fake slot that answers at once, and as a proxy: the least that a hop can cost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts.benchmarks import testbed

ANSWER = {
    "id": "chatcmpl-5f2c", "object": "chat.completion", "created": 1700000000, "model": "fast",
    "choices": [{
        "index": 0, "finish_reason": "stop", "logprobs": None,
        "message": {"role": "assistant", "content": "A port that holds a model and answers for it."},
    }],
    "usage": {"prompt_tokens": 61, "completion_tokens": 11, "total_tokens": 72},
}  # fmt: skip
TOOLS = ("nginx", "wrk")


def tools() -> None:
    """Have nginx and wrk from Debian's packages."""
    if all(map(shutil.which, TOOLS)):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise SystemExit(f"error: {' and '.join(TOOLS)} are needed\nhint: apt-get install {' '.join(TOOLS)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=env, check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *TOOLS], env=env, check=True)


def answering(folder: Path, port: int) -> contextlib.AbstractContextManager[int]:
    """A server on `port` whose chat answer is always the same."""
    said, health = json.dumps(ANSWER), json.dumps({"state": "ready"})
    return _running(
        folder, port,
        f"server {{ listen 127.0.0.1:{port}; default_type application/json;\n"
        f" location / {{ return 200 '{said}'; }}\n location /health {{ return 200 '{health}'; }}\n}}\n",
    )  # fmt: skip


def passing(folder: Path, ports: Mapping[int, int]) -> contextlib.AbstractContextManager[int]:
    """A proxy from each port to another; answers are passed on as they come, on connections that are kept."""
    blocks = [
        f"upstream up{port} {{ server 127.0.0.1:{behind}; keepalive 64; }}\n"
        f"server {{ listen 127.0.0.1:{port};\n location / {{ proxy_pass http://up{port}; proxy_buffering off;"
        ' proxy_http_version 1.1; proxy_set_header Connection ""; }\n}\n'
        for port, behind in ports.items()
    ]
    return _running(folder, next(iter(ports)), "".join(blocks))


def _running(folder: Path, port: int, servers: str) -> contextlib.AbstractContextManager[int]:
    """One worker, as the gateway is one process."""
    folder.mkdir()
    kept = "".join(
        f"{what}_temp_path {folder}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = folder / "nginx.conf"
    conf.write_text(
        f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 8192; }\n"
        f"http {{ access_log off; keepalive_requests 1000000000;\n{kept}{servers}}}\n"
    )
    argv = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(conf)]
    return testbed.serving("nginx", argv, port)
