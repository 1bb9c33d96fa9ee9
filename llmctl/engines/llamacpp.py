"""The llama.cpp engine: any GGUF model, on CPU, CUDA or Metal, mapped into memory rather than copied.

llama.cpp computes logits (`llamacpp_steps`); `BatchEngine` schedules and samples. Run on CPUs only so far.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from llmctl.backends import cpu
from llmctl.domain import DECIDE, IMAGE, TEXT, Emit, Engine, EngineSpec, Identity, Progress
from llmctl.engines import llamacpp_decide, llamacpp_embed
from llmctl.engines.batch import BatchEngine
from llmctl.engines.checkpoint import read_ahead
from llmctl.engines.drafts import drafter
from llmctl.engines.llamacpp_adapters import load_adapters
from llmctl.engines.llamacpp_cache import context_params, usable_context
from llmctl.engines.llamacpp_context import Context, OutOfMemory
from llmctl.engines.llamacpp_decide import LlamaDecider, Setting
from llmctl.engines.llamacpp_embed import Kind, LlamaEncoder
from llmctl.engines.llamacpp_library import Library, described, open_library
from llmctl.engines.llamacpp_steps import Beside, LlamaEngine
from llmctl.engines.llamacpp_tokenizer import GGUFTokenizer
from llmctl.engines.llamacpp_vision import Vision, projector
from llmctl.engines.talk import Talk, words
from llmctl.engines.tasks import POOLED, TaskEngine
from llmctl.errors import LlmctlError, LoadFailed, Unsupported

GPUS = ("cuda", "metal")
NO_MEMORY = ("failed to allocate", "unable to allocate", "cannot allocate memory", "bad_alloc", "out of memory")


def check(spec: EngineSpec) -> None:
    """Unsupported, by name, before any weights are read. The architecture is checked by `load`, just as early."""
    with open(model_file(spec), "rb") as file:
        if file.read(4) != b"GGUF":
            raise Unsupported(f"{spec.model}: {file.name} is not a GGUF file")
    if spec.device in GPUS and not open_library().supports_gpu_offload():
        raise Unsupported(
            f"this build of llama.cpp has no support for {spec.device}",
            hint=f"install the {spec.device} build of xllamacpp, or load the model with device cpu",
        )


def model_file(spec: EngineSpec) -> Path:
    """The GGUF file of `spec`: its path, or the only one (or the first shard) in that folder."""
    path = Path(spec.path)
    if path.is_file():
        return path
    found = [f for f in sorted(path.glob("*.gguf")) if "mmproj" not in f.name]
    first = [f for f in found if "-of-" not in f.name or "-00001-of-" in f.name]
    if len(first) != 1:
        raise Unsupported(f"{spec.model}: {path} holds {len(first) or 'no'} GGUF models; name one file")
    return first[0]


def shards(path: Path) -> tuple[Path, ...]:
    """The files of a model whose first one is `path`; llama.cpp finds the others by itself."""
    stem, split, total = path.name.partition("-00001-of-")
    others = (f for f in path.parent.iterdir() if f.name.startswith(f"{stem}-") and f.name.endswith(f"-of-{total}"))
    return tuple(sorted(others)) if split else (path,)


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine:
    """Load the model of `spec` and batch over it; one that embeds has an engine of its own."""
    opened = open_model(spec, progress)
    found = llamacpp_embed.kind(opened.library, opened.model)
    if found:
        return TaskEngine(encoder(spec, opened, found), emit)
    engine = steps(spec, opened)
    try:
        draft = drafter(spec, lambda small: drafting(small, engine, progress), engine.identity.vocab)
    except BaseException:
        engine.close()
        raise
    return BatchEngine(engine, emit, draft=draft)


def drafting(spec: EngineSpec, target: LlamaEngine, progress: Progress) -> LlamaEngine:
    """The smaller model that proposes tokens to `target`; Unsupported where one of them could not make use of it."""
    engine = load_steps(spec, progress)
    reason = None
    if not (engine.cuts and target.cuts):
        reason = "a recurrent state cannot go back to before a wrong token"
    elif any(engine.tokenizer.token_bytes(i) != target.tokenizer.token_bytes(i) for i in range(target.identity.vocab)):
        reason = "it has another vocabulary of the same size"
    if reason and engine.identity.vocab == target.identity.vocab:
        engine.close()
        raise Unsupported(f"{spec.path} cannot draft for {target.identity.model}: {reason}")
    return engine


def load_steps(spec: EngineSpec, progress: Progress) -> LlamaEngine:
    """The StepEngine alone."""
    return steps(spec, open_model(spec, progress))


@dataclass(frozen=True)
class Opened:
    """A model in memory, without a context."""

    library: Library
    model: int

    def free(self) -> None:
        self.library.model_free(self.model)


def open_model(spec: EngineSpec, progress: Progress) -> Opened:
    """Map the file of `spec`; Unsupported or LoadFailed in llama.cpp's own words."""
    library, path = open_library(), model_file(spec)
    library.log.clear()
    files = shards(path)
    read_ahead(files, progress)
    params = library.model_default_params()
    params.n_gpu_layers = 0 if spec.device == "cpu" else -1
    model = library.model_load_from_file(str(path).encode(), params)
    if not model:
        raise load_error(spec, library)
    if library.model_has_encoder(model) or not library.model_has_decoder(model):
        library.model_free(model)
        raise Unsupported(f"{spec.model}: a model that does not generate text token by token")
    size = sum(file.stat().st_size for file in files)
    progress("weights", size, size)
    return Opened(library, model)


def steps(spec: EngineSpec, opened: Opened) -> LlamaEngine:
    """The StepEngine over an opened model, which it frees."""
    library, model = opened.library, opened.model
    try:
        tokenizer = GGUFTokenizer(library, model, Talk.of(spec))
        identity = identify(spec, library, model, tokenizer)
        adapters = load_adapters(spec.adapters, library, model)
        params = context_params(spec, library, model)
    except BaseException:
        opened.free()
        raise
    pointer = threaded(spec, opened, library.init_from_model(model, params))
    cuts = not (library.model_is_recurrent(model) or library.model_is_hybrid(model))
    context = Context(library, pointer, spec.parallel, identity.vocab, cuts=cuts)
    try:
        seeing, deciding = vision(spec, opened, identity), decider(spec, opened, identity)
    except BaseException:
        context.close()
        opened.free()
        raise
    if seeing:
        identity = replace(identity, inputs=(TEXT, IMAGE))
    if deciding:
        identity = replace(identity, capabilities=(*identity.capabilities, DECIDE))
    beside = Beside(lambda engine: pooled(spec, opened, engine), deciding, seeing, adapters)
    return LlamaEngine(library, model, context, tokenizer, identity, beside)


def pooled(spec: EngineSpec, opened: Opened, engine: LlamaEngine) -> LlamaEncoder:
    """What makes vectors with a model that generates, whose states it pools itself."""
    library, model = opened.library, opened.model
    found = Kind(engine.identity.architecture, llamacpp_embed.NONE, causal=True)
    context = llamacpp_embed.make_context(library, model, found, engine.identity.context, spec.parallel)
    if not context:
        raise load_error(spec, library)
    threads = spec.threads or cpu.physical_cores()
    library.set_n_threads(context, threads, threads)
    tokenizer = engine.tokenizer
    assert isinstance(tokenizer, GGUFTokenizer)
    return LlamaEncoder(library, model, context, found, tokenizer, engine.identity, sequences=spec.parallel, own=False)


def vision(spec: EngineSpec, opened: Opened, identity: Identity) -> Vision | None:
    """llama.cpp's mtmd with the projector beside the model, where there is one."""
    path = projector(model_file(spec))
    if path is None:
        return None
    threads = spec.threads or cpu.physical_cores()
    return Vision(path, opened.model, gpu=identity.device != "cpu", threads=threads, library=opened.library)


def decider(spec: EngineSpec, opened: Opened, identity: Identity) -> LlamaDecider | None:
    """llama.cpp's decision handler, where the file is a decision model."""
    if not llamacpp_decide.decides(opened.library, opened.model):
        return None
    threads = spec.threads or cpu.physical_cores()
    return LlamaDecider(
        opened.library, Setting(model_file(spec), identity.context, threads, gpu=identity.device != "cpu")
    )


def encoder(spec: EngineSpec, opened: Opened, found: Kind) -> LlamaEncoder:
    """What embeds or reranks with an opened model, which it frees."""
    library, model = opened.library, opened.model
    tokenizer = GGUFTokenizer(library, model)
    identity = replace(
        identify(spec, library, model, tokenizer), chat=False, capabilities=(found.verb,), outputs=(),
        load_path=f"{'causal' if found.causal else 'encoder'}, {described(library)}",
    )  # fmt: skip
    if not found.pieces:
        identity = replace(identity, context=min(identity.context, llamacpp_embed.WHOLE))
    try:
        llamacpp_embed.able(spec.model, found, library, model)
        made = llamacpp_embed.make_context(library, model, found, identity.context, spec.parallel)
    except Unsupported:
        opened.free()
        raise
    context = threaded(spec, opened, made)
    return LlamaEncoder(library, model, context, found, tokenizer, identity, sequences=spec.parallel)


def threaded(spec: EngineSpec, opened: Opened, context: int | None) -> int:
    """The context, with the threads of `spec`; LoadFailed when there is none, and the model is freed."""
    if not context:
        opened.free()
        raise load_error(spec, opened.library)
    threads = spec.threads or cpu.physical_cores()
    opened.library.set_n_threads(context, threads, threads)
    return context


def identify(spec: EngineSpec, library: Library, model: int, tokenizer: GGUFTokenizer) -> Identity:
    """What was loaded. `memory_bytes` are the weights."""
    gpu = spec.device != "cpu" and library.supports_gpu_offload()
    return Identity(
        model=spec.model,
        engine="llamacpp",
        architecture=library.metadata(model, "general.architecture"),
        context=usable_context(spec, library, model),
        vocab=tokenizer.vocab,
        parallel=spec.parallel,
        device="cpu" if not gpu else "metal" if sys.platform == "darwin" else "cuda",
        dtype=(library.ftype_name(library.model_ftype(model)) or b"").decode(),
        chat=tokenizer.chats,
        memory_bytes=library.model_size(model),
        capabilities=("fork", "logprobs", "logit_bias", "mask", "seed", *words(tokenizer), "prefix_cache", POOLED),
        adapters=tuple(spec.adapters),
        load_path=described(library),
    )


def load_error(spec: EngineSpec, library: Library) -> LlmctlError:
    """Why llama.cpp gave up, in its own words."""
    lines = list(library.log)
    if full := next((line for line in lines if any(words in line.lower() for words in NO_MEMORY)), None):
        return OutOfMemory(
            f"{spec.model}: out of memory: {full.strip()}",
            hint="a shorter context, fewer sequences at once, cache_bits = 8, or a smaller model",
            details={"log": lines},
        )
    causes = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    cause = (causes[0] if causes else "no reason given").rpartition("error loading model: ")[2].strip()
    if "unknown model architecture" in cause or "unknown pre-tokenizer" in cause:
        return Unsupported(f"{spec.model}: llama.cpp: {cause}", details={"log": lines})
    return LoadFailed(f"{spec.model}: llama.cpp: {cause}", details={"log": lines})
