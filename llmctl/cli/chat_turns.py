"""The turns of a chat: a question goes out, its answer is shown as it comes, and both are remembered."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from llmctl.cli.chat_partner import Partner
from llmctl.clients import pictures
from llmctl.clients.conversation import Conversation
from llmctl.clients.talk import Talk
from llmctl.errors import UsageError
from llmctl.render.chat import Voice


class Chat:
    """A conversation with a partner. `pending` are the images that go with the next question."""

    def __init__(self, partner: Partner, conversation: Conversation, keep: Path | None = None) -> None:
        self.partner, self.conversation, self.keep = partner, conversation, keep
        self.pending: list[str] = []

    def attach(self, files: Iterable[Path]) -> None:
        """Read images for the next question; all of them or none."""
        found = [*self.pending, *map(pictures.data_url, files)]
        if len(found) > pictures.COUNT:
            raise UsageError(f"{len(found)} images: a question takes {pictures.COUNT}")
        self.pending = found

    def turn(self, text: str) -> Generator[str, None, Mapping[str, Any]]:
        """Ask; yields what is to be printed, returns the answer as JSON has it.

        A turn that fails leaves the conversation as it was. One that is interrupted keeps what had been said.
        """
        asked = self.conversation.asked(text, self.pending)
        heard: list[str] = []
        voice = Voice(sys.stdout.isatty(), "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")
        try:
            said = yield from self._shown(self.partner.client.ask(asked, self.conversation.settings), voice, heard)
        except (KeyboardInterrupt, GeneratorExit):
            if heard:
                self._remember(asked, "".join(heard))
            raise
        self.conversation.model = said["model"] or self.conversation.model
        self._remember(asked, said["answer"])
        return {**self.partner.data, **said}

    def _shown(self, talk: Talk, voice: Voice, heard: list[str]) -> Generator[str, None, dict[str, Any]]:
        try:
            while True:
                piece = next(talk)
                if not piece.reasoning:
                    heard.append(piece.text)
                if shown := voice.text(piece.text, piece.reasoning):
                    yield shown
        except StopIteration as end:
            yield "\n"
            return dict(end.value.to_dict())
        finally:
            talk.close()

    def _remember(self, asked: list[dict[str, Any]], answer: str) -> None:
        self.conversation.messages = [*asked, {"role": "assistant", "content": answer}]
        self.pending = []
        if self.keep:
            self.conversation.write(self.keep)


def stdin_text() -> str:
    """All of stdin, as text."""
    return text_of(sys.stdin.buffer.read())


def text_of(data: bytes) -> str:
    """What was typed or piped in; UsageError when it is no text."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"what came on stdin is not UTF-8: byte {error.start}") from None
