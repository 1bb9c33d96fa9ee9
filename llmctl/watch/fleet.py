"""Watches many hosts at once: one thread and one stream each, the newest of all in frozen snapshots."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmctl.errors import AuthRejected, LlmctlError, LockedOut, NotDeployed
from llmctl.watch import view
from llmctl.watch.host import BEAT
from llmctl.watch.view import HostView, Snapshot

SOON, LATE = 1.0, 30.0
"""Seconds before a host is tried again: at first, and at most. Each time twice as long."""
REFUSED = 60.0
"""The same where the ssh server takes none of our keys, or has enough of us: often asked, it would ban us."""
GRACE = 1.0

Follow = Callable[[str, threading.Event], Iterator[Any]]
"""follow(host, over): the looks of a host as they come; raises why they end. Ends soon once `over` is set."""


class Watch:
    """Keeps hosts in sight from `start` to `close`. No method of it waits for a host."""

    def __init__(self, hosts: Sequence[str], follow: Follow, every: float, beat: float = BEAT) -> None:
        self._follow, self._silence = follow, 2 * beat + every + GRACE
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._again = {host: threading.Event() for host in hosts}
        self._now = Snapshot(0, time.time(), {host: view.fresh(host) for host in hosts})

    def start(self) -> Watch:
        for host in self._again:
            threading.Thread(target=self._keep, args=(host,), name=f"watch {host}", daemon=True).start()
        threading.Thread(target=self._listen_for_silence, name="watch", daemon=True).start()
        return self

    def close(self) -> None:
        """Ask for no more; streams that are open end with their next line, or with their connection."""
        self._over.set()
        for again in self._again.values():
            again.set()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Watch:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def snapshot(self) -> Snapshot:
        """What is known now."""
        with self._changed:
            return self._now

    def wait(self, number: int, timeout: float) -> Snapshot:
        """The newest snapshot: at once when it is not `number` any more, else after a change or `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._now.number != number or self._over.is_set(), timeout)
            return self._now

    def retry(self, host: str) -> None:
        """Try a host that is being waited for again now."""
        self._again[host].set()

    def _keep(self, host: str) -> None:
        """Follow a host, and again when that ended, later each time that it gave nothing."""
        pause = SOON
        while not self._over.is_set():
            came = False
            try:
                for look in self._follow(host, self._over):
                    if self._over.is_set():
                        return
                    came = self._heard(host, look) or came
                error = LlmctlError(f"llmctl on {host} stopped telling", hint=f"llmctl deploy {host}")
            except LlmctlError as met:
                error = met
            except Exception as met:  # one host must not end the watch over the others
                error = LlmctlError(f"{type(met).__name__}: {met}")
            if self._over.is_set():
                return
            self._lost(host, error)
            pause = SOON if came else min(2 * pause, LATE)
            refused = isinstance(error, AuthRejected | LockedOut)
            self._again[host].wait(random.uniform(0.7, 1.3) * (REFUSED if refused else pause))
            self._again[host].clear()

    def _heard(self, host: str, look: Any) -> bool:
        """Whether the look made sense."""
        try:
            self._change(host, lambda before, now: view.heard(before, look, now))
        except ValueError as error:
            self._lost(host, LlmctlError(str(error), hint=f"llmctl deploy {host}"))
            return False
        return True

    def _lost(self, host: str, error: LlmctlError) -> None:
        state = view.NOT_DEPLOYED if isinstance(error, NotDeployed) else view.UNKNOWN
        self._change(host, lambda before, now: view.in_state(before, state, error.message, error.hint, now))

    def _listen_for_silence(self) -> None:
        """Nobody knows what a host does that missed two beats, though its connection may still look open."""
        while not self._over.wait(GRACE):
            for host in self._again:
                self._change(host, self._silent)

    def _silent(self, before: HostView, now: float) -> HostView:
        silence = now - before.at
        if before.state not in (view.OK, view.SKEW) or abs(silence) < self._silence:
            return before
        why = f"nothing was heard of it for {silence:.0f} s"
        return view.in_state(before, view.UNKNOWN, why, f"llmctl status --host {before.name}", now)

    def _change(self, host: str, change: Callable[[HostView, float], HostView]) -> None:
        with self._changed:
            before, now = self._now.hosts[host], time.time()
            after = change(before, now)
            if after is not before:
                self._now = Snapshot(self._now.number + 1, now, {**self._now.hosts, host: after})
                self._changed.notify_all()
