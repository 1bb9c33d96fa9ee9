"""What `llmctl hosts trust` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import View


def _trust(data: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{key['name']}  {key['known_as']}  {key['type']} {key['fingerprint']}  "
        + ("trusted from now on" if key["changed"] else "was trusted already")
        for key in data["keys"]
    )


VIEWS: dict[str, View] = {"hosts trust": _trust}
