"""The host's end of a deploy as the operator's end talks to it: steps of `llmctl.host`, one process each, one lease.

The host side runs out of the release where that is there, else out of the wheel, which is sent first.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.errors import DeployFailed, LlmctlError, LostLease, Refused, Unreachable, from_dict
from llmctl.fleet.transport import Ran, Transport

QUICK, LONG = 120.0, 3600.0
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Shipment:
    """The release that is deployed: its id, its version, and the wheel with its sha256."""

    release: str
    version: str
    wheel: Path
    sha256: str


class HostSide:
    """Runs steps on one host. `python` is an absolute path there, `home` the user's home folder.

    `silence` is the seconds without a word from us after which another deploy may take the host over.
    """

    silence = 24.0

    def __init__(self, transport: Transport, python: str, home: str, shipment: Shipment, on_event: OnEvent) -> None:
        self.transport, self.python, self.shipment, self.on_event = transport, python, shipment, on_event
        self.state = f"{home}/.llmctl"
        if transport.host.transport == "local" and paths.home() != Path(self.state):
            raise Refused(
                f"a deploy to this machine goes to {self.state}, and LLMCTL_HOME is {paths.home()}",
                hint="unset LLMCTL_HOME, or name another host",
                host=transport.host.name,
            )
        self.settle()
        self._lease: dict[str, Any] | None = None
        self._lost: LlmctlError | None = None

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, name: str, /, *, timeout: float = QUICK, **request: Any) -> dict[str, Any]:
        """Do a step; its data, or its error. LostLease also when the lease is known to be lost already."""
        if self._lost:
            raise self._lost
        ran = self._run(name, timeout, {**request, "lease": self._lease})
        answer = _answer(ran)
        if answer is None:
            raise DeployFailed(
                f"the host side ended with {ran.code} and no answer while it did {name!r}",
                hint="run the deploy again; if it ends the same way, look at these lines",
                host=self.transport.host.name,
                details={"log": _last(ran)},
            )
        return self._data(answer)

    def _run(self, name: str, timeout: float, request: Mapping[str, Any]) -> Ran:
        argv = ["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={self.code}", f"LLMCTL_HOME={self.state}"]
        line = json.dumps({**request, "step": name, "attended": True}) + "\n"
        return self.transport.run(
            [*argv, self.python, "-m", "llmctl.host"], stdin=line.encode(), hold=True, timeout=timeout,
            on_out=self._event,
        )  # fmt: skip

    def _event(self, line: str) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            kind = event.get("event") if isinstance(event, dict) else None
            if kind == "slot":
                self.note(f"port {event.get('port')}: {event.get('step')}")
            elif kind in ("note", "stage"):
                self.on_event(event)

    def _data(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        if answer["ok"]:
            return dict(answer["data"] or {})
        error = from_dict(answer["error"])
        error.host = self.transport.host.name
        raise error

    def note(self, message: str) -> None:
        """Tell the operator what goes on."""
        self.on_event({"event": "note", "message": message})

    # ── the beginning ───────────────────────────────────────────────────────────────────────────────────────────────

    def first(self, name: str, /, **request: Any) -> dict[str, Any]:
        """The first step; when the release is not there, or is damaged, its wheel is sent, and what follows is run
        from that."""
        answer = _answer(self._run(name, QUICK, request))
        if answer and (not answer["ok"] or answer["data"].get("whole", True)):
            return self._data(answer)
        self.code = f"{self.state}/incoming/{self.shipment.release}.whl"
        self.send_wheel(self.code)
        return self.step(name, **request)

    @contextlib.contextmanager
    def visiting(self) -> Iterator[None]:
        """Steps within the block run out of a wheel that is gone afterwards: nothing of it stays on the host."""
        self.code = f"/tmp/llmctl-{self.shipment.release}-{secrets.token_hex(6)}.whl"
        self.send_wheel(self.code)
        try:
            yield
        finally:
            self.transport.run(["rm", "-f", self.code])

    def send_wheel(self, target: str) -> None:
        self.transport.put(self.shipment.wheel, target)

    def settle(self) -> None:
        """From now on the release, where it is there, is what runs."""
        self.code = f"{self.state}/releases/{self.shipment.release}/lib"

    # ── the lease ───────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def leased(self, owner: str, message: str, wait: float, needed: int = 0) -> Iterator[None]:
        """Within the block this host is ours; it is renewed all the while. The last step is `finish`, which gives it
        back; without it, it ends by itself a while after we fall silent."""
        claim = {"token": secrets.token_hex(8), "owner": owner, "message": message, "ttl": self.silence}
        begun = self.step("begin", claim=claim, wait=wait, needed=needed, timeout=QUICK + wait)
        if lost := begun["took_over"]:
            why = f" ({lost['message']})" if lost["message"] else ""
            self.on_event({"event": "note", "message": f"took over from {lost['owner']}{why}, which fell silent"})
        self._lease, done = begun["lease"], threading.Event()

        def keep() -> None:
            while not done.wait(begun["ttl"] / 3):
                try:
                    self.step("renew")
                except LostLease as error:
                    self._lost = error
                    return
                except LlmctlError:
                    continue  # the thread that works meets it too

        thread = threading.Thread(target=keep, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._lease = None

    def put(self, source: Path, name: str, on_bytes: Callable[[int, int], None] | None = None) -> None:
        """Send a file to where only this deploy writes; a step takes it in, if the lease is still ours."""
        if self._lost:
            raise self._lost
        assert self._lease
        self.transport.put(source, f"{self.state}/incoming/{self._lease['token']}/{name}", on_bytes=on_bytes)


def reachable(error: BaseException) -> bool:
    """Whether anything can still be done on the host after `error`."""
    return not isinstance(error, Unreachable | LostLease)


def _answer(ran: Ran) -> dict[str, Any] | None:
    for line in reversed(ran.out.splitlines()):
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(line)
            if isinstance(answer, dict) and "ok" in answer:
                return answer
    return None


def _last(ran: Ran) -> list[str]:
    return (ran.err or ran.out).strip().splitlines()[-10:]
