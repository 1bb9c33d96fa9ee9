"""Which Python runs an engine on this host: that of its environment in this release, or the one that runs now."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import llmctl
from llmctl.environments import BASE, WITHOUT, stack
from llmctl.environments.pins import site_packages, unmet
from llmctl.errors import StateError, Unsupported

RELEASE = Path(llmctl.__file__).resolve().parents[2]
"""Of a release, …/releases/<id>, which holds lib/llmctl; of a checkout, nothing that means anything here."""


def python_for(engine: str, pins: Mapping[str, str] | None = None) -> str:
    """The interpreter for an engine ("convert" for converters), with the packages that a model pins.

    Unsupported when this release has no such environment, StateError when its list of them cannot be read.
    """
    own = dict(pins or {})
    known = environments(RELEASE)
    if not known:
        if missing := unmet(own):
            raise Unsupported(
                f"{engine} needs {', '.join(missing)}, and this llmctl, which was not deployed, has one environment",
                hint="install these packages here, or `llmctl deploy` to this host: it makes the model one of its own",
            )
        return sys.executable
    name = BASE if engine in WITHOUT else engine
    python = known.get(name)
    if own and stack(engine, own) in known:
        return known[stack(engine, own)]
    if python is None or (own and unmet(own, Path(python))):
        words = f"{engine} with {', '.join(f'{k} {v}' for k, v in sorted(own.items()))}" if own else engine
        raise Unsupported(
            f"this host's release has no environment for {words} (it has {', '.join(sorted(known))})",
            hint=f"from the machine that deploys: llmctl deploy HOST --engine {engine}",
        )
    return python


def package(engine: str, name: str) -> Path | None:
    """The folder of a package in an engine's environment, found without importing it; None where it is not."""
    known = environments(RELEASE)
    if known:
        places = site_packages(Path(known[engine])) if engine in known else []
        return next((place / name for place in places if (place / name).is_dir()), None)
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


@lru_cache(4)
def environments(release: Path) -> Mapping[str, str]:
    """The release's environments.json, name → interpreter; empty when this is no release."""
    path = release / "environments.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(python) for name, python in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise StateError(f"{path} cannot be read: {error}", hint="deploy to this host again") from None
