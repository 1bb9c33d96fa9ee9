"""A person at the page in headless Chromium: three widths, two themes, axe-core, a swap clicked through, a question."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.gateway.registry import Replica
from tests.conftest import REPO, free_port
from tests.gateway.conftest import Start, gateway, handle
from tests.real_clients.conftest import python
from tests.web.operator import Operator, operator

__all__ = ["gateway", "operator", "python"]

TIMEOUT = 600


@pytest.fixture
def fronted(operator: Operator, gateway: Start) -> int:
    """The port of one over the operator's slot, and over another that does not answer."""
    rests = Replica("far", free_port(), "alpha", "scripted", f"127.0.0.1:{free_port()}")
    own = handle("a-handle-with-a-long-name", operator.slot)
    return gateway(replace(own, replicas=(*own.replicas, rests))).port


def test_a_person_looks_swaps_and_asks(
    python: Callable[[str], Path], operator: Operator, fronted: int, tmp_path: Path
) -> None:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("there is no Chromium: scripts/browser")
    got = subprocess.run([sys.executable, REPO / "scripts" / "axe-core"], capture_output=True, text=True, check=False)
    if got.returncode:
        pytest.skip(got.stderr.strip()[-300:])
    told = {
        "chromium": chromium, "chromedriver": chromedriver, "url": operator.url, "axe": got.stdout.strip(),
        "key": operator.key("admin"), "host": "here", "port": operator.slot.port, "next": "beta", "question": "Who?",
        "answer": "I am beta.", "gateway": fronted, "picture": str(tmp_path / "last.png"),
    }  # fmt: skip
    ran = subprocess.run(
        [python("browser"), "-m", "tests.web.browsing", json.dumps(told)],
        cwd=REPO, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["looked"] == 13
    assert not found["wrong"]
    assert not found["complaints"]
    assert "alpha" in found["plain"] and "first token after 1.20 s" in found["plain"]
    assert found["tabs"][:3] == ["To the content", "llmctl fleet", "Fleet"]
    assert "beta is ready" in found["swap"] and found["said"] == "I am beta."
    assert found["lines"] >= 2
    assert found["theme"] == ["none", "dark", "dark"]
    assert operator.slot.status().model == "beta"
