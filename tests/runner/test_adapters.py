"""The adapter that a request names: as it was loaded, or 404 before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctl.runner.protocols.openai_completions import read_completion
from llmctl.runner.protocols.openai_fields import read_chat
from tests.clients import chat, post
from tests.conftest import RunningSlot


def test_the_field_reaches_the_request() -> None:
    hello = [{"role": "user", "content": "hi"}]
    assert read_chat({"messages": hello, "adapter": "polite"}, 60.0).request.adapter == "polite"
    assert read_chat({"messages": hello}, 60.0).request.adapter is None
    assert read_completion({"prompt": "hi", "adapter": "polite"}, 60.0).request.adapter == "polite"


@pytest.mark.parametrize("stream", [False, True])
def test_an_adapter_that_is_not_loaded_is_404(scripted_slot: RunningSlot, tmp_path: Path, stream: bool) -> None:
    status, _, answer = chat(scripted_slot.port, adapter="polite", stream=stream)
    assert status == 404 and answer["error"]["param"] == "adapter" and "'polite'" in answer["error"]["message"]
    status, _, answer = post(scripted_slot.port, "/v1/completions", {"prompt": "hi", "adapter": "polite"})
    assert status == 404 and answer["error"]["param"] == "adapter"
    assert chat(scripted_slot.port)[0] == 200
