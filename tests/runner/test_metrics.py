"""What a slot counts, and what /health and /ready answer; over a slot without an engine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmctl import __version__ as VERSION
from llmctl import keys
from llmctl.domain import Chunk, Identity, Usage
from llmctl.runner import metrics
from llmctl.runner.auth import Auth
from llmctl.runner.metrics import Meter, Metrics, Rate
from tests.conftest import eventually
from tests.runner.fake_slot import GOOD, FakeSlot, Response, connect, post, raw, serve

NAMES = {
    "llmctl_requests", "llmctl_requests_in_flight", "llmctl_active_requests", "llmctl_queue_depth",
    "llmctl_queue_rejected", "llmctl_time_to_first_token_seconds", "llmctl_prompt_tokens", "llmctl_generated_tokens",
    "llmctl_tokens_per_second", "llmctl_ready", "llmctl_load_seconds", "llmctl_swaps", "llmctl_engine_restarts",
    "llmctl_engine_memory_bytes", "llmctl_cached_prompt_tokens", "llmctl_draft_tokens", "llmctl_requests_cut",
    "llmctl_queue_limit", "llmctl_queue_wait_seconds", "llmctl_inter_token_latency_seconds",
    "llmctl_generation_seconds", "llmctl_answers", "llmctl_cache_tokens", "llmctl_cache_limit_tokens",
    "llmctl_slot_state", "llmctl_wedged", "llmctl_engine_resident_bytes", "llmctl_server_resident_bytes",
    "llmctl_server_start_time_seconds", "llmctl_slot_info",
}  # fmt: skip


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


def get(slot: FakeSlot, path: str, *headers: str) -> Response:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers]
    return raw(slot.port, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")


def scraped(slot: FakeSlot) -> dict[str, float]:
    """{series: value}."""
    lines = get(slot, "/metrics").body.decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_the_names_are_stable() -> None:
    found = Metrics()
    assert {metric.name for metric in found.registry.collect()} == NAMES
    assert b"_created" not in found.scrape({}, None)


def test_requests_and_tokens_are_counted(slot: FakeSlot) -> None:
    chat = post("/v1/chat/completions", json.dumps(GOOD).encode())
    for request in (chat, chat, post("/v1/chat/completions", b"{"), post("/v1/completions", b"x")):
        raw(slot.port, request)
    found = scraped(slot)
    assert found['llmctl_requests_total{route="/v1/chat/completions",status="200"}'] == 2
    assert found['llmctl_requests_total{route="/v1/chat/completions",status="400"}'] == 1
    assert found['llmctl_requests_total{route="/v1/completions",status="400"}'] == 1
    assert found["llmctl_prompt_tokens_total"] == 6 and found["llmctl_generated_tokens_total"] == 8
    assert found["llmctl_time_to_first_token_seconds_count"] == 2
    assert found["llmctl_requests_in_flight"] == 1  # this scrape
    assert found["llmctl_queue_depth"] == 2 and found["llmctl_engine_memory_bytes"] == 123
    assert found["llmctl_ready"] == 1 and found["llmctl_queue_limit"] == 128
    assert found["llmctl_engine_resident_bytes"] == 456 and found["llmctl_server_resident_bytes"] > 2**20
    assert found["llmctl_cache_tokens"] == 7 and found["llmctl_cache_limit_tokens"] == 4 * 1024
    assert found['llmctl_answers_total{finish="length"}'] == 2 and found['llmctl_answers_total{finish="stop"}'] == 0
    assert found["llmctl_generation_seconds_count"] == 2
    assert found["llmctl_inter_token_latency_seconds_count"] == 6  # four words each, the first has its own


def test_the_state_and_the_model_are_one_series_each(slot: FakeSlot) -> None:
    info = f'{{architecture="scripted",backend="cpu",device="cpu",engine="scripted",model="alpha",version="{VERSION}"}}'
    assert scraped(slot)[f"llmctl_slot_info{info}"] == 1
    slot.service.loaded = replace(slot.service.loaded or Identity("", "", "", 1, 1, 1), model="beta")
    slot.service.state = {"state": "swapping", "wedged": True}
    found = scraped(slot)
    assert found['llmctl_slot_state{state="swapping"}'] == 1 == found["llmctl_wedged"]
    assert sum(value for name, value in found.items() if name.startswith("llmctl_slot_state")) == 1
    assert [name for name in found if "slot_info" in name] == [f"llmctl_slot_info{info.replace('alpha', 'beta')}"]
    slot.service.loaded = None
    assert any('engine="",model="alpha"' in name for name in scraped(slot) if "slot_info" in name)


def test_an_engine_that_does_not_tell_of_its_cache_has_no_number(slot: FakeSlot) -> None:
    slot.service.figures = lambda: {"held": None}  # type: ignore[method-assign]
    assert math.isnan(scraped(slot)["llmctl_cache_tokens"])


def test_what_the_edge_refuses_is_counted(slot: FakeSlot) -> None:
    raw(slot.port, b"no http at all\r\n\r\n")
    assert scraped(slot)['llmctl_requests_total{route="none",status="400"}'] == 1


def test_s10_no_string_of_a_client_becomes_a_label(slot: FakeSlot) -> None:
    def series() -> set[str]:
        return set(scraped(slot))

    def strange(i: int) -> None:
        get(slot, f"/canary-{i}")
        get(slot, f"/v1/models/canary-{i}")
        raw(slot.port, post("/v1/chat/completions", json.dumps({**GOOD, "model": f"canary-{i}"}).encode()))
        raw(slot.port, f"CANARY{i} /health HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    series()  # counts itself from now on
    strange(0)
    before = series()
    for i in range(1, 20):
        strange(i)
    assert series() == before and not any("canary" in name.lower() for name in before)


def test_what_the_slot_reports(slot: FakeSlot) -> None:
    slot.metrics.loaded(2.5)
    slot.metrics.swap("ok")
    slot.metrics.swap("failed")
    slot.metrics.rejected()
    slot.metrics.restarted()
    slot.metrics.cut(3)
    slot.metrics.waited(0.2)
    found = scraped(slot)
    assert found["llmctl_requests_cut_total"] == 3 and found["llmctl_queue_wait_seconds_sum"] == 0.2
    assert found["llmctl_load_seconds"] == 2.5 and found['llmctl_swaps_total{outcome="failed"}'] == 1
    assert found["llmctl_queue_rejected_total"] == found["llmctl_engine_restarts_total"] == 1


def test_the_rate_is_of_whole_seconds_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.5]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    rate = Rate()
    rate.add(50)
    assert rate.per_second() == 0
    now[0] = 101.0
    rate.add(30)
    assert rate.per_second() == 5
    now[0] = 150.0
    assert rate.per_second() == 0
    for second in range(1000):
        now[0] = 150.0 + second
        rate.add(1)
    assert len(rate._counts) <= metrics.WINDOW + 1


def test_a_meter_counts_the_first_token_once() -> None:
    found = Metrics()
    meter = Meter(found, 0.0, 7)
    assert meter.see([Chunk("a", tokens=2), Chunk("a", tokens=1)]) is None
    usage = Usage(7, 4, cached=5, drafted=6, agreed=2)
    assert meter.see([Chunk("a", tokens=1, finish="stop", usage=usage)]) == usage
    text = found.scrape({}, None).decode()
    assert "llmctl_time_to_first_token_seconds_count 1.0" in text and "llmctl_generated_tokens_total 4.0" in text
    assert "llmctl_prompt_tokens_total 7.0" in text and "llmctl_cached_prompt_tokens_total 5.0" in text
    assert 'llmctl_draft_tokens_total{outcome="accepted"} 2.0' in text
    assert 'llmctl_draft_tokens_total{outcome="rejected"} 4.0' in text


def test_tokens_that_only_the_usage_tells_are_counted_at_the_end() -> None:
    found = Metrics()
    meter = Meter(found, 0.0, 0)
    meter.see([Chunk("a", tokens=1)])
    meter.see([Chunk("a", tokens=1, finish="stop", usage=Usage(7, 12))])
    text = found.scrape({}, None).decode()
    assert "llmctl_generated_tokens_total 12.0" in text and "llmctl_prompt_tokens_total 7.0" in text


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ({"verdict": "ok", "state": "ready", "ready": True}, 200),
        ({"verdict": "ok", "state": "sleeping", "ready": False}, 200),
        ({"verdict": "degraded", "state": "starting", "ready": False}, 200),
        ({"verdict": "down", "state": "crash-loop", "ready": False}, 503),
        ({"verdict": "down", "state": "ready", "ready": True, "wedged": True}, 503),
    ],
)
def test_health_and_ready(slot: FakeSlot, state: dict[str, Any], status: int) -> None:
    slot.service.state = state
    health, ready = get(slot, "/health"), get(slot, "/ready")
    assert health.status == status and health.json()["state"] == state["state"]
    assert health.json()["status"] == ("healthy" if status == 200 else "unhealthy")
    assert health.json()["verdict"] == state["verdict"]
    assert ready.status == (200 if state["ready"] else 503) and ready.json()["ready"] == state["ready"]
    assert ("retry-after" in ready.headers) != state["ready"]


def test_health_tells_strangers_little() -> None:
    auth = Auth("0.0.0.0", keys.Keys(admin="a", client="c"))
    with serve(auth=auth) as slot:
        told = {"status": "healthy", "vram_bytes": 123, "verdict": "ok", "state": "ready", "ready": True}
        assert get(slot, "/health").json() == told
        assert get(slot, "/health", "x-api-key: c").json()["why"] == "secret"
        assert get(slot, "/health", "x-api-key: wrong").status == 200


def test_a_client_that_left_is_counted_as_gone(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        sock.sendall(post("/v1/chat/completions", b"{", "Content-Length: 5"))
    eventually(lambda: scraped(slot).get('llmctl_requests_total{route="/v1/chat/completions",status="499"}') == 1)
