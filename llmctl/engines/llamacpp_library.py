"""llama.cpp's C API, out of the shared library that the xllamacpp package carries, or of one built for this CPU.

Why not xllamacpp's own server: it decides sampling, stop strings and batching itself, and by its rules tokens inside a
split character have no log-probability, penalties count the prompt, and NaN goes unnoticed. The C API gives logits, so
that llama.cpp runs under the same `BatchEngine` as every other engine.

Of the parameter structs only the first fields are touched, which have kept their places for years (and the pooling of
a reranker, see `pools_here`); `open_library` checks the defaults found there. What lies behind them stays as the
library filled it in: the buffers are larger than the structs, which both calling conventions in use (System V x86-64,
AAPCS64) allow for a last by-value argument.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_byte,
    c_char_p,
    c_float,
    c_int,
    c_int8,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache
from typing import Any

from llmctl.errors import Unsupported

BATCH = 256  # most tokens computed at once; the compute buffers are sized by it
NATIVE = "LLMCTL_NATIVE"  # names a libllama that was built for this CPU
MTMD = "libmtmd.so"
TELLING = ("AVX2", "AVX512", "AVX512_VNNI", "AVX512_BF16", "AMX_INT8", "NEON", "DOTPROD", "MATMUL_INT8", "SVE")
LARGER_THAN_ANY = 1024  # bytes; the structs have some 150 to 200
WARNING, ERROR, CONTINUED = 3, 4, 5
F16, Q4_0, Q8_0 = 1, 2, 8  # of `enum ggml_type`
LogCallback = CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class ModelParams(Structure):
    """The beginning of `struct llama_model_params`; n_gpu_layers < 0 is all of them."""

    _fields_ = [
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("rest", c_byte * LARGER_THAN_ANY),
    ]


class ContextParams(Structure):
    """The beginning of `struct llama_context_params`. n_ctx is shared by the n_seq_max sequences.

    The four types are -1 by default: `pools_here` says whether they lie where they are expected, `caches_here` the same
    of the types of keys and values.
    """

    _fields_ = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("further", c_int32 * 6),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq", c_float * 2),
        ("yarn", c_float * 4),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("rest", c_byte * LARGER_THAN_ANY),
    ]


class Batch(Structure):
    """`struct llama_batch`: tokens with position and sequence; logits != 0 where the token's logits are wanted."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


# name → (result, arguments)
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_print_system_info": (c_char_p, []),
    "llama_log_set": (None, [LogCallback, c_void_p]),
    "llama_supports_gpu_offload": (c_bool, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_model_free": (None, [c_void_p]),
    "llama_free": (None, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_n_ctx_seq": (c_uint32, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
    "llama_batch_free": (None, [Batch]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_set_embeddings": (None, [c_void_p, c_bool]),
    "llama_get_embeddings_ith": (POINTER(c_float), [c_void_p, c_int32]),
    "llama_get_embeddings_seq": (POINTER(c_float), [c_void_p, c_int32]),
    "llama_pooling_type": (c_int, [c_void_p]),
    "llama_model_n_embd_out": (c_int32, [c_void_p]),
    "llama_model_n_cls_out": (c_uint32, [c_void_p]),
    "llama_model_cls_label": (c_char_p, [c_void_p, c_uint32]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_set_adapters_lora": (c_int32, [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)]),
    "llama_model_n_ctx_train": (c_int32, [c_void_p]),
    "llama_model_n_layer": (c_int32, [c_void_p]),
    "llama_model_n_embd": (c_int32, [c_void_p]),
    "llama_model_n_head": (c_int32, [c_void_p]),
    "llama_model_n_head_kv": (c_int32, [c_void_p]),
    "llama_model_is_recurrent": (c_bool, [c_void_p]),
    "llama_model_is_hybrid": (c_bool, [c_void_p]),
    "llama_model_has_encoder": (c_bool, [c_void_p]),
    "llama_model_has_decoder": (c_bool, [c_void_p]),
    "llama_model_size": (c_uint64, [c_void_p]),
    "llama_model_ftype": (c_int, [c_void_p]),
    "llama_ftype_name": (c_char_p, [c_int]),
    "llama_model_meta_val_str": (c_int32, [c_void_p, c_char_p, c_char_p, c_size_t]),
    "llama_model_chat_template": (c_char_p, [c_void_p, c_char_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_is_control": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_get_text": (c_char_p, [c_void_p, c_int32]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
    "llama_vocab_get_add_eos": (c_bool, [c_void_p]),
    "llama_vocab_get_add_sep": (c_bool, [c_void_p]),
    "llama_vocab_sep": (c_int32, [c_void_p]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_fim_pre": (c_int32, [c_void_p]),
    "llama_vocab_fim_suf": (c_int32, [c_void_p]),
    "llama_vocab_fim_mid": (c_int32, [c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
    "llama_token_to_piece": (c_int32, [c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool]),
}


class Library:
    """The functions of FUNCTIONS as attributes without `llama_`, and the library's last log lines."""

    def __init__(self, path: str) -> None:
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a failed assertion would start a debugger on this process
        self.path = path
        beside = os.path.join(os.path.dirname(path), MTMD)
        self.mtmd = beside if os.path.exists(beside) else path
        library = ctypes.CDLL(path)
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("llama_"), function)
        self.log: deque[str] = deque(maxlen=20)
        self._level = 0
        self.callback = LogCallback(self._logged)  # the library keeps only a pointer to it
        self.listen()
        self.backend_init()

    def listen(self) -> None:
        """Take the library's log lines; again after a server of llama.cpp's was opened, which takes them too."""
        self.log_set(self.callback, None)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # tells type checkers that there are attributes they cannot see

    def metadata(self, model: int, key: str) -> str:
        """One of the GGUF file's values as text; empty when it is not there."""
        value = ctypes.create_string_buffer(4096)
        self.model_meta_val_str(model, key.encode(), value, len(value))
        return value.value.decode("utf-8", "replace")

    def _logged(self, level: int, text: bytes, _: object) -> None:
        """Keep every line for a failed load's report; warnings and errors go to stderr, the slot's log."""
        self._level = level if level != CONTINUED else self._level
        line = text.decode("utf-8", "replace")
        if level == CONTINUED and self.log:
            self.log[-1] += line.rstrip("\n")
        elif line.strip(" .\n"):
            self.log.append(line.rstrip("\n"))
        if self._level in (WARNING, ERROR):
            sys.stderr.write(line)


@cache
def open_library() -> Library:
    """The library, opened once: that of NATIVE where this names one that can be used, else the package's. Unsupported
    when there is none, or it is not laid out as this module knows it."""
    if native := os.environ.get(NATIVE):
        try:
            return checked(Library(native))
        except (OSError, AttributeError, Unsupported) as error:
            sys.stderr.write(f"the native build of llama.cpp cannot be used, the wheel serves: {error}\n")
    try:
        import xllamacpp.xllamacpp as package

        return checked(Library(package.__file__))
    except (ImportError, OSError, AttributeError) as error:
        raise Unsupported(
            f"llama.cpp cannot be used: {error}",
            hint="install xllamacpp into the engine's environment: pip install 'llmctl-fleet[llamacpp]'",
        ) from error


def checked(library: Library) -> Library:
    """The library; Unsupported when it is laid out differently."""
    check_layout(library.context_default_params(), library.model_default_params())
    return library


def described(library: Library) -> str:
    """Which build it is, and what of the CPU it makes use of."""
    told = library.print_system_info().decode("utf-8", "replace")
    used = [name.lower() for name in TELLING if f"{name} = 1" in told]
    return " ".join(["native" if library.path == os.environ.get(NATIVE) else "wheel", *used])


def check_layout(context: ContextParams, model: ModelParams) -> None:
    """Unsupported unless the defaults that llama.cpp documents stand where this module expects them."""
    found = (context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max)
    if found != (512, 2048, 512, 1) or model.devices or not -1 <= model.n_gpu_layers <= 999:
        raise Unsupported(
            f"this build of llama.cpp lays out its parameters differently ({found}, {model.n_gpu_layers})",
            hint="install the version of xllamacpp that llmctl pins",
        )


def pools_here(context: ContextParams) -> bool:
    """Whether `pooling_type` is where this module expects it. What was set is to be read back from the context."""
    types = (context.rope_scaling_type, context.pooling_type, context.attention_type, context.flash_attn_type)
    return types == (-1, -1, -1, -1)


def caches_here(context: ContextParams) -> bool:
    """Whether `type_k` and `type_v` are where this module expects them: half precision by default, behind an old
    threshold that is off."""
    return pools_here(context) and (context.defrag_thold, context.type_k, context.type_v) == (-1.0, F16, F16)
