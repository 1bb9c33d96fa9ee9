"""`llmctl wheelhouse`: the packages of a host into a folder, for a place that no index reaches."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmctl.cli.session import Session
from llmctl.domain import ENGINES
from llmctl.envelope import Answer
from llmctl.errors import UsageError, nearest

app = typer.Typer()


class Platform(str, Enum):
    """The names of llmctl.environments.platforms.CARRIED."""

    linux = "linux-x86_64"
    linux_arm = "linux-aarch64"
    musl = "linux-x86_64-musl"
    musl_arm = "linux-aarch64-musl"
    macos = "macos-arm64"


@app.command()
def wheelhouse(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if missing; what is there already stays.")],
    python: Annotated[str, typer.Option(help="The host's Python: 3.10 to 3.14.")] = "3.11",
    platform: Annotated[Platform, typer.Option(help="What the host is.")] = Platform.linux,
    engine: Annotated[list[str] | None, typer.Option(help="Repeat for several; `convert` is for conversions.")] = None,
    native: Annotated[
        bool, typer.Option("--native", help="Also what the host builds llama.cpp for its own CPU of.")
    ] = False,
    cuda: Annotated[str | None, typer.Option(help="The CUDA of its driver, as nvidia-smi shows: 13.0.")] = None,
) -> Answer:
    """Fetch the packages of a host without a route to the index; then `llmctl deploy HOST --wheelhouse DIR`."""
    from llmctl.environments import WITHOUT, locks, platforms
    from llmctl.environments import wheelhouse as house
    from llmctl.native import source

    session: Session = ctx.obj
    known = [*(name for name in ENGINES if name not in WITHOUT), "convert"]
    for name in engine or ():
        if name not in known:
            close = nearest(name, known)
            raise UsageError(f"no engine {name[:40]!r}", hint=f"did you mean {close}?" if close else ", ".join(known))
    version = platforms.version_of(python)
    facts = platforms.named(platform.value, cuda)
    tools = ("uv", "pip", "cmake", "ninja") if native else ("uv", "pip")
    wanted = [*locks.wanted(engine or (), facts), *map(locks.tool, tools)]
    with session.progress() as on_event:
        on_event({"event": "note", "message": f"fetches packages for {platforms.described(facts, version)}"})
        found = house.collect(wanted, version, facts, locks.cache() / "wheels")
        found += [source.SOURCE.fetch(locks.cache() / "wheels")] if native else []
        new = house.fill(folder, found)
    return Answer(
        {
            "folder": str(folder),
            "python": python,
            "platform": platform.value,
            "engines": sorted(set(engine or ())),
            "files": [
                {"name": path.name, "bytes": path.stat().st_size, "new": folder / path.name in new} for path in found
            ],
        }
    )
