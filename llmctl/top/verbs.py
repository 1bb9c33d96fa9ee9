"""What the live view asks of the fleet, as the command line does it; handed in by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from llmctl.watch.view import Snapshot

OnEvent = Callable[[dict[str, Any]], None]


class Watching(Protocol):
    """llmctl.watch.fleet.Watch, as far as it is needed here."""

    def snapshot(self) -> Snapshot: ...

    def retry(self, host: str) -> None: ...


class Following(Protocol):
    """A log that is followed."""

    def lines(self) -> Iterator[str]:
        """Its last lines and those that come; ends after `cut`."""

    def cut(self) -> None:
        """End it, from any thread."""


class Verbs(Protocol):
    """Each may take long, is called in a thread of its own, and raises LlmctlError."""

    def models(self, host: str) -> Sequence[str]:
        """The models that lie on a host."""

    def change(
        self, verb: str, host: str, port: int | None, model: str | None, on_event: OnEvent
    ) -> Mapping[str, Any]:  # fmt: skip
        """load, swap, unload or restart; the data that the verb answers. Without a port: the lowest free one."""

    def follow(self, host: str, port: int, most: int) -> Following:
        """The log of a slot, from its last `most` lines on."""
