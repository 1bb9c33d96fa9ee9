"""`llmctl pull` and `llmctl models verify` as an operator types them, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.models.making import make_folder
from tests.testbed.hub import Hub
from tests.testbed.repos import random_checkpoint

TOKEN = "hf_planted_secret_0123456789"
MB = 2**20


@dataclass
class Operator:
    """Types llmctl commands on a host of its own."""

    hub: Hub
    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        env |= {"LLMCTL_HOME": str(self.root / "home"), "HF_HOME": str(self.root / "hf"), "HF_ENDPOINT": self.hub.url}
        return subprocess.Popen(
            [sys.executable, "-m", "llmctl", *argv], env={**env, **self.environment}, cwd=self.root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def types(self, *argv: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        running = self.start(*argv)
        out, err = running.communicate(timeout=120)
        return running.returncode, out, err

    def asks(self, *argv: str) -> dict[str, Any]:
        """The envelope."""
        code, out, _ = self.types("--json", *argv)
        found: dict[str, Any] = json.loads(out)
        assert found["exit_code"] == code
        return found


@pytest.fixture
def operator(hub: Hub, tmp_path: Path) -> Operator:
    return Operator(hub, tmp_path)


def test_pull_again_verify_and_heal(operator: Operator, hub: Hub) -> None:
    make_folder(hub.root / "org" / "model")
    code, out, err = operator.types("pull", "org/model", "--dry-run")
    assert code == 0 and "would pull model: safetensors" in out and "architecture llama" in out and not err
    assert not (operator.root / "home" / "models").exists()
    code, out, err = operator.types("pull", "org/model")
    assert code == 0 and "fetched" in out and "licence apache-2.0" in out and "downloading" in err
    again = operator.asks("pull", "model")
    assert again["data"]["already"] and again["data"]["source"] == "org/model"
    assert [m["id"] for m in operator.asks("models", "list")["data"]["models"] if m["present"]] == ["model"]
    assert operator.asks("models", "verify")["data"]["artifacts"][0]["bad"] == []
    blob = Path(again["data"]["path"], "model.safetensors").resolve()
    blob.write_bytes(bytes(blob.stat().st_size))
    code, out, _ = operator.types("models", "verify", "model")
    assert code == 1 and "changed: " in out and "heal it: llmctl models verify model --repair" in out
    healed = operator.asks("models", "verify", "--repair")["data"]["artifacts"][0]
    assert healed["healed"] == ["model.safetensors"] and healed["bad"] == []


def test_one_artifact_that_cannot_be_healed_does_not_hide_the_others(operator: Operator, hub: Hub) -> None:
    for name in ("one", "two"):
        make_folder(hub.root / "org" / name)
        path = operator.asks("pull", f"org/{name}")["data"]["path"]
        blob = Path(path, "model.safetensors").resolve()
        blob.write_bytes(bytes(blob.stat().st_size))
    hub.fault("gated", times=1)
    found = operator.asks("models", "verify", "--repair")
    assert found["exit_code"] == 1 and [error["code"] for error in found["errors"]] == ["gated"]
    assert [(row["model"], row["bad"]) for row in found["data"]["artifacts"]] == [
        ("one", ["model.safetensors"]), ("two", []),
    ]  # fmt: skip


def test_detached_pulls_of_the_same_are_one_job(operator: Operator, hub: Hub) -> None:
    random_checkpoint(hub.root / "org" / "model", 4 * MB)
    hub.fault("slow", "model.*", seconds=0.02)
    first = operator.asks("pull", "org/model", "--detach")["data"]["detached"]
    code, out, err = operator.types("pull", "org/model")
    assert code == 0 and "joining" in err and "4.2 MB fetched" in out
    jobs = operator.asks("jobs", "list", "--all")["data"]["jobs"]
    assert [(job["id"], job["state"]) for job in jobs] == [(first["id"], "done")]
    assert hub.sent("model.safetensors") < 5 * MB


def test_a_cancelled_job_goes_on_where_it_was(operator: Operator, hub: Hub) -> None:
    random_checkpoint(hub.root / "org" / "model", 8 * MB)
    hub.fault("slow", "model.*", seconds=0.02)
    job = operator.asks("pull", "org/model", "--detach")["data"]["detached"]["id"]
    eventually(lambda: hub.sent("model.safetensors") > MB)
    assert operator.types("jobs", "cancel", str(job))[0] == 0
    hub.heal()
    assert operator.asks("pull", "org/model")["data"]["received"] < 8 * MB
    assert hub.sent("model.safetensors") < 8 * MB


@pytest.mark.parametrize(
    ("argv", "code", "hint"),
    [
        (("pull", "org/nope"), 1, "hf auth login"),
        (("pull", "../x"), 2, "org/name"),
        (("pull", "no-such-model"), 2, "llmctl models list"),
        (("pull", "org/model", "--format", "onnx"), 2, "safetensors"),
        (("pull", "org/model", "--revision", "v9"), 1, "without --revision"),
        (("pull", "tiny-qwen2"), 1, "llmctl models show tiny-qwen2"),
        (("models", "verify", "no-such-model"), 2, "llmctl models list"),
    ],
)
def test_every_refusal_has_its_exit_code_and_hint(operator: Operator, hub: Hub, argv, code, hint) -> None:
    make_folder(hub.root / "org" / "model")
    found = operator.asks(*argv)
    assert found["exit_code"] == code and hint in found["errors"][0]["hint"]
    shown = operator.types(*argv)
    assert shown[0] == code and "Traceback" not in shown[2] and "error: " in shown[2] and "hint: " in shown[2]


def test_offline_takes_the_cache_and_else_says_so(operator: Operator, hub: Hub) -> None:
    make_folder(hub.root / "org" / "model")
    assert operator.types("pull", "org/model")[0] == 0
    operator.environment["HF_HUB_OFFLINE"] = "1"
    hub.log.clear()
    assert operator.asks("pull", "org/model")["data"]["already"]
    (operator.root / "home" / "models" / "model").rename(operator.root / "gone")
    assert operator.asks("pull", "org/model")["data"]["received"] == 0
    error = operator.asks("pull", "org/other")
    assert error["exit_code"] == 4 and error["errors"][0]["hint"] == "unset HF_HUB_OFFLINE"
    assert not hub.log


def test_s09_the_token_is_nowhere_but_in_requests_to_the_hub(tmp_path: Path) -> None:
    """Not in files, output, errors or arguments: not when all goes well, nor when it fails."""
    random_checkpoint(tmp_path / "hub" / "org" / "model", 2 * MB)
    with Hub(tmp_path / "hub", redirect=True) as hub:
        operator = Operator(hub, tmp_path, {"HF_TOKEN": TOKEN})
        hub.fault("slow", "model.*", seconds=0.05)
        running = operator.start("--debug", "pull", "org/model")
        eventually(lambda: hub.sent("model.safetensors") > MB // 2)
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not [line for line in lines if TOKEN.encode() in line]
        said = [*running.communicate(timeout=60)]
        for fault, status in (("gated", 0), ("unauthorized", 0), ("nonsense", 0), ("status", 400)):
            hub.heal()
            hub.fault(fault, status=status)
            for argv in (("pull", "org/model", "--revision", "v2"), ("pull", "org/model", "--dry-run")):
                said += operator.types("--debug", *argv)[1:]
        assert all(TOKEN not in text for text in said) and sum("error: " in text for text in said) == 8
        assert [seen for seen in hub.log if seen.token == f"Bearer {TOKEN}"]
    written = [path for top in ("home", "hf") for path in (tmp_path / top).rglob("*") if path.is_file()]
    assert len(written) > 20 and not [path for path in written if TOKEN.encode() in path.read_bytes()]
