"""The tokenizer of an image-text checkpoint: with the template that its processor has, in the form that this reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from llmctl.domain import EngineSpec
from llmctl.engines.checkpoint import Checkpoint
from llmctl.engines.talk import Talk
from llmctl.engines.tokenizer import CheckpointTokenizer, load_tokenizer

PROBE = "llmctl asks"


def load_chat_tokenizer(spec: EngineSpec, checkpoint: Checkpoint, processor: Any) -> CheckpointTokenizer:
    """The checkpoint's tokenizer, with the processor's chat template where it has none of its own."""
    talk = Talk.of(spec)
    found = load_tokenizer(checkpoint.path, allow_code=spec.allow_code, talk=talk)
    template = getattr(processor, "chat_template", None)
    if not found.chats and isinstance(template, str):
        found = load_tokenizer(checkpoint.path, allow_code=spec.allow_code, talk=replace(talk, template=template))
    return found


class PartsTokenizer:
    """A tokenizer whose template reads a content as parts only: a plain text is made a part."""

    def __init__(self, inner: CheckpointTokenizer) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        return self._inner.chat([in_parts(message) for message in messages], **options)

    def rendered(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[str, dict[str, str]]:
        return self._inner.rendered([in_parts(message) for message in messages], **options)


def in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose content is a list of parts."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else dict(message)


def speaking(tokenizer: CheckpointTokenizer) -> CheckpointTokenizer:
    """The tokenizer, in the form that its template takes: not every one reads a content that is a plain text."""
    if not tokenizer.chats:
        return tokenizer
    try:
        text, _ = tokenizer.rendered([{"role": "user", "content": PROBE}])
    except Exception:  # whatever a template does with a text where it expects parts
        text = ""
    return tokenizer if PROBE in text else cast(CheckpointTokenizer, PartsTokenizer(tokenizer))
