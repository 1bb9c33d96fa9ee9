"""The tokenizer inside a GGUF file, by llama.cpp's own code, and the chat template beside it.

What a client writes never becomes a control token: `encode` takes special tokens in a text literally unless told
otherwise, and `chat` keeps apart those that the template wrote and those that stand in a message. User-defined tokens
(`<think>` in some vocabularies) are ordinary text to llama.cpp and stay what they are.

A GGUF file does not say how a tokenizer normalizes text, and llama.cpp does not: that is done here where it is known.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from llmctl.engines import conversation
from llmctl.engines.chat_template import compile_template
from llmctl.engines.llamacpp_library import Library
from llmctl.engines.talk import OWN, Talk
from llmctl.engines.tokenizer import PRIVATE_USE, replaced, strings
from llmctl.errors import RequestError, Unsupported

COMPOSING = ("qwen2",)  # pre-tokenizers whose originals bring text into normal form C first


class GGUFTokenizer:
    """The `Tokenizer` of the engine protocol over a loaded llama.cpp model."""

    def __init__(self, library: Library, model: int, talk: Talk = OWN) -> None:
        self._lib = library
        self._vocab = library.model_get_vocab(model)
        self.vocab: int = library.vocab_n_tokens(self._vocab)
        ids = range(self.vocab)
        self.eos_ids = frozenset(i for i in ids if i in talk.stop_ids or library.vocab_is_eog(self._vocab, i))
        wordpiece = library.metadata(model, "tokenizer.ggml.model") == "bert"  # where [UNK] stands for words as well
        words = {library.metadata(model, "tokenizer.ggml.unknown_token_id")} if wordpiece else set()
        controls_of = (i for i in ids if library.vocab_is_control(self._vocab, i))
        self._control = {i: self._text(i) for i in controls_of if str(i) not in words}
        self._composes = library.metadata(model, "tokenizer.ggml.pre") in COMPOSING
        controls = sorted(filter(None, self._control.values()), key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, controls)) or "(?!)")
        bos = library.vocab_bos(self._vocab)
        self._bos = [bos] if library.vocab_get_add_bos(self._vocab) and bos >= 0 else []
        name = talk.template_name.encode() if talk.template_name else None
        own = talk.template.encode() if talk.template else library.model_chat_template(model, name)
        if name and not own:
            raise Unsupported(f"the model has no chat template named {talk.template_name!r}")
        self._source = (own or b"").decode("utf-8", "replace")
        self._render = self._template(self._source, talk.arguments)
        self.chats = self._render is not None
        self.specials: Mapping[int, str] = self._control
        self.speech = talk.speech(self._source, self._control)
        gap = tuple(f(self._vocab) for f in (library.vocab_fim_pre, library.vocab_fim_suf, library.vocab_fim_mid))
        self.fim = gap if min(gap) >= 0 else None
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, special: bool = False, bos: bool = True) -> list[int]:
        """Token ids of a text. BOS goes before it where the model wants one, unless the text has it already."""
        ids = self._ids(text, special=True) if special else self._literal(text)
        return self._bos + ids if bos and ids[: len(self._bos)] != self._bos else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens as they continue another text: a first space stays, special tokens add nothing."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes one token adds to the text; empty for control tokens."""
        if id not in self._pieces:
            self._pieces[id] = self._piece(id)
        return self._pieces[id]

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_last: bool = False,
        arguments: Mapping[str, Any] = {},
    ) -> list[int]:
        """Render with the model's template and encode; special tokens inside a message are plain text."""
        return self._splice(*self._marked(messages, tools, continue_last, arguments))

    def pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        mark: str,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_last: bool = False,
        arguments: Mapping[str, Any] = {},
    ) -> list[list[int]]:
        """`chat`, in pieces: what stands before, between and behind the places of `mark`, one character."""
        marked, texts = self._marked(messages, tools, continue_last, arguments)
        first, *others = marked.split(mark)
        return [self._splice(first, texts), *(self._splice(other, texts, first=False) for other in others)]

    def _marked(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], continue_last: bool,
        arguments: Mapping[str, Any],
    ) -> tuple[str, Mapping[str, str]]:  # fmt: skip
        """The rendered conversation with marks for the special tokens inside messages, and what the marks stand for."""
        if self._render is None:
            raise RequestError("this model has no chat template; send its prompt to /v1/completions", param="messages")
        plain = [dict(message) for message in messages]
        offered = [dict(tool) for tool in tools]
        show = partial(conversation.render, self._render, self._source)
        rendered = show(plain, offered, continue_last, arguments)
        inside = {s for text in strings([plain, offered]) for s in self._control.values() if s and s in text}
        if not inside:
            return rendered, {}
        unused = (chr(c) for c in PRIVATE_USE if chr(c) not in rendered)
        marks = dict(zip(sorted(inside, key=len, reverse=True), unused, strict=False))
        marked = show(replaced(plain, marks), replaced(offered, marks), continue_last, arguments)
        return marked, {mark: text for text, mark in marks.items()}

    def _splice(self, marked: str, texts: Mapping[str, str], *, first: bool = True) -> list[int]:
        """Encode a rendered conversation in which marks stand for special tokens' texts that are to be literal."""
        ids: list[int] = []
        segment = ""
        for char in marked:
            if char in texts:
                ids += self._continuation(segment, special=True, first=first and not ids)
                ids += self._continuation(texts[char], special=False, first=first and not ids)
                segment = ""
            else:
                segment += char
        return ids + self._continuation(segment, special=True, first=first and not ids)

    def _continuation(self, text: str, *, special: bool, first: bool = False) -> list[int]:
        """Ids of a text that follows another: without the space that SentencePiece puts at a beginning."""
        encode: Callable[[str], list[int]] = (lambda t: self._ids(t, special=True)) if special else self._literal
        if first or not text:
            return encode(text)
        anchor, ids = encode("\n"), encode("\n" + text)
        return ids[len(anchor) :] if ids[: len(anchor)] == anchor else encode(text)

    def _literal(self, text: str) -> list[int]:
        """Ids without any control token: one that the vocabulary's merges insist on is broken after a character."""
        ids = self._ids(text, special=False)
        control = next((self._control[i] for i in ids if i in self._control), None)
        if control is None:
            return ids
        at = text.find(control)
        if at < 0 or len(control) < 2:
            return [i for i in ids if i not in self._control]
        return self._literal(text[: at + 1]) + self._continuation(text[at + 1 :], special=False)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        text = self._normal(text, special) if self._composes else text
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 16
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = self._lib.tokenize(self._vocab, data, len(data), buffer, room, False, special)
            if count >= 0:
                return list(buffer[:count])
            room = -count

    def _normal(self, text: str, special: bool) -> str:
        """`text` composed; a character after a special token never becomes one with the token's last."""
        if unicodedata.is_normalized("NFC", text) or not special:
            return unicodedata.normalize("NFC", text)
        marks = self._marks.findall(text)
        others = (unicodedata.normalize("NFC", part) for part in self._marks.split(text))
        return "".join(part for pair in zip(others, [*marks, ""], strict=True) for part in pair)

    def _piece(self, id: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._lib.token_to_piece(self._vocab, id, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _text(self, id: int) -> str:
        return (self._lib.vocab_get_text(self._vocab, id) or b"").decode("utf-8", "replace")

    def _template(self, source: str, arguments: Mapping[str, Any]) -> Callable[..., str] | None:
        if not source:
            return None
        names = {"bos_token": self._lib.vocab_bos(self._vocab), "eos_token": self._lib.vocab_eos(self._vocab)}
        tokens = {name: self._text(id) if id >= 0 else "" for name, id in names.items()}
        return compile_template(source, {**arguments, **tokens})
