"""Proves that a GGUF file cuts texts into the same tokens as the checkpoint it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import ConversionFailed, RequestError, Unsupported
from llmctl.models.convert.processes.serving import serve

TEXTS = (
    "", "\n", "\n\n", "a", "two  spaces   three", "Hello world!",
    "HELLO, World?", "I'll say it's what they've DON'T'd", "The year 1984, then 20240131 and 3.14159e-10",
    "1 12 123 1234 12345 123456", "naïve café, Ångström, über", "Привет, мир! Ещё раз.", "Γειά σου Κόσμε",
    "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界！", "こんにちは世界、カタカナ",
    "안녕하세요 세계", "👍🏽 🧑\u200d🚀 🇫🇷 ❤️\u200d🔥",
    "def main(argv: list[str]) -> int:\n    return len(argv)  # done\n",
    "for (i = 0; i < 10; ++i) { x[i] += 0x1F; }", "\tindented\twith\ttabs", "trailing spaces   ",
    "https://example.org/a?b=c&d=%20", "snake_case camelCase kebab-case",
    "[1, 2], {\"k\": null}, 'quoted', `code`", "a\u00a0b\u2003c\u200bd", "...!!!???---___***", "x" * 100,
    "line one\r\nline two\rline three", "∑∫√π ≠ ∞ → ⇒", "ﬁ ﬂ ½ ² №", "\u0001\u0002 control",
)  # fmt: skip
SPACED = (" ", "  ", " \n \t\n", " a", "  two  spaces   three")
"""Not for SentencePiece, which puts a space before a text: whether also before a space, its own versions disagree."""


CHATS = (
    ({"role": "user", "content": "What is a slot?"},),
    (
        {"role": "user", "content": "Two lines,\nand  spaces "},
        {"role": "assistant", "content": "\n Yes: 1, 2.\n"},
        {"role": "user", "content": " And then? 日本"},
    ),
)


def expected(source: Path, allow_code: bool) -> dict[str, Any]:
    """The ids of all texts and chats by the checkpoint's own tokenizer; JSON, since another process compares them."""
    from llmctl.engines.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(source, allow_code=allow_code)
    texts = [tokenizer.encode(text) for text in (*TEXTS, *SPACED)]
    return {"texts": texts, "chats": [chatted(tokenizer, chat) for chat in CHATS] if tokenizer.chats else []}


def convert(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Encode all of it by `target` file's tokenizer; Unsupported names what is not as in the file `expected`."""
    from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer

    theirs = json.loads(Path(request["expected"]).read_text(encoding="utf-8"))
    library, model = opened(request["target"])
    try:
        ours = GGUFTokenizer(library, model)
        texts = (*TEXTS, *SPACED) if library.metadata(model, "tokenizer.ggml.model") == "gpt2" else TEXTS
        for text, ids in zip(texts, theirs["texts"], strict=False):
            compare(text, ids, ours.encode(text))
        for chat, ids in zip(CHATS, theirs["chats"], strict=False):
            compare(chat, ids, chatted(ours, chat))
    finally:
        library.model_free(model)
    return {"texts": len(texts)}


def chatted(tokenizer: Any, chat: tuple[Mapping[str, Any], ...]) -> list[int] | str:
    """The ids of a conversation, or why the template does not take it."""
    try:
        return list(tokenizer.chat(chat))
    except RequestError as error:
        return error.code


def compare(what: object, expected: list[int] | str, found: list[int] | str) -> None:
    """Unsupported when the ids are not the same."""
    if expected != found:
        raise Unsupported(
            f"the GGUF file cuts {what!r} into the tokens {found[:40]}, its source into {expected[:40]}",
            hint="name another split with --pre NAME, or convert with the tokenizer files of the original",
        )


def opened(path: str) -> tuple[Any, Any]:
    from llmctl.engines.llamacpp_library import open_library

    library = open_library()
    parameters = library.model_default_params()
    parameters.n_gpu_layers = 0
    model = library.model_load_from_file(path.encode(), parameters)
    if not model:
        raise ConversionFailed("llama.cpp does not load the file that was made", details={"log": list(library.log)})
    return library, model


if __name__ == "__main__":
    serve(convert)
