"""What the watch makes of looks that come, that do not come, and that make no sense; hosts are played by generators."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmctl import __version__
from llmctl.errors import AuthRejected, NotDeployed, Unreachable
from llmctl.watch import fleet, view
from llmctl.watch.fleet import Watch
from llmctl.watch.view import NOT_DEPLOYED, OK, SKEW, UNKNOWN, HostView, Snapshot

LOOK = {"at": 100.0, "version": __version__, "slots": [{"port": 8101, "state": "ready", "model": "a"}], "events": []}


def seen(watch: Watch, true: Callable[[HostView], object], host: str = "h") -> HostView:
    """The host as soon as that is true of it."""
    end, now = time.monotonic() + 30, watch.snapshot()
    while not true(now.hosts[host]):
        assert time.monotonic() < end, now.hosts[host]
        now = watch.wait(now.number, 1.0)
    return now.hosts[host]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits long."""
    for name in ("SOON", "LATE", "GRACE"):
        monkeypatch.setattr(fleet, name, 0.05)


def test_f9_a_host_that_falls_silent_is_unknown_until_it_is_heard_again(soon: None) -> None:
    go = threading.Event()

    def follow(host: str, over: threading.Event) -> Iterator[Any]:
        yield LOOK
        go.wait()
        yield {**LOOK, "at": 200.0}
        over.wait()

    with Watch(["h"], follow, every=0.05, beat=0.2) as watch:
        first = seen(watch, lambda host: host.state == OK)
        silent = seen(watch, lambda host: host.state == UNKNOWN)
        assert silent.why and silent.why.startswith("nothing was heard of it for")
        assert silent.slots == first.slots and silent.hint == "llmctl status --host h"
        assert silent.since >= first.since
        go.set()
        assert seen(watch, lambda host: host.state == OK).clock == 200.0


def test_an_ended_stream_is_begun_again_and_one_bad_host_harms_no_other(soon: None) -> None:
    count = 0

    def follow(host: str, over: threading.Event) -> Iterator[Any]:
        nonlocal count
        if host == "bad":
            raise RuntimeError("a bug")
        count += 1
        yield LOOK
        if count < 3:
            raise Unreachable("it broke", hint="llmctl hosts check h")
        over.wait()

    with Watch(["h", "bad"], follow, every=0.1) as watch:
        lost = seen(watch, lambda host: host.why == "it broke")
        assert (lost.state, lost.hint) == (UNKNOWN, "llmctl hosts check h")
        seen(watch, lambda host: host.state == OK and count == 3)
        assert seen(watch, lambda host: host.why and "a bug" in host.why, "bad").state == UNKNOWN


def test_who_is_refused_waits_long_and_can_be_asked_at_once(soon: None) -> None:
    tried: list[float] = []

    def follow(host: str, over: threading.Event) -> Iterator[Any]:
        tried.append(time.monotonic())
        raise AuthRejected("no key of ours")
        yield

    with Watch(["h"], follow, every=0.1) as watch:
        seen(watch, lambda host: host.why == "no key of ours")
        time.sleep(0.5)
        assert len(tried) == 1, "an ssh server bans who knocks again and again"
        watch.retry("h")
        number = watch.snapshot().number
        assert watch.wait(number, 10).number > number or len(tried) == 2


@pytest.mark.parametrize(
    "look",
    [
        None, [], {}, "text", {**LOOK, "slots": None}, {**LOOK, "slots": [3]}, {**LOOK, "slots": [{"state": "ready"}]},
        {**LOOK, "slots": [{"port": "x", "state": "ready"}]}, {**LOOK, "at": "soon"}, {**LOOK, "memory": {"free": 1}},
        {**LOOK, "events": [{"kind": "load"}]}, {**LOOK, "load": []}, {**LOOK, "shares": [1]},
        {**LOOK, "slots": [{"port": 8090, "state": "ready", "replicas": [3]}]},
        {**LOOK, "slots": [{"port": 8090, "state": "ready", "replicas": [{"handles": 3}]}]},
    ],
)  # fmt: skip
def test_a_look_without_sense_is_no_crash(soon: None, look: Any) -> None:
    def follow(host: str, over: threading.Event) -> Iterator[Any]:
        yield look
        over.wait()

    with Watch(["h"], follow, every=0.1) as watch:
        found = seen(watch, lambda host: host.why != "not asked yet")
        assert found.state == UNKNOWN and "without sense" in str(found.why)


def test_another_version_is_shown_and_named(soon: None) -> None:
    def follow(host: str, over: threading.Event) -> Iterator[Any]:
        yield {**LOOK, "version": "9.9", "new": 1, "slots": [{**LOOK["slots"][0], "newer": True}]}  # type: ignore[index]
        over.wait()

    with Watch(["h"], follow, every=0.1) as watch:
        found = seen(watch, lambda host: host.state == SKEW)
        assert found.slots[0]["model"] == "a" and "9.9" in str(found.why) and found.hint == "llmctl deploy h"


def test_not_deployed_is_told_apart(soon: None) -> None:
    def follow(host: str, over: threading.Event) -> Iterator[Any]:
        raise NotDeployed("h has no llmctl", hint="llmctl deploy h")
        yield

    with Watch(["h"], follow, every=0.1) as watch:
        assert seen(watch, lambda host: host.why == "h has no llmctl").state == NOT_DEPLOYED


def test_snapshots_are_frozen_and_nobody_waits_for_a_host() -> None:
    block = threading.Event()

    def follow(host: str, over: threading.Event) -> Iterator[Any]:
        block.wait()
        yield LOOK
        over.wait()

    watch = Watch(["h"], follow, every=0.1)
    with watch:
        before = watch.snapshot()
        began = time.monotonic()
        assert watch.wait(before.number, 0.2) is before
        assert watch.wait(before.number - 1, 10) is before
        assert time.monotonic() - began < 5
        block.set()
        seen(watch, lambda host: host.state == OK)
        assert before.hosts["h"].slots == () and before.number < watch.snapshot().number
    watch.wait(watch.snapshot().number, 600)  # closed: it waits no more


def test_events_of_all_hosts_in_one_order() -> None:
    def told(name: str, *moments: float) -> HostView:
        events = [{"at": at, "kind": "load"} for at in moments]
        return view.heard(HostView(name), {**LOOK, "events": events}, 0.0)

    found = Snapshot(1, 0.0, {"a": told("a", 1, 3), "b": told("b", 2, 4)}).events(3)
    assert [(event["host"], event["at"]) for event in found] == [("b", 2.0), ("a", 3.0), ("b", 4.0)]
    many = told("a", *range(500))
    assert len(many.events) == view.KEPT_EVENTS and many.events[-1]["at"] == 499
