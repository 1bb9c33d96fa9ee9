"""What `llmctl registry` does with the files of the configuration and with the slots of this host."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl import catalog as catalogs
from llmctl import catalog_file, files, profiles
from llmctl import config as configs
from llmctl.catalog import Catalog
from llmctl.cli.profiles import running
from llmctl.cli.session import Session
from llmctl.config import Profile, ProfileSlot
from llmctl.domain import SlotSpec
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, Refused, UsageError
from llmctl.models.registry import adding, checking, exporting, reading
from llmctl.models.registry.bringing import Brought, bring
from llmctl.models.registry.exporting import Port, Ref
from llmctl.models.registry.reading import Reading
from llmctl.models.registry.shape import Finding

if TYPE_CHECKING:
    from llmctl.slots.verbs import SlotStatus

DEFAULT_PROFILE = "imported"
DESCRIPTION = "Brought over from registry.json by llmctl registry import"


@dataclass(frozen=True)
class Plan:
    """What an import would write, by path, and what it would remember of each port."""

    texts: dict[Path, str]
    copy: Path
    good: dict[int, SlotSpec]
    brought: Brought
    findings: list[Finding]

    @property
    def refused(self) -> bool:
        return any(finding.refused for finding in self.findings)


def import_(session: Session, file: Path, profile: str, dry_run: bool) -> Answer:
    """Bring `file` over, or show what that would write."""
    data = _bytes(file)
    with files.locked(session.home / "registry.lock"):
        plan = _plan(session, reading.read(data), _copy(session, data), profile)
        shown = _shown(file, plan)
        if plan.refused:
            error = Refused(f"{file} cannot be brought over as it is; nothing was changed", hint="mend what is found")
            return Answer({**shown, "changed": False}, error.exit_code, (error,))
        partial = 3 if plan.findings else 0
        if dry_run:
            texts = {str(path): text for path, text in plan.texts.items()}
            return Answer({**shown, "texts": texts, "changed": False}, partial)
        if not plan.copy.exists():
            files.write_text(plan.copy, data.decode("utf-8"))
        for path, text in plan.texts.items():
            files.write_text(path, text)
        kept, as_it_was = _remember(session, plan.good)
    changed = bool(plan.texts or kept)
    return Answer({**shown, "last_known_good": kept, "as_it_was": as_it_was, "changed": changed}, partial)


def export(session: Session, file: Path | None, profile: str) -> Answer:
    """The registry of this host, written to `file` where one is named."""
    found = _exported(session, profile)
    text = json.dumps(found.registry, indent=2, ensure_ascii=False) + "\n"
    if file and (not file.exists() or file.read_text(encoding="utf-8", errors="replace") != text):
        if file.exists():
            session.confirm(f"{file} is there already. Replace it?")
        files.write_text(file, text)
    return Answer({"path": str(file) if file else None, "registry": found.registry, "left_out": list(found.left_out)})


def check(session: Session, file: Path | None, profile: str) -> Answer:
    """The findings of `file`, or of what an export would write."""
    data = _bytes(file) if file else json.dumps(_exported(session, profile).registry, indent=2).encode()
    ours = [checking.Ours(s.port, s.model, f"profile {profile}") for s in _slots(session, profile) if s.port != "auto"]
    ours += [checking.Ours(p, spec.model, "the slot's state") for p, spec in running(session).items() if spec]
    findings = checking.check(reading.read(data), catalogs.load(session.config.dir), ours)
    return Answer({"file": str(file) if file else None, "findings": _rows(findings)}, exit_code=1 if findings else 0)


# ── import ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(session: Session, found: Reading, copy: Path, profile: str) -> Plan:
    """What is to be written; a finding that refuses when the files here say otherwise."""
    own = session.folder / "models.toml"
    brought = bring(found, catalogs.load(session.folder))
    findings = [*found.findings, *checking.twice(found), *brought.findings]
    texts: dict[Path, str] = {}
    good: dict[int, SlotSpec] = {}
    if not any(finding.refused for finding in findings):
        try:
            known = _models(own, brought, texts)
            _profile(session, known, profile, brought, texts)
            good = _good(session, known, brought, found, findings)
        except LlmctlError as error:
            findings.append(found.finding([], error.message, error.hint, refused=True))
    return Plan(texts, copy, good, brought, findings)


def _models(own: Path, brought: Brought, texts: dict[Path, str]) -> Catalog:
    """The catalog as it will be; every slug must mean its own model in it."""
    text = adding.new_text(own, brought)
    known = catalog_file.load(own, text)
    for slug, (id, _) in brought.artifacts.items():
        if (meant := known.resolve(slug).id) != id:
            raise Refused(
                f"{slug!r} means {meant} already, and is {id} in this file", hint=f"llmctl models show {meant}"
            )
    if text is not None:
        texts[own] = text
    return known


def _profile(session: Session, known: Catalog, name: str, brought: Brought, texts: dict[Path, str]) -> None:
    path = session.folder / "profiles" / f"{name}.toml"
    if path.exists():
        there = configs.profile(session.config, known, name)
        text = profiles.with_slots(there, session.here().name, brought.slots)
    else:
        text = profiles.as_toml(DESCRIPTION, brought.slots) if brought.slots else None
    if text is not None:
        texts[path] = text


def _good(
    session: Session, known: Catalog, brought: Brought, found: Reading, findings: list[Finding]
) -> dict[int, SlotSpec]:
    """The last-known-good of each port that can be loaded here."""
    from llmctl.slots.resolve import profile_slot

    good = {}
    for port, slot in brought.good.items():
        try:
            good[port] = profile_slot(known, session.here(), slot)
        except LlmctlError as error:
            path = ["lanes", str(port), "last_known_good_target"]
            findings.append(found.finding(path, error.message, error.hint))
    return good


def _remember(session: Session, good: dict[int, SlotSpec]) -> tuple[dict[str, str], dict[str, str]]:
    """The models that became the last-known-good of their port, and why those of the other ports stay."""
    from llmctl.slots import seed

    why_not = {port: seed.remember_good(session.home, port, spec) for port, spec in good.items()}
    kept = {str(port): good[port].model for port, why in why_not.items() if why is None}
    return kept, {str(port): why for port, why in why_not.items() if why}


def _copy(session: Session, data: bytes) -> Path:
    """Where the file is kept as it was, with all that llmctl has no place for."""
    return session.home / "imported" / f"registry-{hashlib.sha256(data).hexdigest()[:8]}.json"


def _bytes(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(reading.LIMIT + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="name a registry.json") from None


def _shown(file: Path, plan: Plan) -> dict[str, Any]:
    return {
        "file": str(file),
        "written": [str(path) for path in plan.texts],
        "copy": str(plan.copy),
        "models": [{"id": id, "name": slug} for slug, (id, _) in plan.brought.artifacts.items()],
        "slots": [asdict(slot) for slot in plan.brought.slots],
        "last_known_good": {str(port): spec.model for port, spec in plan.good.items()},
        "findings": _rows(plan.findings),
    }


# ── export, check ───────────────────────────────────────────────────────────────────────────────────────────────────


def _exported(session: Session, profile: str) -> exporting.Exported:
    return exporting.export(session.catalog, session.models_dir, _ports(session, profile))


def _slots(session: Session, name: str) -> tuple[ProfileSlot, ...]:
    """The slots of a profile; none when the usual one is not there."""
    if name == DEFAULT_PROFILE and name not in configs.profile_names(session.config):
        return ()
    found: Profile = configs.profile(session.config, session.catalog, name)
    return found.slots


def _ports(session: Session, profile: str) -> Iterator[Port]:
    """Each port of the profile and of this host's slots; what a slot should run counts more than the profile."""
    from llmctl.slots import seed, verbs

    wanted = {
        s.port: Ref(s.model, None, s.quantization, s.context) for s in _slots(session, profile) if s.port != "auto"
    }
    specs, rows = running(session), {row.port: row for row in verbs.status(session.home)}
    for port in sorted({*wanted, *specs}):
        spec, row = specs.get(port), rows.get(port)
        desired = _ref(spec) if spec else wanted.get(port)
        good = seed.known_good(session.home, port) if row else None
        actual = _actual(row, desired)
        state, since = (row.state, row.since) if row else (exporting.Port(port).state, 0.0)
        yield Port(port, desired, actual, _ref(good) if good else None, state, since)


def _ref(spec: SlotSpec) -> Ref:
    return Ref(spec.model, spec.engine.path, None, spec.engine.context)


def _actual(row: SlotStatus | None, desired: Ref | None) -> Ref | None:
    if row is None or row.model is None:
        return None
    return desired if desired and desired.model == row.model else Ref(row.model)


def _rows(findings: list[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in findings]
