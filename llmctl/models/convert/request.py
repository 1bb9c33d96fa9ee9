"""What a conversion's job is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.models import store
from llmctl.models.convert import plan
from llmctl.models.convert.plan import Target


@dataclass(frozen=True)
class Request:
    """What the job is told; all of it comes from the command line and the catalog.

    `source` is {path, format, quantization, source, revision, licence}. `limit` is a QualityLimit's JSON; without it
    nothing is measured. `pre` names the split of a byte-level tokenizer for llama.cpp.
    """

    model: str
    source: Mapping[str, Any]
    to: str
    quantization: str
    models_dir: str
    home: str
    allow_code: bool = False
    limit: Mapping[str, Any] | None = None
    pre: str | None = None
    force: bool = False

    @property
    def wanted(self) -> Target:
        return plan.target(self.to, self.quantization)

    @property
    def folder(self) -> Path:
        return store.folder(self.model, self.wanted.artifact, Path(self.models_dir))

    @property
    def store(self) -> Path:
        return Path(self.models_dir)
