"""What live views do to slots, here or on their hosts: the same verbs as on the command line, over one Reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from threading import Event
from typing import Any

from llmctl.cli import reach as reaching
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.config import Host, Tuning
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, UnknownName
from llmctl.fleet import call

LONG = 7 * 86400.0
OnEvent = Callable[[dict[str, Any]], None]


class SlotActs:
    """Each method waits for its host, and raises LlmctlError."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach

    def models(self, host: str) -> list[str]:
        """The models that lie on a host."""
        found = self._host(host)
        said = self.reach.call(found, ["models", "list"], _models, timeout=reaching.LOOK, any_version=True).value()
        return [row["id"] for row in said["models"] if row["present"]]

    def change(
        self, verb: str, host: str, port: int | None, model: str | None, on_event: OnEvent
    ) -> Mapping[str, Any]:  # fmt: skip
        """load, swap, unload or restart, that somebody said yes to; the data that the verb answers. Without a port: the
        lowest free one."""
        where = str(port or "auto")
        return self.reach.call(
            self._host(host), [verb, "--", where, *([model] if model else [])],
            lambda session: _change(session, verb, f"{host}:{where}", model),
            timeout=LONG, on_event=on_event, check=f"llmctl status {host}{f':{port}' if port else ''}", yes=True,
        ).value()  # fmt: skip

    def follow(self, host: str, port: int, most: int) -> Following:
        """The log of a slot, from its last `most` lines on."""
        return Following(self.reach.session, self._host(host), port, most)

    def _host(self, name: str) -> Host:
        return self.reach.session.config.host(name)


class Following:
    """A log that is followed, over a connection of its own: closing that is what ends it there, too."""

    def __init__(self, session: Session, host: Host, port: int, most: int) -> None:
        self.session, self.host, self.port, self.most = session, host, port, most
        self.over = Event()
        self.reach = Reach(session)

    def lines(self) -> Iterator[str]:
        """Its last lines and those that come; ends after `cut`."""
        if self.host.transport == "local":
            return self._here()
        return self._there()

    def cut(self) -> None:
        """End it, from any thread."""
        self.over.set()
        self.reach.close()

    def _here(self) -> Iterator[str]:
        from llmctl import logs
        from llmctl.slots.state import SlotFolder

        folder = SlotFolder(self.session.home, self.port)
        if not folder.path.exists():
            raise UnknownName(f"port {self.port} is no slot here", hint=f"llmctl load {self.port} MODEL")
        return logs.read(folder.log, self.most, lambda: not self.over.is_set())

    def _there(self) -> Iterator[str]:
        first = ["logs", "--lines=0", "--", str(self.port)]  # its errors are typed, those of a stream are text
        words = ["logs", "--follow", f"--lines={self.most}", "--", str(self.port)]
        argv = call.argv(self.host.name, words, any_version=True, as_json=False)
        try:
            self.reach.call(self.host, first, lambda _: Answer(), any_version=True, timeout=reaching.LOOK).value()
            yield from self.reach.transport(self.host).stream(argv)
        except LlmctlError:
            if not self.over.is_set():
                raise


def _models(session: Session) -> Answer:
    from llmctl.models import store

    folder = session.host().models(session.home)
    found = session.catalog.models.values()
    return Answer({"models": [{"id": model.id, "present": bool(store.present(model, folder))} for model in found]})


def _change(session: Session, verb: str, where: str, model: str | None) -> Answer:
    from llmctl.cli.changes import change, data_of, spec_of
    from llmctl.slots import verbs

    target = session.target(where, auto=verb == "load")
    if model is not None:
        spec = spec_of(session, target, model, "auto", None, None, None, None, None, Tuning())
        return Answer(change(session, target, verb, spec))
    with session.progress() as on_event:
        if verb == "unload":
            return Answer(data_of(target, verbs.unload(session.home, target.port, on_event=on_event)))
        service = target.host.service
        return Answer(data_of(target, verbs.restart(session.home, target.port, service=service, on_event=on_event)))
