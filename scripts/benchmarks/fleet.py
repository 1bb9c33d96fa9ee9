"""The fleet against its peers: the status of 20 hosts beside Ansible and pyinfra, and how long a deploy takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.benchmarks.report import Row, row
from scripts.benchmarks.testbed import REPO
from tests.testbed.machines import Testbed, light_hosts, machines

HOSTS = int(os.environ.get("LLMCTL_BENCH_HOSTS", 20))
RUNS = 7
DEPLOYS = 5
PEERS = ("ansible-core==2.19.14", "pyinfra==3.10.0")


def measure() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="llm-") as made:
        yield from _status(Path(made), _peers())
    with tempfile.TemporaryDirectory(prefix="llm-") as made:
        yield from _deploy(Path(made))


def _status(folder: Path, programs: Path) -> Iterator[Row]:
    with light_hosts(HOSTS) as testbed:
        configure(folder, testbed)
        for host in testbed.machines:
            host.bring_llmctl()
        inventory = _inventories(folder, testbed)
        ours = [sys.executable, "-m", "llmctl", "--json", "status"]
        ansible = [programs / "ansible", "all", "-i", inventory, "-m", "ping", "-f", str(HOSTS)]
        pyinfra = [
            programs / "pyinfra",
            "-y",
            folder / "hosts.py",
            "exec",
            "--",
            ".llmctl/bin/llmctl",
            "--json",
            "status",
        ]
        timed(testbed, folder, ours)  # hosts compile their Python files once
        rounds = [[timed(testbed, folder, argv) for argv in (ours, ansible, pyinfra)] for _ in range(RUNS)]
    how = f"wall time of the process, alternating, {HOSTS} ssh hosts in namespaces of this machine, nothing kept open"
    yield row(
        f"`llmctl status` of {HOSTS} hosts ÷ (CPU seconds of the whole machine meanwhile ÷ {os.cpu_count()})",
        [wall / (busy / (os.cpu_count() or 1)) for (wall, busy), _, _ in rounds], "≤ 1.3",
        f"{how}; clients and hosts share the cores, so that no program can be faster than the bound",
    )  # fmt: skip
    yield row(
        f"`llmctl status` of {HOSTS} hosts ÷ `ansible all -m ping`", [a[0] / b[0] for a, b, _ in rounds], "≤ 0.2",
        f"{how}; {PEERS[0]} with its defaults and -f {HOSTS}, which asks less: whether Python runs",
    )  # fmt: skip
    yield row(
        f"`llmctl status` of {HOSTS} hosts ÷ `pyinfra exec` of the same on each host",
        [a[0] / c[0] for a, _, c in rounds], "≤ 1",
        f"{how}; {PEERS[1]} runs the hosts' own `llmctl --json status`, and nobody reads the answers",
    )  # fmt: skip
    yield row(f"`llmctl status` of {HOSTS} hosts, seconds", [a[0] for a, _, _ in rounds], "≤ 5", how)


def _deploy(folder: Path) -> Iterator[Row]:
    again, first, last = [], [], ""
    with machines(DEPLOYS) as testbed:
        configure(folder, testbed, engines="[]")
        deploy = [sys.executable, "-m", "llmctl", "--yes", "--json", "deploy"]
        wheels = ["--wheelhouse", str(_wheels(testbed, folder))]
        for host in testbed.machines:
            first.append(timed(testbed, folder, [*deploy, host.name, "--offline", *wheels])[0])
            last = host.name
        for _ in range(DEPLOYS):
            again.append(timed(testbed, folder, [*deploy, last, "--offline", *wheels])[0])
    how = "wall time of the process; a bare host with real systemd in a namespace of this machine, without a route out"
    yield row("first offline deploy of the CLI and the slot server, no engine, seconds", first, "≤ 20", how)
    yield row("a deploy that changes nothing, seconds", again, "≤ 3", how)


def _peers() -> Path:
    """The folder of the peers' programs, in an environment of their own that is made once."""
    folder = Path.home() / ".cache" / "llmctl-bench" / "-".join(PEERS)
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *PEERS], check=True)
        (folder / "installed").touch()
    return folder / "bin"


def configure(folder: Path, testbed: Testbed, **more: str) -> None:
    """The operator's configuration and trusted keys."""
    (folder / "hosts.toml").write_text(testbed.hosts_toml(**more))
    (folder / "home").mkdir()
    shutil.copy(testbed.known_hosts, folder / "home" / "known_hosts")


def _inventories(folder: Path, testbed: Testbed) -> Path:
    """The hosts as the peers want them listed: Ansible's, and beside it pyinfra's `hosts.py`."""
    options = f"-o UserKnownHostsFile={testbed.known_hosts}"
    said = [
        f"{h.address} ansible_user=op ansible_ssh_private_key_file={h.key} ansible_ssh_common_args='{options}' "
        "ansible_python_interpreter=/usr/bin/python3"
        for h in testbed.machines
    ]
    (folder / "inventory").write_text("\n".join(said) + "\n")
    data = {"ssh_user": "op", "ssh_key": str(testbed.key), "ssh_known_hosts_file": str(testbed.known_hosts)}
    listed = [(host.address, data) for host in testbed.machines]
    (folder / "hosts.py").write_text(f"hosts = {listed!r}\n")
    return folder / "inventory"


def _wheels(testbed: Testbed, folder: Path) -> Path:
    """A wheelhouse for these hosts, made where there is an index."""
    target = folder / "wheels"
    argv = [sys.executable, "-m", "llmctl", "--json", "wheelhouse", str(target), "--python", "3.11"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=REPO)
    return target


def timed(
    testbed: Testbed, folder: Path, argv: Sequence[str | Path], ok: Sequence[int] = (0,)
) -> tuple[float, float]:  # fmt: skip
    """Wall seconds of an operator's command, and the CPU seconds that the whole machine spent meanwhile; it must end
    with a status of `ok`."""
    with tempfile.TemporaryDirectory() as kept:
        env = {
            "LLMCTL_CONFIG": str(folder), "LLMCTL_HOME": str(folder / "home"), "PYTHONPATH": str(REPO),
            "ANSIBLE_HOME": kept, "ANSIBLE_SSH_CONTROL_PATH_DIR": kept, "ANSIBLE_LOCALHOST_WARNING": "0",
        }  # fmt: skip
        busy, began = _busy(), time.perf_counter()
        ran = testbed.run_in_control(argv, env=env, cwd=folder)
        wall, busy = time.perf_counter() - began, _busy() - busy
        assert ran.returncode in ok, f"{argv}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        if "status" in argv and argv[0] == sys.executable:
            assert len(json.loads(ran.stdout)["data"]["hosts"]) == HOSTS
        for control in Path(kept).iterdir():  # Ansible's connections would stay open, and the next run be a warm one
            if control.is_socket():
                subprocess.run(["ssh", "-o", f"ControlPath={control}", "-O", "exit", "x"], capture_output=True)
        return wall, busy


def _busy() -> float:
    """Seconds that all cores have worked since the boot."""
    user, nice, system, _, _, irq, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
