"""The openvino engine: GGUF models on x86 CPUs, many sequences at once, from int4, int8 and half-precision weights.

OpenVINO computes logits over paged attention (`openvino_steps`); `BatchEngine` schedules and samples, so that masks,
seeds and penalties are those of every engine. GenAI's own pipelines only read the file.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llmctl.backends import cpu
from llmctl.domain import Emit, Engine, EngineSpec, Identity, Progress
from llmctl.engines.batch import BatchEngine
from llmctl.engines.drafts import drafter
from llmctl.engines.llamacpp import model_file
from llmctl.engines.llamacpp_vision import projector
from llmctl.engines.openvino_check import LLAMACPP, checked
from llmctl.engines.openvino_form import discard, find_or_make
from llmctl.engines.openvino_graph import SETTINGS, Compiled, compiled, read
from llmctl.engines.openvino_pages import let_go
from llmctl.engines.openvino_steps import OpenVinoEngine
from llmctl.engines.openvino_vocabulary import load_vocabulary
from llmctl.engines.talk import Talk, words
from llmctl.errors import LlmctlError, LoadFailed, Unsupported
from llmctl.models.gguf_header import GGUFHeader

LIBRARY = "openvino-genai"
CACHE_BITS = (8,)
BF16_THREADS = 2
"""With one, OpenVINO 2026.4's products for AMX divide by zero, which ends the process."""


def check(spec: EngineSpec) -> None:
    """Unsupported, by name, before any weights are read."""
    _library()
    if spec.device not in ("auto", "cpu"):
        raise Unsupported(f"the openvino engine runs on CPUs only, not on {spec.device}", hint=LLAMACPP)
    if spec.dtype and spec.dtype not in SETTINGS:
        raise Unsupported(f"no dtype {spec.dtype!r}", hint=f"one of {', '.join(SETTINGS)}")
    if spec.dtype == "bfloat16" and threads(spec) < BF16_THREADS:
        raise Unsupported("OpenVINO computes in bfloat16 with two threads or more", hint="load it with dtype float32")
    if spec.cache_bits and spec.cache_bits not in CACHE_BITS:
        raise Unsupported(f"the openvino engine has no cache of {spec.cache_bits} bits", hint="8, or none at all")
    if spec.adapters:
        raise Unsupported("the openvino engine takes no adapters", hint=LLAMACPP)
    if spec.spread:
        raise Unsupported("the openvino engine runs on one host only")
    path = model_file(spec)
    if projector(path) is not None:
        raise Unsupported(f"{spec.model}: its vision projector is not supported by the openvino engine", hint=LLAMACPP)
    checked(spec.model, path)


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine:
    """Load the model of `spec` and batch over it."""
    steps = load_steps(spec, progress)
    draft = drafter(spec, lambda small: load_steps(small, progress), steps.identity.vocab)
    return BatchEngine(steps, emit, draft=draft)


def load_steps(spec: EngineSpec, progress: Progress) -> OpenVinoEngine:
    """The StepEngine alone."""
    check(spec)
    path = model_file(spec)
    header = checked(spec.model, path)
    tokenizer = load_vocabulary(path, Talk.of(spec))
    made = _compiled(spec, path, progress)
    identity = _identify(spec, header, tokenizer.chats, made, words(tokenizer))
    try:
        engine = OpenVinoEngine(made, tokenizer, identity, blocks(spec, identity.context, made))
        _prove(engine)
        let_go(made.weights)
    except LlmctlError:
        raise
    except Exception as error:
        raise _failed(spec, error) from error
    progress("weights", identity.memory_bytes, identity.memory_bytes)
    return engine


def threads(spec: EngineSpec) -> int:
    """How many threads compute: at most one for each core, whatever was asked for."""
    return min(spec.threads or sys.maxsize, cpu.physical_cores())


def dtype(spec: EngineSpec) -> str:
    """What is computed in: the type that the CPU is fast with."""
    return spec.dtype or ("bfloat16" if cpu.fast_bf16() and threads(spec) >= BF16_THREADS else "float32")


def blocks(spec: EngineSpec, context: int, made: Compiled) -> int:
    """How many cache blocks there are: for every sequence a full context, at most what `cache_bytes` allows."""
    wanted = spec.parallel * -(-context // made.block)
    if spec.cache_bytes is None:
        return wanted
    allowed = spec.cache_bytes // made.block_bytes
    if allowed < 1:
        raise Unsupported(
            f"{spec.model}: a cache of {spec.cache_bytes} bytes holds not one block of {made.block_bytes}"
        )
    return min(wanted, allowed)


def _compiled(spec: EngineSpec, path: Path, progress: Progress) -> Compiled:
    """The model of `path` compiled; a form that cannot be read any more is made anew, once."""
    xml = find_or_make(path, _library(), progress)
    progress("compile", 0, 0)
    try:
        try:
            model = read(xml)
        except MemoryError:
            raise
        except Exception:
            discard(xml)
            model = read(find_or_make(path, _library(), progress))
        return compiled(model, xml, dtype(spec), threads(spec), spec.cache_bits)
    except LlmctlError:
        raise
    except Exception as error:
        raise _failed(spec, error) from error


def _failed(spec: EngineSpec, error: Exception) -> LlmctlError:
    """Its last line says what went wrong, the lines before it where; what came of too little memory says that."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    details = {"log": lines[-20:]}
    if isinstance(error, MemoryError) or "alloc" in str(error):
        full = LoadFailed(
            f"{spec.model}: out of memory: {lines[-1][:300]}",
            hint="load it with a shorter context, fewer requests at once, or a smaller cache",
            details=details,
        )
        full.code = "out_of_memory"
        return full
    return LoadFailed(
        f"{spec.model}: OpenVINO: {lines[-1][:300]}",
        hint="verify its files with `llmctl models verify`",
        details=details,
    )


def _prove(engine: OpenVinoEngine) -> None:
    """Compute one token: a graph whose shapes do not fit together fails here, and not under a request."""
    seq = engine.open()
    engine.prefill(seq, [0])
    engine.free(seq)


def _identify(
    spec: EngineSpec, header: GGUFHeader, chats: bool, made: Compiled, able: tuple[str, ...]
) -> Identity:  # fmt: skip
    trained = header.get("context_length") or spec.context
    weights = sum(tensor.bytes or 0 for tensor in header.tensors)
    return Identity(
        model=spec.model,
        engine="openvino",
        architecture=header.architecture,
        context=min(spec.context, trained),
        vocab=made.vocab,
        parallel=spec.parallel,
        dtype=made.dtype,
        chat=chats,
        memory_bytes=weights,
        capabilities=("fork", "logprobs", "logit_bias", "mask", "seed", *able, "prefix_cache"),
        load_path="paged",
        residency={"cpu": weights},
    )


def _library() -> str:
    """The version of OpenVINO GenAI; Unsupported when it is not installed."""
    try:
        return version(LIBRARY)
    except PackageNotFoundError as error:
        raise Unsupported(
            f"{LIBRARY} is not installed in this environment", hint="pip install 'llmctl-fleet[openvino]'"
        ) from error
