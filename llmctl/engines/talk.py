"""How a model is spoken to where its catalog entry says otherwise than its files: in `EngineSpec.options`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmctl.decoding import families
from llmctl.decoding.families import Speech
from llmctl.domain import EngineSpec, Tokenizer
from llmctl.errors import Unsupported


@dataclass(frozen=True)
class Talk:
    """`template` is the source of a chat template, `template_name` one of those that the files have.

    `arguments` are further variables of it; `stop_ids` are tokens that end an answer besides the checkpoint's own.
    The parsers are names of decoding.families; None: as the template tells.
    """

    template: str | None = None
    template_name: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    stop_ids: frozenset[int] = frozenset()
    tool_parser: str | None = None
    reasoning_parser: str | None = None

    @staticmethod
    def of(spec: EngineSpec) -> Talk:
        """What the options of `spec` say; others' keys are not looked at."""
        options = spec.options
        return Talk(
            options.get("chat_template"),
            options.get("chat_template_name"),
            options.get("chat_template_args") or {},
            frozenset(options.get("stop_ids") or ()),
            options.get("tool_parser"),
            options.get("reasoning_parser"),
        )

    def speech(self, template: str, specials: Mapping[int, str]) -> Speech:
        """How the model calls tools and thinks, by its names here or by the template; Unsupported for unknown names."""
        return Speech(
            _named(self.tool_parser, "tool parser", families.TOOL_PARSERS, template, families.TOOL_MARKS),
            _named(
                self.reasoning_parser,
                "reasoning parser",
                families.REASONING_PARSERS,
                template,
                families.REASONING_MARKS,
            ),
            specials,
            "[ARGS]" in template,
        )


def _named(name: str | None, what: str, among: Collection[str], template: str, marks: Sequence[tuple[str, str]]) -> str:
    if name is None:
        return families.detected(template, marks)
    known = families.known(name, among)
    if known is None:
        raise Unsupported(f"no {what} {name!r}", hint=f"one of {', '.join(sorted(among))}, or none at all")
    return known


def words(tokenizer: Tokenizer) -> tuple[str, ...]:
    """What a model can do thanks to its tokenizer, as words of `Identity.capabilities`."""
    able = {
        "schema": bool(tokenizer.eos_ids),
        "tools": tokenizer.chats,
        "reasoning": tokenizer.chats and bool(tokenizer.speech.reasoning),
        "suffix": tokenizer.fim is not None,
    }
    return tuple(word for word, is_so in able.items() if is_so)


OWN = Talk()
"""As the checkpoint's own files say."""
