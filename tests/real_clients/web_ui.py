"""Open WebUI in front of something, and a person at it: what the nightly tests of it share."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO, eventually, free_port

STARTS_WITHIN = 1200.0  # seconds; it imports for a minute of processor time
TIMEOUT = 1200
PICTURES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmctl-nightly"


@contextlib.contextmanager
def serving(python: Callable[[str], Path], folder: Path, base_url: str, key: str) -> Iterator[str]:
    """An Open WebUI whose models are those of `base_url`; its address."""
    port = free_port()
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "DATA_DIR": str(folder / "data"), "WEBUI_SECRET_KEY": "a secret",
        "OPENAI_API_BASE_URL": f"{base_url}/v1", "OPENAI_API_KEY": key, "ENABLE_OLLAMA_API": "false",
        # else its own tools are 14,000 tokens of every prompt, more than the tiny model takes
        "DEFAULT_MODEL_PARAMS": '{"function_calling": "legacy"}',
        # else it asks the model for titles, tags and what may be asked next
        "ENABLE_TITLE_GENERATION": "false", "ENABLE_TAGS_GENERATION": "false", "ENABLE_FOLLOW_UP_GENERATION": "false",
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


def browsed(python: Callable[[str], Path], picture: str, **told: Any) -> list[str]:
    """What a person was told in a browser (drivers/browse_open_webui); skips where there is none. `picture` names the
    screenshot."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("apt-get install chromium chromium-driver")
    PICTURES.mkdir(parents=True, exist_ok=True)
    all_told = {
        **told, "chromium": chromium, "chromedriver": chromedriver, "picture": str(PICTURES / f"{picture}.png"),
    }  # fmt: skip
    ran = subprocess.run(
        [python("browser"), "-m", "tests.real_clients.drivers.browse_open_webui", json.dumps(all_told)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    said: list[str] = json.loads(ran.stdout.splitlines()[-1])["said"]
    return said
