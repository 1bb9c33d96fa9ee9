"""Hosts for tests: systemd, sshd and cron of their own (or sshd only) in network namespaces behind one bridge.

What a person would do there is done by `sh`, `reboot`, `crash`, `cut`, …; what an operator does runs in the control
namespace (`Testbed.run_in_control`), from where the hosts are 10.77.0.11, .12, … and nothing else is reached. Every
name holds the pid and start time of the run that made it, so that the next run sweeps what a killed one left.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmctl.processes import start_time
from tests.conftest import REPO, eventually
from tests.testbed.sshd import make_key

SYSTEMD, LIGHT = "systemd", "light"
ROOT = ("env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")
_RUN = re.compile(r"(llm-(\d+)-(\d+)-\d+)\b.*")
_PROGRAM = '#!/bin/sh\nexport PYTHONPATH=/home/op/.llmctl/lib\nexec python3 -m llmctl "$@"\n'
_count = itertools.count()


@functools.cache
def base() -> tuple[Path | None, str]:
    """The folder that hosts boot from, or None and why there is none."""
    said = subprocess.run([REPO / "scripts" / "testbed", "--check"], capture_output=True, text=True)
    return (Path(said.stdout.strip()), "") if said.returncode == 0 else (None, said.stderr.strip())


def _do(*argv: str | Path) -> str:
    ran = subprocess.run(argv, capture_output=True, text=True)
    assert ran.returncode == 0, f"{argv}: {ran.stderr or ran.stdout}"
    return ran.stdout


@dataclass
class Machine:
    """One host, `h1` at 10.77.0.11, …: root and `op` (who may sudo) enter with `key`."""

    testbed: Testbed
    number: int
    kind: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{10 + self.number}"

    @property
    def key(self) -> Path:
        return self.testbed.key

    @property
    def folder(self) -> Path:
        return self.testbed.folder / self.name

    @property
    def netns(self) -> str:
        return f"{self.testbed.name}-{self.name}"

    @property
    def group(self) -> Path:
        return self.testbed.group / self.name

    @property
    def console(self) -> str:
        """All that it printed while it booted and ran."""
        return (self.folder / "console").read_text(errors="replace")

    def ssh_entry(self, user: str = "op", **more: str) -> str:
        """Its entry in the operator's hosts.toml; `more` are further lines, as TOML."""
        said = {
            "transport": '"ssh"', "address": f'"{self.address}"', "identity": f'"{self.key}"', "user": f'"{user}"',
            **more,
        }  # fmt: skip
        return f"[hosts.{self.name}]\n" + "".join(f"{key} = {value}\n" for key, value in said.items())

    def known(self) -> str:
        """Its line for a known_hosts file."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        return f"{self.address} {kind} {key}\n"

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def leader(self) -> int | None:
        """The pid, seen from outside, of its process 1."""
        for pid in _pids(self.group):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                found = re.search(r"^NSpid:\t\d+\t1$", status, re.M)
                if found and "nspawn" not in status.partition("\n")[0]:
                    return pid
        return None

    def path(self, inside: str | Path) -> Path:
        """A file of the running host, to be read and written from here."""
        return Path(f"/proc/{self.leader()}/root") / str(inside).lstrip("/")

    def ran(self, command: str, user: str = "root", timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A shell command on it: at once for root, by ssh for another user."""
        if user == "root":
            argv = ["nsenter", "-t", str(self.leader()), "-a", "-r", "-w", *ROOT, "sh", "-c", command]
            return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        argv = [
            "ssh",
            "-i",
            str(self.key),
            "-o",
            f"UserKnownHostsFile={self.testbed.known_hosts}",
            "-o",
            "BatchMode=yes",
        ]
        return self.testbed.run_in_control([*argv, f"{user}@{self.address}", command], timeout=timeout)

    def sh(self, command: str, user: str = "root", timeout: float = 60.0) -> str:
        """What a shell command on it prints; it must succeed."""
        ran = self.ran(command, user, timeout)
        assert ran.returncode == 0, f"{self.name}: {command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran.stdout.strip()

    def bring_llmctl(self) -> None:
        """This checkout's llmctl for op, run by the host's own Python: enough for verbs that need no packages."""
        home = self.path("/home/op/.llmctl")
        shutil.copytree(REPO / "llmctl", home / "lib" / "llmctl", ignore=shutil.ignore_patterns("__pycache__"))
        program = home / "bin" / "llmctl"
        program.parent.mkdir()
        program.write_text(_PROGRAM)
        program.chmod(0o755)
        self.sh("chown -R op: /home/op/.llmctl")

    # ── power ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Switch it on; `wait` until it can be entered."""
        assert self.testbed.base
        argv = [self.kind, self.name, self.folder, self.testbed.base, self.netns, self.group]
        with open(self.folder / "console", "ab") as console:
            self.process = subprocess.Popen(
                [REPO / "tests" / "testbed" / "boot-host", *map(str, argv)],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Until root and op can log in."""
        try:
            eventually(self._is_up, every=0.05)
            _do(
                *self.testbed.control,
                "bash",
                "-c",
                f"until read -t 2 line </dev/tcp/{self.address}/22; do sleep .05; done",
            )
        except (AssertionError, OSError) as error:
            raise AssertionError(f"{self.name} does not come up: {self.console[-3000:]}") from error

    def _is_up(self) -> bool:
        if self.leader() is None:
            return False
        return self.kind == LIGHT or self.ran("systemctl is-active ssh systemd-user-sessions cron").returncode == 0

    def boot(self) -> None:
        """Switch it on and wait until it can be entered."""
        self.start()
        self.wait()

    def reboot(self) -> None:
        """An orderly reboot; returns when it can be entered again."""
        before = self.leader()
        if self.kind == LIGHT:
            self.crash()
            return self.boot()
        self.ran("systemctl reboot")
        eventually(lambda: self.leader() not in (before, None), every=0.05)
        return self.wait()

    def crash(self) -> None:
        """Pull the plug: nothing on it gets to do anything more."""
        if leader := self.leader():
            os.kill(leader, signal.SIGKILL)  # all others of its pid namespace go with it, and boot-host ends after it
        if self.process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10 if leader else 0)
        _kill(self.group)
        if self.process:
            self.process.wait()
            self.process = None

    # ── the way there ───────────────────────────────────────────────────────────────────────────────────────────────

    def cut(self, how: str = "drop") -> None:
        """Nothing reaches it any more: silently ("drop"), refused ("reset"), or with its cable pulled ("unplug")."""
        if how == "unplug":
            _do("ip", "-n", self.testbed.control[-1], "link", "set", f"v{self.number}", "down")
            return
        target = {"drop": ["-j", "DROP"], "reset": ["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]}[how]
        _do("ip", "netns", "exec", self.netns, "iptables", "-I", "INPUT", "-i", "eth0", *target)

    def heal(self) -> None:
        """Undo `cut`."""
        _do("ip", "-n", self.testbed.control[-1], "link", "set", f"v{self.number}", "up")
        _do("ip", "netns", "exec", self.netns, "iptables", "-F", "INPUT")

    def rate(self, rate: str | None) -> None:
        """The speed of its line in both directions, as tc says it ("1mbit"); None: as fast as can be."""
        for netns, device in ((self.testbed.control[-1], f"v{self.number}"), (self.netns, "eth0")):
            subprocess.run(["tc", "-n", netns, "qdisc", "del", "dev", device, "root"], capture_output=True)
            if rate:
                shape = ["tbf", "rate", rate, "burst", "16kb", "latency", "400ms"]
                _do("tc", "-n", netns, "qdisc", "add", "dev", device, "root", *shape)

    def disk(self, megabytes: int | None, at: str = "/home/op/.llmctl") -> None:
        """An empty disk of that size at a folder, until the next boot; None: take it off again."""
        self.sh(f"umount {at} 2>/dev/null; mkdir -p {at} && chown op: {at}")
        if megabytes is not None:
            self.sh(f"mount -t tmpfs -o size={megabytes}m,uid=1000,gid=1000,mode=755 tmpfs {at}")


@dataclass
class Testbed:
    """Some hosts and the namespace that they are reached from."""

    __test__ = False
    name: str
    folder: Path
    base: Path
    group: Path
    machines: list[Machine] = field(default_factory=list)

    @property
    def key(self) -> Path:
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        """The keys of all its hosts."""
        return self.folder / "known_hosts"

    @property
    def control(self) -> tuple[str, ...]:
        """What to put before a command line so that it runs where the hosts can be reached."""
        return ("ip", "netns", "exec", f"{self.name}-ctl")

    def run_in_control(
        self, argv: Sequence[str | Path], timeout: float = 300.0, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """An operator's command, to its end; `env` adds to the environment."""
        given = {"stdin": subprocess.DEVNULL, **options} if "input" not in options else options
        return subprocess.run(
            [*self.control, *map(str, argv)], capture_output=True, text=True, timeout=timeout,
            env={**os.environ, **(env or {})}, **given,
        )  # fmt: skip

    def hosts_toml(self, **more: str) -> str:
        """A hosts.toml of all hosts."""
        return "\n".join(machine.ssh_entry(**more) for machine in self.machines)

    def _lay_lines(self) -> None:
        control = self.control[-1]
        _do("ip", "netns", "add", control)
        _do("ip", "-n", control, "link", "set", "lo", "up")
        _do("ip", "-n", control, "link", "add", "br0", "type", "bridge")
        _do("ip", "-n", control, "addr", "add", "10.77.0.1/24", "dev", "br0")
        _do("ip", "-n", control, "link", "set", "br0", "up")
        for machine in self.machines:
            port, netns = f"v{machine.number}", machine.netns
            _do("ip", "netns", "add", netns)
            _do("ip", "-n", netns, "link", "set", "lo", "up")
            _do(
                "ip", "-n", control, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine.netns
            )
            _do("ip", "-n", control, "link", "set", port, "master", "br0", "up")
            _do("ip", "-n", netns, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            _do("ip", "-n", netns, "link", "set", "eth0", "up")

    def _prepare(self) -> None:
        make_key(self.key)
        names = "".join(f"{machine.address} {machine.name}\n" for machine in self.machines)
        for machine in self.machines:
            machine.folder.mkdir()
            make_key(machine.folder / "host_key")
            shutil.copy(self.key.with_suffix(".pub"), machine.folder / "authorized_keys")
            (machine.folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{names}")
        self.known_hosts.write_text("".join(machine.known() for machine in self.machines))


@contextlib.contextmanager
def machines(count: int, kind: str = SYSTEMD) -> Iterator[Testbed]:
    """A testbed of `count` running hosts; the test is skipped, with the reason, where they cannot be."""
    debian, why = base()
    if debian is None:
        pytest.skip(why)
    _sweep()
    name = f"llm-{os.getpid()}-{start_time(os.getpid())}-{next(_count)}"
    testbed = Testbed(name, Path(tempfile.gettempdir()) / name, debian, _cgroups() / name)
    testbed.folder.mkdir(mode=0o755)
    testbed.machines += [Machine(testbed, number, kind) for number in range(1, count + 1)]
    try:
        testbed._prepare()
        testbed._lay_lines()
        for machine in testbed.machines:
            machine.start()
        for machine in testbed.machines:
            machine.wait()
        yield testbed
    finally:
        for machine in testbed.machines:
            machine.crash()
        _remove(name)


def light_hosts(count: int) -> contextlib.AbstractContextManager[Testbed]:
    """`machines` without systemd and cron: cheap enough for 20 of them."""
    return machines(count, LIGHT)


# ── what is left of a run ───────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def _cgroups() -> Path:
    return Path(_do("findmnt", "-n", "-o", "TARGET", "-t", "cgroup2").splitlines()[0])


def _pids(group: Path) -> list[int]:
    """The processes in a cgroup and all below."""
    found: list[int] = []
    for folder, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            found += map(int, Path(folder, "cgroup.procs").read_text().split())
    return found


def _kill(group: Path) -> None:
    """End all processes of a cgroup and below, and take the cgroups away."""
    end = time.monotonic() + 30
    while pids := _pids(group):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < end, f"processes {pids} of {group} do not end"
        time.sleep(0.01)
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder)


def _netns() -> list[str]:
    return [line.split()[0] for line in _do("ip", "netns", "list").splitlines() if line]


def _remove(name: str) -> None:
    """Take away all that a testbed was."""
    _kill(_cgroups() / name)
    for netns in _netns():
        if netns.startswith(f"{name}-"):
            _do("ip", "netns", "del", netns)
    shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)


def _sweep() -> None:
    """Remove the testbeds of runs that are no more."""
    seen = [*_netns(), *os.listdir(_cgroups()), *os.listdir(tempfile.gettempdir())]
    for name, pid, started in {found.groups() for found in map(_RUN.fullmatch, seen) if found}:
        if start_time(int(pid)) != started:
            _remove(name)
