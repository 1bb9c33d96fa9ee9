"""What is around a deploy: the host that proves it for the others, hooks, and secrets that stay where they are."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.deploying import Operator, new_ports, other, state, tree
from tests.testbed.sshd import needs_sshd, ssh_hosts

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def operator(bare: Operator) -> Operator:
    """Its host serves the slots of the profile."""
    assert bare.deploy().code == 0
    return bare


@pytest.fixture(scope="module")
def three(packages: Path, operator: Operator) -> Iterator[Operator]:
    """Three bare hosts, of which nobody listens at the first."""
    with (
        tempfile.TemporaryDirectory(prefix="dep-") as folder,
        ssh_hosts(Path(folder) / "h", ["a1", "a2", "a3"]) as hosts,
    ):
        made = Operator(Path(folder) / "op", hosts, {host.name: new_ports() for host in hosts}, operator.codes)
        made.set_up()
        yield made


def test_the_first_host_proves_it_for_the_others(three: Operator) -> None:
    three.hosts[0].stop()
    done = three("deploy", "a*", "--offline")
    assert done.code != 0 and [error["host"] for error in done.errors] == ["a1", "a2", "a3"]
    assert all("not touched, because a1 failed" in error["message"] for error in done.errors[1:])
    assert all(tree(host) == {} for host in three.hosts)
    three.hosts[0].start()
    done = three("deploy", "a*", "--offline", "--parallel", "2")
    assert done.code == 0 and [row["status"] for row in done.data["hosts"]] == ["deployed"] * 3
    three.hosts[1].stop()
    done = three("deploy", "a*", "--offline")
    three.hosts[1].start()
    assert done.code == 3 and [row["host"] for row in done.data["hosts"]] == ["a1", "a3"]
    assert [error["host"] for error in done.errors] == ["a2"]


HOOK = """\
#!/bin/sh
echo "{name} $LLMCTL_HOST $LLMCTL_HOSTS $LLMCTL_VERSION $LLMCTL_STATUS" >>'{log}'
echo said by {name}
exit {code}
"""


def hook(operator: Operator, name: str, code: int = 0) -> Path:
    path, log = operator.folder / "hooks" / name, operator.folder / "hooks.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text(HOOK.format(name=name, log=log, code=code))
    path.chmod(0o755)
    return log


def test_hooks_run_around_a_deploy_and_a_failing_one_before_it_stops_it(operator: Operator) -> None:
    host = operator.hosts[0]
    assert operator.deploy().code == 0
    for name in ("pre-connect", "pre-deploy", "post-deploy"):
        log = hook(operator, name)
    try:
        assert operator.deploy().host["status"] == "unchanged"
        assert log.read_text().splitlines() == ["pre-connect  h1 0.1.0 ", "post-deploy h1  0.1.0 unchanged"]
        log.unlink()
        done = operator.deploy(code="next")
        assert done.code == 0 and "said by pre-deploy" in done.err
        assert [line.split()[0] for line in log.read_text().splitlines()] == [
            "pre-connect",
            "pre-deploy",
            "post-deploy",
        ]
        log.unlink()
        hook(operator, "pre-deploy", 3)
        before = tree(host)
        done = operator.deploy()
        assert (
            done.code == 1 and "pre-deploy" in done.errors[0]["message"] and done.data["log"] == ["said by pre-deploy"]
        )
        assert log.read_text().splitlines()[-1].split()[-1] == "failed"
        after = {name: text for name, text in tree(host).items() if "/incoming/" not in name}
        assert after == {name: text for name, text in before.items() if "/incoming/" not in name}
        hook(operator, "pre-deploy")
        hook(operator, "post-deploy", 3)
        done = operator.deploy()
        assert done.code == 0 and done.host["status"] == "deployed" and "warning: the hook post-deploy" in done.err
        (operator.folder / "hooks" / "pre-connect").chmod(0o644)
        done = operator.deploy()
        assert done.code == 1 and "chmod +x" in done.errors[0]["hint"]
    finally:
        for path in (operator.folder / "hooks").iterdir():
            path.unlink()


def test_s09_a_planted_secret_is_in_no_argument_log_or_audit(operator: Operator) -> None:
    secret = "hf_canary0123456789"
    host, code = operator.hosts[0], other(operator)
    (state(host) / "hf_token").write_text(secret)
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes().decode(errors="replace"))
                except OSError:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        ran = operator.deploy("--debug", code=code, HF_TOKEN=secret)
        failed = operator.deploy("--debug", code="dead", HF_TOKEN=secret)
        listed = operator("releases", "h1", HF_TOKEN=secret)
    finally:
        done.set()
        thread.join()
    assert ran.code == 0 and failed.code == 1
    assert any("llmctl.host" in line for line in seen)
    assert not [line for line in seen if secret in line]
    assert secret not in repr((ran, failed, listed)) + host.log
    files = [path for path in host.home.rglob("*") if path.is_file() and path.name != "hf_token"]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
