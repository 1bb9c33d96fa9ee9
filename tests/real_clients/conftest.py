"""Live slots for other people's clients, the environments that those are in, and what their drivers told."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmctl import keys
from llmctl.domain import Limits, Probe, SlotSpec
from llmctl.slots.state import Launch
from scripts.tiny.vision.drawing import Thing, draw
from tests.conformance.conftest import spec_of, without_end
from tests.conftest import REPO, RunningSlot, free_port

DRIVERS = Path(__file__).with_name("drivers")
TIMEOUT = 300
Driven = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def python() -> Callable[[str], Path]:
    """python("clients") → the interpreter of that environment; skips where it cannot be made."""

    @cache
    def make(name: str) -> Path:
        argv = [sys.executable, str(REPO / "scripts" / "own-environment"), name]
        made = subprocess.run(argv, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"the environment {name} cannot be made: {made.stderr.strip()[-300:]}")
        return Path(made.stdout.strip())

    return make


@pytest.fixture(scope="session")
def clients_home() -> Iterator[Path]:
    """The state folder of the slots that clients talk to."""
    home = Path(tempfile.mkdtemp(prefix="llm-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMCTL_HOME", str(home))
        yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def open_slot(clients_home: Path) -> Iterator[Callable[..., RunningSlot]]:
    """open_slot(spec, require_key=…) → a running slot; all end with the session."""
    running: list[RunningSlot] = []

    def start(spec: SlotSpec, *, require_key: bool = False) -> RunningSlot:
        slot = RunningSlot(clients_home, free_port(), Launch(limits=Limits(drain=5.0), require_key=require_key))
        running.append(slot)
        slot.change("load", spec)
        return slot

    yield start
    for slot in running:
        slot.kill()


@pytest.fixture(scope="session")
def talking_slot(open_slot: Callable[..., RunningSlot], tiny_models: dict[str, Path]) -> RunningSlot:
    """A model that answers right."""
    return open_slot(spec_of("torch", tiny_models["tiny-qwen2"]))


@pytest.fixture(scope="session")
def endless_slot(
    open_slot: Callable[..., RunningSlot], clients_home: Path, tiny_models: dict[str, Path]
) -> tuple[RunningSlot, str]:
    """A model that never says its end, and the key that its slot wants."""
    key = keys.show(clients_home)["client"]
    path = without_end(tiny_models["tiny-qwen2"], clients_home / "endless")
    return open_slot(spec_of("torch", path), require_key=True), key


@pytest.fixture(scope="session")
def embedding_slot(open_slot: Callable[..., RunningSlot], embed_model: dict[str, Path]) -> RunningSlot:
    """A model that embeds."""
    return open_slot(spec_of("torch", embed_model["tiny-embed"], Probe()))


@pytest.fixture(scope="session")
def seeing_slot(open_slot: Callable[..., RunningSlot], vision_model: dict[str, Path]) -> RunningSlot:
    """A model that says what is in a picture."""
    return open_slot(spec_of("torch", vision_model["tiny-vision"]))


@pytest.fixture(scope="session")
def setting(
    talking_slot: RunningSlot,
    endless_slot: tuple[RunningSlot, str],
    embedding_slot: RunningSlot,
    seeing_slot: RunningSlot,
    clients_home: Path,
) -> dict[str, str]:
    """What a driver is told (drivers/cases.py, Setting)."""
    endless, key = endless_slot
    picture = clients_home / "picture.png"
    draw(Thing("red", "circle"), random.Random(7)).save(picture)
    return {
        "url": talking_slot.base_url, "endless": endless.base_url, "key": key, "embedding": embedding_slot.base_url,
        "seeing": seeing_slot.base_url, "image": str(picture), "shows": "A red circle.",
    }  # fmt: skip


@pytest.fixture(scope="session")
def driven(python: Callable[[str], Path], setting: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Driven:
    """driven("openai") → {case: what came of it}, each client run once."""

    @cache
    def drive(client: str) -> dict[str, Any]:
        interpreter = python("litellm" if client == "litellm" else "clients")
        argv = [str(interpreter), str(DRIVERS / f"with_{client}.py"), json.dumps(setting)]
        folder = tmp_path_factory.mktemp(client)
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
        ran = subprocess.run(
            argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return found

    return drive
