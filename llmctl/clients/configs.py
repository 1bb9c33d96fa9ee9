"""What other programs need to be told to talk to a slot: made as text that can be pasted, in each one's own format."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ENV, YAML, JSON = "env", "yaml", "json"
NO_KEY = "none-needed"
"""What goes where a program insists on a key and the slot wants none."""
CONTEXT = 4096
"""Tokens, where the slot does not say how many its context has and a program must be told."""


@dataclass(frozen=True)
class Slot:
    """A slot as a client sees it. `base` is http://HOST:PORT; `context` is in tokens, None where it is not known.

    `key` is there where it may be written out; `key_command` prints it.
    """

    base: str
    model: str
    aliases: tuple[str, ...] = ()
    context: int | None = None
    images: bool = False
    tools: bool = False
    schema: bool = False
    wants_key: bool = False
    key: str | None = None
    key_command: str = "llmctl keys show"

    @property
    def api(self) -> str:
        return f"{self.base}/v1"

    @property
    def key_in_shell(self) -> str:
        """The key as a word of a shell: itself, or what prints it."""
        if self.wants_key and not self.key:
            return f'"$({self.key_command} | sed -n "s/^client: //p")"'
        return shlex.quote(self.key or NO_KEY)

    def key_or(self, reference: str) -> str:
        """The key where it may be written out, else how the program finds it."""
        return reference if self.wants_key and not self.key else self.key or NO_KEY


@dataclass(frozen=True)
class Part:
    """One text to paste, and the file it belongs into ("" for a shell)."""

    file: str
    format: str
    text: str


@dataclass(frozen=True)
class Config:
    """All that a program needs. `notes` are for the person who pastes it."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A program, or a family of them."""

    what: str
    make: Callable[[Slot], Config]


def openai(slot: Slot) -> Config:
    said = {"OPENAI_BASE_URL": slot.api, "OPENAI_API_KEY": slot.key_in_shell}
    return Config((Part("", ENV, _names(slot) + _exports(said)),))


def claude_code(slot: Slot) -> Config:
    said = {
        "ANTHROPIC_BASE_URL": slot.base,
        "ANTHROPIC_AUTH_TOKEN": slot.key_in_shell,
        "ANTHROPIC_MODEL": slot.model,
        **{f"ANTHROPIC_DEFAULT_{size}_MODEL": slot.model for size in ("OPUS", "SONNET", "HAIKU")},
    }
    notes = ["unset ANTHROPIC_API_KEY: it would win over the token"]
    if slot.context is not None and slot.context < 32768:
        notes.append(f"its first question alone is longer than the {slot.context} tokens of this slot's context")
    return Config((Part("", ENV, _exports(said)),), tuple(notes))


def open_webui(slot: Slot) -> Config:
    said = {
        "ENABLE_OLLAMA_API": "false",
        "OPENAI_API_BASE_URL": slot.api,
        "OPENAI_API_KEY": slot.key_in_shell,
        "DEFAULT_MODELS": slot.model,
    }
    notes = ["set them before its first start: later its own settings win (Admin, Settings, Connections)"]
    if "//127." in slot.base or "//[::1]" in slot.base:
        notes.append("a container does not reach this machine's 127.0.0.1: start it with --network=host")
    return Config((Part("", ENV, _exports(said)),), tuple(notes))


def llm(slot: Slot) -> Config:
    entry = {
        "model_id": slot.model, "model_name": slot.model, "api_base": slot.api, "aliases": list(slot.aliases),
        "api_key_name": "llmctl" if slot.wants_key else None, "vision": slot.images, "supports_tools": slot.tools,
        "supports_schema": slot.schema,
    }  # fmt: skip
    notes = (f"llm keys set llmctl --value {slot.key_in_shell}",) if slot.wants_key else ()
    file = '"$(dirname "$(llm logs path)")"/extra-openai-models.yaml'
    return Config((Part(file, YAML, _yaml([_filled(entry)])),), notes)


def aider(slot: Slot) -> Config:
    name = f"openai/{slot.model}"
    conf = {"model": name, "openai-api-base": slot.api, "openai-api-key": slot.key_or("LLMCTL_KEY")}
    parts = [Part("~/.aider.conf.yml", YAML, _yaml(conf))]
    if slot.context is not None:
        known = {
            "max_input_tokens": slot.context, "max_tokens": slot.context, "input_cost_per_token": 0,
            "output_cost_per_token": 0, "litellm_provider": "openai", "mode": "chat",
        }  # fmt: skip
        parts.append(Part("~/.aider.model.metadata.json", JSON, _json({name: known})))
    return Config(tuple(parts), _place_key(slot, "in place of LLMCTL_KEY"))


def continue_(slot: Slot) -> Config:
    model = {
        "name": slot.model, "provider": "openai", "model": slot.model, "apiBase": slot.api,
        "apiKey": slot.key_or("${{ secrets.LLMCTL_KEY }}"), "roles": ["chat", "edit", "apply"],
        "capabilities": [name for name, has in (("tool_use", slot.tools), ("image_input", slot.images)) if has],
        "defaultCompletionOptions": {"contextLength": slot.context} if slot.context else None,
    }  # fmt: skip
    conf = {"name": "llmctl", "version": "1.0.0", "schema": "v1", "models": [_filled(model)]}
    notes = _place_key(slot, "into ~/.continue/.env, as LLMCTL_KEY=…")
    return Config((Part("~/.continue/config.yaml", YAML, _yaml(conf)),), notes)


def zed(slot: Slot) -> Config:
    model = {
        "name": slot.model, "display_name": f"{slot.model} (llmctl)", "max_tokens": slot.context or CONTEXT,
        "capabilities": {
            "tools": slot.tools, "images": slot.images, "parallel_tool_calls": slot.tools, "prompt_cache_key": False,
        },
    }  # fmt: skip
    conf = {"language_models": {"openai_compatible": {"llmctl": {"api_url": slot.api, "available_models": [model]}}}}
    notes = [f"before Zed starts: export LLMCTL_API_KEY={slot.key_in_shell}"]
    if slot.context is None:
        notes.append(f"max_tokens is a guess: the slot did not say how many tokens its context has ({CONTEXT})")
    return Config((Part("~/.config/zed/settings.json", JSON, _json(conf)),), tuple(notes))


def litellm(slot: Slot) -> Config:
    model = {
        "model_name": slot.model,
        "litellm_params": {
            "model": f"openai/{slot.model}", "api_base": slot.api, "api_key": slot.key_or("os.environ/LLMCTL_KEY"),
        },
        "model_info": _filled({"max_input_tokens": slot.context, "supports_vision": slot.images}) or None,
    }  # fmt: skip
    notes = (f"export LLMCTL_KEY={slot.key_in_shell}",) if slot.wants_key and not slot.key else ()
    return Config((Part("config.yaml", YAML, _yaml({"model_list": [_filled(model)]})),), notes)


KINDS: dict[str, Kind] = {
    "openai": Kind("OpenAI's SDKs and all that read their variables", openai),
    "llm": Kind("the command llm", llm),
    "aider": Kind("aider", aider),
    "continue": Kind("Continue, in VS Code and JetBrains", continue_),
    "zed": Kind("the editor Zed", zed),
    "open-webui": Kind("Open WebUI", open_webui),
    "claude-code": Kind("Claude Code, and all that read Anthropic's variables", claude_code),
    "litellm": Kind("LiteLLM's proxy", litellm),
}


# ── texts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _names(slot: Slot) -> str:
    also = f", also {', '.join(slot.aliases)}" if slot.aliases else ""
    context = f", {slot.context} tokens" if slot.context else ""
    return f"# model: {slot.model}{also}{context}\n"


def _place_key(slot: Slot, where: str) -> tuple[str, ...]:
    return (f"the key goes {where}: {slot.key_command}",) if slot.wants_key and not slot.key else ()


def _exports(values: Mapping[str, str]) -> str:
    """Lines for a shell. A value that is a word of a shell already stays one."""
    words = {name: value if name.endswith(("KEY", "TOKEN")) else shlex.quote(value) for name, value in values.items()}
    return "".join(f"export {name}={word}\n" for name, word in words.items())


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is not known, empty or off."""
    return {name: value for name, value in values.items() if value}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _yaml(value: Any, indent: str = "") -> str:
    """Block style, strings quoted as in JSON, which YAML reads the same."""
    if isinstance(value, Mapping):
        return "".join(f"{indent}{key}:{_below(item, indent)}" for key, item in value.items())
    return "".join(f"{indent}- {_yaml(item, indent + '  ').lstrip()}" for item in value)


def _below(item: Any, indent: str) -> str:
    """A value after its key: on the same line, or on lines of its own."""
    if isinstance(item, Mapping) or (isinstance(item, list) and item and isinstance(item[0], Mapping)):
        return "\n" + _yaml(item, indent + "  ")
    return f" {json.dumps(item)}\n"
