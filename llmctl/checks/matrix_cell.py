"""One cell of the matrix: a model in one format on one engine, loaded by a slot server of its own, and every check."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmctl.catalog import Catalog
from llmctl.checks import machine, matrix_checks, scratch
from llmctl.checks.matrix_checks import CHECKS, Subject
from llmctl.checks.slot_checks import FAIL, PASS, SKIP, Verdict
from llmctl.checks.slot_http import SlotHttp
from llmctl.config import Host
from llmctl.domain import READY, SlotSpec
from llmctl.errors import DoesNotFit, LlmctlError, Unsupported
from llmctl.slots import verbs
from llmctl.slots.resolve import Wish, launch_of, longest_context, resolve
from llmctl.testing import Testing

if TYPE_CHECKING:
    from llmctl.checks.matrix import Cell

UP_WITHIN = 60.0
ANSWER_WITHIN = 120.0
NOWHERE = Path("/nonexistent")
LOAD = "load"


@dataclass(frozen=True)
class Outcome:
    """What was found of a cell; `versions` of what the engine process ran on."""

    status: str
    why: str
    seconds: float = 0.0
    checks: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def prove(home: Path, host: Host, catalog: Catalog, cell: Cell, testing: Testing) -> Outcome:
    """Load it, check it, unload it."""
    began = time.monotonic()
    verdicts: dict[str, Verdict] = {}
    versions: Mapping[str, str] = {}
    try:
        spec = spec_of(host, catalog, cell, testing)
        launch = replace(launch_of(host), bind="127.0.0.1", require_key=False, service="none")
        port = scratch.free_port(home, host.ports)
        with scratch.reserved(home, port, spec, launch), scratch.serving(port, spec, launch, empty=True) as server:
            server.wait_up(UP_WITHIN)
            http = SlotHttp(launch.bind, port, None, ANSWER_WITHIN)
            subject = Subject(
                spec, launch.backend, http, lambda: verbs.status(server.folder.home, [port])[0], server=server,
                launch=launch, pairs=testing.pairs(spec.model), folders=_folders(cell),
            )  # fmt: skip
            verdicts[LOAD] = matrix_checks.load(subject)
            versions = machine.versions(cell.engine, subject.status().pid)
            for name, check in CHECKS.items():
                verdicts[name] = _checked(check, subject)
    except (Unsupported, DoesNotFit) as error:
        return Outcome(SKIP, error.message, time.monotonic() - began)
    except LlmctlError as error:
        verdicts[LOAD] = Verdict(FAIL, error.message)
    return summed(verdicts, time.monotonic() - began, versions)


def spec_of(host: Host, catalog: Catalog, cell: Cell, testing: Testing) -> SlotSpec:
    """What a slot is told to load this artifact with this engine, as if the host had no other."""
    assert cell.checkpoint
    alone = replace(cell.artifact, path=cell.path, names=())
    model = replace(cell.model, artifacts=(alone,))
    context = min(testing.context, longest_context(model, alone, cell.checkpoint))
    wish = Wish(model.id, cell.engine, context=context, parallel=testing.parallel)
    return resolve(Catalog([model], catalog.quality.values()), replace(host, models_dir=NOWHERE), wish)


def summed(verdicts: Mapping[str, Verdict], seconds: float, versions: Mapping[str, str]) -> Outcome:
    """One status of all checks: the first failure is why, else what was seen."""
    checks = {name: f"{found.status}: {found.why}" if found.why else found.status for name, found in verdicts.items()}
    failed = [f"{name}: {found.why}" for name, found in verdicts.items() if found.status == FAIL]
    passed = sum(found.status == PASS for found in verdicts.values())
    why = failed[0] if failed else f"{passed} checks"
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return Outcome(FAIL if failed else PASS, why + more, seconds, checks, versions)


def _checked(check: matrix_checks.Check, subject: Subject) -> Verdict:
    """A check's verdict; with an engine that has ended, what is said of it."""
    try:
        return check(subject)
    except LlmctlError as error:
        state = subject.status()
        ended = f"; the slot is {state.state}: {state.why}" if state.state != READY else ""
        return Verdict(FAIL, f"{error.message}{ended}")


def _folders(cell: Cell) -> tuple[Path, ...]:
    """Where the model's own tokenizer.json may lie."""
    places = [cell.path, *(artifact.path for artifact in cell.model.artifacts if artifact.path)]
    return tuple(place for place in places if (place / "tokenizer.json").is_file())
