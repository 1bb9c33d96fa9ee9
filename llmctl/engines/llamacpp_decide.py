"""Typed decisions with llama.cpp's own handler, for GGUF files that say which kind of decision model they are.

The handler belongs to llama.cpp's server, which opens a socket with it: one in a folder of ours that is removed at
once, under a key that nobody knows. Its weights are the mapped file that the engine has; its context is its own, and
it computes in a thread beside the running answers.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.domain import Identity
from llmctl.engines.llamacpp_context import DecodeFailed
from llmctl.engines.llamacpp_library import Library
from llmctl.engines.tasks import Answering, Work, fits
from llmctl.engines.tokenizer import strings
from llmctl.errors import RequestError

LOOK_EVERY = 0.005
"""Seconds that a running decision holds up a step of the engine."""


def decides(library: Library, model: int) -> bool:
    """Whether the file is a decision model to llama.cpp."""
    return bool(library.metadata(model, f"{library.metadata(model, 'general.architecture')}.decision.type"))


@dataclass(frozen=True)
class Setting:
    """What the handler's server is started with."""

    path: Path
    context: int
    threads: int
    gpu: bool


class LlamaDecider:
    """Answers DECIDE; the handler is opened by the first question."""

    def __init__(self, library: Library, setting: Setting) -> None:
        self._library, self._setting = library, setting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decide")
        self._server: Any = None

    def decide(self, engine: Answering, state: Any, questions: Any, assets: Mapping[str, Any] | None = None) -> Work:
        """The handler's answers; RequestError in its words."""
        if assets:
            raise RequestError(f"{engine.identity.model} decides on text, not on images", param="assets")
        fits(strings([state, questions]), "state", engine)
        ended = threading.Event()
        asked = self._thread.submit(self._ask, {"state": state, "questions": questions})
        asked.add_done_callback(lambda _: ended.set())
        while not ended.wait(LOOK_EVERY):
            yield
        return taken(asked.result(), engine.identity)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._server = None

    def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._server is None:
            self._server = opened(self._setting)
            self._library.listen()
        ask: Callable[[dict[str, Any]], Mapping[str, Any]] = self._server.handle_systemone
        return ask({"model": "", **request})


def opened(setting: Setting) -> Any:
    """A server of llama.cpp's that nobody can reach."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(setting.path)
    params.n_ctx, params.n_parallel = setting.context, 1
    params.n_gpu_layers = -1 if setting.gpu else 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setting.threads
    params.n_threads_http = 1
    params.warmup = params.ui = params.endpoint_slots = params.endpoint_props = False
    params.verbosity = 1
    params.api_keys = [secrets.token_hex(32)]
    with tempfile.TemporaryDirectory(prefix="llm-") as folder:
        params.hostnames = [f"{folder}/s.sock"]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise DecodeFailed(f"llama.cpp's decision handler did not start: {error}") from error


def taken(answer: Mapping[str, Any], identity: Identity) -> Mapping[str, Any]:
    """The value of the Done out of the handler's answer."""
    if "error" in answer:
        message = f"{identity.model}: {answer['error'].get('message')}"
        if int(answer["error"].get("code") or 500) < 500:
            raise RequestError(message, param="questions")
        raise DecodeFailed(message)
    return {"answers": answer["answers"], "tokens": int(answer["usage"]["input_tokens"])}
