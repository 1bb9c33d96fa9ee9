"""What a server must have taken out of an answer: marks of chat templates and tool protocols, broken characters."""

from __future__ import annotations

import re
from collections.abc import Collection

MARKS = (
    r"<\|[\w /.:-]{1,40}\|>",  # <|channel|>, <|im_start|>, <|eot_id|>, <|python_tag|>
    r"<｜[^｜\n]{1,40}｜>",  # DeepSeek's
    r"</?think(?:ing)?>",
    r"</?tool_(?:calls?|response)>",
    r"<function=[\w.-]+>|</function>",
    r"</?(?:start|end)_of_turn>",
    r"</?s>|<(?:bos|eos|pad|unk|mask)>",
    r"\[/?(?:INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT|THINK|gMASK)\]",
    r"<</?SYS>>",
    r"\bassistant(?:final|analysis|commentary)",  # Harmony's channels, their marks dropped as special tokens
    r"<0x[0-9A-F]{2}>",  # a byte of a character, as SentencePiece spells it
    r"\w[Ġ▁]\w",  # a space, as vocabularies spell it
    "\ufffd",
)
MARK = re.compile("|".join(MARKS))


def found(text: str, allowed: Collection[str] = ()) -> list[str]:
    """The marks in a text, each once; none of `allowed`."""
    return [mark for mark in dict.fromkeys(match[0] for match in MARK.finditer(text)) if mark not in allowed]
