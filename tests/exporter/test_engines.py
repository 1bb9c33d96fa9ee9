"""One vocabulary: a slot before somebody else's server counts the same as one with an engine of ours."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from llmctl.domain import SlotSpec
from llmctl.servers import Server
from tests.clients import chat, get
from tests.conftest import RunningSlot, eventually
from tests.engines import odd_server
from tests.engines.upstream_bench import spec_of
from tests.exporter.ops import samples

pytestmark = pytest.mark.slow
Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]


@pytest.fixture
def attached() -> Iterator[odd_server.Server]:
    running = odd_server.started()
    yield running
    running.shutdown()
    running.server_close()


def page(slot: RunningSlot) -> dict[str, float]:
    return samples(get(slot.port, "/metrics")[2])


def names(slot: RunningSlot) -> set[str]:
    """All series of a slot's page, labels of the model and of requests left out."""
    return {series.split("{")[0] if "info" in series or "route" in series else series for series in page(slot)}


def test_another_server_and_an_engine_of_ours_count_the_same(
    slots: Slots, script: Script, attached: odd_server.Server
) -> None:
    theirs = slots(SlotSpec(spec_of(Server(kind="vllm", url=attached.url))))
    ours = slots(script("alpha"))
    before = page(theirs)
    for slot in (theirs, ours):
        assert chat(slot.port, "What is a slot?")[0] == 200
    assert names(theirs) == names(ours)
    after = page(theirs)
    grown = {series: value - before.get(series, 0) for series, value in after.items()}
    assert grown["llmctl_prompt_tokens_total"] == 7 and grown["llmctl_cached_prompt_tokens_total"] == 3
    assert grown["llmctl_generated_tokens_total"] == 8 and grown['llmctl_answers_total{finish="stop"}'] == 1
    for histogram in ("time_to_first_token", "generation", "queue_wait"):
        assert grown[f"llmctl_{histogram}_seconds_count"] == 1
    assert math.isnan(after["llmctl_cache_tokens"]), "it does not tell"
    assert any('engine="upstream",model="odd"' in series for series in after)


def test_what_waits_and_what_the_cache_holds(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", parallel=1, length=40, step=0.05))
    before = page(slot)
    asking = [threading.Thread(target=chat, args=(slot.port,)) for _ in range(2)]
    for thread in asking:
        thread.start()

    def full() -> bool:
        found = page(slot)
        busy = found["llmctl_active_requests"] == 1 == found["llmctl_queue_depth"] and found["llmctl_cache_tokens"] > 3
        return busy and found["llmctl_cache_limit_tokens"] == 1024

    eventually(full)
    for thread in asking:
        thread.join()
    after = page(slot)
    assert after["llmctl_queue_wait_seconds_count"] - before["llmctl_queue_wait_seconds_count"] == 2
    assert after["llmctl_queue_wait_seconds_sum"] - before["llmctl_queue_wait_seconds_sum"] > 0.5
    assert after["llmctl_inter_token_latency_seconds_sum"] - before["llmctl_inter_token_latency_seconds_sum"] > 1
    eventually(lambda: page(slot)["llmctl_cache_tokens"] == 0)


def test_swaps_crashes_and_the_state_that_follows(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha"))
    slot.change("swap", script("beta", length=8))
    found = page(slot)
    assert found['llmctl_swaps_total{outcome="ok"}'] == 2 and found['llmctl_slot_state{state="ready"}'] == 1
    assert found["llmctl_load_seconds"] > 0 and found["llmctl_engine_resident_bytes"] > 2**20
    assert any('model="beta"' in series for series in found) and not any("alpha" in series for series in found)
    os.kill(slot.engine_pid() or 0, signal.SIGKILL)
    eventually(lambda: page(slot)["llmctl_engine_restarts_total"] == 1)
    eventually(lambda: page(slot)['llmctl_slot_state{state="ready"}'] == 1)
