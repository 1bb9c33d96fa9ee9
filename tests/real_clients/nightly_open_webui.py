"""Open WebUI against a live slot, used in a browser. By hand or at night: scripts/nightly-clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import RunningSlot
from tests.real_clients import web_ui
from tests.real_clients.test_clients import ANSWER


def test_a_person_asks_and_is_answered(
    python: Callable[[str], Path], talking_slot: RunningSlot, tmp_path: Path
) -> None:
    asked = {"model": "tiny", "question": "What is a slot?", "answer": ANSWER}
    with web_ui.serving(python, tmp_path, talking_slot.base_url, "none") as url:
        said = web_ui.browsed(python, "open-webui", url=url, chats=[asked])
    assert ANSWER in said[0]
