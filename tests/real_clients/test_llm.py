"""The `llm` command itself, told of the slots in its extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunningSlot, eventually
from tests.real_clients.test_clients import ANSWER, CUT, MANY, fits

pytestmark = pytest.mark.models

GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "96")
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "colour": {"type": "string", "enum": ["red", "green"]},
            "count": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
)
TIMEOUT = 120


class Llm:
    """The program with a folder of its own; `models` are what its file says of the slots."""

    def __init__(self, python: Path, folder: Path, models: list[dict[str, object]]) -> None:
        (folder / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
        self.program = python.parent / "llm"
        self.environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LLM_USER_PATH": str(folder)}

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.program, *argv],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *argv: str, fails: bool = False) -> str:
        """What it prints; on stderr when it is to fail."""
        ran = self.start(*argv)
        out, error = ran.communicate(timeout=TIMEOUT)
        assert (ran.returncode != 0) == fails, error
        return (error if fails else out).strip()


@pytest.fixture(scope="module")
def llm(
    python: Callable[[str], Path],
    setting: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Llm:
    able = {"supports_schema": True, "supports_tools": True, "vision": True}
    models: list[dict[str, object]] = [
        {"model_id": "slot", "aliases": ["s"], "model_name": "tiny", "api_base": f"{setting['url']}/v1", **able},
        {"model_id": "completion", "model_name": "tiny", "api_base": f"{setting['url']}/v1", "completion": True},
        {"model_id": "responses", "model_name": "tiny", "api_base": f"{setting['url']}/v1", "responses": True},
        {"model_id": "other", "model_name": "org/other", "api_base": f"{setting['url']}/v1"},
        {"model_id": "seeing", "model_name": "tiny", "api_base": f"{setting['seeing']}/v1", **able},
        {"model_id": "locked", "model_name": "tiny", "api_base": f"{setting['endless']}/v1"},
        {
            "model_id": "endless",
            "model_name": "tiny",
            "api_base": f"{setting['endless']}/v1",
            "headers": {"x-api-key": setting["key"]},
        },
    ]
    return Llm(python("clients"), tmp_path_factory.mktemp("llm"), models)


def test_text_streamed_and_whole(llm: Llm) -> None:
    assert llm("-m", "slot", *GREEDY, "What is a slot?") == ANSWER
    assert llm("-m", "s", "--no-stream", *GREEDY, "What is a slot?") == ANSWER
    assert llm("-m", "responses", "-o", "temperature", "0", "What is a slot?") == ANSWER
    assert llm("-m", "completion", "-o", "max_tokens", "4", "A slot is")
    assert "slot" in llm("models")


def test_stop(llm: Llm) -> None:
    assert llm("-m", "slot", *GREEDY, "-o", "stop", CUT, "What is a slot?") == ANSWER.partition(CUT)[0].strip()


def test_a_conversation_goes_on(llm: Llm) -> None:
    llm("-m", "slot", *GREEDY, "What is a slot?")
    assert llm("-c", *GREEDY, "What is a slot?")


def test_an_answer_keeps_to_a_schema(llm: Llm) -> None:
    assert fits(json.loads(llm("-m", "slot", *GREEDY, "--schema", SCHEMA, "What is a slot?")))


def test_tools_are_offered(llm: Llm) -> None:
    """It cannot require a call: that the slot takes the tools and answers is what is to be seen."""
    assert llm("-m", "slot", *GREEDY, "--functions", "def paint(colour: str) -> str:\n    return colour\n", "Hello")


def test_an_image_is_described(llm: Llm, setting: dict[str, str]) -> None:
    found = llm("-m", "seeing", *GREEDY, "-a", setting["image"], "What is in the picture?")
    assert found == setting["shows"]


def test_an_error_is_a_line_and_a_status(llm: Llm) -> None:
    assert "this slot serves tiny" in llm("-m", "other", "Hello", fails=True)
    assert "top_p: must be above 0" in llm("-m", "slot", "-o", "top_p", "0", "Hello", fails=True)
    assert "a valid key is needed" in llm("-m", "locked", "Hello", fails=True)


def test_ctrl_c_frees_the_engine(llm: Llm, endless_slot: tuple[RunningSlot, str]) -> None:
    slot, _ = endless_slot
    ran = llm.start("-m", "endless", "-o", "max_tokens", str(MANY), "What is a slot?")
    assert ran.stdout is not None
    eventually(lambda: slot.status().active == 1)
    os.read(ran.stdout.fileno(), 1)
    ran.send_signal(signal.SIGINT)
    ran.communicate(timeout=TIMEOUT)
    eventually(lambda: slot.status().active == 0)
    assert slot.state() == "ready"
