"""Deploys over a connection that is cut: what serves goes on, and a rerun converges."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from llmctl import catalog, config
from llmctl.environments import wheelhouse
from llmctl.errors import LlmctlError
from llmctl.fleet import opening
from llmctl.fleet.deploy.choice import Order
from llmctl.fleet.deploy.host import Kit, deploy
from llmctl.fleet.deploy.side import HostSide, Shipment
from llmctl.fleet.plan import assign
from llmctl.fleet.transport import Transport
from tests.fleet.deploying import PATCH, SILENCE, Operator, Result, assert_serving, current, other, slots, tree
from tests.testbed.cutting_proxy import CuttingProxy
from tests.testbed.sshd import needs_sshd

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def operator(bare: Operator) -> Operator:
    """Its host serves the slots of the profile."""
    assert bare.deploy().code == 0
    return bare


class CutAt:
    """A transport whose connection is cut a moment after its `number`-th call has begun."""

    def __init__(self, real: Transport, cut: Callable[[], None], number: int) -> None:
        self.real, self.cut, self.number = real, cut, number
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def run(self, argv: Any, **options: Any) -> Any:
        return self._counted(
            json.loads(options["stdin"])["step"] if "llmctl.host" in argv else argv[-1], "run", argv, options
        )

    def put(self, source: Any, target: str, **options: Any) -> Any:
        return self._counted("put", "put", source, {"target": target, **options})

    def _counted(self, title: str, method: str, first: Any, options: Any) -> Any:
        if title != "renew":  # comes when it comes
            self.calls.append(title)
            if len(self.calls) == self.number:
                threading.Timer(0.03, self.cut).start()
        return getattr(self.real, method)(first, **options)


def kit_of(operator: Operator, code: str, **more: Any) -> Kit:
    """What `llmctl deploy` of that release would use, for a deploy in this very process."""
    found, known, made = config.load(operator.folder), catalog.load(operator.folder), operator.wheel(code)
    profiles = [config.profile(found, known, "demo")]
    return Kit(
        config=found, catalog=known, home=operator.folder / "home", owner="ann@desk", order=Order(offline=True),
        shipment=Shipment(operator.release(code), "0.1.0", made, wheelhouse.sha256(made)),
        assignment=assign(found, profiles, list(found.hosts.values()), chosen=True, named=True), **more,
    )  # fmt: skip


def test_f04_cut_at_every_step_something_serves_and_a_rerun_converges(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = operator.hosts[0]
    monkeypatch.setattr(HostSide, "silence", SILENCE)
    monkeypatch.setenv("LLMCTL_HOME", str(operator.folder / "home"))
    kits = {code: kit_of(operator, code, lock_wait=60.0) for code in ("same", "next")}
    real, seen, finished = opening.connect, set(), False
    with CuttingProxy(host.port) as proxy:
        operator.trust(host.known().replace(str(host.port), str(proxy.port)))
        through = replace(next(iter(kits["same"].config.hosts.values())), ssh_port=proxy.port)
        for number in itertools.count(1):
            kit = kits[other(operator)]
            made: list[CutAt] = []
            with monkeypatch.context() as patch:
                patch.setattr(opening, "connect", partial(connect_to_cut, made, real, proxy.cut, number))
                try:
                    deploy(through, kit, lambda event: None)
                    finished = len(made[0].calls) < number
                except LlmctlError as error:
                    assert error.exit_code == 4, f"cut at {made[0].calls}: {error.message}"
                    seen.add(made[0].calls[number - 1])
            assert_serving(operator)
            if finished:
                break
            again = deploy(through, kit, lambda event: None)
            assert again.status in ("deployed", "unchanged"), f"after a cut at {made[0].calls}"
            assert current(host) == kit.shipment.release
            assert {slot.state for slot in slots(host).values()} == {"ready"}
    assert seen >= {"look", "put", "begin", "release", "activate", "slots", "finish"}
    assert not [name for name in tree(host) if "staging" in name or "deploy-undo" in name]


def connect_to_cut(made: list[CutAt], real: Any, cut: Callable[[], None], number: int, *given: Any) -> CutAt:
    made.append(CutAt(real(*given), cut, number))
    return made[-1]


def test_f04_cut_after_any_number_of_bytes_nothing_is_torn(operator: Operator) -> None:
    """A whole deploy is counted first, then the same is cut after shares of that."""
    host = operator.hosts[0]
    with CuttingProxy(host.port) as whole:
        done = through_proxy(operator, whole, other(operator))
        assert done.code == 0, done
    size = whole.passed["up"]
    for share in (0.1, 0.35, 0.6, 0.85):
        code, before = other(operator), current(host)
        with CuttingProxy(host.port, after_bytes=int(size * share), direction="up", reset=share > 0.5) as proxy:
            done = through_proxy(operator, proxy, code)
        assert done.code == 4 and done.errors[0]["hint"], done
        assert current(host) in (before, operator.release(code))
        assert_serving(operator)
        again = operator.deploy("--lock-wait", "60", code=code)
        assert again.code == 0 and current(host) == operator.release(code), again


def through_proxy(operator: Operator, proxy: CuttingProxy, code: str) -> Result:
    host = operator.hosts[0]
    operator.trust(host.known().replace(str(host.port), str(proxy.port)))
    operator.configure(h1=proxy.port)
    try:
        return operator.deploy(code=code, before=f"{PATCH}.silence = {SILENCE}")
    finally:
        operator.configure()
