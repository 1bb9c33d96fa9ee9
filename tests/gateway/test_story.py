"""The whole of it: two hosts, three handles, three clients of other people's, and no request lost whatever happens."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.gateway.fleet import PORT, Fleet
from tests.real_clients import conftest as real_clients
from tests.units.conftest import Host

python = real_clients.python
pytestmark = [pytest.mark.root, pytest.mark.slow]
DRIVER = Path(__file__).with_name("drivers") / "keep_asking.py"
CLIENTS, HANDLES = ("openai", "anthropic", "ollama"), ("twins", "single", "seldom")


class Clients:
    """The three, asking without a pause, each handle for itself."""

    def __init__(self, fleet: Fleet, python: Path) -> None:
        self.answered: Counter[tuple[str, str, str]] = Counter()  # client, handle, text
        self.failed: list[str] = []
        argv = [*fleet.testbed.control, str(python), str(DRIVER), f"http://127.0.0.1:{PORT}"]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                said = json.loads(line)
                if "text" in said:
                    self.answered[said["client"], said["handle"], said["text"]] += 1
                else:
                    self.failed.append(line)

    def texts(self, handle: str) -> set[str]:
        return {text for _, name, text in list(self.answered) if name == handle}

    def some_more(self, count: int = 3) -> None:
        """Returns when each client has so many more answers of each handle."""
        before = self._each()
        eventually(lambda: self.failed or min(self._each()[one] - before[one] for one in PAIRS) >= count)

    def _each(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for (client, handle, _), count in list(self.answered.items()):
            found[client, handle] += count
        return found

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._reading.join(120)
        self._process.wait(120)


PAIRS = [(client, handle) for client in CLIENTS for handle in HANDLES]


def test_clients_lose_nothing_while_a_replica_is_killed_a_slot_swapped_and_a_host_rebooted(
    fleet: Fleet, python: Callable[[str], Path]
) -> None:  # fmt: skip
    h1, h2 = map(Host, fleet.machines)
    assert fleet.replicas()["h1:8103"]["warm"] is False
    clients = Clients(fleet, python("clients"))
    try:
        clients.some_more()
        assert clients.texts("seldom") == {"I am gamma."}  # loaded by the first who asked

        h1.machine.sh(f"kill -9 {h1.slot(8101)['runner_pid']}")
        clients.some_more()
        eventually(lambda: fleet.well("h1:8101"))

        fleet.says("swap h1:8102 other")
        clients.some_more()
        assert clients.texts("single") == {"I am beta.", "I am other."}

        h2.machine.reboot()
        clients.some_more()
        eventually(lambda: fleet.well("h2:8101"))

        fleet.says("swap h1:8102 beta")
        clients.some_more()
    finally:
        clients.end()
    assert not clients.failed
    assert clients.texts("twins") == {"I am alpha."}
    fleet.says("unload h1:8103")
