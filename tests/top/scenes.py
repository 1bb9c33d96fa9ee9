"""What the live view shows of a fleet that stands still, after some keys: the snapshots beside. To renew them:

python -m tests.top.scenes
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl.top.app import Top
from llmctl.watch import view
from llmctl.watch.view import Snapshot
from tests.top.fixed import NOW, Still, fleet, host, slot, top
from tests.top.screen import text

SNAPSHOTS = Path(__file__).parent / "snapshots"


@dataclass(frozen=True)
class Scene:
    """Keys that are pressed on a screen of `size`; each is followed by a rest."""

    keys: Sequence[str] = ()
    size: tuple[int, int] = (80, 24)
    seen: Snapshot = fleet()


def twenty() -> Snapshot:
    """Twenty hosts with two slots each, one of them silent."""
    hosts = []
    for number in range(1, 21):
        rows = [
            slot(8101, "qwen2.5-7b", tokens_per_second=3.5 * number, active=number % 4),
            slot(8102, "bge-m3", since=NOW - 90 * number),
        ]
        hosts.append(host(f"node{number:02}", rows, used=number / 21))
    hosts[6] = view.in_state(hosts[6], view.UNKNOWN, "nothing was heard of it for 23 s", None, NOW - 1)
    return Snapshot(1, NOW, {view.name: view for view in hosts})


def hostile() -> Snapshot:
    """What a host may say that means no good."""
    bad = slot(8101, "a\x1b[2Jb\nc", why="[bold]no markup[/] \u202e\x07", handles=["\x9b31m"])
    event = {"at": NOW, "kind": "swap\x1b[0m", "what": "\r\nx" * 50}
    return Snapshot(1, NOW, {"gpu1": replace(host("gpu1", [bad], events=[event]), why="\x1b]0;title\x07")})


def gateway() -> Snapshot:
    """A gateway over three slots, one of which rests, and one of which is loaded on demand."""

    def behind(where: str, model: str, *names: str, **more: Any) -> dict[str, Any]:
        return {"where": where, "model": model, "handles": names, "warm": True, **more}

    replicas = [
        behind("box:8101", "qwen2.5-7b", "fast", "qwen2-5-7b", requests=2),
        behind("gpu1:8101", "qwen2.5-7b", "fast", "qwen2-5-7b", resting=True, why="no answer within 4 s"),
        behind("box:8102", "phi-4", "late", warm=False, on_demand=True),
    ]
    rows = [
        slot(8090, "gateway", engine="gateway", handles=["fast", "late", "qwen2-5-7b"], active=2, replicas=replicas,
             memory_bytes=0),
        slot(8101, "qwen2.5-7b", tokens_per_second=83.42, active=2),
        slot(8102, None, "empty"),
    ]  # fmt: skip
    return Snapshot(1, NOW, {"box": host("box", rows)})


SCENES = {
    "gateway": Scene(["s"], size=(120, 20), seen=gateway()),
    "fleet": Scene(),
    "wide": Scene(size=(120, 30)),
    "small": Scene(size=(60, 15)),
    "twenty": Scene(seen=twenty()),
    "twenty-end": Scene(["end"], seen=twenty()),
    "nothing": Scene(seen=Snapshot(0, NOW, {"gpu1": view.HostView("gpu1")})),
    "hosts": Scene(["shift+tab", "down", "down"]),
    "only": Scene(["shift+tab", "down", "enter"]),
    "filter": Scene(["slash", *"phi"]),
    "by-rate": Scene(["o", "o", "o", "O"]),
    "help": Scene(["question_mark"]),
    "choose": Scene(["s", *"qw"]),
    "confirm": Scene(["down", "down", "u"]),
    "done": Scene(["s", "down", "enter", "y"], size=(120, 24)),
    "failed": Scene(["end", "s"]),
    "log": Scene(["f"]),
    "hostile": Scene(seen=hostile(), size=(120, 24)),
}


async def shown(scene: Scene) -> Top:
    """The view after the scene was played, still as it was."""
    app = top(Still(scene.seen))
    async with app.run_test(size=scene.size) as pilot:
        for key in scene.keys:
            await pilot.press(key)
            await pilot.pause(0.05)
        await pilot.pause(0.3)
        app.picture, app.words = app.export_screenshot(title="llmctl top"), text(app)  # type: ignore[attr-defined]
    return app


def words(scene: Scene) -> str:
    return str(asyncio.run(shown(scene)).words)  # type: ignore[attr-defined]


def picture(scene: Scene) -> str:
    """As SVG."""
    return str(asyncio.run(shown(scene)).picture)  # type: ignore[attr-defined]


def in_utc() -> None:
    """Times are shown as on every other machine."""
    os.environ["TZ"] = "UTC"
    time.tzset()


if __name__ == "__main__":
    in_utc()
    for name, scene in SCENES.items():
        (SNAPSHOTS / f"{name}.txt").write_text(words(scene))
