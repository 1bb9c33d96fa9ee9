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

ENGINES = ("llamacpp", "torch", "mlx", "openvino", "upstream", "scripted")
FORMATS = ("safetensors", "gguf", "mlx", "server", "script")
"""`server` is a server that llmctl launches or is pointed at (engine `upstream`), `script` a scripted model."""

GATEWAY = "gateway"
"""As the engine of a slot: none, its port is the gateway."""
GATEWAY_PORT = 8090
"""Where it listens unless told otherwise."""

NGRAM = "ngram"
"""As a draft: what the text itself said before, in place of a second model."""

# A slot's states as `status` shows them.
EMPTY, STARTING, READY, SWAPPING, STOPPING = "empty", "starting", "ready", "swapping", "stopping"
SLEEPING, BACKOFF, CRASH_LOOP, DISABLED = "sleeping", "backoff", "crash-loop", "disabled"
DOWN = "down"  # desired state exists but no slot server runs
STATES = (EMPTY, STARTING, READY, SWAPPING, STOPPING, SLEEPING, BACKOFF, CRASH_LOOP, DISABLED, DOWN)

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
    """All that an engine process is told: one model, where its files lie, and how to run it.

    `adapters` are LoRA adapters (2106.09685) by name, each a folder or file. `draft` is what proposes tokens for the
    model to check (speculative decoding, 2211.17192): NGRAM, or the path of a smaller model with the same vocabulary.
    `cache_bits` is 8 or 4 for quantized keys and values; `cache_bytes` bounds the memory of all of them. `spread` are
    the machines that compute it together, this one first (`spread.Member` as dicts).
    """

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
    adapters: Mapping[str, str] = field(default_factory=dict)
    draft: str | None = None
    cache_bits: int | None = None
    cache_bytes: int | None = None
    spread: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class SlotSpec:
    """The desired content of a slot, complete: the slot server needs no configuration file.

    `names` are the model names a client may send besides the id. `needed_bytes` is the admission estimate.
    `pins` are the packages that the model wants, which choose the engine's environment; `python` is an interpreter
    instead of that. `idle_unload` and `load_timeout` are seconds. `spare_bytes` is what a process
    without a model takes that is kept ready for the next one; 0: there is none. `evictable`: it may be unloaded to
    make room for others; of those with one `exclusive` name only one is loaded at a time.
    """

    engine: EngineSpec
    names: tuple[str, ...] = ()
    probe: Probe = Probe()
    needed_bytes: int = 0
    idle_unload: float | None = None
    load_timeout: float = 600.0
    pins: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    spare_bytes: int = 0
    evictable: bool = False
    exclusive: str | None = None

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


@dataclass(frozen=True)
class OnDemand:
    """How a gateway deals with requests whose model has to be loaded first; seconds.

    A stream is told of it after `told` and then each `every`; who does not stream is sent away after `patience`; a load
    takes `longest` at most. A loaded model whose room another waits for goes on for `turn`, or so many `requests`.
    """

    told: float = 10.0
    every: float = 5.0
    patience: float = 60.0
    longest: float = 3600.0
    turn: float = 30.0
    requests: int = 64


@dataclass(frozen=True)
class MediaPolicy:
    """What images a slot server takes. Data in the request always; files and addresses only where allowed.

    `folder` is the one whose files may be named (None: none), `url_hosts` the names that may be fetched from ("*": any
    public one). `count` is per request; `bytes` of one encoded file, `pixels` of one image; `seconds` for all fetching.
    """

    folder: str | None = None
    url_hosts: tuple[str, ...] = ()
    count: int = 16
    bytes: int = 20 * 2**20
    pixels: int = 40_000_000
    seconds: float = 20.0


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


# What an answer can be made to match (`Format.kind`); a grammar is Lark's.
JSON_OBJECT, JSON_SCHEMA, REGEX, GRAMMAR = "json_object", "json_schema", "regex", "grammar"

# Modalities, in and out (`Identity.inputs`, `Media.kind`, the `type` of a message's part).
TEXT, IMAGE, AUDIO, VIDEO = "text", "image", "audio", "video"


@dataclass(frozen=True)
class Format:
    """What a whole answer must match; `text` is the schema (as JSON), the expression or the grammar."""

    kind: str
    text: str = ""


@dataclass(frozen=True)
class Media:
    """One image, sound or film of a request: an encoded file, its kind and size already checked."""

    kind: str
    data: bytes


@dataclass(frozen=True)
class GenerateRequest:
    """One validated request, whatever protocol it came by: either `messages` (a chat) or `prompt` is set.

    `messages` are in the shape that chat templates take: {"role": system|user|assistant|tool, "content": text}, with
    "name", "tool_call_id", "reasoning_content", and "tool_calls": [{"id", "type": "function", "function": {"name",
    "arguments": object}}] where they apply. With `media`, content is a list of {"type": "text", "text"} and {"type":
    "image"}; the n-th part that is no text is `media[n]`. `continue_last`: the last message, the assistant's, goes on.
    `prompt` is text or token ids; `suffix` is what follows the gap that the answer fills. `max_tokens` None means up to
    the context. `logprobs` None is off, 0 is the chosen token only, k adds the k most likely. `tools` are {"name",
    "description", "parameters"}; `tool_choice` is auto, none or required (a named one is required, and alone).
    `thinking` None leaves it to the model; `effort` is low, medium or high. `time_cap` is seconds of generation.
    `fresh`: nothing is taken over from what an earlier request computed.
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
    media: tuple[Media, ...] = ()
    suffix: str | None = None
    format: Format | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tools: bool = True
    thinking: bool | None = None
    effort: str | None = None
    continue_last: bool = False
    fresh: bool = False

    def to_wire(self) -> tuple[dict[str, Any], bytes]:
        """JSON head and binary tail (the media, one after another)."""
        head = {k: v for k, v in self.__dict__.items() if k not in ("media", "sampling", "format")}
        head["sampling"] = self.sampling.__dict__
        head["format"] = self.format.__dict__ if self.format else None
        head["media"] = [[one.kind, len(one.data)] for one in self.media]
        return head, b"".join(one.data for one in self.media)

    @staticmethod
    def from_wire(head: Mapping[str, Any], tail: bytes) -> GenerateRequest:
        sampling = dict(head["sampling"])
        sampling["logit_bias"] = tuple((int(i), float(b)) for i, b in sampling["logit_bias"])
        media, at = [], 0
        for kind, size in head["media"]:
            media.append(Media(kind, tail[at : at + size]))
            at += size
        format = Format(**head["format"]) if head.get("format") else None
        return build(GenerateRequest, {**head, "sampling": Sampling(**sampling), "media": media, "format": format})


# What a Task asks for, with its arguments → the value of its Done.
TOKENIZE = "tokenize"
"""{"text": str, "special": bool, "bos": bool} or {"messages": …, "tools": …} → {"ids": [int]}"""
DETOKENIZE = "detokenize"
"""{"ids": [int]} → {"text": str}"""
EMBED = "embed"
"""{"inputs": [str or [int]], "pooling": None or mean|last|cls} → {"vectors": [[float]], "tokens": int}"""
RERANK = "rerank"
"""{"query": str, "documents": [str]} → {"scores": [float], "tokens": int}, in the documents' order"""
DECIDE = "decide"
"""{"state", "questions", "assets"} → {"answers": {…}, "tokens": int}; the libraries' own shapes"""


@dataclass(frozen=True)
class Task:
    """A question to an engine that no text is generated for."""

    id: str
    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


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
    """Tokens of one request: the prompt (and how many of it came from a verified shared prefix), and all generated;
    how many tokens a draft proposed for them, and how many of those the model agreed with."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    drafted: int = 0
    agreed: int = 0


# Why a sequence ended. TOOLS: with at least one whole tool call.
STOP, LENGTH, TIME, CANCELLED, TOOLS = "stop", "length", "time", "cancelled", "tools"


@dataclass(frozen=True)
class Started:
    """The engine accepted the request: it is valid for this model. Sent once, before any chunk."""

    id: str
    prompt_tokens: int


@dataclass(frozen=True)
class CallPiece:
    """A piece of a tool call: the `index`-th of its sequence. Its first piece has `id` and `name`; `arguments` is the
    next part of its JSON text."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Chunk:
    """New text of one sequence: whole characters only, never the beginning of a stop string.

    `index` counts the n sequences. `tokens` is how many tokens this chunk covers. `reasoning` is what a model that
    thinks says before its answer, `calls` what it asks tools; both are never part of `text`. The last chunk of a
    sequence has `finish`; the last of the request has `usage` as well.
    """

    id: str
    index: int = 0
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    stop_match: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


@dataclass(frozen=True)
class Done:
    """The answer to a Task; nothing follows."""

    id: str
    value: Mapping[str, Any]


ENGINE = ""


@dataclass(frozen=True)
class Failure:
    """The request or task ended with an error (`error` is `LlmctlError.to_dict()`); nothing follows.

    With the id ENGINE the engine cannot go on: its process ends at once, and `error` is why, for all that it has.
    """

    id: str
    error: Mapping[str, Any]


Event = Started | Chunk | Done | Failure


@dataclass(frozen=True)
class Identity:
    """What a loaded engine says it is. A slot compares `model` with what it asked for before it gives traffic.

    `inputs` and `outputs` are modalities. `capabilities` are words: fork, logprobs, logit_bias, mask, seed,
    prefix_cache, schema (Format), tools, reasoning, suffix, pooled (EMBED, but only with a `pooling`), and the verbs of
    the tasks that it answers. `outputs` without TEXT: it answers tasks only. `load_path`
    says which way it was loaded where a library has several ("causal-lm", "image-text", …). `adapters` are the names
    that a request may ask for. `residency` is bytes of weights by device, where the library tells.
    """

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
    inputs: tuple[str, ...] = (TEXT,)
    outputs: tuple[str, ...] = (TEXT,)
    load_path: str = ""
    adapters: tuple[str, ...] = ()
    residency: Mapping[str, int] = field(default_factory=dict)


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


REST, WAKE = "rest", "wake"


class Engine(Protocol):
    """Turns whole requests into events. `submit` raises RequestError for what this model cannot take."""

    identity: Identity

    def submit(self, request: GenerateRequest) -> None:
        """Accept a request; Started and its chunks follow through `emit`."""

    def ask(self, task: Task) -> None:
        """Answer a task with Done through `emit`, at once or in a later step; RequestError for what it cannot."""

    def cancel(self, id: str) -> None:
        """End a request soon, also within a long prefill; it ends with a CANCELLED chunk, or silently if unknown."""

    def step(self) -> bool:
        """Do one bounded piece of work; False when there is nothing to do."""

    def close(self) -> None: ...

    # An engine with the capability REST has also
    #   rest()      give back its accelerator's memory for now; nothing is in flight. LlmctlError when it cannot
    #   wake()      undo that; faster than a load


class Logits(Protocol):
    """The next-token logits of a step's sequences, kept on the engine's device until asked for."""

    def argmax(self) -> tuple[Sequence[int], Sequence[bool]]:
        """Per row: the most likely id, and whether the row's maximum is finite."""

    def row(self, i: int) -> Any:
        """Row i as a float32 numpy array of shape (vocab,)."""


class Tokenizer(Protocol):
    """A model's tokenizer. `encode` treats special tokens in the text as plain text unless `special`.

    `chats` is false for a model without a chat template. `specials` are the texts of its special tokens. `speech` is
    how the model calls tools and thinks (decoding.families.Speech), `fim` its tokens for what stands before a gap,
    behind it, and for the gap itself.
    """

    eos_ids: frozenset[int]
    vocab: int
    chats: bool
    specials: Mapping[int, str]
    speech: Any
    fim: tuple[int, int, int] | None

    def encode(self, text: str, *, special: bool = False, bos: bool = True) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def token_bytes(self, id: int) -> bytes:
        """The bytes one token adds to the text; empty for specials."""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_last: bool = False,
        arguments: Mapping[str, Any] = {},
    ) -> list[int]:
        """Render with the model's own template; RequestError(param="messages") when the template rejects them.

        `tools` are those of GenerateRequest; `arguments` are further variables of the template.
        """


class StepEngine(Protocol):
    """Computes logits for sequences. A sequence is an int handle made by `open` or `fork`, ended by `free`."""

    identity: Identity
    tokenizer: Tokenizer
    prefill_chunk: int

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        """A new empty sequence. `seen` is what `see` made of the request's media. RequestError for a wrong adapter."""

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        """Append prompt tokens (at most `prefill_chunk`); one row of logits, for the last of them."""

    def fork(self, seq: int) -> int:
        """A second sequence with the same content; the shared prefix is not computed again."""

    def step(self, feed: Mapping[int, int]) -> Logits:
        """Append one token to each sequence, in one batch; rows in the mapping's order."""

    def free(self, seq: int) -> None: ...
    def close(self) -> None: ...

    # An engine may have more, which the batch loop looks for by name:
    #   see(request) -> (token ids, seen)     a chat with media: the prompt, and what `open` is given for it.
    #                                         RequestError when the media cannot be decoded. Prefilled in one piece
    #   reuse(seq, prompt) -> int             for a new sequence: take over what an ended one of the same adapter left
    #                                         that begins with the same tokens; how many of the prompt's tokens it holds
    #                                         now, always fewer than all. Only the rest is prefilled
    #   forward(feed, every) -> Logits        append some tokens to each sequence, prompts and running ones together, in
    #                                         one batch. A row for each sequence's last token, in the mapping's order;
    #                                         for those in `every` a row for each of its tokens. Takes the place of
    #                                         `prefill` and `step`; `mixes` (bool, default True) False: prompts are
    #                                         better computed by a call of their own, several at once. An error leaves
    #                                         every sequence of the feed as it was: each is tried alone then
    #   rewind(seq, length)                   cut a sequence to its first `length` tokens; with `forward` it makes
    #                                         speculative decoding possible
    #   embed, rerank, decide(**arguments) -> value of Done      the verbs in identity.capabilities; a generator of
    #                                         it, which yields between pieces, where that takes long


class LogitsMask(Protocol):
    """What a sequence may generate next (structured output). Asked before, told after, each token."""

    def ready(self) -> bool:
        """False while it is being made; nothing else is called before it is. RequestError when it cannot be."""

    def allowed(self) -> Any:
        """A numpy bool array of shape (vocab,), True where the token is allowed; None when all are."""

    def accept(self, token: int) -> None: ...
