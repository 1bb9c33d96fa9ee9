"""The protocol of the rbee worker: /execute, jobs, readiness and loading progress."""

from __future__ import annotations

from llmctl.runner.metrics import Metrics
from llmctl.runner.protocols.protocol import Protocol
from llmctl.runner.service import Service


def protocol(service: Service, metrics: Metrics) -> Protocol:
    """This protocol's part of a slot."""
    return Protocol({})
