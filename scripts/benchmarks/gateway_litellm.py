"""The LiteLLM proxy as its makers tell, with the configuration that llmctl renders, over one fake slot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from llmctl.gateway import litellm_env
from llmctl.gateway.litellm import MASTER, rendered, variables
from llmctl.gateway.registry import Registry
from scripts.benchmarks import testbed

KEPT = Path.home() / ".cache" / "llmctl-bench"
"""Where its environment stays for the next run."""


@contextlib.contextmanager
def running(folder: Path, registry: Registry, key: str) -> Iterator[int]:
    """Its port; `key` is what its clients present."""
    python = litellm_env.made(KEPT, lambda line: None)
    config, port = folder / "litellm.yaml", testbed.free_port()
    config.write_text(rendered(registry).text)
    env = {
        MASTER: key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION",
        **dict.fromkeys(variables(registry).values(), "none"),
    }  # fmt: skip
    argv = [str(litellm_env.program(python)), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with testbed.serving("LiteLLM", argv, port, env):
        yield port
