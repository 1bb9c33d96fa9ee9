"""The verbs of the views that stay open (`top`, `web`), on the hosts that they show; usable from many threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmctl.cli import reach as reaching
from llmctl.cli.changes import change, data_of, spec_of
from llmctl.cli.far import LONG
from llmctl.cli.reach import Reach
from llmctl.cli.session import OnEvent, Session
from llmctl.config import Host, Tuning
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError
from llmctl.fleet import call


class LiveVerbs:
    """What may be done to the slots of `reach`'s hosts. Every method may take long, and raises LlmctlError."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach

    def host(self, name: str) -> Host:
        return self.reach.session.config.host(name)

    def models(self, host: str) -> list[str]:
        """The ids of the models that lie on a host."""

        def here(session: Session) -> Answer:
            from llmctl.models import store

            folder = session.host().models(session.home)
            present = [model for model in session.catalog.models.values() if store.present(model, folder)]
            return Answer({"models": [{"id": model.id, "present": True} for model in present]})

        reply = self.reach.call(self.host(host), ["models", "list"], here, any_version=True, timeout=reaching.LOOK)
        return [str(model["id"]) for model in reply.value()["models"] if model["present"]]

    def change(
        self, verb: str, host: str, port: int | None, model: str | None, on_event: OnEvent
    ) -> Mapping[str, Any]:  # fmt: skip
        """load, swap, unload or restart; what the verb answers. Without a port: the lowest free one."""
        there = self.host(host)
        where = "auto" if port is None else str(port)
        check = f"llmctl status {f'--host {host}' if port is None else f'{host}:{port}'}"
        words = [verb, "--", where, *([model] if model is not None else [])]
        return self.reach.call(
            there, words, lambda session: _here(session, verb, f"{host}:{where}", model), on_event=on_event, yes=True,
            check=check, timeout=LONG,
        ).value()  # fmt: skip

    def follow(self, host: str, port: int, most: int) -> LocalLog | FarLog:
        """The log of a slot: its last lines, and those that come until it is cut."""
        there = self.host(host)
        if there.transport == "local":
            return LocalLog(self.reach.session, port, most)
        return FarLog(self.reach.session, there, port, most)


class LocalLog:
    """The log of a slot of this machine."""

    def __init__(self, session: Session, port: int, most: int) -> None:
        self._session, self._port, self._most = session, port, most
        self._over = threading.Event()

    def lines(self) -> Iterator[str]:
        from llmctl import logs
        from llmctl.slots import verbs
        from llmctl.slots.state import SlotFolder

        for _ in verbs.log_lines(self._session.home, self._port, lines=0):  # a port that is no slot is told here
            pass
        log = SlotFolder(self._session.home, self._port).log
        yield from logs.read(log, self._most, lambda: not self._over.is_set())

    def cut(self) -> None:
        self._over.set()


class FarLog:
    """The log of a slot of another host, over a connection of its own, which `cut` ends."""

    def __init__(self, session: Session, host: Host, port: int, most: int) -> None:
        self._reach, self._host, self._over = Reach(session), host, threading.Event()
        self._words = ["logs", "--follow", f"--lines={most}", "--", str(port)]

    def lines(self) -> Iterator[str]:
        argv = call.argv(self._host.name, self._words, any_version=True, as_json=False)
        try:
            with self._reach:
                said: list[str] = []
                code = yield from self._reach.transport(self._host).stream(argv, on_err=said.append)
                if code and not self._over.is_set():
                    raise LlmctlError(_error_of(said) or f"the log of {self._host.name} ended with {code}")
        except LlmctlError:
            if not self._over.is_set():
                raise

    def cut(self) -> None:
        self._over.set()
        with contextlib.suppress(LlmctlError):
            self._reach.close()


def _error_of(said: Sequence[str]) -> str:
    """What `llmctl logs` printed as its error."""
    errors = [line.strip() for line in said if line.startswith("error: ")]
    return errors[0].removeprefix("error: ") if errors else ""


def _here(session: Session, verb: str, where: str, model: str | None) -> Answer:
    """The change on this machine."""
    from llmctl.slots import verbs

    target = session.target(where, auto=True)
    if verb in ("load", "swap"):
        spec = spec_of(session, target, model or "", "auto", None, None, None, None, None, Tuning())
        return Answer(change(session, target, verb, spec))
    with session.progress() as on_event:
        if verb == "unload":
            result = verbs.unload(session.home, target.port, lock_wait=0.0, on_event=on_event)
        else:
            result = verbs.restart(
                session.home, target.port, reexec=False, service=target.host.service, lock_wait=0.0, on_event=on_event
            )
    return Answer(data_of(target, result))
