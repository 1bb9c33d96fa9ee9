"""Whether the packages that a catalog entry pins are the ones of this environment."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata


def unmet(env: Mapping[str, str]) -> list[str]:
    """Each pin of `env` that the installed package does not meet: "transformers 4.57.1 (here: 5.23.0)"."""
    found = ((name, pin, _installed(name)) for name, pin in sorted(env.items()))
    return [f"{name} {pin} (here: {here or 'none'})" for name, pin, here in found if not _meets(here, pin)]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _meets(version: str | None, pin: str) -> bool:
    """Pins are exact (4.57.1) or of a series (4.57.*); a local part (+cpu) does not count."""
    if version is None:
        return False
    public = version.split("+")[0]
    return f"{public}.".startswith(pin[:-1]) if pin.endswith(".*") else public == pin
