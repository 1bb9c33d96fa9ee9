"""`llmctl test-models`: the matrix of models, engines and formats, proved on every host that is meant."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl.cli import options as o
from llmctl.cli.session import Session
from llmctl.cli.smoke import Private, secret_words
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UsageError

if TYPE_CHECKING:
    from llmctl.checks.matrix import Chosen
    from llmctl.fleet.fanout import Outcome
    from llmctl.testing import Testing

app = typer.Typer()
LONG = 7 * 86400.0


@app.command("test-models")
def test_models(
    ctx: typer.Context,
    backend: Annotated[
        str | None, typer.Option(metavar="BACKEND", help="Every host with it: cpu, cuda or metal.")
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="ENGINE", help="llamacpp, torch, mlx, …")] = None,
    arch: Annotated[str | None, typer.Option(metavar="ARCH", help="llama, qwen2-moe, …")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Ids or globs ('tiny-*'); repeatable.")
    ] = None,
    host: o.Hosts = None,
    real: Annotated[bool, typer.Option("--real", help="Real models by size; what is missing is pulled.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the proof bundle goes, instead of LLMCTL_HOME/proof.")
    ] = None,
    private: Private = False,
    told: Annotated[bool, typer.Option("--told", hidden=True)] = False,
) -> Answer:
    """Prove what runs: every model here on every engine that reads it is loaded, asked and unloaded. Exit 5: none."""
    from llmctl.checks.matrix import Chosen

    session: Session = ctx.obj
    chosen = Chosen(backend, engine, arch, tuple(model or ()))
    check_words(chosen)
    if told:
        return here(session, chosen, _told(), real)
    return _everywhere(session, chosen, host, real, out, private)


def check_words(chosen: Chosen) -> None:
    """UsageError for a backend or an engine that there is not."""
    from llmctl.domain import ENGINES
    from llmctl.errors import nearest
    from llmctl.testing import BACKENDS

    for word, known in ((chosen.backend, BACKENDS), (chosen.engine, ENGINES)):
        if word is not None and word not in known:
            close = nearest(word, known)
            raise UsageError(
                f"{word[:140]!r} is not one of {', '.join(known)}", hint=close and f"did you mean {close!r}?"
            )


def _everywhere(
    session: Session, chosen: Chosen, patterns: Sequence[str] | None, real: bool, out: Path | None, private: bool
) -> Answer:
    from llmctl import testing
    from llmctl.checks import matrix
    from llmctl.cli.reach import Reach, side_by_side, tagged
    from llmctl.fleet import fanout

    began = time.time()
    file = testing.load(session.config.dir, session.config.hosts)
    hosts = _meant(session, patterns, chosen.backend)
    words = _words(chosen, real)
    with Reach(session) as reach, side_by_side(session) as on_event:

        def on(one: Host) -> dict[str, Any]:
            said = file.of(one.name)
            reply = reach.call(
                one, ["test-models", *words, "--told"], lambda there: here(there, chosen, said, real),
                stdin=json.dumps(said.to_dict()).encode(), timeout=LONG, yes=session.yes,
                on_event=tagged(on_event, one.name), check=f"llmctl test-models --host {one.name}",
            )  # fmt: skip
            found = reply.value()
            return {key: [{**row, "host": one.name} for row in found.get(key, ())] for key in ("rows", "subjects")}

        outcomes = fanout.over(hosts, on)
    data: dict[str, Any] = {key: _joined(outcomes, key) for key in ("rows", "subjects")}
    errors = tuple(outcome.error for outcome in outcomes if outcome.error)
    code = _code(matrix.exit_code(data["rows"]), errors, outcomes)
    kept = _proof(session, data, code, began, out, private) if _ran(data["rows"]) else None
    return Answer({**data, "proof": str(kept) if kept else None}, code, errors)


def _code(code: int, errors: Sequence[LlmctlError], outcomes: Sequence[Outcome[Any]]) -> int:
    """A fail is 1; with hosts that could not be asked it is their code, or 3 beside others that are well."""
    from llmctl.checks import matrix
    from llmctl.fleet import fanout

    if not errors or code == matrix.FAILED:
        return code
    return fanout.exit_code(outcomes) if code == matrix.NOTHING_RAN else matrix.PARTIAL


def _meant(session: Session, patterns: Sequence[str] | None, backend: str | None) -> list[Host]:
    """The hosts of --host; with a backend and no host, all that have it or find it out themselves."""
    from llmctl.cli import reach

    if patterns or backend is None:
        return reach.select(session, patterns)
    hosts = [host for host in session.config.hosts.values() if host.backend in ("auto", backend)]
    if not hosts:
        raise UsageError(f"no host has the backend {backend}", hint="llmctl hosts list")
    return hosts


def _words(chosen: Chosen, real: bool) -> list[str]:
    named = {"--backend": chosen.backend, "--engine": chosen.engine, "--arch": chosen.architecture}
    words = [f"{option}={value}" for option, value in named.items() if value]
    return [*words, *(f"--model={one}" for one in chosen.models), *(["--real"] if real else [])]


def here(session: Session, chosen: Chosen, said: Testing, real: bool) -> Answer:
    """The matrix of this machine."""
    from llmctl.checks import matrix

    host = session.host()
    with session.progress(plain=True) as on_event:
        if real:
            from llmctl.cli.real_models import brought

            chosen = brought(session, host, chosen, said, on_event)
        found = matrix.run(session.home, host, session.catalog, said, chosen, on_event)
    data = {"rows": matrix.as_json(found.rows), "subjects": found.subjects}
    return Answer(data, matrix.exit_code(data["rows"]))


def _told() -> Testing:
    """What the machine that asks says of this one, on stdin."""
    from llmctl.testing import Testing

    try:
        return Testing.from_dict(json.loads(sys.stdin.buffer.read()))
    except (ValueError, TypeError, KeyError):
        raise UsageError("--told is for other machines' llmctl, which say on stdin what to test") from None


def _joined(outcomes: Sequence[Outcome[Any]], key: str) -> list[dict[str, Any]]:
    return [row for outcome in outcomes for row in (outcome.value or {}).get(key, ())]


def _ran(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["status"] != "skip" for row in rows)


def _proof(session: Session, data: Mapping[str, Any], code: int, began: float, out: Path | None, private: bool) -> Path:
    from llmctl.checks import proof
    from llmctl.checks.slot_http import SEED

    secret = secret_words(session)
    run = proof.Run("test-models", data["rows"], data["subjects"], [SEED], code, began, secret=secret)
    return proof.write(out or session.home / "proof", run, private=private)
