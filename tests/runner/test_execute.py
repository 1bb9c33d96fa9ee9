"""The worker protocol of rbee over a slot without an engine: every shape of it, jobs, readiness, progress."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmctl.domain import CANCELLED, LENGTH, STOP, TIME, Chunk, GenerateRequest, Limits, SlotSpec, Usage
from llmctl.errors import LlmctlError, RequestError
from llmctl.runner.protocols import execute
from llmctl.runner.protocols.asked import Asked
from llmctl.runner.protocols.execute_answers import ExecuteEvents
from llmctl.runner.protocols.execute_fields import Job, read_execute
from llmctl.runner.protocols.execute_jobs import AGE, MOST, Jobs
from llmctl.slots.state import Launch
from tests.clients import get, post, sse
from tests.conftest import RunningSlot, eventually
from tests.runner.fake_slot import FakeService, FakeSlot, connect, serve
from tests.runner.fake_slot import post as post_bytes

Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
BODY: dict[str, Any] = {"job_id": "j-1", "prompt": "Once upon a time", "max_tokens": 20}


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


def execute_(slot: Any, **fields: Any) -> Any:
    return post(slot.port, "/execute", {**BODY, **fields})


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_events_of_an_answer(slot: FakeSlot) -> None:
    status, headers, text = execute_(slot)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    started, *tokens, metrics, end = sse(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", started.pop("started_at"))
    assert started == {"type": "started", "job_id": "j-1", "model": "alpha"}
    assert tokens == [
        {"type": "token", "t": word, "i": i} for i, word in enumerate(["Hello", " wörld", " \U0001f600", "!"])
    ]
    assert metrics.pop("tokens_per_sec") > 0 and metrics == {"type": "metrics", "vram_bytes": 123}
    assert end.pop("decode_time_ms") >= 0
    assert end == {"type": "end", "tokens_out": 4, "stop_reason": "MAX_TOKENS"}
    assert text.endswith("\n\n") and "[DONE]" not in text and "event:" not in text


def answer(*chunks: Chunk) -> ExecuteEvents:
    events = ExecuteEvents(Asked(GenerateRequest("r", time_cap=9.0), options=Job("j", 0)), "m", 1)
    events.events(chunks)
    return events


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (Chunk("r", finish=STOP), {"stop_reason": "EOS"}),
        (Chunk("r", finish=LENGTH), {"stop_reason": "MAX_TOKENS"}),
        (Chunk("r", finish=CANCELLED), {"stop_reason": "CANCELLED"}),
        (Chunk("r", finish="new"), {"stop_reason": "ERROR"}),
        (Chunk("r", finish=STOP, stop_match="END"), {"stop_reason": "STOP_SEQUENCE", "stop_sequence_matched": "END"}),
    ],
)
def test_why_an_answer_ended(last: Chunk, told: dict[str, str]) -> None:
    *_, end = sse(answer(Chunk("r", text="x"), last).end(Usage(1, 2)).decode())
    assert {k: v for k, v in end.items() if k.startswith("stop")} == told


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("died", status=500, code="engine_died"), "INFERENCE_FAILED"),
        (LlmctlError("logits"), "INFERENCE_FAILED"),
        (RequestError("too slow", status=408, code="slow_reader"), "CANCELLED"),
        (RequestError("replaced", status=503, code="cut"), "CANCELLED"),
        (RequestError("late", status=408, code="timeout"), "TIMEOUT"),
        (RequestError("no", status=400), "INVALID_REQUEST"),
        (RequestError("no memory", status=500, code="out_of_memory"), "VRAM_OOM"),
    ],
)
def test_an_error_after_the_first_token_is_the_last_event(error: LlmctlError, code: str) -> None:
    with serve(FakeService(fail_at=2, failure=error)) as slot:
        status, _, text = execute_(slot)
        rows = sse(text)
        assert status == 200 and [row["type"] for row in rows] == ["started", "token", "token", "error"]
        assert rows[-1] == {"type": "error", "code": code, "message": error.message}


def test_an_answer_that_runs_out_of_time_is_an_error_event_after_its_tokens(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", step=0.1, length=400), Launch(limits=Limits(request_time=1.0)))
    status, _, text = post(slot.port, "/execute", {**BODY, "max_tokens": 400})
    rows = sse(text)
    assert status == 200 and len(rows) > 3 and {row["type"] for row in rows[1:-1]} == {"token"}
    assert rows[-1] == {"type": "error", "code": "TIMEOUT", "message": "not done within 1 s"}


def test_no_token_in_time_is_a_408() -> None:
    with pytest.raises(RequestError) as caught:
        answer(Chunk("r", finish=TIME, usage=Usage(1, 0)))
    assert caught.value.status == 408 and "9 s" in caught.value.message


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────

LARGE = 10**400
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"job_id": None}, "job_id", "required"), ({"job_id": ""}, "job_id", "length(1..=256)"),
    ({"job_id": 7}, "job_id", "type(string)"), ({"prompt": None}, "prompt", "required"),
    ({"prompt": ""}, "prompt", "length(1..=32768)"), ({"prompt": "x" * 32769}, "prompt", "length(1..=32768)"),
    ({"prompt": ["x"]}, "prompt", "type(string)"), ({"max_tokens": None}, "max_tokens", "required"),
    ({"max_tokens": 0}, "max_tokens", "range(1..=2048)"), ({"max_tokens": 2049}, "max_tokens", "range(1..=2048)"),
    ({"max_tokens": "10"}, "max_tokens", "type(integer)"), ({"max_tokens": 1.5}, "max_tokens", "type(integer)"),
    ({"max_tokens": True}, "max_tokens", "type(integer)"), ({"max_tokens": LARGE}, "max_tokens", "range(1..=2048)"),
    ({"temperature": -0.1}, "temperature", "range(0.0..=2.0)"),
    ({"temperature": 2.1}, "temperature", "range(0.0..=2.0)"),
    ({"temperature": "hot"}, "temperature", "type(number)"), ({"top_p": 1.01}, "top_p", "range(0.0..=1.0)"),
    ({"min_p": -1}, "min_p", "range(0.0..=1.0)"), ({"top_k": -1}, "top_k", "range(0..=4294967295)"),
    ({"top_k": 2**32}, "top_k", "range(0..=4294967295)"), ({"seed": -1}, "seed", "range(0..=18446744073709551615)"),
    ({"seed": 2**64}, "seed", "range(0..=18446744073709551615)"),
    ({"repetition_penalty": 2.5}, "repetition_penalty", "range(0.0..=2.0)"),
    ({"stop": "x"}, "stop", "type(array of string)"), ({"stop": [1]}, "stop", "type(array of string)"),
    ({"stop": ["x"] * 5}, "stop", "items(..=4)"), ({"stop": [""]}, "stop", "length(1..=100)"),
    ({"stop": ["ü" * 51]}, "stop", "length(1..=100)"), ({"temprature": 1}, "temprature", "known"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "name", "constraint"), WRONG, ids=lambda value: str(value)[:30])
def test_a_field_that_is_wrong(slot: FakeSlot, fields: dict[str, Any], name: str, constraint: str) -> None:
    status, _, answer = post(slot.port, "/execute", {**BODY, **fields})
    assert status == 400 and set(answer) == {"errors"}
    (error,) = answer["errors"]
    assert (error["field"], error["constraint"]) == (name, constraint) and name in error["message"]
    value = fields[name]
    told = isinstance(value, (int, float)) and value != LARGE and name not in ("job_id", "temprature")
    assert ("value" in error) == told and (not told or error["value"] == value)
    assert not slot.service.seen


def test_all_errors_come_at_once_and_the_prompt_is_never_repeated(slot: FakeSlot) -> None:
    canary = "canary" * 10_000
    bad = {"prompt": canary, "max_tokens": 0, "temperature": 9, "top_k": -1, "stop": [canary], "canary" + canary: 1}
    status, _, answer = post(slot.port, "/execute", bad)
    fields = [error["field"] for error in answer["errors"]]
    assert status == 400 and fields[:-1] == ["job_id", "prompt", "max_tokens", "temperature", "top_k", "stop"]
    assert len(json.dumps(answer)) < 2000


@pytest.mark.parametrize("fields", [{}, {"stop": []}, {"stop": None, "seed": None, "temperature": None}])
def test_the_defaults_are_those_of_rbee(slot: FakeSlot, fields: dict[str, Any]) -> None:
    assert execute_(slot, **fields)[0] == 200
    (request,) = slot.service.seen
    s = request.sampling
    assert (s.temperature, s.top_p, s.min_p, s.top_k, s.seed, s.repetition_penalty) == (1.0, 1.0, 0.0, 0, 42, 1.0)
    assert (request.prompt, request.max_tokens, request.stop) == ("Once upon a time", 20, ())
    assert request.messages is None and request.time_cap == 600.0


def test_the_ends_of_every_range_are_taken(slot: FakeSlot) -> None:
    low = {"temperature": 0, "top_p": 0, "min_p": 0, "top_k": 0, "seed": 0, "repetition_penalty": 0, "max_tokens": 1}
    high = {
        "temperature": 2, "top_p": 1, "min_p": 1, "top_k": 2**32 - 1, "seed": 2**64 - 1, "repetition_penalty": 2,
        "max_tokens": 2048, "prompt": "x" * 32768, "stop": ["ü" * 50] * 4, "job_id": "j" * 256,
    }  # fmt: skip
    assert execute_(slot, **low)[0] == execute_(slot, **high)[0] == 200
    first, second = slot.service.seen
    assert first.sampling.repetition_penalty == 1.0, "0 would divide by it: off"
    assert second.sampling.top_k == 2**31 - 1 and second.max_tokens == 1024, "as many as the context has"


def test_a_body_that_is_no_json(slot: FakeSlot) -> None:
    for body in (b"", b"{", b"[]", b'{"a": NaN}', b'{"job_id": "a", "job_id": "b"}'):
        status, _, answer = post(slot.port, "/execute", body)
        assert status == 400 and answer["code"] == "INVALID_REQUEST" and answer["retriable"] is False
        assert set(answer) == {"code", "message", "retriable"}
    status, headers, answer = get(slot.port, "/execute")
    assert status == 405 and headers["allow"] == "POST" and answer["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("error", "status", "code", "retriable"),
    [
        (RequestError("full", status=429, details={"retry_after": 1}), 503, "WORKER_UNHEALTHY", True),
        (RequestError("none", status=503, details={"retry_after": 9}), 503, "WORKER_UNHEALTHY", True),
        (RequestError("late", status=408), 408, "INFERENCE_TIMEOUT", True),
        (RequestError("long", code="context_length_exceeded"), 400, "INVALID_REQUEST", False),
        (RequestError("died", status=500, code="engine_died"), 500, "INTERNAL", True),
        (LlmctlError("bug"), 500, "INTERNAL", False),
        (RequestError("memory", status=500, code="out_of_memory"), 500, "CUDA_ERROR", False),
    ],
)
def test_an_error_before_the_first_token(error: LlmctlError, status: int, code: str, retriable: bool) -> None:
    with serve(FakeService(refusal=error)) as slot:
        found, headers, answer = execute_(slot)
        assert found == status and answer == {"code": code, "message": error.message, "retriable": retriable}
        assert ("retry-after" in headers) == (status == 503)


def test_who_leaves_cancels() -> None:
    with serve(FakeService(words=["x"] * 1000, pause=0.05)) as slot:
        with connect(slot.port) as sock:
            sock.sendall(post_bytes("/execute", json.dumps(BODY).encode()))
            sock.recv(1000)
            assert slot.service.active == 1
        eventually(lambda: slot.service.active == 0)


# ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_made_read_once_and_forgotten(slot: FakeSlot) -> None:
    body = {key: value for key, value in BODY.items() if key != "job_id"}
    status, _, job = post(slot.port, "/v1/jobs", body)
    assert status == 200 and job == {"job_id": job["job_id"], "sse_url": f"/v1/jobs/{job['job_id']}/stream"}
    assert not slot.service.seen, "a job starts when it is read"
    status, _, text = get(slot.port, job["sse_url"])
    rows = sse(text)
    assert status == 200 and rows[0]["job_id"] == job["job_id"] and rows[-1]["type"] == "end"
    for path in (job["sse_url"], "/v1/jobs/nope/stream"):
        status, _, answer = get(slot.port, path)
        assert status == 404 and answer["code"] == "INVALID_REQUEST" and answer["retriable"] is False
    assert get(slot.port, f"/v1/jobs/{job['job_id']}")[0] == get(slot.port, "/v1/jobs/")[0] == 404


def test_a_job_keeps_the_id_that_its_client_gave_it(slot: FakeSlot) -> None:
    odd = "my job/1 ü?#"
    status, _, job = post(slot.port, "/v1/jobs", {**BODY, "job_id": odd})
    assert status == 200 and job["job_id"] == odd and job["sse_url"] == "/v1/jobs/my%20job%2F1%20%C3%BC%3F%23/stream"
    status, _, answer = post(slot.port, "/v1/jobs", {**BODY, "job_id": odd})
    assert status == 400 and answer["errors"][0]["constraint"] == "unique"
    assert sse(get(slot.port, job["sse_url"])[2])[0]["job_id"] == odd
    assert post(slot.port, "/v1/jobs", {**BODY, "job_id": odd})[0] == 200, "it was read: the id is free"


def test_a_wrong_job_is_refused_at_once(slot: FakeSlot) -> None:
    status, _, answer = post(slot.port, "/v1/jobs", {"prompt": "", "max_tokens": 0})
    assert status == 400 and [error["field"] for error in answer["errors"]] == ["prompt", "max_tokens"]


def test_jobs_that_wait_are_bounded_in_number_and_age() -> None:
    now = [0.0]
    jobs = Jobs(lambda: now[0])
    job = read_execute(BODY, None, 1.0)

    def named(id: str) -> Asked:
        return replace(job, options=Job(id, 0))

    for i in range(MOST):
        jobs.add(named(str(i)))
        now[0] += 0.1
    with pytest.raises(RequestError) as caught:
        jobs.add(named("one more"))
    assert caught.value.status == 503 and caught.value.details["retry_after"] == pytest.approx(AGE - now[0])
    jobs.take("1")
    jobs.add(named("one more"))
    now[0] = AGE + 0.05
    with pytest.raises(RequestError, match="no such job"):
        jobs.take("0")
    assert jobs.take("2") and jobs.take("one more")
    now[0] += AGE
    jobs.add(named("last"))
    assert list(jobs._waiting) == ["last"]


# ── readiness ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("state", "ready", "told"),
    [
        ("ready", True, {"ready": True, "state": "idle", "model_loaded": True}),
        ("swapping", True, {"ready": True, "state": "idle", "model_loaded": True}),
        ("sleeping", False, {"ready": True, "state": "idle", "model_loaded": False}),
        ("starting", False, {"ready": False, "state": "loading", "model_loaded": False}),
        ("backoff", False, {"ready": False, "state": "loading", "model_loaded": False}),
        ("crash-loop", False, {"ready": False, "state": "error", "model_loaded": False}),
        ("empty", False, {"ready": False, "state": "error", "model_loaded": False}),
    ],
)
def test_readiness(slot: FakeSlot, state: str, ready: bool, told: dict[str, Any]) -> None:
    slot.service.state = {"verdict": "ok", "state": state, "ready": ready}
    url = {"progress_url": "/v1/loading/progress"} if told["state"] == "loading" else {}
    status, _, answer = get(slot.port, "/v1/ready")
    assert status == 200 and answer == {**told, **url}


@pytest.mark.parametrize(
    ("state", "last"),
    [("ready", {"stage": "ready"}), ("crash-loop", {"stage": "error", "message": "the slot is crash-loop"})],
)
def test_the_progress_of_a_load_and_its_end(
    slot: FakeSlot, monkeypatch: pytest.MonkeyPatch, state: str, last: dict[str, str]
) -> None:
    monkeypatch.setattr(execute, "POLL", 0.05)
    shown: list[dict[str, Any]] = [
        {"stage": "start", "done": 0, "total": 0},
        {"stage": "weights", "done": 250_000_000, "total": 10**9},
        {"stage": "weights", "done": 10**9, "total": 10**9},
    ]
    slot.service.state = {"verdict": "ok", "state": "starting", "ready": False, "progress": shown[0]}
    with connect(slot.port) as sock:
        sock.sendall(b"GET /v1/loading/progress HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data = b""
        for step, mark in zip(shown, (b'"layers_loaded": 0', b'"layers_loaded": 25', b'"vram_mb": 1000'), strict=True):
            slot.service.state = {**slot.service.state, "progress": step}
            while mark not in data:
                data += sock.recv(1000)
        slot.service.state = {"verdict": "ok", "state": state, "ready": state == "ready"}
        while piece := sock.recv(1000):
            data += piece
    rows = sse(data.decode())
    assert rows[:-1] == [
        {"stage": "loading_to_vram", "layers_loaded": done, "layers_total": 100, "vram_mb": mb}
        for done, mb in ((0, 0), (25, 250), (100, 1000))
    ]
    assert rows[-1] == last
    assert not slot.service.seen


def test_who_leaves_the_progress_of_a_load_is_forgotten(slot: FakeSlot) -> None:
    slot.service.state = {"verdict": "ok", "state": "starting", "ready": False}
    with connect(slot.port) as sock:
        sock.sendall(b"GET /v1/loading/progress HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sock.recv(1000)
        eventually(lambda: in_flight(slot) == 2)
    eventually(lambda: in_flight(slot) == 1)


def in_flight(slot: FakeSlot) -> float:
    """Requests being answered, this one among them."""
    lines = get(slot.port, "/metrics")[2].splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("llmctl_requests_in_flight "))
