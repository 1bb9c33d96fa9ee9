"""The quality gate at the end of a conversion: what fails it is kept aside, never published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl.catalog import QualityLimit
from llmctl.errors import QualityFailed
from llmctl.files import write_json
from llmctl.jobs.context import Context
from llmctl.models import quality, store
from llmctl.models.convert.plan import Source

if TYPE_CHECKING:
    from llmctl.models.convert.work import Request

NAME = "quality.json"


def pass_or_quarantine(
    request: Request, source: Source, staged: Path, limit: QualityLimit, scratch: Path, job: Context
) -> Mapping[str, Any]:
    """The report of a staged artifact that passed, beside its manifest; QualityFailed when it did not."""
    made = store.content(staged, request.wanted.artifact.format)
    assert made is not None
    checked = quality.check(source.path, made, limit, job, allow_code=request.allow_code, scratch=scratch)
    report = asdict(checked)
    write_json(staged / NAME, report)
    if not checked.passed:
        place = quarantine(staged, request)
        raise failed(request, report, place)
    return report


def quarantine(staged: Path, request: Request) -> Path:
    """Move a staged artifact to where no one takes it for a good one."""
    place = request.store / store.QUARANTINE / request.model / request.folder.name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    os.rename(staged, place)
    return place


def failed(request: Request, report: Mapping[str, Any], place: Path) -> QualityFailed:
    """The error, its table of figures as the lines of its log."""
    return QualityFailed(
        f"{request.model} as {request.to} {request.quantization} lost too much: {report['why']}",
        hint=f"take more bits, or --max-kl X if that loss is meant; it lies in {place}",
        details={"report": report, "path": str(place), "log": table(report)},
    )


def table(report: Mapping[str, Any]) -> list[str]:
    """The figures in aligned columns."""
    found, limit = report["metrics"], report["limit"]
    rows = [
        ("", "found", "limit"),
        ("mean KL divergence, nats", _figure(found["mean_kl"]), f"≤ {limit['max_kl']:.4g}"),
        ("top-1 agreement", _figure(found["top1"]), f"≥ {limit['min_top1']:.4g}"),
        ("perplexity of the source", _figure(found["source_perplexity"]), ""),
        ("perplexity of the result", _figure(found["target_perplexity"]), ""),
        ("tokens compared", str(found["tokens"]), ""),
    ]
    return [f"{what:<26}{seen:>10}  {most}".rstrip() for what, seen, most in rows]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
