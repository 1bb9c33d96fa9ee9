"""What `client-config` prints, pasted into real programs: they find the slot, and bring the key that it wants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl import keys
from llmctl.domain import EngineSpec, SlotSpec
from tests.conftest import REPO, RunningSlot

pytestmark = pytest.mark.slow

ANSWER = "I am alpha."
SDK = """\
import openai
said = openai.OpenAI().chat.completions.create(model="alpha", messages=[{"role": "user", "content": "Who?"}])
print(said.choices[0].message.content)
"""
ANTHROPIC = """\
import anthropic, os
said = anthropic.Anthropic().messages.create(
    model=os.environ["ANTHROPIC_MODEL"], max_tokens=20, messages=[{"role": "user", "content": "Who?"}]
)
print(said.content[0].text)
"""


@pytest.fixture(scope="module")
def keyed_slot(open_slot: Callable[..., RunningSlot], clients_home: Path) -> RunningSlot:
    """A slot that wants a key, with `alpha`, also called `first`."""
    keys.show(clients_home)
    path = clients_home / "alpha.json"
    path.write_text(json.dumps({"answers": {"Who?": ANSWER}}))
    engine = EngineSpec("scripted", "alpha", str(path), "script", context=1024)
    return open_slot(SlotSpec(engine, names=("first",)), require_key=True)


@pytest.fixture
def shell(python: Callable[[str], Path], clients_home: Path, tmp_path: Path) -> Callable[[str], str]:
    """shell(script) → what it prints, with the clients' programs and llmctl in its PATH and a home of its own."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "llmctl"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={REPO} exec {sys.executable} -m llmctl "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join(map(str, (python("clients").parent, program.parent, "/usr/bin", "/bin")))
    environment = {"PATH": path, "HOME": str(tmp_path), "LLMCTL_HOME": str(clients_home)}

    def run(script: str) -> str:
        ran = subprocess.run(
            ["sh", "-ec", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout.strip()

    return run


def config(shell: Callable[[str], str], kind: str, slot: RunningSlot) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shell(f"llmctl client-config {kind} {slot.port} --json"))["data"]
    return found


def test_llm(shell: Callable[[str], str], keyed_slot: RunningSlot) -> None:
    data = config(shell, "llm", keyed_slot)
    (part,), (note,) = data["parts"], data["notes"]
    shell(f"cat >{part['file']} <<'END'\n{part['text']}END\n{note}")
    assert shell("llm -m alpha Who?") == ANSWER
    assert shell("llm -m first --no-stream Who?") == ANSWER


def test_the_sdk_of_openai(shell: Callable[[str], str], keyed_slot: RunningSlot) -> None:
    (part,) = config(shell, "openai", keyed_slot)["parts"]
    assert shell(f"{part['text']}\npython - <<'END'\n{SDK}END") == ANSWER


def test_the_sdk_of_anthropic(shell: Callable[[str], str], keyed_slot: RunningSlot) -> None:
    (part,) = config(shell, "claude-code", keyed_slot)["parts"]
    assert shell(f"{part['text']}\npython - <<'END'\n{ANTHROPIC}END") == ANSWER
