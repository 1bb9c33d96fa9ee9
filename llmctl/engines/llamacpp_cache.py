"""How much a context of llama.cpp holds: its tokens, the types of its keys and values, and what they may take."""

from __future__ import annotations

from llmctl.domain import EngineSpec
from llmctl.engines.llamacpp_context import MOST
from llmctl.engines.llamacpp_library import BATCH, F16, Q4_0, Q8_0, ContextParams, Library, caches_here
from llmctl.errors import DoesNotFit, Unsupported

CELLS = 256  # llama.cpp rounds a sequence's tokens up to a multiple of this
TYPES = {None: F16, 8: Q8_0, 4: Q4_0}
BYTES_OF_32 = {F16: 64, Q8_0: 34, Q4_0: 18}
"""Bytes of 32 elements, which is what llama.cpp quantizes at once."""


def context_params(spec: EngineSpec, library: Library, model: int) -> ContextParams:
    """A context of `parallel` equal parts, each of `usable_context` tokens."""
    params: ContextParams = library.context_default_params()
    params.n_ctx = usable_context(spec, library, model) * spec.parallel
    params.n_batch, params.n_ubatch = MOST + spec.parallel, max(BATCH, spec.parallel)
    params.n_seq_max = spec.parallel
    if spec.cache_bits is not None:
        if not caches_here(params):
            raise Unsupported("this build of llama.cpp lays out its parameters differently: cache_bits has no effect")
        params.type_k = params.type_v = cache_type(spec, library, model)
    return params


def usable_context(spec: EngineSpec, library: Library, model: int) -> int:
    """What was asked for, at most what the model was trained for and what `cache_bytes` holds; DoesNotFit when that
    is not even CELLS tokens for each sequence."""
    trained = library.model_n_ctx_train(model)
    context = min(spec.context, trained) if trained > 0 else spec.context
    if spec.cache_bytes is None:
        return context
    token = token_bytes(spec, library, model)
    held = spec.cache_bytes // (token * spec.parallel) // CELLS * CELLS
    if not held:
        raise DoesNotFit(
            f"{spec.model}: {spec.parallel} × {CELLS} tokens take {token * spec.parallel * CELLS:,} bytes of keys and "
            f"values, and {spec.cache_bytes:,} are allowed",
            hint="allow more, or fewer sequences at once"
            + ("" if spec.cache_bits == 4 else ", or quantize them: cache_bits = 8 or 4"),
            details={"needed": token * spec.parallel * CELLS, "budget": spec.cache_bytes},
        )
    return min(context, held)


def cache_type(spec: EngineSpec, library: Library, model: int) -> int:
    """The type of keys and values; Unsupported for one that cannot hold this model's heads."""
    if spec.cache_bits not in TYPES:
        raise Unsupported(f"{spec.model}: llama.cpp quantizes keys and values to 8 or 4 bits, not {spec.cache_bits}")
    heads = [width for _, widths in layers(library, model) for width in widths]
    if spec.cache_bits is not None and any(width % 32 for width in heads):
        raise Unsupported(
            f"{spec.model}: its heads are {min(w for w in heads if w % 32)} wide; keys and values are quantized by 32",
            hint="leave cache_bits away",
        )
    return TYPES[spec.cache_bits]


def token_bytes(spec: EngineSpec, library: Library, model: int) -> int:
    """Bytes that the keys and values of one token take, in all layers."""
    elements = sum(heads * sum(widths) for heads, widths in layers(library, model))
    return elements * BYTES_OF_32[cache_type(spec, library, model)] // 32


def layers(library: Library, model: int) -> list[tuple[int, tuple[int, int]]]:
    """For each layer its number of key heads, and how wide those of keys and of values are."""
    prefix = f"{library.metadata(model, 'general.architecture')}.attention"
    width = library.model_n_embd(model) // max(1, library.model_n_head(model))
    key = int(library.metadata(model, f"{prefix}.key_length") or width)
    value = int(library.metadata(model, f"{prefix}.value_length") or width)
    told = library.metadata(model, f"{prefix}.head_count_kv").strip("[]").split(",")
    each = [int(one) for one in told if one.strip()] or [library.model_n_head_kv(model)]
    count = library.model_n_layer(model)
    return [(heads, (key, value)) for heads in (each if len(each) == count else [max(each)] * count)]
