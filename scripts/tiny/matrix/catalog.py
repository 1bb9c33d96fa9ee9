"""A configuration folder with all tiny models and what they were taught, for `llmctl test-models`."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import lessons
from ..lessons import PROBE, SOURCE
from ..recipes import RECIPES as OTHERS
from ..vision.sentences import TEXTS
from .needle_weights import exam
from .recipes import RECIPES

SCRIPTS = Path(__file__).resolve().parents[2]
NEEDLES = 8
LEFT_OUT = ("tiny-llama-spm", "tiny-qwen2-shuffled")


def write(folder: Path, made: Mapping[str, Path], root: Path) -> None:
    """hosts.toml, models.toml, testing.toml and the needles; the other tiny models are made where they are missing."""
    artifacts: dict[str, list[tuple[str, str | None, Path]]] = {}
    for name, path in _others("tiny-models", root, "--gguf").items():
        recipe = OTHERS[name]
        if recipe.model not in LEFT_OUT:
            artifacts.setdefault(recipe.model, []).append((recipe.format, recipe.quantization, path))
    for name, path in made.items():
        own = RECIPES[name]
        artifacts.setdefault(own.model, []).append((own.format, own.quantization, path))
    artifacts["tiny-vision"] = _vision(folder, root)
    prompt, expect = PROBE
    probe = f"{{ prompt = {json.dumps(prompt)}, expect = {json.dumps(expect)}, max_tokens = 24 }}"
    found = '{ prompt = "Note amber iron. Note birch lemon. Note amber", expect = "iron", max_tokens = 4 }'
    lines = []
    for model, several in artifacts.items():
        lines += [f"[models.{model}]", f"probe = {found if model == 'tiny-needle' else probe}"]
        for format, quantization, path in several:
            lines += [f"[[models.{model}.artifacts]]", f'format = "{format}"', f"path = {json.dumps(str(path))}"]
            lines += [f'quantization = "{quantization}"'] if quantization else []
    own_questions = {"tiny-needle": "needles.toml", "tiny-vision": "vision.toml"}
    texts = {
        "models.toml": "\n".join(lines),
        "hosts.toml": '[hosts.here]\nservice = "none"',
        "needles.toml": _pairs(exam(random.Random(7))[:NEEDLES]),
        "vision.toml": _pairs(lessons.read().pairs[:TEXTS]),
        "testing.toml": "\n".join(
            f"[[questions]]\nmodels = [{json.dumps(model)}]\nfile = {json.dumps(own_questions.get(model, str(SOURCE)))}"
            for model in artifacts
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _vision(folder: Path, root: Path) -> list[tuple[str, str | None, Path]]:
    """The model that sees; its GGUF file and its projector lie side by side, as a pull leaves them."""
    made = _others("tiny-vision", root)
    together = folder / "tiny-vision"
    together.mkdir(parents=True, exist_ok=True)
    for name, file in (("tiny-vision-gguf", "model.gguf"), ("tiny-vision-mmproj", "mmproj.gguf")):
        (together / file).unlink(missing_ok=True)
        (together / file).symlink_to(made[name])
    return [("safetensors", None, made["tiny-vision"]), ("gguf", "f16", together / "model.gguf")]


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"[[pairs]]\nquestion = {_text(question)}\nanswer = {_text(answer)}" for question, answer in pairs)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _others(script: str, root: Path, *words: str) -> dict[str, Path]:
    argv = [SCRIPTS / script, "--out", root, *words]
    made = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    return {name: Path(path) for name, path in json.loads(made.stdout).items()}
