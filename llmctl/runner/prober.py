"""Ask a new engine the slot's probe, twice, before it gets traffic."""

from __future__ import annotations

import asyncio
import uuid

from llmctl.domain import EMBED, RERANK, TEXT, GenerateRequest, Probe, Sampling, Task
from llmctl.errors import LlmctlError, LoadFailed
from llmctl.runner.engine_process import EngineProcess
from llmctl.slots.probe import Answer, fault, odd, pieces

TIMES = 2


async def probe(engine: EngineProcess, timeout: float) -> None:
    """LoadFailed unless the engine is who it should be and answers the probe twice, sanely and the same."""
    spec, identity = engine.spec, engine.identity
    assert identity
    if identity.model != spec.model:
        raise LoadFailed(f"asked for {spec.model}, the engine says that it is {identity.model}")
    try:
        if TEXT in identity.outputs:
            why = fault(
                spec.probe, [await asyncio.wait_for(_answer(engine, spec.probe), timeout) for _ in range(TIMES)]
            )
        else:
            why = odd([await asyncio.wait_for(_numbers(engine, spec.probe), timeout) for _ in range(TIMES)])
    except (asyncio.TimeoutError, TimeoutError):
        raise LoadFailed(f"{spec.model} did not answer its probe within {timeout:.0f} s") from None
    except LlmctlError as error:
        raise LoadFailed(f"{spec.model} failed its probe: {error.message}", details=error.details) from error
    if why:
        raise LoadFailed(
            f"{spec.model} failed its probe: {why}",
            hint="the weights or the template are damaged: pull or convert the model again",
        )


async def _numbers(engine: EngineProcess, probe: Probe) -> list[float]:
    """What a model that generates no text makes of the probe's prompt."""
    can = engine.identity.capabilities if engine.identity else ()
    task = Task(f"probe-{uuid.uuid4().hex[:12]}", RERANK, {"query": probe.prompt, "documents": [probe.prompt]})
    if EMBED in can:
        task = Task(task.id, EMBED, {"inputs": [probe.prompt]})
    async with engine.begin(task) as stream:
        value = await stream.value()
    return list(value["vectors"][0] if EMBED in can else value["scores"])


async def _answer(engine: EngineProcess, probe: Probe) -> Answer:
    chat = engine.identity.chat if engine.identity else True
    request = GenerateRequest(
        id=f"probe-{uuid.uuid4().hex[:12]}",
        messages=({"role": "user", "content": probe.prompt},) if chat else None,
        prompt=None if chat else probe.prompt,
        sampling=Sampling(temperature=0.0),
        max_tokens=probe.max_tokens,
        fresh=True,
        logprobs=0 if engine.identity and "logprobs" in engine.identity.capabilities else None,
    )
    text, ids, logprobs, finish = "", [], [], ""
    async with engine.begin(request) as stream:
        await stream.accepted()
        async for chunks in stream:
            for chunk in chunks:
                text += chunk.reasoning + chunk.text
                ids += [t.id for t in chunk.logprobs]
                logprobs += [t.logprob for t in chunk.logprobs]
                finish = chunk.finish or finish
    return Answer(text, tuple(ids) or pieces(text), tuple(logprobs), finish)
