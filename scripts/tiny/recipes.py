"""Every model that can be made: how, from which others, and what a catalog says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import converting
from .families import FAMILIES, Family


@dataclass(frozen=True)
class Job:
    """One making: `made` holds the finished models, `folder` is the empty one to fill.

    What is fetched stays in `home`; `log` takes a line.
    """

    made: Path
    folder: Path
    home: Path
    log: Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """`model` is the catalog id it is an artifact of; `file` is what an engine loads, empty for the folder itself."""

    make: Callable[[Job], None]
    model: str
    needs: tuple[str, ...] = ()
    format: str = "safetensors"
    quantization: str | None = None
    file: str = ""


def wanted(only: Iterable[str] | None, *, gguf: bool, random: bool) -> list[str]:
    """The names to have, each after those that it is made from."""
    if random:
        chosen = [name for name in RECIPES if name.startswith("random")]
    else:
        chosen = [name for name, recipe in RECIPES.items() if name.startswith("tiny") and recipe.format != "gguf"]
    if only:
        chosen = list(only)
    if gguf:
        chosen += [name for name, recipe in RECIPES.items() if recipe.format == "gguf" and recipe.needs[0] in chosen]
    chosen += [need for name in chosen for need in RECIPES[name].needs]
    return [name for name in RECIPES if name in chosen]


def _train(family: Family, job: Job) -> None:
    from . import checking, training

    training.train(job.folder, family, job.log)
    checking.right(job.folder, family)


def _without_tokenizer_json(source: str, job: Job) -> None:
    from . import checking, twins

    twins.without_tokenizer_json(job.made / source, job.folder)
    checking.right(job.folder, FAMILIES[source])


def _shuffled(source: str, job: Job) -> None:
    from . import twins

    twins.shuffled(job.made / source, job.folder)


def _random(job: Job) -> None:
    from . import bench_model

    bench_model.write(job.folder)


def _convert(source: str, quantization: str, job: Job) -> None:
    converting.convert(job.made / source, job.folder, quantization, job.home)
    if source in FAMILIES:
        converting.check(job.folder / converting.FILE)


def _gguf(source: str, quantization: str) -> Recipe:
    make = partial(_convert, source, quantization)
    return Recipe(make, source, (source,), "gguf", quantization, converting.FILE)


# llama.cpp runs a mistral without its sliding window, so that it would be wrong beyond 64 tokens.
RECIPES: dict[str, Recipe] = {
    **{name: Recipe(partial(_train, family), name) for name, family in FAMILIES.items()},
    "tiny-llama-spm": Recipe(partial(_without_tokenizer_json, "tiny-llama"), "tiny-llama-spm", ("tiny-llama",)),
    "tiny-qwen2-shuffled": Recipe(partial(_shuffled, "tiny-qwen2"), "tiny-qwen2-shuffled", ("tiny-qwen2",)),
    **{f"{name}-gguf": _gguf(name, "f16") for name in FAMILIES if name != "tiny-mistral"},
    "tiny-llama-gguf-q8_0": _gguf("tiny-llama", "q8_0"),
    "tiny-qwen2-gguf-q8_0": _gguf("tiny-qwen2", "q8_0"),
    "random-0.5b": Recipe(_random, "random-0.5b"),
    "random-0.5b-gguf": _gguf("random-0.5b", "f16"),
}
