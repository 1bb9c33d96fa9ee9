"""What the operator's machine needs to reach hosts: an ssh client, keys or an agent, known_hosts that can be read."""

from __future__ import annotations

import base64
import binascii
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from llmctl.config import Config
from llmctl.doctor.rows import Row, fail, good, of_error, warn
from llmctl.errors import LlmctlError
from llmctl.processes import asked

NO_AGENT, EMPTY, HOLDS = "no agent", "an empty agent", "an agent with keys"


def ssh(config: Config, home: Path) -> Iterator[Row]:
    """Rows on the way to the ssh hosts of `config`; one where there are none."""
    hosts = [host for host in config.hosts.values() if host.transport == "ssh"]
    if not hosts:
        yield good("ssh", "no host is reached by ssh")
        return
    rows = [*_client(), *_logins(config, agent()), *known_hosts(home / "known_hosts")]
    yield from rows or [good("ssh", f"a client, {agent()}")]


def agent() -> str:
    """What of the ssh agent can be used."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        return NO_AGENT
    done = asked(["ssh-add", "-l"], 5.0)
    if done is None or done.returncode not in (0, 1):
        return NO_AGENT
    return HOLDS if done.returncode == 0 else EMPTY


def _client() -> Iterator[Row]:
    if absent := [name for name in ("ssh", "ssh-keygen") if not shutil.which(name)]:
        fix = "sudo apt install openssh-client (Fedora: sudo dnf install openssh-clients)"
        yield warn("ssh", f"there is no {' and no '.join(absent)} here: llmctl needs none, its hints do", fix)


def _logins(config: Config, agent: str) -> Iterator[Row]:
    """Hosts whose entry makes no login, that nobody has a key for, and keys that others may read."""
    from llmctl.fleet.ssh import settings

    keyless: list[str] = []
    seen: set[Path] = set()
    for host in config.hosts.values():
        if host.transport != "ssh":
            continue
        try:
            login = settings.login(host, config)
        except LlmctlError as error:
            yield of_error("ssh", error, f"correct [hosts.{host.name}] in hosts.toml")
            continue
        if not login.identities and not _default_keys() and not (login.agent and agent == HOLDS):
            keyless.append(host.name)
        seen.update(login.identities)
    if keyless:
        fix = f"ssh-keygen -t ed25519 && ssh-copy-id {keyless[0]}"
        yield fail("ssh", f"{agent}, and no key for {', '.join(keyless)}", "ssh-add" if agent == EMPTY else fix)
    if open_ := sorted(str(path) for path in seen if _others_read(path)):
        yield warn("ssh", f"others may read the private key {', '.join(open_)}", f"chmod 600 {shlex.join(open_)}")


def _default_keys() -> list[Path]:
    """The keys that are tried where nobody names one."""
    from llmctl.fleet.ssh.failures import DEFAULT_KEYS

    return [path for name in DEFAULT_KEYS if (path := Path.home() / ".ssh" / name).is_file()]


def _others_read(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False


def known_hosts(path: Path) -> Iterator[Row]:
    """Lines of llmctl's own file that name no key: a host whose line is torn is asked for trust again."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        yield fail("ssh", f"{path} cannot be read: {error.strerror}", f"chmod 600 {shlex.quote(str(path))}")
        return
    torn = [str(number) for number, line in enumerate(lines, 1) if not _is_entry(line)]
    if torn:
        told = f"line{'s' * (len(torn) > 1)} {', '.join(torn[:5])}"
        fix = f"sed -i {shlex.quote(';'.join(f'{number}d' for number in torn))} {shlex.quote(str(path))}"
        yield warn("ssh", f"{path}: {told} cannot be read as a host's key", fix)


def _is_entry(line: str) -> bool:
    words = line.split()
    if not words or words[0].startswith("#"):
        return True
    words = words[1:] if words[0].startswith("@") else words
    if len(words) < 3:
        return False
    try:
        return bool(base64.b64decode(words[2], validate=True))
    except binascii.Error:
        return False
