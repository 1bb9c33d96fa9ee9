"""One machine with two slots, a third on demand, and the gateway over them, for all tests of a module."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually, free_port

FAST, DEEP, LATE = "fast", "deep", "late"
PROFILE = """\
[[slots]]
port = {fast}
model = "alpha"
handle = "fast"

[[slots]]
port = {deep}
model = "beta"

[[slots.handles]]
name = "deep"
context = 512

[[slots]]
port = {late}
model = "alpha"
handle = "late"
on_demand = true
"""


@dataclass
class Machine:
    """`ports` are those of the slots by the handle that each has, and of the gateway."""

    home: Path
    config: Path
    ports: dict[str, int]

    @property
    def gateway(self) -> RunningSlot:
        return self.slot("gateway")

    def slot(self, name: str) -> RunningSlot:
        return RunningSlot(self.home, self.ports[name], Launch())

    def where(self, name: str) -> str:
        return f"here:{self.ports[name]}"

    def llmctl(self, capsys: pytest.CaptureFixture[str], *words: object, code: int | None = 0) -> dict[str, Any]:
        """The envelope of `llmctl WORDS --json`; `code` None: whatever it ends with."""
        capsys.readouterr()
        ended = main(["--json", *map(str, words)])
        out = capsys.readouterr().out
        found: dict[str, Any] = json.loads(out)
        assert code is None or ended == code, out
        return found

    def shown(self, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
        """What people see: exit code, stdout, stderr."""
        capsys.readouterr()
        code = main([*map(str, words)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    def settled(self) -> None:
        """The gateway has seen that the slots that should answer do."""
        ready = {self.where(FAST), self.where(DEEP)}
        eventually(lambda: {row["where"] for row in self.gateway.status().replicas if row["warm"]} >= ready)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    home, config = (Path(tempfile.mkdtemp(prefix=f"llm-{what}-")) for what in "hc")
    ports = {name: free_port() for name in ("gateway", FAST, DEEP, LATE)}  # as 8090 is before 8101
    low, high = min(ports.values()), max(ports.values())
    (config / "hosts.toml").write_text(
        f'[hosts.here]\ntransport = "local"\nservice = "none"\nports = [{low}, {high}]\n'
    )
    models = [
        f'[models.{m}]\nartifacts = [{{ format = "script", path = "{config / m}.json" }}]\n' for m in ("alpha", "beta")
    ]
    (config / "models.toml").write_text("".join(models))
    for model in ("alpha", "beta"):
        (config / f"{model}.json").write_text(json.dumps({"answers": {"Who?": f"I am {model}."}}))
    (config / "profiles").mkdir()
    (config / "profiles" / "all.toml").write_text(PROFILE.format(**ports))
    (config / "health.toml").write_text('[rules]\nslower = 1000.0\nfloor = "60s"\n')  # a busy machine is no finding
    found = Machine(home, config, ports)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMCTL_HOME", str(home))
        patch.setenv("LLMCTL_CONFIG", str(config))
        assert main(["--json", "--yes", "profile", "load", "all"]) == 0
        assert main(["--json", "gateway", "up", "--port", str(ports["gateway"])]) == 0
        found.settled()
        yield found
        for name in ports:
            found.slot(name).kill()
    for folder in (home, config):
        shutil.rmtree(folder, ignore_errors=True)
