"""What the pages ask of the fleet, as the command line does it; handed in by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmctl.clients.talk import Client
from llmctl.watch.view import Snapshot

CHANGES = ("load", "swap", "unload", "restart")
WITH_MODEL = ("load", "swap")
OnEvent = Callable[[dict[str, Any]], None]


class Watching(Protocol):
    """llmctl.watch.fleet.Watch, as far as it is needed here."""

    def snapshot(self) -> Snapshot: ...

    def wait(self, number: int, timeout: float) -> Snapshot: ...


class Following(Protocol):
    """A log that is followed."""

    def lines(self) -> Iterator[str]:
        """Its last lines and those that come; ends after `cut`."""

    def cut(self) -> None:
        """End it, from any thread."""


@dataclass(frozen=True)
class Talking:
    """A slot to talk to; `cut` ends an answer that is waited for, from any thread."""

    client: Client
    cut: Callable[[], None]


class Verbs(Protocol):
    """Each may take long, is called in a thread of its own, and raises LlmctlError."""

    def known(self) -> Sequence[str]:
        """The models that the catalog knows; at once."""

    def change(
        self, verb: str, host: str, port: int | None, model: str | None, on_event: OnEvent
    ) -> Mapping[str, Any]:  # fmt: skip
        """One of CHANGES; the data that the verb answers."""

    def last_lines(self, host: str, port: int, most: int) -> Sequence[str]:
        """The end of a slot's log."""

    def follow(self, host: str, port: int, most: int) -> Following:
        """The log of a slot, from its last `most` lines on."""

    def talk(self, host: str, port: int, keyed: bool) -> Talking:
        """The model of a slot; its key is found and sent where it wants one, if `keyed`."""

    def open_to_all(self, host: str) -> bool:
        """Whether whoever reaches this page could ask the host's slots without it: they are this machine's, and take
        anybody on it."""
