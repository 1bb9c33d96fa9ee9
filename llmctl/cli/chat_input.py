"""Lines typed at a terminal, with editing, completion and a history of their own; several make one message."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from llmctl import files
from llmctl.cli.chat_commands import COMMANDS, FENCE
from llmctl.errors import UsageError

HISTORY = "chat_history"
LINES = 1000
PROMPT, MORE = ">>> ", "... "
TAKES_FILE = ("/image ", "/save ", "/load ")


class Typed(NamedTuple):
    """A line, or the lines between two fences."""

    text: str
    fenced: bool


class Editor:
    """The terminal. `history` is the file of past lines, its owner's alone; None keeps none."""

    def __init__(self, history: Path | None) -> None:
        self.history = history
        self._readline = _readline()
        if self._readline:
            self._begin(self._readline)

    def message(self) -> Typed | None:
        """The next message; None at the end of input.

        UsageError for what is no text. Ctrl-C in it raises KeyboardInterrupt, and what was typed is forgotten.
        """
        line = self._line(PROMPT)
        if line is None:
            return None
        if not line.lstrip().startswith(FENCE):
            return Typed(line, False)
        lines = [line.lstrip().removeprefix(FENCE)]
        while not lines[-1].rstrip().endswith(FENCE):
            more = self._line(MORE)
            if more is None:
                break
            lines.append(more)
        lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
        return Typed("\n".join(lines).strip("\n"), True)

    def _line(self, prompt: str) -> str | None:
        if not sys.stdout.isatty():  # `input` would print it there
            print(prompt, end="", file=sys.stderr, flush=True)
            prompt = ""
        try:
            line = input(prompt)
            line.encode()
        except EOFError:
            return None
        except UnicodeError:
            raise UsageError("that is not UTF-8") from None
        if line.strip():
            self._remember()
        return line

    # ── history and completion ──────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, readline: ModuleType) -> None:
        readline.set_auto_history(True)
        readline.set_completer(self._completed)
        readline.set_completer_delims("")
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
        readline.clear_history()
        if self.history:
            try:
                self.history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(files.private(str(self.history), os.O_CREAT | os.O_WRONLY))
                self.history.chmod(0o600)
                readline.set_history_length(LINES)
                readline.read_history_file(str(self.history))
            except OSError as error:
                print(f"no history of past lines: {error}", file=sys.stderr)
                self.history = None

    def _remember(self) -> None:
        """Add the line to the file at once: another chat may be open, and this one may be killed."""
        if self.history and self._readline:
            with contextlib.suppress(OSError):
                self._readline.append_history_file(1, str(self.history))

    def _completed(self, text: str, state: int) -> str | None:
        found = completions(text)
        return found[state] if state < len(found) else None


def completions(text: str) -> list[str]:
    """What a line may become: commands, and files where one is taken."""
    command = next((command for command in TAKES_FILE if text.startswith(command)), None)
    if command is None:
        return [f"/{name} " for name in COMMANDS if f"/{name}".startswith(text)] if text.startswith("/") else []
    begun = text.removeprefix(command).replace("\\ ", " ")
    found = sorted(glob.glob(glob.escape(os.path.expanduser(begun)) + "*"))
    return [command + name.replace(" ", "\\ ") + ("/" if os.path.isdir(name) else "") for name in found]


def _readline() -> ModuleType | None:
    """Line editing; None where nobody types, or Python was built without it."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    try:
        import readline
    except ImportError:
        return None
    return readline
