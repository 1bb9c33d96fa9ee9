"""Hosts over real ssh on loopback: one sshd each, with a home folder, keys and a llmctl of its own.

They share this machine, so their slots need ports of their own (`ports` of their entry).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import REPO, eventually, free_port

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
needs_sshd = pytest.mark.skipif(not SSHD, reason="needs an ssh server: apt-get install openssh-server")

# sshd starts every command and sftp here: a home folder of its own, and nothing of the caller's environment.
_ENTER = """\
#!/bin/sh
unset LLMCTL_HOME LLMCTL_CONFIG
HOME={home}; export HOME; cd "$HOME"
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""

_PROGRAM = """\
#!/bin/sh
: "${{LLMCTL_CONFIG:=$HOME/.llmctl/config}}"; export LLMCTL_CONFIG
exec {python} -m llmctl "$@"
"""


@dataclass
class SshHost:
    """One sshd on `address`:`port`; `folder` holds its keys, its log and `home`. `inside` goes before its command."""

    name: str
    folder: Path
    client_key: Path
    port: int = field(default_factory=free_port)
    lines: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    address: str = "127.0.0.1"
    inside: Sequence[str] = ()

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> SshHost:
        assert SSHD
        self.home.mkdir(parents=True, exist_ok=True)
        key, enter, settings = self.folder / "host_key", self.folder / "enter", self.folder / "sshd_config"
        if not key.exists():
            make_key(key)
        enter.write_text(_ENTER.format(home=self.home))
        enter.chmod(0o755)
        authorized = self.folder / "authorized_keys"
        authorized.write_text(self.client_key.with_suffix(".pub").read_text())
        defaults = [
            f"ListenAddress {self.address}:{self.port}", f"HostKey {key}", f"AuthorizedKeysFile {authorized}",
            f"ForceCommand {enter}", "StrictModes no", "UsePAM no", "PasswordAuthentication no",
            "KbdInteractiveAuthentication no", "PermitRootLogin yes", "UseDNS no", "PidFile none",
            "SetEnv SHLVL=5",  # bash then leaves the .bashrc of whoever runs the tests alone
            "MaxStartups 200", "MaxSessions 64", "Subsystem sftp /usr/lib/openssh/sftp-server", "LogLevel VERBOSE",
        ]  # fmt: skip
        given = {line.split()[0] for line in self.lines}  # instead of the default: of some the last line counts
        said = [*self.lines, *(line for line in defaults if line.split()[0] not in given)]
        settings.write_text("\n".join(said) + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with open(self.folder / "log", "ab") as log:
            before = self.log.count("Server listening")
            self.process = subprocess.Popen(
                [*self.inside, SSHD, "-D", "-e", "-f", str(settings)], stdout=log, stderr=log
            )
        eventually(lambda: self.log.count("Server listening") > before)
        return self

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def install(self) -> None:
        """Give it the llmctl of this checkout, as a deploy would."""
        program = self.home / ".llmctl" / "bin" / "llmctl"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(_PROGRAM.format(python=REPO / ".venv" / "bin" / "python"))
        program.chmod(0o755)

    def configure(self, toml: str, models: str = "") -> None:
        """Write its own hosts.toml, in which it is the local host."""
        folder = self.home / ".llmctl" / "config"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(toml)
        (folder / "models.toml").write_text(models)

    def entry(self, **more: str) -> str:
        """Its entry in the operator's hosts.toml; `more` are further lines, as TOML."""
        said = {
            "transport": '"ssh"', "address": f'"{self.address}"', "ssh_port": str(self.port),
            "identity": f'"{self.client_key}"', "user": '"root"', **more,
        }  # fmt: skip
        return f"[hosts.{self.name}]\n" + "".join(f"{key} = {value}\n" for key, value in said.items())

    def known(self) -> str:
        """Its line for a known_hosts file."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        return f"[{self.address}]:{self.port} {kind} {key}\n"


def make_key(path: Path) -> Path:
    """A new ed25519 key without a passphrase."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@contextlib.contextmanager
def ssh_hosts(folder: Path, names: Sequence[str], lines: Sequence[str] = ()) -> Iterator[list[SshHost]]:
    """Running hosts of these names; what runs in their homes is ended with them."""
    key = make_key(folder / "id")
    hosts = [SshHost(name, folder / name, key, lines=lines).start() for name in names]
    try:
        yield hosts
    finally:
        for host in hosts:
            host.stop()
        end_slots(host.home / ".llmctl" for host in hosts)


def running(there: Callable[[Sequence[bytes]], bool]) -> list[int]:
    """The processes of which that is true, by their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if there(words):
            found.append(int(path.parts[2]))
    return found


def introduce(hosts: Sequence[SshHost], config: Path, home: Path) -> None:
    """The operator's hosts.toml in `config`, and the hosts' keys, trusted, in the state folder."""
    (config / "hosts.toml").write_text("\n".join(host.entry() for host in hosts))
    (home / "known_hosts").write_text("".join(host.known() for host in hosts))


def end_slots(homes: Iterator[Path]) -> None:
    """Kill the slot servers of these state folders."""
    wanted = {str(home) for home in homes}
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if "llmctl.runner.server" in words and wanted & set(words):
                os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
