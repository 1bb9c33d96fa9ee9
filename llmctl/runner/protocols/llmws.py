"""llmws: chat over a WebSocket, on `/` and `/ws`, in the shapes that its clients know (docs/websocket.md)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from llmctl.domain import IMAGE, Chunk, Usage
from llmctl.errors import LlmctlError, RequestError, nearest
from llmctl.runner.link import REFUSED, RESTARTS, Link
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.asked import Asked, Events, new_id
from llmctl.runner.protocols.checks import object_, text, wrong
from llmctl.runner.protocols.conversation import Conversation, Speaker, event, parsed
from llmctl.runner.protocols.llmws_fields import CONFIG, read_config, read_inference
from llmctl.runner.protocols.protocol import Protocol
from llmctl.runner.service import Service

HELLO = 10.0  # seconds that a client has for its first message
SESSION = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
NUMBERS = ("max_context", "input_length")  # details of an error that its message shows
TRAINING = {"active": False}
NOT_HERE = {
    "train": "training is no part of a slot",
    "train_status": "training is no part of a slot",
    "save_snapshot": "training is no part of a slot",
    "download_model": "models are not downloaded over this socket: llmctl pull MODEL",
    "delete_model": "models are not deleted over this socket: llmctl models rm MODEL",
}


def protocol(service: Service, metrics: Metrics) -> Protocol:
    """This protocol's part of a slot."""

    async def talk(link: Link) -> None:
        speaker = Talk(service, link)
        if await _greeted(link, speaker):
            await Conversation(service, metrics, link, speaker).run()

    return Protocol({}, sockets={"/": talk, "/ws": talk})


async def _greeted(link: Link, speaker: Talk) -> bool:
    """Whether the client has said hello; else the connection is closed."""
    try:
        message = await asyncio.wait_for(link.hear(), HELLO)
        if message is None:
            await link.close(RESTARTS, "the server restarts")
            return False
        await speaker.hello(parsed(message))
        return True
    except (asyncio.TimeoutError, TimeoutError):
        error = RequestError(f"no hello within {HELLO:.0f} s")
    except RequestError as found:
        error = found
    for shown in speaker.shown(error, answering=False):
        await link.say(shown)
    await link.close(REFUSED, "no hello")
    return False


class LlmwsEvents(Events):
    """start, token…, done or error. `asked.options` is the context of the model, where it is known."""

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._started = False

    def events(self, chunks: Sequence[Chunk]) -> bytes:
        opening = b"" if self._started else event({"type": "start", **self._start()})
        self._started = True
        return opening + b"".join(event({"type": "token", "data": one.text}) for one in chunks if one.text)

    def _start(self) -> dict[str, Any]:
        request, context = self.request, self.asked.options
        room = context - self.prompt_tokens if context else request.max_tokens
        return {
            "tokens_in": self.prompt_tokens,
            "max_tokens": min(request.max_tokens or room, room) if room else None,
            "images_in": len(self.asked.sources),
            "multimodal": bool(self.asked.sources),
            "do_sample": request.sampling.temperature > 0,
        }

    def end(self, usage: Usage) -> bytes:
        return event({"type": "done", "total_tokens": usage.completion})

    def failed(self, error: LlmctlError) -> bytes:
        return event(_error(error))


def _error(error: LlmctlError) -> dict[str, Any]:
    numbers = {name: error.details[name] for name in NUMBERS if name in error.details}
    return {"type": "error", "message": error.message, **numbers}


class Talk(Speaker):
    """One client. Its messages by `type`; one without is an inference."""

    answer = LlmwsEvents

    def __init__(self, service: Service, link: Link) -> None:
        self._service, self._link = service, link
        self._settings: Mapping[str, Any] = {}  # for inferences that do not say otherwise
        self._verbs: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[None]]] = {
            "hello": self.hello,
            "ping": self._ping,
            "config": self._config,
            "ack": self._ack,
            "get_resources": self._get_resources,
            "get_status": self._get_status,
            "list_models": self._list_models,
            "switch_model": self._switch_model,
        }

    async def hear(self, message: Mapping[str, Any]) -> Asked | None:
        kind = message.get("type")
        if kind is None or kind == "inference":
            service = self._service
            return read_inference(message, self._settings, service.identity(), service.limits.request_time)
        if text("type", kind) in NOT_HERE:
            raise RequestError(f"{kind} is refused: {NOT_HERE[kind]}", param="type", code="unsupported")
        if kind not in self._verbs:
            close = nearest(kind[:64], ["inference", *self._verbs])
            raise wrong("type", "there is no such message" + (f"; did you mean {close}?" if close else ""))
        await self._verbs[kind](message)
        return None

    def shown(self, error: LlmctlError, *, answering: bool) -> Sequence[str]:
        return [json.dumps(_error(error))]

    async def _say(self, kind: str, **fields: Any) -> None:
        await self._link.say(json.dumps({"type": kind, **fields}))

    async def hello(self, message: Mapping[str, Any]) -> None:
        """The first message: welcome. RequestError when it is another."""
        kind = message.get("type", "hello")
        if kind != "hello" or "prompt" in message:
            raise wrong("type", "the first message must be a hello")
        session = message.get("session_id")
        known = isinstance(session, str) and SESSION.fullmatch(session)
        identity = self._service.identity()
        await self._say(
            "welcome",
            session_id=session if known else new_id("session"),
            model=next(iter(self._service.served_names()), None),
            capabilities={
                "vision": bool(identity and IMAGE in identity.inputs),
                "flash_attention": False,
                "sdpa": bool(identity and identity.engine == "torch"),
                "compute_capability": None,
                "max_context": identity.context if identity else None,
                "training": False,
            },
            resources=self._resources(),
            training=TRAINING,
        )

    async def _ping(self, message: Mapping[str, Any]) -> None:
        await self._say("pong")

    async def _config(self, message: Mapping[str, Any]) -> None:
        """Settings for the inferences that follow; what this server does not know is told, not refused."""
        data = object_("data", message.get("data", {}))
        unknown = [name for name in data if name not in CONFIG]
        self._settings = {**self._settings, **read_config(data, "data", ignored=unknown)}
        await self._say("config_ack", ignored=[name[:64] for name in unknown[:16]])

    async def _ack(self, message: Mapping[str, Any]) -> None:
        await self._say("ack_received")

    async def _get_resources(self, message: Mapping[str, Any]) -> None:
        await self._say("resources", resources=self._resources())

    async def _get_status(self, message: Mapping[str, Any]) -> None:
        health = self._service.health()
        await self._say("status", **{key: health[key] for key in ("state", "model", "ready", "active", "queued")})

    async def _list_models(self, message: Mapping[str, Any]) -> None:
        """The model of this slot: it has no other."""
        names, identity = self._service.served_names(), self._service.identity()
        size = round(identity.memory_bytes / 1e6, 1) if identity else 0.0
        models = [{"name": name, "path": name, "source": "slot", "size_mb": size} for name in names[:1]]
        await self._say("models_list", models=models)

    async def _switch_model(self, message: Mapping[str, Any]) -> None:
        """With the admin key, to the model that is served already; another one is an operator's to bring."""
        wanted = text("model_path", message.get("model_path"))
        try:
            self._link.require_admin()
            self._service.check_model(wanted)
        except RequestError as error:
            raise RequestError(f"{error.message}; what changes a slot's model is: llmctl swap PORT MODEL") from None
        await self._say("model_switched", model=next(iter(self._service.served_names()), None))

    def _resources(self) -> dict[str, Any]:
        identity, health = self._service.identity(), self._service.health()
        return {
            "device": identity.device if identity else None,
            "engine": identity.engine if identity else None,
            "memory_bytes": identity.memory_bytes if identity else 0,
            "parallel": identity.parallel if identity else 0,
            "active": health["active"],
            "queued": health["queued"],
        }
