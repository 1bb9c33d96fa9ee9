"""Servers that speak OpenAI's dialect and are not ours: how one is started or reached, and what each kind carries."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from llmctl.domain import build

PLACEHOLDERS = ("port", "socket", "path", "model", "id", "context", "parallel")
"""What stands in braces in a command: a free loopback port, a unix socket to listen on, the artifact's `path`, the
entry's `model`, the id llmctl knows it by, and the slot's context and parallel requests."""

FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "logit_bias", "stop", "stop_token_ids", "ignore_eos", "max_tokens", "logprobs", "n", "echo", "suffix", "tools",
    "tool_choice", "parallel_tool_calls", "json_object", "json_schema", "regex", "grammar", "thinking",
    "reasoning_effort", "continue_final_message", "prompt_ids", "completions", "stream_options",
)  # fmt: skip
"""What a request may ask for, as clients of a slot call it; a kind or an entry says under which name, if at all."""

TASKS = ("tokenize", "detokenize", "embed", "rerank")

_HOLE = re.compile(r"\{(\w+)\}")
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def _same(*names: str, **others: str) -> Mapping[str, str]:
    return MappingProxyType({**dict.fromkeys(names, ""), **others})


@dataclass(frozen=True)
class Kind:
    """What is known of one server program. `carries` maps FIELDS to the name in its requests ("": the same; dots go
    into objects). `ready` is the path that answers 200 once the model is loaded. `default_model` is a name that means
    the model it was started with. `fills` is True where a request without max_tokens would get a few tokens only,
    `lists_disk` where its list of models is of what it could load, and proves nothing."""

    carries: Mapping[str, str]
    ready: str
    tasks: tuple[str, ...] = ()
    parallel: int = 16
    default_model: str | None = None
    fills: bool = False
    lists_disk: bool = False


_CORE = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "max_tokens", "completions",
    "stream_options", "tools",
)  # fmt: skip
_OPENAI = (*_CORE, "logit_bias", "logprobs", "tool_choice", "json_object", "json_schema", "reasoning_effort")

KINDS: Mapping[str, Kind] = {
    "vllm": Kind(
        _same(
            *_OPENAI, "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos", "n", "echo",
            "parallel_tool_calls", "prompt_ids", "continue_final_message",
            regex="structured_outputs.regex", thinking="chat_template_kwargs.enable_thinking",
        ),
        "/health", ("tokenize", "detokenize"), 256,
    ),
    "llama-server": Kind(
        _same(
            *_OPENAI, "top_k", "min_p", "ignore_eos", "parallel_tool_calls", "prompt_ids",
            repetition_penalty="repeat_penalty", thinking="chat_template_kwargs.enable_thinking",
            reasoning_effort="chat_template_kwargs.reasoning_effort",
        ),
        "/health", ("tokenize", "detokenize"), 4,
    ),
    "mlx_lm": Kind(
        _same(
            *_CORE, "top_k", "min_p", "repetition_penalty", "logit_bias",
            thinking="chat_template_kwargs.enable_thinking", reasoning_effort="chat_template_kwargs.reasoning_effort",
        ),
        "/health", default_model="default_model", fills=True, lists_disk=True,
    ),
    "ollama": Kind(_same(*_CORE, "json_object", "json_schema", "reasoning_effort"), "/api/version", ("embed",)),
    "transformers": Kind(
        _same(
            "temperature", "top_p", "seed", "stop", "max_tokens", "completions", "tools", "logit_bias",
            thinking="chat_template_kwargs.enable_thinking",
        ),
        "/health", parallel=4, fills=True, lists_disk=True,
    ),
    "other": Kind(_same(*_OPENAI), "/v1/models"),
}  # fmt: skip
"""`other` is what the dialect itself says; each entry may say more or less in `fields`."""


@dataclass(frozen=True)
class Server:
    """A server in a catalog entry: either a `command` to start it by, or the `url` of one that runs.

    `model` is what {model} stands for, `served` the name under which it answers (None: the id where the command says
    {id}, else `model`). `ready` None is the kind's. `key_env` names the variable that holds its API key. `sleep`: it
    has vLLM's /sleep and /wake_up. `memory` is bytes, `stall` the seconds without a byte after which a request fails.
    `fields` are FIELDS that differ from its kind's: another name, or false. `inputs` and `tasks` are what it takes and
    answers besides; without `generates` it answers tasks only.
    """

    kind: str = "other"
    command: tuple[str, ...] = ()
    url: str | None = None
    model: str | None = None
    served: str | None = None
    ready: str | None = None
    key_env: str | None = None
    sleep: bool = False
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    folder: str | None = None
    memory: int | None = None
    parallel: int | None = None
    stall: float = 120.0
    allow_remote: bool = False
    fields: Mapping[str, str | bool] = field(default_factory=dict, hash=False)
    inputs: tuple[str, ...] = ("text",)
    tasks: tuple[str, ...] | None = None
    generates: bool = True

    @property
    def traits(self) -> Kind:
        return KINDS[self.kind]

    def name(self, id: str, path: str = "") -> str:
        """The model name to put into its requests, when llmctl calls the model `id` and its files lie at `path`."""
        if self.served:
            return self.served
        if self.command and "id" in holes(self.command):
            return id
        started_by = path if "path" in holes(self.command) and self.traits.lists_disk else None
        return self.traits.default_model or self.model or started_by or id

    def carries(self) -> dict[str, str]:
        """FIELDS that it takes, with their names in its requests."""
        found = {name: wire or name for name, wire in self.traits.carries.items()}
        for name, wire in self.fields.items():
            found.pop(name, None)
            if wire:
                found[name] = name if wire is True else str(wire)
        return found


def holes(command: tuple[str, ...]) -> set[str]:
    """The placeholders of a command."""
    return {name for word in command for name in _HOLE.findall(word)}


def filled(command: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    """The argument vector; no shell ever sees it."""
    return [_HOLE.sub(lambda hole: str(values[hole[1]]), word) for word in command]


def mistakes(server: Server) -> Iterator[tuple[str, str, str | None]]:
    """What is wrong with it as far as it can be told anywhere: the key, the problem, and what to do instead."""
    if bool(server.command) == bool(server.url):
        both = "both a command and a url" if server.url else "neither a command nor a url"
        yield "command" if server.url else "kind", f"has {both}", "a command starts it, a url is where one runs"
    yield from _command(server)
    yield from _url(server)
    for name in server.env:
        if not _NAME.fullmatch(name):
            yield "env", f"{name!r} is no name of a variable", None
        elif SECRET.search(name):
            hint = f"give {name} to the slot server's own environment; what it starts inherits that"
            yield "env", f"{name} looks like a secret, and this file is none", hint
    if server.key_env is not None and not _NAME.fullmatch(server.key_env):
        yield "key_env", "is the name of a variable, not a key", 'key_env = "MY_SERVER_KEY"'
    if server.ready is not None and not server.ready.startswith("/"):
        yield "ready", f"{server.ready!r} is no path", 'ready = "/health"'
    if server.sleep and server.kind not in ("vllm", "other"):
        yield "sleep", f"{server.kind} cannot sleep", "vLLM can, started with --enable-sleep-mode"


def _command(server: Server) -> Iterator[tuple[str, str, str | None]]:
    unknown = sorted(holes(server.command) - set(PLACEHOLDERS))
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        yield "command", f"there is no placeholder {{{unknown[0]}}}", f"there are {known}"
    places = holes(server.command) & {"port", "socket"}
    if server.command and len(places) != 1:
        which = "both {port} and {socket}" if places else "neither {port} nor {socket}"
        yield "command", f"says {which}", 'llmctl tells it where to listen: "--port", "{port}"'
    if server.command and not server.command[0]:
        yield "command", "the program's name is empty", None
    if "model" in holes(server.command) and not server.model:
        yield "command", "says {model}, and there is no `model`", 'model = "org/repo", or {path} with a path'
    for word in server.command:
        if "\0" in word:
            yield "command", "an argument has a NUL in it", None
        if re.match(r"--?(api|hf)[-_](key|token)([=-]|$)", word):
            yield "command", f"{word.split('=')[0]} shows a secret to everyone who lists processes", "key_env"


def _url(server: Server) -> Iterator[tuple[str, str, str | None]]:
    if not server.url or server.url.startswith("unix:/"):
        return
    parts = urlsplit(server.url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        yield "url", f"{server.url!r} is no address of a server", 'url = "http://127.0.0.1:8000", or "unix:/run/x.sock"'
    elif port is None:
        yield "url", "the port is missing", f'url = "{parts.scheme}://{host}:8000"'
    elif not is_loopback(host) and not server.allow_remote:
        hint = "allow_remote = true, when prompts may go to that machine"
        yield "url", f"{host} is another machine", hint


def missing_program(server: Server) -> str | None:
    """The program of its command, when this machine has none of that name."""
    if not server.command:
        return None
    name = server.command[0]
    path = str(Path(server.folder, name)) if server.folder and "/" in name else name
    return name if shutil.which(path, path=server.env.get("PATH") or os.environ.get("PATH")) is None else None


def is_loopback(host: str) -> bool:
    """This machine and nothing else, without asking a name server."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def from_options(data: Mapping[str, Any]) -> Server:
    """The Server of an EngineSpec's options, where it is JSON."""
    return build(Server, data)


def told_context(row: Mapping[str, Any]) -> int | None:
    """The tokens of context that a server was started with, where a row of its /v1/models says so."""
    meta = row.get("meta")
    found = row.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, Mapping) else None)
    return found if isinstance(found, int) and found > 0 else None
