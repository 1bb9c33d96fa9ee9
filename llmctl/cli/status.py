"""`llmctl status`: the slots of the local host. Starts without Typer (see `__main__.PLAIN`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from llmctl.cli.session import Session
from llmctl.envelope import Answer


def answer(ports: Sequence[str], session: Session | None = None) -> Answer:
    """All slots, or those of `ports`; `data.slots` as in decisions.md, "JSON that others read"."""
    from llmctl.slots import verbs

    session = session or Session()
    wanted = [session.target(port).port for port in ports]
    slots = verbs.status(session.home, wanted or None, session.host().name)
    return Answer({"slots": [asdict(slot) for slot in slots]})
