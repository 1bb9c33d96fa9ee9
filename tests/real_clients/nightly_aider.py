"""aider against a live slot: one message, one answer. By hand or at night: scripts/nightly-clients."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.clients import get
from tests.conformance.conftest import spec_of
from tests.conftest import RunningSlot

LARGEST = 2048  # tokens: its own prompt has 1,391
TIMEOUT = 1200
MESSAGE = "Let hello return 2."
FLAGS = (
    *("--yes-always", "--no-git", "--no-gitignore", "--no-pretty", "--no-check-update", "--no-show-model-warnings"),
    *("--no-show-release-notes", "--no-detect-urls", "--analytics-disable", "--map-tokens", "0"),
    *("--edit-format", "whole"),
)


def test_a_message_reaches_the_slot_and_its_answer_is_shown(
    python: Callable[[str], Path],
    open_slot: Callable[..., RunningSlot],
    tiny_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    spec = spec_of("torch", tiny_models["tiny-qwen2"])
    slot = open_slot(replace(spec, engine=replace(spec.engine, context=LARGEST)))
    (tmp_path / "hello.py").write_text("def hello():\n    return 1\n")
    (tmp_path / ".aider" / "caches").mkdir(parents=True)  # else it asks the internet for the prices of models
    (tmp_path / ".aider" / "caches" / "model_prices_and_context_window.json").write_text("{}")
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OPENAI_API_KEY": "none",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }  # fmt: skip
    told = ["--model", "openai/tiny", "--openai-api-base", f"{slot.base_url}/v1", "--message", MESSAGE]
    ran = subprocess.run(
        [python("aider").parent / "aider", *told, *FLAGS, "hello.py"],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "litellm." not in ran.stdout and "Tokens:" in ran.stdout, ran.stdout  # it prints errors by that name
    assert 'llmctl_requests_total{route="/v1/chat/completions",status="200"}' in get(slot.port, "/metrics")[2]
    history = (tmp_path / ".aider.chat.history.md").read_text()
    said = history.partition(f"#### {MESSAGE}")[2]
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(">")]
    assert lines and lines[0] in ran.stdout, history
