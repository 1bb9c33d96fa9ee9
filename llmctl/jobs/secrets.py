"""Keeps the secrets of the environment out of what is written down: the log, a result, an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.IGNORECASE)
_SHORTEST = 8


class Secrets:
    """The values that must not be shown: those of variables with a telling name, such as HF_TOKEN, and `more`."""

    def __init__(self, environment: Mapping[str, str], more: Iterable[str | None] = ()) -> None:
        named = {value for name, value in environment.items() if _NAMES.search(name)}
        found = {value for value in (*named, *more) if value and len(value) >= _SHORTEST}
        self.values = sorted(found, key=len, reverse=True)

    def hide(self, text: str) -> str:
        for value in self.values:
            text = text.replace(value, "***")
        return text
