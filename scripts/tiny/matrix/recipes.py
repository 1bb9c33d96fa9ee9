"""Every model of the matrix that can be made: how, from which other, and what an engine loads of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import converting, store
from . import mxfp4
from .families import FAMILIES

Log = Callable[[str], None]
QUESTIONS, NEEDLE = "questions", "needle"
SOURCES = {QUESTIONS: ("families.py", "recipes.py", "mxfp4.py"), NEEDLE: ("needle.py", "needle_weights.py")}
"""What is taught, and what must be made anew when one of these files changes."""


@dataclass(frozen=True)
class Recipe:
    """`model` is the catalog id it is an artifact of; `file` is what an engine loads, empty for the folder itself."""

    model: str
    course: str = QUESTIONS
    needs: str = ""
    format: str = "safetensors"
    quantization: str | None = None
    file: str = ""


def _gguf(source: str, course: str = QUESTIONS) -> Recipe:
    return Recipe(source, course, source, "gguf", "f16", converting.FILE)


RECIPES = {
    **{name: Recipe(name) for name in FAMILIES},
    "tiny-gpt-oss-mxfp4": Recipe("tiny-gpt-oss", needs="tiny-gpt-oss", quantization="mxfp4"),
    **{f"{name}-gguf": _gguf(name) for name in FAMILIES},
    "tiny-needle": Recipe("tiny-needle", NEEDLE),
    "tiny-needle-gguf": _gguf("tiny-needle", NEEDLE),
}


def edition(root: Path, name: str) -> Path:
    """The folder for what the sources of this model's course would make, beside the editions of other models."""
    digest = hashlib.sha256(store.edition(root).name.encode())
    for source in SOURCES[RECIPES[name].course]:
        digest.update(source.encode() + b"\0" + Path(__file__).with_name(source).read_bytes())
    return root / "matrix" / digest.hexdigest()[:8]


def wanted(only: Iterable[str] | None) -> list[str]:
    """The names to have, each after that which it is made from."""
    chosen = list(only or RECIPES)
    chosen += [RECIPES[name].needs for name in chosen]
    return [name for name in RECIPES if name in chosen]


def make(name: str, made: Path, home: Path, log: Log, folder: Path) -> None:
    """Fill the empty `folder`; `made` holds the finished models, and what is fetched stays in `home`."""
    recipe = RECIPES[name]
    if recipe.format == "gguf":
        converting.convert(made / recipe.needs, folder, recipe.quantization or "f16", home)
        if recipe.course == QUESTIONS:
            converting.check(folder / converting.FILE)
    elif recipe.quantization == "mxfp4":
        mxfp4.pack(made / recipe.needs, folder)
    elif recipe.course == NEEDLE:
        _write_needle(folder, log)
    else:
        _train(name, folder, log)


def _train(name: str, folder: Path, log: Log) -> None:
    from .. import checking, training

    rounds = (mxfp4.EXPERTS, mxfp4.rounded) if name == "tiny-gpt-oss" else None
    plan = training.Plan(attention="eager", first=60, sure=0.9, later=0.7, rounds=rounds)
    training.train(folder, FAMILIES[name], log, plan)
    checking.right(folder, FAMILIES[name])


def _write_needle(folder: Path, log: Log) -> None:
    from . import needle_weights

    needle_weights.write(folder, log)
