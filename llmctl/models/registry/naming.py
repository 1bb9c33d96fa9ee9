"""From the names of registry.json to those of the catalog, and back: kebab-case, engine and quantization apart."""

from __future__ import annotations

import re

PREFIX = {"mlx": "mlx-"}  # other engines have none
_QUANTIZATION = re.compile(
    r"(?:^|(?<=[-_.]))"
    r"(mxfp4-q\d|mxfp4|mxfp8|nvfp4|[2-8]-?bit|iq\d(?:_[a-z0-9]+)*|q\d(?:_[a-z0-9]+)*|bf16|fp16|f16|f32)"
    r"(?=$|[-_.])"
)


def kebab(name: str) -> str:
    """A name without its organisation, in lower case, with single dashes; dots stay."""
    last = name.rsplit("/", 1)[-1].lower()
    return re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9.]+", "-", last)).strip("-.")


def quantization(name: str) -> str | None:
    """The quantization that a repository's or file's name carries: 4bit, mxfp4-q4, q4_k_m."""
    found = _QUANTIZATION.search(name.rsplit("/", 1)[-1].lower())
    return found[1].replace("-bit", "bit").replace("fp16", "f16") if found else None


def model_id(name: str) -> str:
    """The id of a model in no format: engine, format and quantization left out."""
    last = name.rsplit("/", 1)[-1].lower().removesuffix(".gguf")
    bare = kebab(_QUANTIZATION.sub("", last))
    return re.sub(r"^(mlx|gguf|ov)-|-(mlx|gguf)(?=-|$)", "", bare).strip("-.") or kebab(name)


def slug(model: str, format: str, quantization: str | None) -> str:
    """The name of one artifact, as registry.json and the clients of its tool have it."""
    whole = "-".join(part for part in (model, quantization) if part)
    return PREFIX.get(format, "") + re.sub(r"[^a-z0-9]+", "-", whole.lower()).strip("-")


def handle(name: str) -> str:
    """A name as a slug has it: dots are dashes."""
    return kebab(name).replace(".", "-")
