"""Two hosts with systemd, and an operator in the control namespace whose gateway is the address of their slots.

h1's slots listen on its loopback and are reached through ssh, h2's listen openly and want a key.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from llmctl.gateway import life
from tests.conftest import REPO, eventually
from tests.testbed.apart import enter
from tests.testbed.machines import Machine, Testbed
from tests.units.conftest import HOME, MODEL, Host, install

PORT = 8090
URL = f"http://127.0.0.1:{PORT}/v1/chat/completions"
WHO = [{"role": "user", "content": "Who?"}]
BINDS = ("127.0.0.1", "0.0.0.0")
MODELS = ("alpha", "beta", "other", "gamma")
PROFILE = """
[[slots]]
host = "h1"
port = 8101
model = "alpha"
handles = [{ name = "twins", group = "twins" }]

[[slots]]
host = "h2"
port = 8101
model = "alpha"
handles = [{ name = "twins", group = "twins" }]

[[slots]]
host = "h1"
port = 8102
model = "beta"
handle = "single"

[[slots]]
host = "h1"
port = 8103
model = "gamma"
handle = "seldom"
on_demand = true
"""


@dataclass
class Fleet:
    """The operator; `folder` holds the configuration and the state folder."""

    testbed: Testbed
    folder: Path

    @property
    def machines(self) -> tuple[Machine, Machine]:
        one, two = self.testbed.machines
        return one, two

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def set_up(self) -> None:
        """Both hosts have llmctl and the models, the operator a profile for them; nothing is loaded."""
        self.home.mkdir(mode=0o700)
        (self.home / "known_hosts").write_text(self.testbed.known_hosts.read_text())
        entries = [host.ssh_entry(bind=f'"{bind}"') for host, bind in zip(self.machines, BINDS, strict=True)]
        local = '[hosts.desk]\ntransport = "local"\nservice = "none"\n'
        (self.folder / "hosts.toml").write_text("\n".join([*entries, local]))
        (self.folder / "models.toml").write_text("".join(MODEL.format(name=n, path=f"/{n}.json") for n in MODELS))
        (self.folder / "profiles").mkdir()
        (self.folder / "profiles" / "fleet.toml").write_text(PROFILE)
        for machine, bind in zip(self.machines, BINDS, strict=True):
            install(machine, "systemd")
            there = Host(machine)
            for name in MODELS:
                there.model(name, answers={"Who?": f"I am {name}."})
            with open(machine.path(f"{HOME}/config/hosts.toml"), "a") as file:
                file.write(f'bind = "{bind}"\n')
            there.install_units("systemd")

    # ── what the operator types ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def env(self) -> dict[str, str]:
        return {"LLMCTL_HOME": str(self.home), "LLMCTL_CONFIG": str(self.folder), "PYTHONPATH": str(REPO)}

    def says(self, words: str, code: int = 0) -> Any:
        """The data of what `llmctl WORDS` answers; its exit code must be `code`."""
        argv = [REPO / ".venv" / "bin" / "python", "-m", "llmctl", "--json", "--yes", *words.split()]
        ran = self.testbed.run_in_control(argv, env=self.env, cwd=self.folder)
        assert ran.returncode == code, f"{words}: {ran.returncode}\n{ran.stdout}\n{ran.stderr[-3000:]}"
        return json.loads(ran.stdout)["data"]

    # ── the gateway ─────────────────────────────────────────────────────────────────────────────────────────────────

    def status(self) -> dict[str, Any]:
        return life.status(self.home, PORT)

    def replicas(self) -> dict[str, dict[str, Any]]:
        """What the gateway says of each slot."""
        return {row["where"]: row for row in self.status()["replicas"]}

    def well(self, *where: str) -> bool:
        """Whether the gateway asks all of these, as far as it knows."""
        rows = self.replicas()
        return all(rows[one]["warm"] and not rows[one]["resting"] for one in where)

    def requests(self) -> str:
        """The log of its requests."""
        return (self.home / "slots" / str(PORT) / "requests.log").read_text()

    # ── its clients ─────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def asked(self, *models: str, clients: int = 4, beside: Machine | None = None) -> Iterator[Asked]:
        """Clients that ask the gateway for these handles in turn, without a pause; or the gateway of a host."""
        seen, netns = Asked([], []), beside.netns if beside else self.testbed.control[-1]
        with ThreadPoolExecutor(clients, initializer=enter, initargs=(netns,)) as pool:
            running = [pool.submit(seen.keep_asking, models) for _ in range(clients)]
            try:
                yield seen
            finally:
                seen.over = True
            for one in running:
                one.result(120)


@dataclass
class Asked:
    """What came of the requests so far: who answered, and what failed."""

    models: list[str]
    failed: list[str]
    over: bool = False

    def keep_asking(self, models: tuple[str, ...]) -> None:
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not self.over:
                for model in models:
                    try:
                        answer = client.post(URL, json={"model": model, "messages": WHO, "max_tokens": 8})
                        if answer.status_code == 200:
                            self.models.append(answer.json()["model"])
                        else:
                            self.failed.append(f"{model}: {answer.status_code} {answer.text}")
                    except httpx.HTTPError as error:
                        self.failed.append(f"{model}: {error!r}")

    def some_more(self, count: int = 20) -> None:
        """Returns when so many more were answered."""
        so_far = len(self.models)
        eventually(lambda: len(self.models) >= so_far + count)


def end(fleet: Fleet) -> None:
    """End the gateway, however it is."""
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        fleet.says(f"gateway down --port {PORT}")
