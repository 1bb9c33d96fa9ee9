"""An unquantized (or q8_0) GGUF file of a checkpoint, by llama.cpp's own converter.

The converter knows a byte-level tokenizer by a hash of its ids. Its registry of architectures is open: a subclass that
says which split it is, where the converter cannot, takes the place of the original.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmctl.errors import ConversionFailed, Unsupported
from llmctl.models.convert import gguf_pre
from llmctl.models.convert.processes import gguf_tokens
from llmctl.models.convert.processes.serving import serve


def convert(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """`source` folder → `target` file of `type`, and the file `expected` of ids to prove it by.

    `pre` names the split; None leaves it to the converter and to us.
    """
    source, tree = Path(request["source"]), request["converter"]
    sys.path[:0] = [tree, f"{tree}/gguf-py"]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    name_the_split(config, request["pre"] or gguf_pre.name(tokenizer_json(source)), insist=bool(request["pre"]))
    script = f"{tree}/convert_hf_to_gguf.py"
    sys.argv = [script, str(source), "--outfile", request["target"], "--outtype", request["type"]]
    sys.argv += ["--model-name", model_name(request["model"], tokenizer_json(source))]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        if error.code:
            raise ConversionFailed(f"llama.cpp's converter ended with {error.code}") from None
    ids = gguf_tokens.expected(source, request["allow_code"])
    Path(request["expected"]).write_text(json.dumps(ids), encoding="utf-8")
    import gguf
    import transformers

    return {
        "tools": {"llama.cpp converter": request["version"], "transformers": transformers.__version__},
        "quantization_version": gguf.GGML_QUANT_VERSION,
    }


def tokenizer_json(source: Path) -> dict[str, Any]:
    """The tokenizer.json of a checkpoint; empty when it has none."""
    path = source / "tokenizer.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def model_name(id: str, tokenizer: Mapping[str, Any]) -> str:
    """What the file calls the model; by the word phi-3 llama.cpp knows that specials swallow spaces after them."""
    stripping = any(token.get("special") and token.get("rstrip") for token in tokenizer.get("added_tokens") or ())
    return f"{id} (phi-3)" if stripping and not any(word in id for word in ("phi-3", "phi3")) else id


def name_the_split(config: Mapping[str, Any], pre: str | None, *, insist: bool) -> None:
    """Put a subclass that knows the split in the place of the architecture's class; `insist` overrules the hash."""
    import conversion  # type: ignore[import-not-found]

    architecture = conversion.get_model_architecture(dict(config), conversion.ModelType.TEXT)
    try:
        original: Any = conversion.get_model_class(architecture)
    except NotImplementedError:
        raise Unsupported(f"llama.cpp's converter does not know the architecture {architecture}") from None

    @conversion.ModelBase.register(architecture)
    class Named(original):  # type: ignore[misc]
        model_arch = original.model_arch

        def get_vocab_base_pre(self, tokenizer: object) -> str:
            if insist and pre:
                return pre
            try:
                return str(super().get_vocab_base_pre(tokenizer))
            except NotImplementedError:
                if pre:
                    return pre
            raise Unsupported(
                "neither llama.cpp's converter nor llmctl knows how this tokenizer splits a text",
                hint="name the split with --pre NAME (qwen2, llama-bpe, gpt-2, …); a wrong one is found out",
            )


if __name__ == "__main__":
    serve(convert)
