"""What is asked and shown over the tables: a yes or no, a model, the keys, a log."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, OptionList, RichLog, Static

from llmctl.errors import LlmctlError
from llmctl.render.text import escaped
from llmctl.top.verbs import Following

LINES = 2000
DRAW = 0.2

HELP = """\
up down j k     another row            tab   hosts or slots
pgup pgdn g G   further                enter on a host: its slots alone

s  swap         another model on the slot, under live traffic
l  load         a model on the slot, or on a free port of the host
u  unload       free the slot
r  restart      start its model anew
f  follow       its log as it comes
t  try again    ask a host that is not known now, not later

/  filter       words that a row must have; empty shows all
o O             order by the next column, the other way round
esc             close, or show all again
q  quit         what is under way on a host goes on there

What changes something asks first. Any key closes this."""


class Confirm(ModalScreen[bool]):
    """A question whose answer is yes only when it is typed."""

    BINDINGS: ClassVar[list[BindingType]] = [("y", "answer(True)"), ("n,escape,q,enter", "answer(False)")]

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        yield Static(f"{escaped(self.question)}\n\ny yes    n no", classes="box", markup=False)

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Help(ModalScreen[None]):
    """The keys."""

    def compose(self) -> ComposeResult:
        yield Static(HELP, classes="box", markup=False)

    def on_key(self) -> None:
        self.dismiss()


class Choose(ModalScreen[str | None]):
    """One of these models; what is typed narrows them down."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "close"),
        Binding("up", "step(-1)", priority=True),
        Binding("down", "step(1)", priority=True),
    ]

    def __init__(self, title: str, names: Sequence[str]) -> None:
        super().__init__()
        self.title_text, self.names = title, names

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(escaped(self.title_text), markup=False)
            yield Input(placeholder="type to narrow down", compact=True)
            yield OptionList(*self.names, markup=False, compact=True)

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self._offer("")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._offer(event.value.casefold())

    def on_input_submitted(self) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            self.dismiss(str(options.get_option_at_index(options.highlighted).prompt))

    def action_step(self, by: int) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            options.highlighted = (options.highlighted + by) % options.option_count

    def action_close(self) -> None:
        self.dismiss(None)

    def _offer(self, typed: str) -> None:
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([name for name in self.names if typed in name.casefold()])
        options.highlighted = 0 if options.option_count else None


class Log(Screen[None]):
    """A log as it comes; a thread reads it, and what came is drawn now and then."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,f", "close")]

    def __init__(self, slot: str, following: Following) -> None:
        super().__init__()
        self.slot, self.following = slot, following
        self.came: queue.SimpleQueue[str] = queue.SimpleQueue()

    def compose(self) -> ComposeResult:
        yield Static(f"log of {self.slot} · esc back", classes="head", markup=False)
        yield RichLog(max_lines=LINES, wrap=True, markup=False)

    def on_mount(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        self.set_interval(DRAW, self._draw)
        self.query_one(RichLog).focus()

    def action_close(self) -> None:
        self.following.cut()
        self.dismiss()

    def _read(self) -> None:
        try:
            for line in self.following.lines():
                self.came.put(escaped(line.rstrip("\n")))
        except LlmctlError as error:
            self.came.put(f"— {error.message}{f' · {error.hint}' if error.hint else ''}")
        except Exception as error:
            self.came.put(f"— {type(error).__name__}: {error}")

    def _draw(self) -> None:
        lines: list[str] = []
        while len(lines) < LINES and not self.came.empty():
            lines.append(self.came.get())
        if lines:
            self.query_one(RichLog).write("\n".join(lines))
