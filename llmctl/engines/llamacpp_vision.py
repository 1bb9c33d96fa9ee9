"""Images for GGUF models, by llama.cpp's mtmd: a projector file beside the model turns pictures into embeddings.

Text is tokenized here, so that what a client writes stays text; mtmd is given the pictures alone, and adds what the
model wants around each of them.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_bool, c_byte, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl.domain import GenerateRequest, Identity
from llmctl.engines import pictures
from llmctl.engines.llamacpp_library import BATCH, LARGER_THAN_ANY, Library, LogCallback
from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer
from llmctl.engines.requests import bounded, offered, template_arguments
from llmctl.engines.tokenizer import PRIVATE_USE, strings
from llmctl.errors import LoadFailed, RequestError, Unsupported

IMAGE_CHUNK = 1


class Params(Structure):
    """The beginning of `struct mtmd_context_params`."""

    _fields_ = [
        ("use_gpu", c_bool),
        ("device", c_void_p),
        ("print_timings", c_bool),
        ("n_threads", c_int),
        ("image_marker", c_char_p),
        ("media_marker", c_char_p),
        ("rest", c_byte * LARGER_THAN_ANY),
    ]


class Text(Structure):
    """`struct mtmd_input_text`."""

    _fields_ = [("text", c_char_p), ("text_len", c_size_t), ("add_special", c_bool), ("parse_special", c_bool)]


FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "default_marker": (c_char_p, []),
    "context_params_default": (Params, []),
    "init_from_file": (c_void_p, [c_char_p, c_void_p, Params]),
    "helper_log_set": (None, [LogCallback, c_void_p]),
    "free": (None, [c_void_p]),
    "support_vision": (c_bool, [c_void_p]),
    "bitmap_init": (c_void_p, [c_uint32, c_uint32, c_char_p]),
    "bitmap_free": (None, [c_void_p]),
    "input_chunks_init": (c_void_p, []),
    "input_chunks_size": (c_size_t, [c_void_p]),
    "input_chunks_get": (c_void_p, [c_void_p, c_size_t]),
    "input_chunks_free": (None, [c_void_p]),
    "input_chunk_get_type": (c_int, [c_void_p]),
    "input_chunk_get_tokens_text": (POINTER(c_int32), [c_void_p, POINTER(c_size_t)]),
    "input_chunk_get_n_tokens": (c_size_t, [c_void_p]),
    "input_chunk_get_n_pos": (c_int32, [c_void_p]),
    "tokenize": (c_int32, [c_void_p, c_void_p, POINTER(Text), POINTER(c_void_p), c_size_t]),
    "helper_eval_chunk_single": (
        c_int32,
        [c_void_p, c_void_p, c_void_p, c_int32, c_int32, c_int32, c_bool, POINTER(c_int32)],
    ),
}


@dataclass(frozen=True)
class Image:
    """A picture as mtmd cut it up: a chunk in its memory, so many tokens, which take so many positions."""

    chunk: int
    tokens: int
    positions: int


Part = list[int] | Image


class Seen:
    """A prompt with pictures, part by part; mtmd's memory of them goes with it."""

    def __init__(self, parts: Sequence[Part], free: Any, chunks: Sequence[int]) -> None:
        self.parts = tuple(parts)
        self._finalizer = weakref.finalize(self, lambda: [free(one) for one in chunks])

    def ids(self, stand_in: int) -> list[int]:
        """The tokens of the prompt; a picture's are all `stand_in`."""
        return [id for p in self.parts for id in ([stand_in] * p.tokens if isinstance(p, Image) else p)]


def projector(model: Path) -> Path | None:
    """The only projector file beside a model."""
    found = sorted(file for file in model.parent.glob("*.gguf") if "mmproj" in file.name and file != model)
    return found[0] if len(found) == 1 else None


class Vision:
    """One projector, loaded for one model."""

    def __init__(self, path: Path, model: int, *, gpu: bool, threads: int, library: Library) -> None:
        functions = ctypes.CDLL(library.mtmd)
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(functions, f"mtmd_{name}", None)
            if function is None:
                raise Unsupported(f"this build of llama.cpp has no mtmd_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)
        self._helper_log_set(library.callback, None)
        params = self._context_params_default()
        self._marker: bytes = self._default_marker()
        if params.media_marker != self._marker or params.device:
            raise Unsupported("this build of llama.cpp lays out mtmd's parameters differently")
        params.use_gpu, params.print_timings, params.n_threads = gpu, False, threads
        self._context = self._init_from_file(str(path).encode(), model, params)
        if not self._context:
            raise LoadFailed(f"{path.name}: llama.cpp cannot use this projector with the model")
        if not self._support_vision(self._context):
            self.close()
            raise Unsupported(f"{path.name}: this projector is not for pictures")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # tells type checkers that there are attributes they cannot see

    def close(self) -> None:
        self._free(self._context)

    def see(self, request: GenerateRequest, tokenizer: GGUFTokenizer, model: Identity) -> Seen:
        """The parts of a chat with pictures; RequestError for what cannot be decoded or placed."""
        if request.messages is None:
            raise RequestError("images go into the messages of a chat", param="prompt", code="unsupported_content")
        bounded(request, model)
        images = pictures.decoded(request.media)
        said = "".join(strings([request.messages, request.tools]))
        mark = next(chr(c) for c in reversed(PRIVATE_USE) if chr(c) not in said)
        texts = tokenizer.pieces(
            [marked(message, mark) for message in request.messages], mark, tools=offered(request),
            continue_last=request.continue_last, arguments=template_arguments(request),
        )  # fmt: skip
        if len(texts) != len(images) + 1:
            raise RequestError("the model's chat template does not take these images", param="messages")
        parts: list[Part] = [texts[0]]
        chunks: list[int] = []
        seen = None
        try:
            for image, text in zip(images, texts[1:], strict=True):
                chunks.append(self._input_chunks_init())
                parts += [*self._cut(image, chunks[-1]), text]
        finally:
            seen = Seen([part for part in parts if part], self._input_chunks_free, chunks)
        return seen

    def _cut(self, image: Any, chunks: int) -> list[Part]:
        """What one picture becomes: its chunk, between the tokens that the model wants around it."""
        bitmap = self._bitmap_init(image.width, image.height, image.tobytes())
        try:
            text = Text(self._marker, len(self._marker), False, True)
            code = self._tokenize(self._context, chunks, byref(text), (c_void_p * 1)(bitmap), 1)
        finally:
            self._bitmap_free(bitmap)
        if code:
            raise RequestError("the model cannot read this image", param="messages", code="invalid_image")
        return [self._part(self._input_chunks_get(chunks, i)) for i in range(self._input_chunks_size(chunks))]

    def _part(self, chunk: int) -> Part:
        if self._input_chunk_get_type(chunk) == IMAGE_CHUNK:
            tokens, positions = self._input_chunk_get_n_tokens(chunk), self._input_chunk_get_n_pos(chunk)
            return Image(chunk, tokens, positions)
        count = c_size_t()
        ids = self._input_chunk_get_tokens_text(chunk, byref(count))
        return list(ids[: count.value])

    def evaluate(self, library_context: int, image: Image, position: int, seq: int) -> int:
        """Compute a picture into a sequence of a llama.cpp context; its return code."""
        after = c_int32()
        code: int = self._helper_eval_chunk_single(
            self._context, library_context, image.chunk, position, seq, BATCH, False, byref(after)
        )
        return code


def marked(message: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """A message whose content is one text, with the mark for each picture."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    return {**message, "content": "".join(p["text"] if p["type"] == "text" else mark for p in content)}
