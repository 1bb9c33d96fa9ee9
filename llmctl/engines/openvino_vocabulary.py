"""The vocabulary of a GGUF file without its weights, by llama.cpp's own code."""

from __future__ import annotations

from ctypes import Structure, c_bool, c_int32, c_void_p
from pathlib import Path

from llmctl.engines.llamacpp_library import ModelParams, open_library
from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer
from llmctl.engines.talk import Talk
from llmctl.errors import LoadFailed, Unsupported


class VocabularyParams(Structure):
    """`struct llama_model_params`; of the fields only `vocab_only` is changed."""

    _fields_ = [
        ("lists", c_void_p * 2),
        ("modes", c_int32 * 6),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p * 2),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
    ]


def load_vocabulary(path: Path, talk: Talk) -> GGUFTokenizer:
    """The tokenizer in the file at `path`; LoadFailed in llama.cpp's own words."""
    library = open_library()
    library.log.clear()
    params: ModelParams = library.model_default_params()
    fields = VocabularyParams.from_buffer(params)
    if (fields.vocab_only, fields.check_tensors, fields.use_extra_bufts) != (False, False, True):
        raise Unsupported(
            "this build of llama.cpp lays out its parameters differently",
            hint="install the version of xllamacpp that llmctl pins",
        )
    fields.vocab_only = True
    params.n_gpu_layers = 0
    model = library.model_load_from_file(str(path).encode(), params)
    if not model:
        why = next((line for line in library.log if "error" in line.lower()), "no reason given")
        raise LoadFailed(f"llama.cpp cannot read the vocabulary of {path.name}: {why.strip()}")
    return GGUFTokenizer(library, model, talk)
