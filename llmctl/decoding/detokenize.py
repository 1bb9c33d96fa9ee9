"""Turn the tokens of one sequence into text as they come: whole characters only, at a cost linear in the text.

It works on the bytes that each token adds (`Tokenizer.token_bytes`), so that byte-level BPE and SentencePiece's byte
fallback are the same case and no prefix is ever decoded again.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable


class Detokenizer:
    """`push` a token, get the characters it completes. Bytes that are no UTF-8 become U+FFFD.

    With `strip_space` the one space that SentencePiece puts before a text's first word is dropped.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], *, strip_space: bool = False) -> None:
        self._bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = strip_space

    def push(self, token: int) -> str:
        return self._decode(self._bytes(token))

    def flush(self) -> str:
        """The end: an incomplete character becomes one U+FFFD."""
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, final: bool = False) -> str:
        text = self._decoder.decode(data, final)
        if self._strip and text:
            self._strip = False
            text = text.removeprefix(" ")
        return text
