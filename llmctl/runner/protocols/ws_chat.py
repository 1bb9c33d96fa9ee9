"""OpenAI's chat over a WebSocket: /v1/chat/completions, a message in is a request's body, messages out its events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmctl.errors import LlmctlError
from llmctl.runner.exchange import error_object
from llmctl.runner.link import Link
from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.asked import Asked
from llmctl.runner.protocols.conversation import Conversation, Speaker
from llmctl.runner.protocols.openai_answers import ChatAnswer
from llmctl.runner.protocols.openai_fields import read_chat
from llmctl.runner.protocols.protocol import Protocol
from llmctl.runner.service import Service

DONE = "[DONE]"


def protocol(service: Service, metrics: Metrics) -> Protocol:
    """This protocol's part of a slot."""

    async def chat(link: Link) -> None:
        await Conversation(service, metrics, link, Chat(service)).run()

    return Protocol({}, sockets={"/v1/chat/completions": chat})


class Chat(Speaker):
    """Every turn ends with DONE, an error's too; an error that comes while another turn runs does not."""

    answer = ChatAnswer

    def __init__(self, service: Service) -> None:
        self._service = service

    async def hear(self, message: Mapping[str, Any]) -> Asked:
        return read_chat({**message, "stream": True}, self._service.limits.request_time)

    def shown(self, error: LlmctlError, *, answering: bool) -> Sequence[str]:
        found = json.dumps(error_object(error))
        return [found] if answering else [found, DONE]
