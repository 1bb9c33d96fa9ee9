"""The live view: asks the watch once a second what it knows, shows that, and turns keys into verbs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from llmctl.domain import GATEWAY
from llmctl.errors import LlmctlError
from llmctl.top import rows
from llmctl.top.acts import Act
from llmctl.top.cells import Column, Row, cell
from llmctl.top.dialogs import Choose, Confirm, Help, Log
from llmctl.top.grid import Grid
from llmctl.top.rows import Sight, Slot
from llmctl.top.verbs import Verbs, Watching
from llmctl.watch.view import HostView

EVERY = 1.0
EVENTS = 4
ACTS = (Column(""), Column("", most=60), Column(""))
KEPT_ACTS = 3
LOG_LINES = 200


class Top(App[None]):
    """`now` is the clock by which ages are told."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Grid { background: transparent; }
    #title, #about, #keys { height: 1; }
    #hosts { height: auto; max-height: 40%; }
    #slots { height: 1fr; margin-top: 1; }
    #acts, #events { height: auto; max-height: 5; }
    #words { display: none; height: 1; }
    #words.-open { display: block; }
    ModalScreen { align: center middle; background: transparent; }
    .box { width: auto; max-width: 90%; height: auto; max-height: 90%; border: solid; padding: 0 1; }
    Choose .box { width: 60; }
    Choose OptionList { height: auto; max-height: 12; }
    .head { height: 1; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "change('swap')"), ("l", "change('load')"), ("u", "change('unload')"), ("r", "change('restart')"),
        ("f", "follow"), ("t", "again"), ("slash", "filter"), ("o", "order"), ("O", "reverse"), ("enter", "only"),
        ("question_mark,h", "help"), ("q", "quit"), ("escape", "all"),
        Binding("ctrl+c", "quit", priority=True),
    ]  # fmt: skip

    class Went(Message):
        """An act went on."""

        def __init__(self, act: Act) -> None:
            super().__init__()
            self.act = act

    class Offered(Message):
        """The models that an act may take were told."""

        def __init__(self, act: Act, names: list[str]) -> None:
            super().__init__()
            self.act, self.names = act, names

    def __init__(self, watch: Watching, verbs: Verbs, now: Callable[[], float] = time.time) -> None:
        super().__init__(ansi_color=True)  # the terminal's own sixteen; without, NO_COLOR would leave greys
        self.theme = "ansi-dark"
        self.watch_, self.verbs, self.now = watch, verbs, now
        self.sight = Sight()
        self.seen = watch.snapshot()
        self.slots: list[Slot] = []
        self.acts: dict[int, Act] = {}
        self.asked = 0

    def compose(self) -> ComposeResult:
        yield Grid(rows.LINE, id="title")
        yield Grid(rows.HOSTS, id="hosts", walked=True)
        yield Grid(rows.SLOTS, id="slots", walked=True)
        yield Grid(rows.LINE, id="about")
        yield Grid(ACTS, id="acts")
        yield Grid(rows.EVENTS, id="events")
        yield Input(placeholder="words that a row must have", id="words", compact=True)
        yield Grid(rows.LINE, id="keys")

    def on_mount(self) -> None:
        self.grid("keys").show([Row("keys", (cell(rows.KEYS, "dim"),))])
        self.grid("slots").focus()
        self.look()
        self.set_interval(EVERY, self.look)

    def grid(self, id: str) -> Grid:
        return self.screen_stack[0].query_one(f"#{id}", Grid)

    def look(self) -> None:
        """Show what is known now; grids paint only what changed."""
        self.seen, now = self.watch_.snapshot(), self.now()
        self.slots = rows.slots(self.seen, self.sight, now)
        self.grid("title").show([rows.title(self.seen, self.sight, now)])
        self.grid("hosts").show(rows.host_rows(self.seen, self.sight))
        self.grid("slots").show(rows.slot_rows(self.slots, now))
        self.grid("acts").show([act.row() for act in self.acts.values()])
        self.grid("events").show(rows.event_rows(self.seen, EVENTS, now))
        self.grid("events").display = bool(self.grid("events").rows)
        self._tell_about()

    # ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────

    def on_grid_moved(self) -> None:
        self._tell_about()

    def on_descendant_focus(self) -> None:
        self._tell_about()

    def action_filter(self) -> None:
        words = self.query_one("#words", Input)
        words.value = self.sight.words
        words.add_class("-open")
        words.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "words":
            self._see(replace(self.sight, words=event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "words":
            self._close_filter()

    def action_all(self) -> None:
        """Show all again."""
        self._close_filter()
        self._see(Sight(order=self.sight.order, reverse=self.sight.reverse))

    def action_only(self) -> None:
        """The slots of the host under the cursor alone."""
        if self.grid("hosts").has_focus and (host := self._host()):
            self._see(replace(self.sight, words=f"{host.name}:"))
            self.grid("slots").focus()

    def action_order(self) -> None:
        at = rows.ORDERS.index(self.sight.order)
        self._see(replace(self.sight, order=rows.ORDERS[(at + 1) % len(rows.ORDERS)]))

    def action_reverse(self) -> None:
        self._see(replace(self.sight, reverse=not self.sight.reverse))

    def action_help(self) -> None:
        self.push_screen(Help())

    # ── what is done ────────────────────────────────────────────────────────────────────────────────────────────────

    def action_again(self) -> None:
        if host := self._host():
            self.watch_.retry(host.name)

    def action_change(self, verb: str) -> None:
        """Ask for what is missing, then whether it is meant, then do it."""
        slot, host = self._slot(), self._host()
        if host is None or (slot is None and verb != "load"):
            self._refuse(verb, "no slot is under the cursor: tab goes to the slots")
            return
        if slot and slot.row["engine"] == GATEWAY and verb != "restart":
            self._refuse(verb, "it is the gateway, which has no model of its own")
            return
        model, port = (slot.row["model"], int(slot.row["port"])) if slot else (None, None)
        if verb == "load" and model:
            port = None  # what the slot has stays
        if verb != "load" and not model:
            self._refuse(verb, "it has no model: l loads one")
            return
        act = Act(self._number(), verb, host.name, port, None, model)
        if verb in ("load", "swap"):
            self._went(replace(act, said=f"asking {host.name} for its models"))
            self._in_thread(lambda: self._offer(act))
        else:
            self._confirm(act)

    def action_follow(self) -> None:
        if slot := self._slot():
            try:
                following = self.verbs.follow(slot.host.name, int(slot.row["port"]), LOG_LINES)
            except LlmctlError as error:
                self._refuse("logs", error.message)
                return
            self.push_screen(Log(slot.key, following))

    def on_top_offered(self, message: Top.Offered) -> None:
        act = message.act
        if len(self.screen_stack) > 1:
            self._forget(act)
            return

        def chosen(model: str | None) -> None:
            if model is None:
                self._forget(act)
            else:
                self._confirm(replace(act, model=model))

        self.push_screen(Choose(f"{act.verb} {act.where}: which model?", message.names), chosen)

    def on_top_went(self, message: Top.Went) -> None:
        self._went(message.act)

    def _confirm(self, act: Act) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._went(act)
                self._in_thread(lambda: self._do(act))
            else:
                self._forget(act)

        self.push_screen(Confirm(act.question), answered)

    def _offer(self, act: Act) -> None:
        """In a thread."""
        try:
            names = [name for name in self.verbs.models(act.host) if name != act.before]
        except Exception as error:
            self.post_message(self.Went(act.failed(error)))
            return
        if names:
            self.post_message(self.Offered(act, names))
        else:
            none = LlmctlError(f"{act.host} has no other model", hint=f"llmctl pull MODEL --host {act.host}")
            self.post_message(self.Went(act.failed(none)))

    def _do(self, act: Act) -> None:
        """In a thread."""
        try:
            data = self.verbs.change(
                act.verb, act.host, act.port, act.model, lambda event: self._told(act.going(event))
            )
        except Exception as error:
            self._told(act.failed(error))
        else:
            self._told(act.done(data))

    def _told(self, act: Act) -> None:
        self.post_message(self.Went(act))

    def _in_thread(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()  # a host that does not answer must not hold up the end

    def _went(self, act: Act) -> None:
        self.acts[act.number] = act
        for number in sorted(self.acts)[:-KEPT_ACTS]:
            del self.acts[number]
        self.look()

    def _forget(self, act: Act) -> None:
        self.acts.pop(act.number, None)
        self.look()

    def _refuse(self, verb: str, why: str) -> None:
        slot, host = self._slot(), self._host()
        port = int(slot.row["port"]) if slot else None
        self._went(Act(self._number(), verb, host.name if host else "-", port, None).failed(LlmctlError(why)))

    def _number(self) -> int:
        self.asked += 1
        return self.asked

    def _slot(self) -> Slot | None:
        """The slot under the cursor, when the cursor is among slots."""
        if self.grid("hosts").has_focus:
            return None
        return next((slot for slot in self.slots if slot.key == self.grid("slots").at), None)

    def _host(self) -> HostView | None:
        slot = self._slot()
        name = self.grid("hosts").at
        return slot.host if slot else self.seen.hosts.get(name) if name else None

    def _see(self, sight: Sight) -> None:
        self.sight = sight
        self.look()

    def _close_filter(self) -> None:
        words = self.query_one("#words", Input)
        if words.has_class("-open"):
            words.remove_class("-open")
            self.grid("slots").focus()

    def _tell_about(self) -> None:
        self.grid("about").show([rows.about(self._slot(), self._host(), self.now())])
