"""The matrix without a real engine: which cells there are, what a row says, and that each check finds its fault."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmctl import testing
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.checks import matrix, matrix_checks, matrix_tokens, scratch
from llmctl.checks.matrix import Cell, Chosen
from llmctl.checks.matrix_cell import summed
from llmctl.checks.matrix_checks import Subject
from llmctl.checks.slot_checks import FAIL, PASS, SKIP, Verdict
from llmctl.checks.slot_http import SlotHttp
from llmctl.config import Host
from llmctl.domain import SlotSpec
from llmctl.models.checkpoint import inspect
from tests.conftest import RunningSlot

ANSWERS = {"What is a slot?": "A port on a host that holds at most one model.", "Say hello.": "Hello from llmctl!"}


@pytest.fixture
def catalog(tiny_models: dict[str, Path]) -> Catalog:
    """A model in three formats, one with damaged files, and a script."""
    llama = [
        Artifact("safetensors", path=tiny_models["tiny-llama"]),
        Artifact("gguf", "f16", path=tiny_models["tiny-llama-gguf"]),
        Artifact("gguf", "q8_0", path=tiny_models["tiny-llama-gguf-q8_0"]),
    ]
    damaged = [Artifact("safetensors", path=tiny_models["tiny-llama"] / "model.safetensors")]
    return Catalog(
        [
            Model("tiny-llama", artifacts=tuple(llama)),
            Model("tiny-gemma3", artifacts=(Artifact("gguf", "f16", path=tiny_models["tiny-gemma3-gguf"]),)),
            Model("damaged", artifacts=tuple(damaged)),
            Model("script", artifacts=(Artifact("script", path=tiny_models["tiny-llama"] / "config.json"),)),
        ]
    )


@pytest.mark.parametrize(
    "said, chosen, expected",
    [
        ({}, {"models": ("tiny-llama",)},
         {("torch", None), ("mlx", None), ("llamacpp", "f16"), ("llamacpp", "q8_0"), ("openvino", "f16"),
          ("openvino", "q8_0")}),
        ({"engines": ("llamacpp",)}, {"models": ("tiny-*",)}, {("llamacpp", "f16"), ("llamacpp", "q8_0")}),
        ({}, {"engine": "torch", "models": ("tiny-*",)}, {("torch", None)}),
        ({}, {"architecture": "llama", "engine": "mlx", "models": ("tiny-*",)}, {("mlx", None)}),
        ({}, {"architecture": "qwen2"}, set()),
        ({}, {"models": ("script",)}, set()),
    ],
)  # fmt: skip
def test_the_cells_of_a_host(catalog: Catalog, said: Any, chosen: Any, expected: set[tuple[str, Any]]) -> None:
    found = matrix.cells(catalog, Host("here"), "cpu", testing.Testing(**said), Chosen(**chosen))
    known = {engine for engine in matrix.READS if "gguf" in matrix.READS[engine]} | {"torch", "mlx"}
    assert {(c.engine, c.artifact.quantization) for c in found} == {one for one in expected if one[0] in known}


def test_an_architecture_has_one_name_in_every_format(catalog: Catalog) -> None:
    found = list(matrix.cells(catalog, Host("here"), "cpu", testing.Testing(), Chosen(models=("tiny-*",))))
    names = {(cell.model.id, cell.architecture) for cell in found}
    assert names == {("tiny-llama", "llama"), ("tiny-gemma3", "gemma3")}
    for name, said in {"gemma3_text": "gemma3", "qwen2moe": "qwen2-moe", "phi2": "phi", "gpt_oss": "gpt-oss"}.items():
        assert matrix.one_name(name) == matrix.one_name(said) == said


def test_a_backend_that_is_not_meant_or_not_to_be_tested() -> None:
    assert matrix.wanted_backend("cpu", testing.Testing(), Chosen())
    assert not matrix.wanted_backend("cpu", testing.Testing(), Chosen(backend="metal"))
    assert not matrix.wanted_backend("cpu", testing.Testing(backends=("cuda",)), Chosen())


@pytest.mark.parametrize(
    "said, seconds, why",
    [
        ({}, 1e9, None),
        ({"largest": 10**9, "parameters": 10**9, "time": 60.0}, 59.0, None),
        ({"largest": 1000}, 0.0, "of weights, and testing.toml allows"),
        ({"parameters": 1000}, 0.0, "parameters, and testing.toml allows 1,000"),
        ({"time": 60.0}, 61.0, "the 60 s that testing.toml gives were over"),
    ],
)
def test_what_testing_toml_leaves_out(tiny_models: dict[str, Path], said: Any, seconds: float, why: str | None) -> None:
    path = tiny_models["tiny-llama"]
    cell = Cell(Model("m"), Artifact("safetensors"), path, "torch", "llama", inspect(path))
    found = matrix.obstacle(cell, testing.Testing(**said), seconds)
    assert found is None if why is None else why in str(found)


def test_a_cell_whose_files_cannot_be_read_fails(catalog: Catalog, home: Path) -> None:
    chosen = Chosen(engine="torch", models=("damaged",))
    found = matrix.run(home, Host("here"), catalog, testing.Testing(), chosen, lambda event: None)
    assert [(row.status, row.arch) for row in found.rows] == [(FAIL, "unknown")]
    assert "neither a folder nor a .gguf file" in found.rows[0].why


@pytest.mark.parametrize(
    "statuses, code", [([], 5), ([SKIP], 5), ([PASS], 0), ([PASS, SKIP], 0), ([FAIL, PASS], 1), ([FAIL, SKIP], 1)]
)
def test_the_exit_code(statuses: list[str], code: int) -> None:
    assert matrix.exit_code([{"status": status} for status in statuses]) == code


def test_a_row_says_its_first_failure() -> None:
    fine = {"load": Verdict(PASS, "1 s"), "image": Verdict(SKIP, "no images")}
    assert (summed(fine, 1.0, {}).status, summed(fine, 1.0, {}).why) == (PASS, "1 checks")
    bad = summed({**fine, "batch": Verdict(FAIL, "one"), "long": Verdict(FAIL, "two")}, 1.0, {})
    assert (bad.status, bad.why) == (FAIL, "batch: one (and 1 more)")
    assert bad.checks == {"load": "pass: 1 s", "image": "skip: no images", "batch": "fail: one", "long": "fail: two"}


def test_growth_and_beginnings() -> None:
    assert matrix_checks.slope([5.0, 5.0, 5.0]) == 0
    assert matrix_checks.slope([0.0, 10.0, 20.0, 30.0]) == pytest.approx(10.0)
    assert matrix_checks.beginning("A port on a host.", 0) == "A"
    assert matrix_checks.beginning("A port on a host.", 2) == "A port on"
    assert matrix_checks.beginning("A port on a host.", 5) == "A port"
    assert matrix_checks.beginning("No.", 3) == ""


# ── each check, of a scripted slot that lies ────────────────────────────────────────────────────────────────────────

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]


def subject(slot: RunningSlot, spec: SlotSpec, pairs: dict[str, str] = ANSWERS, **more: Any) -> Subject:
    server = scratch.Server(slot.folder, None, spec.model, slot.folder.log)  # type: ignore[arg-type]
    http = SlotHttp("127.0.0.1", slot.port, None, 30.0)
    return Subject(spec, "cpu", http, slot.status, server=server, launch=slot.launch, pairs=list(pairs.items()), **more)


@pytest.mark.parametrize(
    "play, pairs, check, why",
    [
        ({}, {}, "answers", None),
        ({}, {"Say hello.": "Good day."}, "answers", "asked 'Say hello.', it says 'Hello from llmctl!'"),
        ({}, {}, "batch", None),
        ({"crosstalk": True, "step": 0.01}, {}, "batch", "among others, it says"),
        ({"odd": [5]}, {}, "stream", "the stream says"),
        ({}, {}, "stream", None),
        ({}, {}, "rapid", None),
        ({"crosstalk": True, "step": 0.01}, {}, "rapid", "one of many says"),
        ({}, {"needle " * 500: "found"}, "long_context", "instead of 'found'"),
    ],
)  # fmt: skip
def test_a_check_finds_its_fault(
    slots: Slots, script: Script, play: dict[str, Any], pairs: dict[str, str], check: str, why: str | None
) -> None:
    spec = script("alpha", answers=ANSWERS, **play)
    slot = subject(slots(spec), spec, {**ANSWERS, **pairs})
    matrix_checks.hear(slot)
    found = getattr(matrix_checks, check)(slot)
    assert found.status == (PASS if why is None else FAIL), found
    assert why is None or why in found.why


def test_an_answer_that_goes_on_otherwise_than_it_was_decoded(slots: Slots, script: Script) -> None:
    spec = script("alpha", answers=ANSWERS)
    slot = subject(slots(spec), spec)
    found = matrix_checks.recompute(slot)  # a script knows whole questions only, and begins its answer again
    assert found.status == FAIL and "read anew it says" in found.why


def test_memory_that_grows(slots: Slots, script: Script) -> None:
    spec = script("alpha", answers=ANSWERS)
    slot, held = subject(slots(spec), spec), 0
    matrix_checks.hear(slot)
    real = slot.status
    slot.status = lambda: replace(real(), memory_bytes=10**9)
    assert matrix_checks.memory(slot).status == PASS

    def growing() -> Any:
        nonlocal held
        held += 2 * matrix_checks.PER_REQUEST * matrix_checks.SAMPLE_EVERY
        return replace(real(), memory_bytes=held)

    slot.status = growing
    found = matrix_checks.memory(slot)
    assert found.status == FAIL and found.why.startswith("+128.0 KiB with each of 200 requests")


def test_a_process_that_stays_after_it_is_unloaded(
    slots: Slots, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = script("alpha", answers=ANSWERS)
    running = slots(spec)
    slot = subject(running, spec, before=10**12)
    real = slot.status
    monkeypatch.setattr(matrix_checks, "GONE_WITHIN", 0.2)
    slot.status = lambda: replace(real(), pid=os.getpid())
    assert matrix_checks.unload(slot).status == FAIL
    slot.status = real
    running.change("load", spec)
    assert matrix_checks.unload(slot).status == PASS
    running.change("load", spec)
    slot.before = -matrix_checks.SERVER_KEEPS
    assert "the slot server kept" in matrix_checks.unload(slot).why and matrix_checks.unload(slot).status == FAIL


def test_tokens_that_are_not_the_checkpoints(slots: Slots, script: Script, tiny_models: dict[str, Path]) -> None:
    spec = script("alpha", answers=ANSWERS)
    slot = subject(slots(spec), spec, folders=[tiny_models["tiny-llama"]])
    found = matrix_checks.tokens(slot)
    assert found.status == FAIL and "instead of" in found.why
    slot.folders = []
    assert matrix_checks.tokens(slot).status == SKIP


def test_what_the_tokenizers_library_says(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    found = matrix_tokens.by_tokenizers(tiny_models["tiny-llama"], "torch")
    assert found is not None and len(found) == len(matrix_tokens.TEXTS)
    assert all(special == [1, *plain] for plain, special in found)  # <s> before a prompt
    (tmp_path / "tokenizer.json").write_text("{}")
    assert matrix_tokens.by_tokenizers(tmp_path, "torch") is None


def test_rows_as_json(catalog: Catalog, home: Path) -> None:
    chosen = Chosen(models=("damaged",), engine="torch")
    rows = matrix.as_json(matrix.run(home, Host("here"), catalog, testing.Testing(), chosen, lambda event: None).rows)
    assert set(json.loads(json.dumps(rows))[0]) == {
        "host", "backend", "engine", "arch", "model", "format", "quantization", "status", "why", "seconds", "checks",
    }  # fmt: skip
