#!/usr/bin/env python3
"""Download the safetensors of a catalog model to where llmctl looks for them, and print its id."""

from __future__ import annotations

import sys

from huggingface_hub import snapshot_download

from llmctl import catalog, paths
from llmctl.errors import LlmctlError

FILES = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model", "*.txt"]


def main(name: str) -> int:
    try:
        model = catalog.load().resolve(name)
        artifact = next(a for a in model.artifacts if a.format == "safetensors" and a.source)
        target = paths.home() / "models" / model.id / artifact.folder
        print(f"downloading {artifact.source} …", file=sys.stderr)
        snapshot_download(str(artifact.source), local_dir=target, allow_patterns=FILES)
    except (LlmctlError, StopIteration, OSError, RuntimeError) as error:
        print(f"error: {name} cannot be downloaded: {error}", file=sys.stderr)
        print("hint: without --model, scripts/quickstart makes tiny models of its own", file=sys.stderr)
        return 1
    print(model.id)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
