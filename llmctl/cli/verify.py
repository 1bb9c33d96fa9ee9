"""`llmctl models verify`: whether the files that lie here are the ones their manifests name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmctl.cli import options as o
from llmctl.cli.far import on_hosts
from llmctl.cli.foreground import Foreground
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError

if TYPE_CHECKING:
    from llmctl.jobs.context import Context
    from llmctl.models.verify import VerifyReport

app = typer.Typer()


@app.command()
@on_hosts(rows="artifacts")
def verify(
    ctx: typer.Context,
    model: o.AnyModel = None,
    repair: Annotated[bool, typer.Option("--repair", help="Fetch the bad files again.")] = False,
) -> Answer:
    """Hash every file and name those that are missing or changed. 1: there are some."""
    from llmctl.models import manifest, store
    from llmctl.models.verify import verify as check

    session: Session = ctx.obj
    found = [session.catalog.resolve(model)] if model else list(session.catalog.models.values())
    rows, skipped, errors = [], [], []
    with session.progress() as on_event:
        job = Foreground(on_event)
        for entry in found:
            for artifact, _ in store.present(entry, session.models_dir):
                folder = artifact.path or store.folder(entry.id, artifact, session.models_dir)
                if not (folder / manifest.NAME).is_file():
                    skipped.append(str(folder))
                    continue
                try:
                    report = check(folder, job)
                    rows.append(_row(report))
                    if repair:
                        rows[-1] = _row(_repaired(report, job))
                except LlmctlError as error:  # the others are looked at all the same
                    errors.append(error)
    bad = errors or any(row["bad"] for row in rows)
    data = {"artifacts": rows, "without_manifest": skipped}
    return Answer(data, exit_code=1 if bad else 0, errors=tuple(errors))


def _repaired(report: VerifyReport, job: Context) -> VerifyReport:
    from huggingface_hub import constants

    from llmctl.models.hub import Hub
    from llmctl.models.verify import repair

    return repair(report, Hub(constants.ENDPOINT), Path(constants.HF_HUB_CACHE), job)


def _row(report: VerifyReport) -> dict[str, Any]:
    return {
        "model": report.manifest.model,
        "format": report.manifest.format,
        "quantization": report.manifest.quantization,
        "path": str(report.folder),
        "bytes": report.manifest.bytes,
        "files": [{"path": file.path, "state": file.state} for file in report.files],
        "bad": list(report.bad),
        "healed": list(report.healed),
    }
