"""What may have the gateway's port: our own gateway, or a LiteLLM."""

from __future__ import annotations

from llmctl.domain import GATEWAY, SlotSpec
from llmctl.runner.port_server import PortServer

LITELLM = "litellm"
NAMES = {GATEWAY: "llmctl's own", LITELLM: "a LiteLLM"}
"""By the model that the desired state of its port names."""


def server(spec: SlotSpec) -> type[PortServer]:
    """The server of a port with that content."""
    if spec.model == LITELLM:
        from llmctl.gateway.litellm_server import LiteLlmServer

        return LiteLlmServer
    from llmctl.gateway.server import GatewayServer

    return GatewayServer
