"""The chat of a terminal: a prompt, an answer, and so on until Ctrl-D."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import closing
from typing import Any

from llmctl import render
from llmctl.cli.chat_commands import Commands, greeting
from llmctl.cli.chat_input import Editor, Typed
from llmctl.cli.chat_turns import Chat
from llmctl.errors import LlmctlError


def run(chat: Chat, commands: Commands, editor: Editor, model: str | None) -> None:
    """Talk until the end. Ctrl-C ends what is under way, never the chat; an error is shown, and the chat goes on."""
    _note(f"{greeting(chat.partner, model)} · /help tells what else can be typed, Ctrl-D ends the chat")
    while not commands.done:
        try:
            typed = editor.message()
            if typed is None:
                _note("")
                return
            _do(chat, commands, typed)
        except KeyboardInterrupt:
            _note("\n(Ctrl-D or /bye ends the chat)")
        except LlmctlError as error:
            render.show_error(error)


def _do(chat: Chat, commands: Commands, typed: Typed) -> None:
    """One message or command; a second slash makes a message of a line that begins with one."""
    text = typed.text
    if not text.strip():
        return
    if typed.fenced or not text.startswith("/"):
        _answer(chat, text)
    elif text.startswith("//"):
        _answer(chat, text[1:])
    elif shown := commands.run(text.strip()):
        print(shown, flush=True)


def _answer(chat: Chat, text: str) -> None:
    turn, said = _told(chat.turn(text)), ""
    with closing(turn):
        try:
            for shown in turn:
                print(shown, end="", flush=True)
                said = shown
        except KeyboardInterrupt:
            _note("\n(stopped)")
        except LlmctlError:
            if said and not said.endswith("\n"):
                print(flush=True)
            raise


def _told(turn: Generator[str, None, Mapping[str, Any]]) -> Generator[str, None, None]:
    """A turn, with a word on why it ended early."""
    if (yield from turn)["finish"] == "length":
        _note("(cut: max_tokens, or the context is full)")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
