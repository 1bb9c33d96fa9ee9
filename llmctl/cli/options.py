"""The arguments and options that several verbs share, each declared once, with its shell completion."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from llmctl import catalog, config, paths
from llmctl.errors import LlmctlError

EVERYWHERE = "Also, on every command: --json, --yes, --config-dir DIR, --debug (see llmctl --help)."


class Order(str, Enum):
    """Which engine a swap starts or stops first."""

    auto = "auto"
    new_first = "new-first"
    old_first = "old-first"


def _ports(incomplete: str) -> list[str]:
    return [port for port in map(str, paths.slot_ports(paths.home())) if port.startswith(incomplete)]


def _models(incomplete: str) -> list[str]:
    try:
        known = catalog.load(config.find()).models
    except LlmctlError:
        return []
    return [name for name in known if name.startswith(incomplete.lower())]


def _ports_and_models(incomplete: str) -> list[str]:
    return _ports(incomplete) + _models(incomplete)


def profiles(incomplete: str) -> list[str]:
    try:
        known = config.profile_names(config.load(config.find()))
    except LlmctlError:
        return []
    return [name for name in known if name.startswith(incomplete)]


def hosts(incomplete: str) -> list[str]:
    try:
        known = config.load(config.find()).hosts.values()
    except LlmctlError:
        return []
    names = [host.name for host in known] + sorted({f"@{label}" for host in known for label in host.labels})
    return [name for name in names if name.startswith(incomplete)]


Port = Annotated[str, typer.Argument(metavar="PORT", help="8101 or HOST:8101.", autocompletion=_ports)]
NewPort = Annotated[str, typer.Argument(metavar="PORT", help="8101, HOST:8101 or auto.", autocompletion=_ports)]
PortOrModel = Annotated[str | None, typer.Argument(metavar="[PORT|MODEL]", autocompletion=_ports_and_models)]
Ports = Annotated[list[str] | None, typer.Argument(metavar="[PORT]...", help="Default: all.", autocompletion=_ports)]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Any spelling of its id.", autocompletion=_models)]
AnyModel = Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Default: all.", autocompletion=_models)]
ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", autocompletion=profiles)]

Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host", metavar="HOST", help="Where: a name, a glob ('gpu*') or @label; repeatable.", autocompletion=hosts
    ),
]

HostName = Annotated[str, typer.Argument(metavar="HOST", autocompletion=hosts)]
HostNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[HOST]...", help="Names, globs or @label. Default: all.", autocompletion=hosts),
]

Engine = Annotated[str, typer.Option(help="auto, llamacpp, openvino, torch or mlx.")]
Quantization = Annotated[str | None, typer.Option(help="Which artifact, where there are several: q4_k_m, 4bit, bf16.")]
Context = Annotated[int | None, typer.Option(min=1, help="Tokens of one conversation.")]
Parallel = Annotated[int | None, typer.Option(min=1, help="Conversations at once.")]
IdleUnload = Annotated[str | None, typer.Option(metavar="TIME", help="Free the memory when idle for 15m, 2h, …")]
LockWait = Annotated[str, typer.Option(metavar="TIME", help="Wait that long for another change of this slot to end.")]
Spare = Annotated[
    bool | None,
    typer.Option("--spare/--no-spare", help="Keep a process ready for the next model. Default: as hosts.toml says."),
]
SwapOrder = Annotated[Order, typer.Option(help="Whether the new engine starts before the old one stops.")]
Pull = Annotated[bool, typer.Option("--pull", help="Fetch a model that is not on its host yet, first.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
SaveTo = Annotated[
    str | None, typer.Option(metavar="NAME", help="Write it into this profile.", autocompletion=profiles)
]
