"""Two real models of which a host has one at a time: each request has the right one answer it, the other one goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmctl.__main__ import main
from llmctl.domain import OnDemand
from llmctl.gateway import life
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, free_port

NAMES = ("tiny-qwen2-gguf", "tiny-llama-gguf")
MODEL = """
[models.{0}]
artifacts = [{{ format = "gguf", path = "{1}" }}]
"""
SLOT = """
[[slots]]
port = {1}
model = "{0}"
engine = "llamacpp"
context = 256
on_demand = true
exclusive = "only-one"
"""


@pytest.fixture
def ask(tiny_models: dict[str, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """ask(model, text) → what a real slot behind a real gateway says, and which slots have a model then."""
    (tmp_path / "models.toml").write_text("".join(MODEL.format(name, tiny_models[name]) for name in NAMES))
    (tmp_path / "hosts.toml").write_text("[hosts.here]\n")
    slots = {name: RunningSlot(home, free_port(), Launch()) for name in NAMES}
    (tmp_path / "profiles").mkdir()
    text = "".join(SLOT.format(name, slot.port) + f'handle = "h-{name}"\n' for name, slot in slots.items())
    (tmp_path / "profiles" / "p.toml").write_text(text)
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))
    gateway = RunningSlot(home, free_port(), Launch(on_demand=OnDemand(told=0.2)))
    assert main(["--json", "handles", "sync"]) == 0
    life.up(home, gateway.port, gateway.launch)

    def call(name: str, stream: bool) -> tuple[list[dict[str, Any]], set[str]]:
        url, body = (
            f"{gateway.base_url}/v1/completions",
            {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0},
        )
        answer = httpx.post(url, json={"model": f"h-{name}", "stream": stream, **body}, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        rows = [row.removeprefix("data: ") for row in answer.text.split("\n") if row.startswith(("data: {", "{"))]
        there = {name for name, slot in slots.items() if slot.folder.path.exists() and slot.state() == "ready"}
        return [json.loads(row) for row in rows], there

    yield call
    for one in (gateway, *slots.values()):
        one.kill()


def test_each_answers_with_the_other_one_gone(ask: Any) -> None:
    texts: dict[str, set[str]] = {name: set() for name in NAMES}
    for name, stream in ((NAMES[0], False), (NAMES[1], False), (NAMES[0], True)):
        rows, there = ask(name, stream)
        assert there == {name} and {row["model"] for row in rows} == {name}
        texts[name].add("".join(choice["text"] for row in rows for choice in row["choices"]))
    assert all(len(said) == 1 and said != {""} for said in texts.values()), "the same words after each load"
