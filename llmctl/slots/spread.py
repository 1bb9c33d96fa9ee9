"""A slot that several hosts compute: what the first asks the others before anything changes, and what they answer."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmctl import backends, paths
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.config import Host
from llmctl.domain import NGRAM, EngineSpec
from llmctl.environments import installed
from llmctl.errors import Refused, Unsupported, UsageError
from llmctl.models import manifest, store
from llmctl.models.checkpoint import Checkpoint
from llmctl.models.fit import Fit
from llmctl.processes import memory_bytes
from llmctl.slots import artifacts
from llmctl.slots.admission import OLD_FIRST, Ledger, Room, decide
from llmctl.spread import Member, parse, refusal, unreached

SPREADS = ("torch", "mlx")
TIMEOUT = 60.0
BY_MANIFEST, BY_FILES = "manifest", "files"
HEAD = 16 * 2**20  # bytes of a file that are compared where no manifest has its hash
CARELESS = (manifest.NAME, "README.md", ".gitattributes")


def over(
    host: Host, model: Model, artifact: Artifact, found: Checkpoint, spec: EngineSpec, whole: Fit, texts: Sequence[str]
) -> tuple[EngineSpec, int]:  # fmt: skip
    """`spec` with all its members, and the bytes of this host's share.

    Unsupported for what cannot be shared equally; what another host refuses is raised as met there, before anything is
    changed anywhere.
    """
    first, *others = members = [parse(text) for text in texts]
    fits(spec, found, host, members)
    needed = share(whole, found, len(members)).total
    kind, digest = fingerprint(Path(spec.path))
    asked = {
        "model": model.id, "format": artifact.format, "quantization": artifact.quantization, "engine": spec.engine,
        "needed": needed, "kind": kind, "digest": digest, "first": first.host,
    }  # fmt: skip
    with ThreadPoolExecutor(max(1, len(others))) as pool:
        answers = list(pool.map(lambda member: ask(member, first, asked), others))
    there = [replace(m, path=str(a["path"]), needed=needed) for m, a in zip(others, answers, strict=True)]
    members = [replace(first, path=spec.path, needed=needed), *there]
    return replace(spec, spread=tuple(member.to_dict() for member in members)), needed


def fits(spec: EngineSpec, found: Checkpoint, host: Host, members: Sequence[Member]) -> None:
    """UsageError or Unsupported where these hosts cannot share this model."""
    names = [member.host for member in members]
    if names[0] != host.name:
        raise UsageError(
            f"a slot belongs to the first host of its spread, and {names[0]} is not {host.name}",
            hint=f"--spread {host.name} --spread …, or load it on {names[0]}",
        )
    if len(set(names)) < len(names) or len(names) < 2:
        raise UsageError(f"a spread is over two or more different hosts, not {', '.join(names)}")
    if spec.engine not in SPREADS:
        raise Unsupported(f"the {spec.engine} engine runs on one host", hint=f"--engine {' or '.join(SPREADS)}")
    for what, number in (("heads", found.heads), ("key heads", found.kv_heads)):
        if number % len(names):
            raise Unsupported(f"{spec.model} has {number} {what}, which {len(names)} hosts cannot share equally")
    if found.sees:
        raise Unsupported(f"{spec.model} takes images: only models of text are spread")
    if spec.adapters or spec.draft not in (None, NGRAM):
        what = "adapters" if spec.adapters else f"second model as its draft; {NGRAM} needs none"
        raise Unsupported(f"{spec.model}: a model over several hosts takes no {what}")


def share(whole: Fit, found: Checkpoint, hosts: int) -> Fit:
    """What one host needs: embeddings and head are on each, the layers and their keys are divided."""
    ends = 2 * found.vocab * found.hidden * whole.weights // max(1, found.parameters)
    divided = max(0, whole.weights - ends)
    return Fit(whole.weights - divided + divided // hosts, whole.kv // hosts, whole.compute, whole.process)


def fingerprint(path: Path, kind: str | None = None) -> tuple[str, str]:
    """How two hosts see that they have the same artifact: by its manifest, where there is one, else by its files.

    Of a file larger than HEAD that no manifest describes, name, size and beginning count.
    """
    folder = store.folder_of(path)
    kept = manifest.read(folder) if kind != BY_FILES else None
    rows: list[tuple[str, int, str]]
    if kept:
        rows = [(entry.path, entry.bytes, entry.sha256) for entry in kept.files]
    elif kind == BY_MANIFEST:
        raise Refused(f"{folder} has no manifest", hint="llmctl pull the model there, as on the first host")
    else:
        files = [p for p in folder.iterdir() if p.is_file() and p.name not in CARELESS] if path.is_dir() else [path]
        rows = [(file.name, file.stat().st_size, _head(file)) for file in files]
    text = json.dumps(sorted(rows))
    return BY_MANIFEST if kept else BY_FILES, hashlib.sha256(text.encode()).hexdigest()


def _head(file: Path) -> str:
    with open(file, "rb") as data:
        return hashlib.sha256(data.read(HEAD)).hexdigest()


# ── from the first host to another ──────────────────────────────────────────────────────────────────────────────────


def ask(member: Member, first: Member, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What another host says of its share (`answer`); raises what it refuses, or why it is not reached."""
    try:
        ran = subprocess.run(
            member.argv(["host", "share"]), input=json.dumps(asked), capture_output=True, text=True, timeout=TIMEOUT,
            errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise unreached(member, first.host, [f"no answer within {TIMEOUT:.0f} s"], None) from None
    except FileNotFoundError:
        raise Unsupported(f"{first.host} has no ssh program", hint="apt-get install openssh-client") from None
    try:
        envelope = json.loads(ran.stdout.strip().rpartition("\n")[2])
        failed, data = envelope["errors"], dict(envelope["data"])
    except (ValueError, KeyError, TypeError):
        raise unreached(member, first.host, ran.stderr.strip().splitlines()[-5:], ran.returncode) from None
    if failed:
        raise refusal(member, envelope)
    return data


# ── on the other host ───────────────────────────────────────────────────────────────────────────────────────────────


def answer(catalog: Catalog, host: Host, home: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Whether this host can take a share, and where the model lies: {"path"}. Refused, Unsupported, DoesNotFit."""
    model = catalog.resolve(str(asked["model"]))
    installed.python_for(str(asked["engine"]), model.env)
    wanted = (asked["format"], asked["quantization"])
    path = next((p for a, p in artifacts.present(model, host) if (a.format, a.quantization) == wanted), None)
    if path is None:
        raise artifacts.absent(model, host, asked["quantization"])
    artifacts.readable(model, path)
    if fingerprint(path, str(asked["kind"]))[1] != asked["digest"]:
        raise Refused(
            f"{model.id} at {path} is not what {asked['first']} has",
            hint=f"llmctl pull {model.id}, or llmctl models verify {model.id} --repair, on both", host=host.name,
        )  # fmt: skip
    room(host, home, int(asked["needed"]), f"{asked['first']}:")
    return {"path": str(path)}


def room(host: Host, home: Path, needed: int, slots: str) -> None:
    """DoesNotFit unless `needed` bytes are free once the ranks of `slots` (a beginning of their names) are gone."""
    mine = [rank for rank in Ledger(home).ranks() if rank.slot.startswith(slots)]
    held = sum(rank.bytes for rank in mine)
    resident = sum(memory_bytes(rank.pid) for rank in mine)
    memory, reserved = measured(host), Ledger(home).reserved()
    budget = host.memory_budget or memory.total
    decide(needed, Room(memory.free, budget, reserved - held, held, resident), OLD_FIRST)


def measured(host: Host) -> backends.Memory:
    """This host's memory, as its backend measures it."""
    return backends.get(backends.detect() if host.backend == "auto" else host.backend).memory()


def become_rank(catalog: Catalog, host: Host, engine: str, model: str, slot: str, needed: int) -> list[str]:
    """Reserve the memory of a share for this very process; the command line that it is to become."""
    memory = measured(host)
    python = installed.python_for(engine, catalog.resolve(model).env)
    Ledger(paths.home()).reserve_rank(
        slot, needed, free=memory.free, budget=host.memory_budget or memory.total, model=model, engine=engine
    )
    return [python, "-m", "llmctl.runner.rank"]


def read(text: str) -> Mapping[str, Any]:
    """The request of `host share`."""
    wanted = {"model", "format", "quantization", "engine", "needed", "kind", "digest", "first"}
    try:
        asked = json.loads(text)
        if set(asked) >= wanted:
            return dict(asked)
    except (ValueError, TypeError):
        pass
    raise UsageError("stdin is not a request of llmctl", hint="llmctl load PORT MODEL --spread HOST --spread HOST")
