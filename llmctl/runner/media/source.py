"""Where one image of a request comes from, in every shape that a protocol may say it in."""

from __future__ import annotations

from dataclasses import dataclass

BASE64, URL, PATH = "base64", "url", "path"


@dataclass(frozen=True)
class Source:
    """One image (sound, film) of a request. `at` names its field, `kind` is its modality, `how` what `value` is."""

    at: str
    kind: str
    how: str
    value: str
