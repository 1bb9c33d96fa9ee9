"""An mlx-lm model cut into shares over MLX's ring (`mx.distributed`): between CPUs and, never run, on Metal."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.engines import mlx_load, mlx_models, mlx_vision
from llmctl.engines.checkpoint import read_checkpoint
from llmctl.engines.spread_place import Held, Place, divides
from llmctl.errors import LoadFailed, Unsupported


def check(spec: EngineSpec) -> None:
    """Unsupported when mlx-lm has no way to cut the architecture, or not into equal shares."""
    checkpoint = read_checkpoint(spec)
    if mlx_vision.takes_images(checkpoint):
        raise Unsupported(f"{spec.model} takes images: only models of text are spread")
    model, _ = mlx_models.classes({**checkpoint.config, "model_type": mlx_load.model_type(checkpoint)})
    if not hasattr(model, "shard") or not model.__module__.startswith("mlx_lm."):  # one that is changed here is not cut
        raise Unsupported(f"{spec.model}: mlx-lm has no way to cut architecture {checkpoint.architecture!r} in shares")
    divides(spec, checkpoint.config.get)


def settled(spec: EngineSpec) -> EngineSpec:
    """`spec`: MLX computes in the dtype of the files, which are the same everywhere."""
    return spec


def join(rank: int, places: Sequence[Place], held: Held) -> None:
    """Connect the ring; each listens at its own place only until its neighbour has come."""
    import mlx.core as mx

    ring = [[f"{address}:{port}"] for address, port in places]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(ring, file)
        file.flush()
        os.environ |= {"MLX_RANK": str(rank), "MLX_HOSTFILE": file.name}
        held.socket.close()
        try:
            mx.distributed.init(strict=True, backend="ring")
        except RuntimeError as error:
            where = ", ".join(one for (one,) in ring)
            raise LoadFailed(f"the hosts do not meet in a ring of {where}: {error}") from error


def shard(model: Any) -> None:
    """Keep this host's share of a model whose weights were not read yet."""
    import mlx.core as mx

    model.shard(mx.distributed.init(strict=True, backend="ring"))
