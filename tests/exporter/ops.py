"""The operator's machine of these tests, with exporters on it, and what is read from a page."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import eventually, free_port
from tests.testbed.sshd import SshHost


@dataclass
class Ops:
    """The operator's machine: its configuration, its state folder, the port of its gateway, and the hosts that it
    knows."""

    hosts: Mapping[str, SshHost]
    ports: Mapping[str, tuple[int, int]]
    config: Path
    home: Path
    gateway: int
    exporters: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LLMCTL_CONFIG": str(self.config), "LLMCTL_HOME": str(self.home)}

    def llmctl(self, *words: object) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "llmctl", *map(str, words)]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True)

    def slot(self, host: str) -> str:
        return f"{host}:{self.ports[host][0]}"

    def export(self, *words: str) -> str:
        """Start `llmctl metrics serve` on a port of its own; the URL of its page once it answers."""
        port = free_port()
        argv = [sys.executable, "-m", "llmctl", "metrics", "serve", "--port", str(port), *words]
        process = subprocess.Popen(argv, env=self.environment, stdout=subprocess.PIPE, text=True)
        self.exporters.append(process)
        assert process.stdout
        assert "/metrics has the metrics of" in process.stdout.readline()
        url = f"http://127.0.0.1:{port}/metrics"
        eventually(lambda: get(url)[0])
        return url


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Status and body; 0 when nobody answers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=named, method=method), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def samples(text: str) -> dict[str, float]:
    """{series: value}."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in lines}
