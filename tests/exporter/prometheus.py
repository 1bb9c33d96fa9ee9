"""A real Prometheus for tests, and its promtool; Debian's package `prometheus` has both."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO, eventually, free_port
from tests.exporter.ops import get

MONITORING = REPO / "docs" / "monitoring"
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="needs: apt-get install prometheus"
)
DASHBOARD = json.loads((MONITORING / "grafana.json").read_text())


def promtool(*words: object, stdin: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    argv = ["promtool", *map(str, words)]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, cwd=cwd)


def expressions() -> dict[str, str]:
    """What the dashboard asks, by panel and letter, as Grafana would fill it in."""
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            filled = re.sub(r"\$(host|port)\b", ".*", target["expr"]).replace("$__rate_interval", "1m")
            found[f"{panel['title']} {target['refId']}"] = filled
    return found


@dataclass
class Prometheus:
    """A running server."""

    port: int

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        query = urllib.parse.urlencode({"query": expression})
        status, text = get(f"http://127.0.0.1:{self.port}/api/v1/query?{query}")
        assert status == 200, (expression, text)
        found: list[dict[str, Any]] = json.loads(text)["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """That of the only series; None when there is none."""
        found = self.ask(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None


@contextlib.contextmanager
def running(folder: Path, config: str) -> Iterator[Prometheus]:
    """A Prometheus with the rules of the repository beside this configuration."""
    shutil.copy(MONITORING / "llmctl.rules.yml", folder)
    (folder / "prometheus.yml").write_text(config)
    port = free_port()
    argv = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        eventually(lambda: get(f"http://127.0.0.1:{port}/-/ready")[0] == 200)
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait()
