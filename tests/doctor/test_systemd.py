"""A host with a systemd of its own, deployed to: what goes wrong with it is found, and mended by what is told."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import eventually
from tests.fleet.operator import Operator
from tests.testbed.machines import Machine, Testbed, machines

pytestmark = [pytest.mark.root, pytest.mark.slow]

MODEL = '[models.alpha]\nartifacts = [{ format = "script", path = "/srv/alpha.json" }]\n'


@pytest.fixture
def testbed() -> Iterator[Testbed]:
    with machines(1) as found:
        yield found


def findings(operator: Operator) -> dict[str, dict[str, Any]]:
    """What is not as it should be on h1, by its check."""
    envelope = operator.ran("--json", "doctor", "h1")
    rows = json.loads(envelope.stdout)["data"]["rows"]
    return {row["check"]: row for row in rows if row["host"] == "h1" and row["status"] != "pass"}


def test_what_goes_wrong_with_a_deployed_host_is_found_and_mended(
    testbed: Testbed, tmp_path: Path, packages: Path
) -> None:
    (h1,) = testbed.machines
    operator = Operator(testbed, tmp_path, (h1,), packages)
    (tmp_path / "models.toml").write_text(MODEL)
    (tmp_path / "hosts.toml").write_text(h1.ssh_entry(engines='["scripted"]', native="false"))
    (tmp_path / "profiles" / "demo.toml").write_text('[[slots]]\nport = 8101\nmodel = "alpha"\n')
    h1.path("/srv/alpha.json").write_text("{}")
    assert findings(operator)["reach"]["fix"] == "llmctl hosts trust h1"
    operator.says("hosts", "trust", "h1")
    assert findings(operator)["llmctl"]["fix"] == "llmctl deploy h1"
    operator.says(*operator.deploy())
    assert findings(operator) == {}

    break_units(h1)
    found = findings(operator)
    assert (found["slots"]["fix"], "does not start at boot" in found["slots"]["why"]) == (
        "llmctl restart h1:8101",
        True,
    )
    assert "loginctl enable-linger op" in found["service"]["fix"]
    mend(operator, found["slots"]["fix"])
    h1.sh("loginctl enable-linger op")
    h1.sh("echo '# by hand' >>/home/op/.llmctl/config/hosts.toml", user="op")
    h1.sh("chmod 755 /home/op/.llmctl", user="op")
    found = findings(operator)
    assert set(found) == {"release", "state"}
    assert found["release"]["why"].endswith("config/hosts.toml")
    assert found["state"]["fix"].startswith("ssh ") and found["state"]["fix"].endswith("'chmod 700 /home/op/.llmctl'")
    h1.sh(shlex.split(found["state"]["fix"])[-1], user="op")
    operator.says(*operator.deploy())
    assert findings(operator) == {}


def break_units(host: Machine) -> None:
    host.sh("systemctl --user -M op@ disable llmctl@8101.service; loginctl disable-linger op")
    eventually(lambda: not host.path("/var/lib/systemd/linger/op").exists())


def mend(operator: Operator, fix: str) -> None:
    """Type it."""
    operator.says(*fix.split()[1:])
