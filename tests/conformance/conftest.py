"""One slot of each engine for the whole suite, and one whose model never ends an answer by itself."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import pytest

from llmctl.domain import EngineSpec, Limits, Probe, SlotSpec
from llmctl.gateway import life, registry
from llmctl.gateway.registry import Registry
from llmctl.models import fit
from llmctl.models.checkpoint import inspect
from llmctl.slots.state import Launch
from tests.conformance.cells import BEHIND, GATEWAY
from tests.conftest import REPO, RunningSlot, free_port
from tests.gateway.conftest import Fronted, handle

MODELS = {"torch": "tiny-qwen2", "llamacpp": "tiny-qwen2-gguf", "mlx": "tiny-qwen2", "openvino": "tiny-qwen2-gguf"}
CONTEXT = 1024
SlotOf = Callable[..., RunningSlot]
PROBE = Probe("What is a slot?", "A port", 24)


def spec_of(engine: str, path: Path, probe: Probe = PROBE) -> SlotSpec:
    found = inspect(path)
    spec = EngineSpec(engine, "tiny", str(path), found.format, context=CONTEXT, parallel=4)
    return SlotSpec(spec, probe=probe, needed_bytes=fit.estimate(found, CONTEXT, 4, engine).total)


@contextlib.contextmanager
def kept_home() -> Iterator[tuple[Path, Callable[[SlotSpec], RunningSlot], Callable[[RunningSlot], RunningSlot]]]:
    """A state folder for the whole session, what loads a slot in it, and what puts a gateway before one; all servers
    end with it."""
    home = Path(tempfile.mkdtemp(prefix="llm-"))
    running: list[RunningSlot] = []

    def load(spec: SlotSpec) -> RunningSlot:
        slot = RunningSlot(home, free_port(), Launch(limits=Limits(drain=5.0)))
        running.append(slot)
        slot.change("load", spec)
        return slot

    def front(slot: RunningSlot) -> RunningSlot:
        known, own = handle("tiny", slot, model="tiny"), home / f"g{slot.port}"
        own.mkdir()  # a home has one registry
        registry.write(own, Registry({known.name: known}, known.name))
        gateway = RunningSlot(own, free_port(), Launch(limits=Limits(drain=5.0)))
        running.append(gateway)
        life.up(own, gateway.port, gateway.launch)
        return cast(RunningSlot, Fronted(slot, gateway))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMCTL_HOME", str(home))
        yield home, load, front
        for slot in running:
            slot.kill()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def slot_of(tiny_models: dict[str, Path]) -> Iterator[SlotOf]:
    """slot_of("torch") → the slot of that engine, started once; slot_of("torch", endless=True) never says its end."""
    with kept_home() as (home, load, front):

        @cache
        def start(engine: str, endless: bool = False) -> RunningSlot:
            if engine == GATEWAY:
                return front(start(BEHIND, endless=True) if endless else start(BEHIND))
            path = tiny_models[MODELS[engine]]
            return load(spec_of(engine, without_end(path, home / f"endless-{engine}") if endless else path))

        yield start


@pytest.fixture(scope="session")
def seeing_slot_of(vision_model: dict[str, Path]) -> Iterator[SlotOf]:
    """seeing_slot_of("torch") → the slot of that engine with the vision model, started once."""
    with kept_home() as (home, load, front):

        @cache
        def start(engine: str) -> RunningSlot:
            if engine == GATEWAY:
                return front(start(BEHIND))
            path = vision_model["tiny-vision"]
            if engine == "llamacpp":  # as a pulled artifact: the model, and its projector beside it
                path = home / "gguf" / "model.gguf"
                path.parent.mkdir(exist_ok=True)
                shutil.copy(vision_model["tiny-vision-gguf"], path)
                shutil.copy(vision_model["tiny-vision-mmproj"], path.with_name("mmproj-model.gguf"))
            python = own_python("mlx-vision") if engine == "mlx" else None
            return load(replace(spec_of(engine, path), python=python))

        yield start


def own_python(name: str) -> str:
    """The Python of an environment of its own; the test is skipped where that cannot be made."""
    made = subprocess.run([REPO / "scripts" / "own-environment", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"the environment {name} cannot be made: {made.stderr.strip()}")
    return made.stdout.strip()


def without_end(path: Path, folder: Path) -> Path:
    """The same weights; the token that ends an answer is a token like others."""
    folder.mkdir()
    if path.suffix == ".gguf":
        return _gguf_without_end(path, folder / path.name)
    for file in path.iterdir():
        if file.suffix == ".json" and file.name != "tokenizer.json":
            data = json.loads(file.read_text())
            if "eos_token_id" in data:
                data["eos_token_id"] = None
            if "eos_token" in data:
                data["eos_token"] = None
            (folder / file.name).write_text(json.dumps(data))
        else:
            shutil.copy(file, folder)
    return folder


def _gguf_without_end(path: Path, copy: Path) -> Path:
    """llama.cpp knows such tokens by number and by name: both are changed in place."""
    from gguf import GGUFReader

    shutil.copy(path, copy)
    reader = GGUFReader(copy, "r+")
    tokens = reader.fields["tokenizer.ggml.tokens"]
    for at in tokens.data:
        text = tokens.parts[at]
        if bytes(text) in (b"<|im_end|>", b"<|endoftext|>"):
            text[2:4] = list(b"zz")
    plain = next(i for i, at in enumerate(tokens.data) if bytes(tokens.parts[at]) == b"a")
    for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.padding_token_id"):
        with contextlib.suppress(KeyError):
            reader.fields[key].parts[-1][0] = plain
    reader.data.flush()
    return copy
