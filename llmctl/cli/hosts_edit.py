"""`llmctl hosts add` and `hosts rm`: the entries of hosts.toml."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llmctl import config, files
from llmctl.cli import options as o
from llmctl.cli import trust as trust_verb
from llmctl.cli.init import HOSTS
from llmctl.cli.session import Session
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, Refused, UsageError
from llmctl.fleet import hosts_file
from llmctl.fleet.facts import cache as facts_cache

app = typer.Typer()


@app.command()
def add(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="What to call it here.")] = None,
    address: Annotated[
        str | None, typer.Argument(metavar="ADDRESS", help="[USER@]ADDRESS, or its name in ~/.ssh/config.")
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="USER")] = None,
    ssh_port: Annotated[int | None, typer.Option(min=1, max=65535, metavar="PORT")] = None,
    identity: Annotated[Path | None, typer.Option(metavar="FILE", help="A private key.")] = None,
    gateway: Annotated[str | None, typer.Option(metavar="HOST", help="Reached over it: a host, or an address.")] = None,
    service: Annotated[str | None, typer.Option(help="auto, none, systemd, launchd, …")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="Repeatable; --host @LABEL.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Look at its key, and trust it when you agree.")] = False,
    from_ssh_config: Annotated[
        bool, typer.Option("--from-ssh-config", help="Only list the hosts of ~/.ssh/config that could be added.")
    ] = False,
) -> Answer:
    """Write a host that is reached by ssh into hosts.toml."""
    session: Session = ctx.obj
    if from_ssh_config:
        return Answer({"candidates": _candidates(session)})
    if name is None or address is None:
        raise UsageError("which host, and where is it?", hint="llmctl hosts add NAME ADDRESS, or --from-ssh-config")
    login, _, address = address.rpartition("@")
    given = {
        "transport": "ssh",
        "address": address,
        "user": user or login,
        "ssh_port": ssh_port,
        "identity": None if identity is None else str(identity.expanduser().absolute()),
        "gateway": gateway,
        "service": service,
        "labels": label,
    }
    path, old = _file(session)
    text = hosts_file.added(path, old, name, {key: value for key, value in given.items() if value})
    _check_login(path, text, name)
    files.write_text(path, text)
    data = {"added": name, "path": str(path), "keys": [], "next": f"llmctl hosts trust {name}"}
    if not trust:
        return Answer(data)
    ctx.obj = replace(session)  # which reads hosts.toml anew
    try:
        keys = trust_verb.trust(ctx, name, None).data["keys"]
    except LlmctlError as error:
        return Answer(data, 3, (error,))
    return Answer({**data, "keys": keys, "next": f"llmctl deploy {name}"})


@app.command()
def rm(ctx: typer.Context, host: o.HostName) -> Answer:
    """Take a host out of hosts.toml; what is on it stays, and runs on."""
    session: Session = ctx.obj
    found, path = session.config.host(host), session.folder / "hosts.toml"
    if uses := hosts_file.uses(session.config, found.name):
        raise Refused(f"{found.name} is {uses[0]}", hint="change that first", details={"uses": uses})
    text = hosts_file.without(path, path.read_text(encoding="utf-8"), found.name)
    config.load(path.parent, text)
    session.confirm(f"Take {found.name} out of {path}? What is on it stays; llmctl deploy --remove takes it away.")
    files.write_text(path, text)
    facts_cache.forget(session.home, found)
    return Answer({"removed": found.name, "path": str(path)})


def _file(session: Session) -> tuple[Path, str]:
    """hosts.toml and its text; without one, that of `llmctl init`, in the folder that is meant or ~/.config/llmctl."""
    asked = session.config_dir or os.environ.get("LLMCTL_CONFIG")
    folder = Path(asked).expanduser().absolute() if asked else config.find() or Path("~/.config/llmctl").expanduser()
    path = folder / "hosts.toml"
    return path, path.read_text(encoding="utf-8") if path.is_file() else HOSTS


def _check_login(path: Path, text: str, name: str) -> None:
    """ConfigError when the new entry cannot be used."""
    from llmctl.fleet.ssh import settings as ssh_settings

    changed = config.load(path.parent, text)
    ssh_settings.login(changed.hosts[name], changed)


def _candidates(session: Session) -> list[dict[str, str]]:
    """The hosts of ~/.ssh/config by name, without those that are here already."""
    from llmctl.fleet.ssh import config as ssh_config

    lines = ssh_config.read()
    words = [word for line in lines for word in _names(line)]
    known = {host.address for host in session.config.hosts.values()} | set(session.config.hosts)
    found = [word for word in dict.fromkeys(words) if word not in known and word.lower() not in known]
    return [
        {"name": word.lower(), "address": ssh_config.lookup(lines, word, None, None)["hostname"], "type": word}
        for word in found
    ]


def _names(line: str) -> list[str]:
    key, _, rest = line.strip().replace("=", " ", 1).partition(" ")
    if key.lower() != "host":
        return []
    return [word for word in rest.split() if not set(word) & set('*?!"')]
