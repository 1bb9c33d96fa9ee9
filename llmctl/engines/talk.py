"""How a model is spoken to where its catalog entry says otherwise than its files: in `EngineSpec.options`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmctl.domain import EngineSpec


@dataclass(frozen=True)
class Talk:
    """`template` is the source of a chat template, `template_name` one of those that the files have.

    `arguments` are further variables of it; `stop_ids` are tokens that end an answer besides the checkpoint's own.
    """

    template: str | None = None
    template_name: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    stop_ids: frozenset[int] = frozenset()

    @staticmethod
    def of(spec: EngineSpec) -> Talk:
        """What the options of `spec` say; others' keys are not looked at."""
        options = spec.options
        return Talk(
            options.get("chat_template"),
            options.get("chat_template_name"),
            options.get("chat_template_args") or {},
            frozenset(options.get("stop_ids") or ()),
        )


OWN = Talk()
"""As the checkpoint's own files say."""
