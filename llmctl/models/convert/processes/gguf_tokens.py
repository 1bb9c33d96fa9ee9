"""Proves that a GGUF file cuts texts into the same tokens as the checkpoint it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import ConversionFailed, Unsupported
from llmctl.models.convert.processes.serving import serve

TEXTS = (
    "", " ", "  ", "\n", "\n\n", " \n \t\n", "a", " a", "  two  spaces   three", "Hello world!",
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


def convert(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Encode every text by `source` folder's and by `target` file's tokenizer; Unsupported names one that differs."""
    from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer
    from llmctl.engines.tokenizer import load_tokenizer

    theirs = load_tokenizer(Path(request["source"]), allow_code=request["allow_code"])
    library, model = opened(request["target"])
    try:
        ours = GGUFTokenizer(library, model)
        for text in TEXTS:
            expected, found = theirs.encode(text), ours.encode(text)
            if expected != found:
                raise Unsupported(
                    f"the GGUF file cuts {text!r} into the tokens {found[:12]}, its source into {expected[:12]}",
                    hint="name another split with --pre NAME, or convert with the tokenizer files of the original",
                )
    finally:
        library.model_free(model)
    return {"texts": len(TEXTS)}


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
