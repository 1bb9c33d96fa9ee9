"""Runs llama.cpp's converter and nothing else: python -m scripts.benchmarks.bare_gguf PRE CHECKPOINT [its arguments].

The converter knows a byte-level tokenizer by a hash of its ids, so that it refuses every tokenizer trained here. Its
registry of architectures is open, though: a subclass that says which split it is takes the place of the original.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    tree = os.environ["LLAMA_CPP"]
    sys.path[:0] = [tree, f"{tree}/gguf-py"]
    import conversion
    import convert_hf_to_gguf

    pre, checkpoint = sys.argv[1], Path(sys.argv[2])
    architecture = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    original = conversion.get_model_class(architecture)

    @conversion.ModelBase.register(architecture)
    class Named(original):
        model_arch = original.model_arch

        def get_vocab_base_pre(self, tokenizer: object) -> str:
            return pre

    sys.argv = ["convert_hf_to_gguf.py", *sys.argv[2:]]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()
