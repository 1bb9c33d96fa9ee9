"""Weights under the names and in the shapes that mlx-lm's models have them, where transformers writes others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def classes(config: Mapping[str, Any]) -> tuple[type[Any], type[Any]]:
    """mlx-lm's classes of a model and its arguments, for `load_model`; the model also takes transformers' names."""
    from importlib import import_module

    from mlx_lm.utils import MODEL_REMAPPING

    name = MODEL_REMAPPING.get(config["model_type"], config["model_type"])
    module = import_module(f"mlx_lm.models.{name}")
    return module.Model, module.ModelArgs
