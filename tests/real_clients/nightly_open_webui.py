"""Open WebUI against a live slot, used in a browser. By hand or at night: scripts/nightly-clients."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, RunningSlot, eventually, free_port
from tests.real_clients.test_clients import ANSWER

STARTS_WITHIN = 1200.0  # seconds; it imports for a minute of processor time
TIMEOUT = 1200
PICTURES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmctl-nightly"


@pytest.fixture(scope="module")
def web_ui(
    python: Callable[[str], Path], talking_slot: RunningSlot, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Its address."""
    folder, port = tmp_path_factory.mktemp("open-webui"), free_port()
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "DATA_DIR": str(folder / "data"), "WEBUI_SECRET_KEY": "a secret",
        "OPENAI_API_BASE_URL": f"{talking_slot.base_url}/v1", "OPENAI_API_KEY": "none", "ENABLE_OLLAMA_API": "false",
        # else its own tools are 14,000 tokens of every prompt, more than the tiny model takes
        "DEFAULT_MODEL_PARAMS": '{"function_calling": "legacy"}',
        # else it fetches a model for its document search
        "OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "RAG_EMBEDDING_ENGINE": "openai",
    }  # fmt: skip
    program = python("open-webui").parent / "open-webui"
    with open(folder / "log", "w", encoding="utf-8") as log:
        served = subprocess.Popen(
            [program, "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert served.poll() is None, (folder / "log").read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=10) as response:
            return bool(response.status == 200)
        return False

    try:
        eventually(up, within=STARTS_WITHIN, every=1.0)
        yield url
    finally:
        served.terminate()
        served.wait(60)


def test_a_person_asks_and_is_answered(python: Callable[[str], Path], web_ui: str) -> None:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("apt-get install chromium chromium-driver")
    PICTURES.mkdir(parents=True, exist_ok=True)
    told = {
        "url": web_ui, "model": "tiny", "question": "What is a slot?", "answer": ANSWER, "chromium": chromium,
        "chromedriver": chromedriver, "picture": str(PICTURES / "open-webui.png"),
    }  # fmt: skip
    ran = subprocess.run(
        [python("browser"), "-m", "tests.real_clients.drivers.browse_open_webui", json.dumps(told)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ANSWER in json.loads(ran.stdout.splitlines()[-1])["said"]
