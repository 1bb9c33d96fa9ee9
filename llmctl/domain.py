"""The nouns that processes exchange: what a slot runs, what a client asks, what an engine answers.

Standard library only: engines and the worker import this module and `errors`, nothing else of llmctl's core.
Sizes are bytes, times are seconds, token ids are non-negative ints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, TypeVar

PORTS = range(8100, 8140)
"""The managed port range; `auto` takes its lowest free port."""

ENGINES = ("llamacpp", "torch", "mlx", "scripted")
FORMATS = ("safetensors", "gguf", "mlx", "script")

# A slot's states as `status` shows them.
EMPTY, STARTING, READY, SWAPPING, STOPPING = "empty", "starting", "ready", "swapping", "stopping"
SLEEPING, BACKOFF, CRASH_LOOP, DISABLED = "sleeping", "backoff", "crash-loop", "disabled"
DOWN = "down"  # desired state exists but no slot server runs

T = TypeVar("T")


def build(cls: type[T], data: Mapping[str, Any]) -> T:
    """A flat dataclass from JSON, lists turned into tuples, keys of a newer version ignored."""
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in names})


# ── what a slot runs ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Probe:
    """The question a new engine must answer before it gets traffic (decisions.md, "Sane")."""

    prompt: str = "Write one sentence about the sea."
    expect: str | None = None
    max_tokens: int = 24


@dataclass(frozen=True)
class EngineSpec:
    """All that an engine process is told: one model, where its files lie, and how to run it."""

    engine: str
    model: str
    path: str
    format: str
    context: int = 4096
    parallel: int = 4
    device: str = "auto"
    dtype: str | None = None
    threads: int | None = None
    allow_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SlotSpec:
    """The desired content of a slot, complete: the slot server needs no configuration file.

    `names` are the model names a client may send besides the id. `needed_bytes` is the admission estimate.
    `pins` are the packages that the model wants, which choose the engine's environment; `python` is an interpreter
    instead of that. `idle_unload` and `load_timeout` are seconds.
    """

    engine: EngineSpec
    names: tuple[str, ...] = ()
    probe: Probe = Probe()
    needed_bytes: int = 0
    idle_unload: float | None = None
    load_timeout: float = 600.0
    pins: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None

    @property
    def model(self) -> str:
        return self.engine.model

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> SlotSpec:
        flat = {k: v for k, v in data.items() if k not in ("engine", "probe")}
        spec = build(SlotSpec, {**flat, "engine": build(EngineSpec, data["engine"])})
        return SlotSpec(**{**spec.__dict__, "probe": build(Probe, data.get("probe") or {})})


@dataclass(frozen=True)
class Limits:
    """What one slot server allows; all are overridable per slot. Sizes in bytes, times in seconds.

    `body_bytes` bounds one request's body, `bodies_bytes` those of all requests that are not answered yet.
    """

    queue: int = 128
    queue_timeout: float = 120.0
    body_bytes: int = 32 * 2**20
    bodies_bytes: int = 256 * 2**20
    header_bytes: int = 64 * 2**10
    header_timeout: float = 10.0
    body_timeout: float = 10.0
    keep_alive: float = 75.0
    request_time: float = 600.0
    stall: float = 120.0
    write_buffer: int = 2**20
    read_stall: float = 45.0
    connections: int = 2000
    drain: float = 30.0


# ── what a client asks ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sampling:
    """How one token is chosen. temperature 0 is greedy; top_k 0, top_p 1, min_p 0, penalties 0 (or 1) are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class GenerateRequest:
    """One validated request, whatever protocol it came by: either `messages` (a chat) or `prompt` is set.

    `prompt` is text or token ids. `max_tokens` None means up to the context. `logprobs` None is off, 0 is the chosen
    token only, k adds the k most likely. `images` are encoded image files. `time_cap` is seconds of generation.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    ignore_eos: bool = False
    time_cap: float | None = None
    adapter: str | None = None
    images: tuple[bytes, ...] = ()

    def to_wire(self) -> tuple[dict[str, Any], bytes]:
        """JSON head and binary tail (the images, one after another)."""
        head = {k: v for k, v in self.__dict__.items() if k not in ("images", "sampling")}
        head["sampling"] = self.sampling.__dict__
        head["images"] = [len(i) for i in self.images]
        return head, b"".join(self.images)

    @staticmethod
    def from_wire(head: Mapping[str, Any], tail: bytes) -> GenerateRequest:
        sampling = dict(head["sampling"])
        sampling["logit_bias"] = tuple((int(i), float(b)) for i, b in sampling["logit_bias"])
        images, at = [], 0
        for size in head["images"]:
            images.append(tail[at : at + size])
            at += size
        return build(GenerateRequest, {**head, "sampling": Sampling(**sampling), "images": images})


# ── what an engine answers ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TokenLogprob:
    """One token's log-probability and its `top` alternatives as (text, id, logprob), most likely first."""

    text: str
    id: int
    logprob: float
    top: tuple[tuple[str, int, float], ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of one request: the prompt (and how many of it came from a verified shared prefix), and all generated."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


# Why a sequence ended.
STOP, LENGTH, TIME, CANCELLED = "stop", "length", "time", "cancelled"


@dataclass(frozen=True)
class Started:
    """The engine accepted the request: it is valid for this model. Sent once, before any chunk."""

    id: str
    prompt_tokens: int


@dataclass(frozen=True)
class Chunk:
    """New text of one sequence: whole characters only, never the beginning of a stop string.

    `index` counts the n sequences. `tokens` is how many tokens this chunk covers. The last chunk of a sequence has
    `finish`; the last of the request has `usage` as well.
    """

    id: str
    index: int = 0
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    stop_match: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None


@dataclass(frozen=True)
class Failure:
    """The request ended with an error (`error` is `LlmctlError.to_dict()`); nothing follows."""

    id: str
    error: Mapping[str, Any]


Event = Started | Chunk | Failure


@dataclass(frozen=True)
class Identity:
    """What a loaded engine says it is. A slot compares `model` with what it asked for before it gives traffic."""

    model: str
    engine: str
    architecture: str
    context: int
    vocab: int
    parallel: int
    device: str = "cpu"
    dtype: str = ""
    chat: bool = True
    memory_bytes: int = 0
    capabilities: tuple[str, ...] = ()


# ── the engine protocol ─────────────────────────────────────────────────────────────────────────────────────────────
#
# An engine adapter is one file in llmctl/engines with two functions
#     check(spec: EngineSpec) -> None                       Unsupported, by name, before any weights are read
#     load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine
# A StepEngine only computes logits; `engines.batch.BatchEngine` makes an Engine of it: it schedules, samples and
# detokenizes. An adapter whose library decides all that itself is an Engine directly. One thread owns the object
# (submit, cancel, step, close); `emit` may be called from any thread.

Emit = Callable[[Event], None]
Progress = Callable[[str, int, int], None]
"""progress(stage, done, total): `total` 0 when it is not known."""


class Engine(Protocol):
    """Turns whole requests into events. `submit` raises RequestError for what this model cannot take."""

    identity: Identity

    def submit(self, request: GenerateRequest) -> None:
        """Accept a request; Started and its chunks follow through `emit`."""

    def cancel(self, id: str) -> None:
        """End a request soon, also within a long prefill; it ends with a CANCELLED chunk, or silently if unknown."""

    def step(self) -> bool:
        """Do one bounded piece of work; False when there is nothing to do."""

    def close(self) -> None: ...


class Logits(Protocol):
    """The next-token logits of a step's sequences, kept on the engine's device until asked for."""

    def argmax(self) -> tuple[Sequence[int], Sequence[bool]]:
        """Per row: the most likely id, and whether the row's maximum is finite."""

    def row(self, i: int) -> Any:
        """Row i as a float32 numpy array of shape (vocab,)."""


class Tokenizer(Protocol):
    """A model's tokenizer. `encode` treats special tokens in the text as plain text unless `special`.

    `chats` is false for a model without a chat template.
    """

    eos_ids: frozenset[int]
    vocab: int
    chats: bool

    def encode(self, text: str, *, special: bool = False, bos: bool = True) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def token_bytes(self, id: int) -> bytes:
        """The bytes one token adds to the text; empty for specials."""

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Render with the model's own template; RequestError(param="messages") when the template rejects them."""


class StepEngine(Protocol):
    """Computes logits for sequences. A sequence is an int handle made by `prefill` or `fork`, ended by `free`."""

    identity: Identity
    tokenizer: Tokenizer
    prefill_chunk: int

    def open(self, *, adapter: str | None = None, images: Sequence[bytes] = ()) -> int:
        """A new empty sequence. RequestError when the adapter or images cannot be taken."""

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        """Append prompt tokens (at most `prefill_chunk`); one row of logits, for the last of them."""

    def fork(self, seq: int) -> int:
        """A second sequence with the same content; the shared prefix is not computed again."""

    def step(self, feed: Mapping[int, int]) -> Logits:
        """Append one token to each sequence, in one batch; rows in the mapping's order."""

    def free(self, seq: int) -> None: ...
    def close(self) -> None: ...


class LogitsMask(Protocol):
    """What a sequence may generate next (structured output). Asked before, told after, each token."""

    def allowed(self) -> Any:
        """A numpy bool array of shape (vocab,), True where the token is allowed; None when all are."""

    def accept(self, token: int) -> None: ...
