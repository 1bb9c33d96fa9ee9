"""The quality gate at the end of a conversion: what fails it is kept aside, never published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl.catalog import QualityLimit
from llmctl.errors import QualityFailed
from llmctl.files import write_json
from llmctl.jobs.context import Context
from llmctl.models import quality, store
from llmctl.models.convert.plan import Source
from llmctl.models.convert.request import Request

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
    """The error, with the figures."""
    return QualityFailed(
        f"{request.model} as {request.to} {request.quantization} lost too much: {report['why']}",
        hint=f"take more bits, or --max-kl X if that loss is meant; it lies in {place}",
        details={"report": report, "path": str(place)},
    )
