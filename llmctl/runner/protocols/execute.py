"""The worker protocol of rbee: /execute, jobs, readiness and the progress of a load (docs/rbee.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from llmctl import domain
from llmctl.errors import RequestError
from llmctl.runner import json_in
from llmctl.runner.exchange import EVENTS, Exchange
from llmctl.runner.metrics import Meter, Metrics
from llmctl.runner.protocols.asked import Asked, Routes, as_stream, begin, new_id
from llmctl.runner.protocols.conversation import event
from llmctl.runner.protocols.execute_answers import ExecuteEvents, in_its_words, shown
from llmctl.runner.protocols.execute_fields import read_execute
from llmctl.runner.protocols.execute_jobs import Jobs
from llmctl.runner.protocols.protocol import Protocol
from llmctl.runner.service import Service

LOADING = (domain.STARTING, domain.SWAPPING, domain.BACKOFF)
PROGRESS = "/v1/loading/progress"
POLL = 0.25  # seconds between looks at a load
WHOLE = 100  # "layers" of a load: engines count bytes, so these are hundredths


def protocol(service: Service, metrics: Metrics) -> Protocol:
    """This protocol's part of a slot."""
    jobs = Jobs()

    def read(body: bytes, job_id: str | None = None) -> Asked:
        return read_execute(json_in.parse(body), service.identity(), service.limits.request_time, job_id)

    async def execute(exchange: Exchange) -> None:
        began = time.monotonic()
        asked = read(await exchange.body())
        await exchange.while_connected(_answer(service, metrics, exchange, asked, began))

    async def new_job(exchange: Exchange) -> None:
        id = jobs.add(read(await exchange.body(), new_id("job")))
        await exchange.json({"job_id": id, "sse_url": f"/v1/jobs/{quote(id, safe='')}/stream"})

    async def job(exchange: Exchange) -> None:
        began = time.monotonic()
        id, _, what = exchange.rest.rpartition("/")
        if what != "stream":
            raise RequestError("there is no such route", status=404, code="not_found")
        await exchange.body()
        await exchange.while_connected(_answer(service, metrics, exchange, jobs.take(id), began))

    async def ready(exchange: Exchange) -> None:
        health = service.health()
        state = _state(health)
        told = {"ready": state == "idle", "state": state, "model_loaded": bool(health["ready"])}
        await exchange.json({**told, **({"progress_url": PROGRESS} if state == "loading" else {})})

    async def progress(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.while_connected(_tell_progress(service, exchange))

    routes: Routes = {
        "/execute": {"POST": execute},
        "/v1/jobs": {"POST": new_job},
        "/v1/jobs/": {"GET": job},
        "/v1/ready": {"GET": ready},
        PROGRESS: {"GET": progress},
    }
    return Protocol(routes, shown)


async def _answer(service: Service, metrics: Metrics, exchange: Exchange, asked: Asked, began: float) -> None:
    try:
        async with await begin(service, asked) as stream:
            answer = ExecuteEvents(asked, stream.model, stream.prompt_tokens)
            await as_stream(exchange, stream, answer, Meter(metrics, began, stream.prompt_tokens))
    except RequestError as error:
        raise in_its_words(error) from None


def _state(health: Mapping[str, Any]) -> str:
    """loading, idle or error. A model that sleeps is idle: the next request wakes it."""
    if health["ready"] or health["state"] == domain.SLEEPING:
        return "idle"
    return "loading" if health["state"] in LOADING else "error"


async def _tell_progress(service: Service, exchange: Exchange) -> None:
    """Events until the load has ended; no longer than a request may take."""
    end, told = time.monotonic() + service.limits.request_time, b""
    await exchange.start(200, EVENTS)
    while (state := _state(service.health())) == "loading" and time.monotonic() < end:
        now = event({"stage": "loading_to_vram", **_loaded(service.health().get("progress") or {})})
        if now != told:
            await exchange.write(now)
            told = now
        await asyncio.sleep(POLL)
    message = f"the slot is {service.health()['state']}"
    last = {"stage": "ready"} if state == "idle" else {"stage": "error", "message": message}
    await exchange.write(event(last), last=True)


def _loaded(progress: Mapping[str, Any]) -> dict[str, int]:
    done, total = progress.get("done") or 0, progress.get("total") or 0
    weights = progress.get("stage") == "weights" and total
    return {
        "layers_loaded": round(WHOLE * done / total) if weights else 0,
        "layers_total": WHOLE,
        "vram_mb": round(done / 1e6) if weights else 0,
    }
