"""What an engine's process can do before it knows its model: import its libraries, open its device."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading

from llmctl.errors import Unsupported

# What `check` and `load` of an engine import: the library, then the parts of it that take long where it has them.
_LIBRARIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "llamacpp": ("llmctl.engines.llamacpp_library", ("jinja2.sandbox",)),
    "torch": (
        "torch",
        (
            "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "transformers.generation.utils",
            "transformers.masking_utils", "transformers.modeling_layers", "tokenizers", "jinja2.sandbox",
            "transformers.tokenization_utils_tokenizers",
        ),
    ),
    "mlx": ("mlx.core", ("mlx_lm.utils", "mlx_lm.models.cache", "transformers", "tokenizers", "jinja2.sandbox")),
    "openvino": ("openvino", ("openvino_genai", "tokenizers", "jinja2.sandbox")),
}  # fmt: skip
LOWERED = 10
"""The nice value of the imports: they may take a tenth of a busy core from an engine that serves."""


def warm(engine: str) -> None:
    """Import and open; Unsupported when the library of `engine` is missing.

    The imports run in a thread of a lower priority, which ends with them: a process cannot raise its own again. Threads
    that they start keep the low priority, so the device, whose threads do the work, is opened by the caller's.
    """
    failed: list[Exception] = []

    def run() -> None:
        with contextlib.suppress(OSError):  # a thread has a priority of its own on Linux only
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWERED)
        try:
            _import(engine)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="warm")
    thread.start()
    thread.join()
    if failed:
        raise Unsupported(f"the libraries of {engine} cannot be imported: {failed[0]}") from failed[0]
    _open_device(engine)


def _import(engine: str) -> None:
    library, parts = _LIBRARIES.get(engine, ("", ()))
    importlib.import_module(f"llmctl.engines.{engine}")
    if library:
        importlib.import_module(library)
    for part in parts:
        with contextlib.suppress(ImportError):  # of another version of the library
            importlib.import_module(part)


def _open_device(engine: str) -> None:
    if engine == "torch":
        import torch

        from llmctl.engines.torch_load import pick_device

        some = torch.ones(256, 256, device=pick_device("auto"))
        (some @ some).sum().item()
    elif engine == "llamacpp":
        from llmctl.engines.llamacpp_library import open_library

        open_library()
    elif engine == "mlx":
        import mlx.core as mx

        numbers = mx.ones((256, 256))
        mx.eval(numbers @ numbers)
