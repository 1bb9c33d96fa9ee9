"""What can be typed in a chat beside questions: lines that begin with a slash."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from llmctl.cli import chat_partner
from llmctl.cli.chat_partner import Partner
from llmctl.cli.chat_turns import Chat
from llmctl.cli.reach import Reach
from llmctl.clients import conversation, settings
from llmctl.clients.openai import OpenAI
from llmctl.errors import UsageError, nearest
from llmctl.render import chat as show
from llmctl.render.text import escaped

FENCE = '"""'


class Command(NamedTuple):
    """How a command is typed, and what it does."""

    usage: str
    does: str


COMMANDS = {
    "system": Command("/system [TEXT]", "set the system message; without TEXT show it, with - take it away"),
    "image": Command("/image FILE…", "send images with the next message; without FILE forget them"),
    "models": Command("/models", "what can be asked here"),
    "switch": Command("/switch MODEL|PORT|HOST:PORT", "go on with another model, and this conversation"),
    "set": Command("/set [NAME [VALUE]]", "temperature, top_p, …; without VALUE back to the model's own"),
    "save": Command("/save FILE", "write this conversation to a file"),
    "load": Command("/load FILE", "go on with a saved conversation"),
    "clear": Command("/clear", "forget what was said; the system message stays"),
    "help": Command("/help", "this"),
    "bye": Command("/bye", "end the chat, as Ctrl-D does"),
}


class Commands:
    """The commands of one chat: each gives back what is to be shown."""

    def __init__(self, chat: Chat, reach: Reach) -> None:
        self.chat, self.reach = chat, reach
        self.done = False

    def run(self, line: str) -> str:
        """Do what a line such as `/set top_p 0.5` says; UsageError, and nothing was changed, when it cannot be done."""
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            close = nearest(name, COMMANDS)
            hint = f"did you mean /{close}?" if close else "/help"
            raise UsageError(f"no command /{name[:60]}", hint=f"{hint} (a message may begin with //)")
        does: Callable[[str], str] = getattr(self, f"_{name}")
        return does(rest.strip())

    def _system(self, text: str) -> str:
        if text:
            self.chat.conversation.system = None if text == "-" else text
        system = self.chat.conversation.system
        return f"system: {show.spoken(system)}" if system else "no system message"

    def _image(self, text: str) -> str:
        if not text:
            self.chat.pending = []
        self.chat.attach(Path(name) for name in _names(text))
        count = len(self.chat.pending)
        return f"{count} image{'s' * (count > 1)} with the next message" if count else "no images"

    def _models(self, text: str) -> str:
        _nothing_more("models", text)
        names = show.names(self.chat.partner.client.models())
        others = [f"{name}  {model}" for name, model in self._slots()]
        return "\n".join([names, *(["other slots:", *others] if others else [])])

    def _slots(self) -> Iterator[tuple[str, str]]:
        """The other slots of the fleet that have a model."""
        if "port" not in self.chat.partner.data:
            return
        for row in chat_partner.slots(self.reach, ()):
            if row["model"] and (name := f"{row['host']}:{row['port']}") != self.chat.partner.name:
                yield name, row["model"]

    def _switch(self, text: str) -> str:
        if not text:
            raise UsageError("switch to what?", hint=COMMANDS["switch"].usage)
        partner = self.chat.partner
        if "port" in partner.data:
            gate = chat_partner.gateway(self.reach, text) if "handle" in partner.data else None
            found = chat_partner.over(self.reach, gate, text) if gate else chat_partner.named(self.reach, text)
            found.client.models()  # whether it answers
            self.chat.partner = found
        elif isinstance(partner.client, OpenAI):
            known = partner.client.models()
            if text not in known:
                raise UsageError(f"{partner.name} has no model {text[:140]!r}", hint=", ".join(known[:20]))
            partner.client.model = text
        else:
            raise UsageError("this server does not switch for one client", hint="llmctl swap PORT MODEL")
        return greeting(self.chat.partner, text)

    def _set(self, text: str) -> str:
        name, _, value = text.partition(" ")
        values = self.chat.conversation.settings
        if not name:
            return show.settings(values) or "nothing is set; settings: " + ", ".join(settings.CHECKS)
        if value.strip():
            values[name] = settings.typed(name, value.strip())
            return show.settings({name: values[name]})
        settings.known(name)
        values.pop(name, None)
        return f"{name}: the model's own"

    def _save(self, text: str) -> str:
        path = _file("save", text)
        self.chat.conversation.save(path)
        return f"saved {len(self.chat.conversation.messages)} messages to {escaped(str(path))}"

    def _load(self, text: str) -> str:
        found = conversation.load(_file("load", text))
        self.chat.conversation, self.chat.pending = found, []
        return f"{len(found.messages)} messages" + (f", of a chat with {escaped(found.model)}" if found.model else "")

    def _clear(self, text: str) -> str:
        _nothing_more("clear", text)
        self.chat.conversation.clear()
        self.chat.pending = []
        return "forgotten"

    def _help(self, text: str) -> str:
        width = max(len(command.usage) for command in COMMANDS.values())
        lines = [f"{command.usage:{width}}  {command.does}" for command in COMMANDS.values()]
        return "\n".join([*lines, f"{FENCE:{width}}  begins and ends a message of several lines"])

    def _bye(self, text: str) -> str:
        self.done = True
        return ""


def greeting(partner: Partner, model: str | None) -> str:
    """Who is on the other side."""
    return f"{partner.name} · {escaped(model)}" if model else partner.name


def _names(text: str) -> list[str]:
    """Names of files as in a shell: quoted, or with backslashes before spaces."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"that is no name of a file: {error}") from None


def _file(name: str, text: str) -> Path:
    names = _names(text)
    if len(names) != 1:
        raise UsageError("one file is needed", hint=COMMANDS[name].usage)
    return Path(names[0]).expanduser()


def _nothing_more(name: str, text: str) -> None:
    if text:
        raise UsageError(f"/{name} takes nothing more", hint=COMMANDS[name].usage)
