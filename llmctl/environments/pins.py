"""Whether the packages that a catalog entry pins are the ones of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path


def unmet(env: Mapping[str, str], python: Path | None = None) -> list[str]:
    """Each pin of `env` that the installed package does not meet: "transformers 4.57.1 (here: 5.23.0)".

    `python` is the interpreter of another environment than this one.
    """
    found = ((name, pin, installed(name, python)) for name, pin in sorted(env.items()))
    return [f"{name} {pin} (here: {here or 'none'})" for name, pin, here in found if not _meets(here, pin)]


def site_packages(python: Path) -> list[Path]:
    """Where the packages of an environment lie, by its interpreter."""
    return sorted(python.parents[1].glob("lib/python3*/site-packages"))


def installed(name: str, python: Path | None) -> str | None:
    """The version of a package, here or in the environment of `python`; None where it is not."""
    if python:
        places = [str(folder) for folder in site_packages(python)]
        return next((found.version for found in metadata.distributions(name=name, path=places)), None)
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
