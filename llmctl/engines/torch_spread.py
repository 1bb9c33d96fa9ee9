"""A transformers model cut into equal shares of its heads and its inner width (1909.08053), one for each host.

A share is the same architecture with fewer heads and a narrower middle: rows of the matrices that go in, columns of
those that come out, whose sums are the whole model's. Which matrices those are the configuration's own plan for tensor
parallelism says. Embeddings and the head are on every host. Sums go by gloo between CPUs; by nccl, between CUDA
devices, this was never run.
"""

from __future__ import annotations

import copy
import datetime
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.engines import torch_load
from llmctl.engines.checkpoint import Checkpoint, read_checkpoint
from llmctl.engines.spread_place import DIVIDED, Held, Place, divides
from llmctl.errors import LoadFailed, Unsupported

TIMEOUT = 60.0
"""Seconds that one host waits for another within a sum."""
IN, OUT = "colwise", "rowwise"
WHOLE = ("replicated_with_grad_allreduce",)


def check(spec: EngineSpec) -> None:
    """Unsupported when the checkpoint cannot be cut into equal shares."""
    checkpoint = read_checkpoint(spec)
    _class, config = torch_load.model_class(spec, checkpoint)
    plan(spec, config)
    if torch_load.quantized(checkpoint):
        raise Unsupported(f"{spec.model} is quantized: the torch engine spreads plain weights only")


def plan(spec: EngineSpec, config: Any) -> Mapping[str, str]:
    """IN and OUT by the name of the matrix, `*` for a layer's number; Unsupported when there is more to it."""
    known: dict[str, str] = dict(config.base_model_tp_plan or {})
    others = sorted({style for style in known.values() if style not in (IN, OUT, *WHOLE)})
    if not known or others:
        why = f"it needs {', '.join(others)}" if others else "transformers has no plan for it"
        raise Unsupported(f"{spec.model}: architecture {config.model_type!r} cannot be spread: {why}")
    divides(spec, lambda name: getattr(config, name, None))
    return known


def settled(spec: EngineSpec) -> EngineSpec:
    """`spec` with the device and the dtype that this host would choose: all must add up the same kind of number."""
    device = torch_load.pick_device(spec.device)
    return replace(spec, device=device, dtype=torch_load.pick_dtype(spec.dtype, read_checkpoint(spec).dtype, device))


def join(rank: int, places: Sequence[Place], held: Held) -> None:
    """Meet at the first host's port; what is summed goes over the addresses of `places` only."""
    import torch
    import torch.distributed as dist

    (address, port), own = places[0], places[rank][0]
    wait = datetime.timedelta(seconds=TIMEOUT)
    if name := interface(own):
        os.environ |= {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    try:
        listening = held.socket.detach() if rank == 0 else None
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, len(places), rank == 0, wait, master_listen_fd=listening
        )
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backends, store=store, rank=rank, world_size=len(places), timeout=wait)
    except Exception as error:
        raise LoadFailed(f"the hosts do not meet at {address}:{port}: {error}") from error
    finally:
        held.socket.close()


def interface(address: str) -> str | None:
    """The network interface that has `address`; None where the kernel does not tell."""
    try:
        import fcntl

        wanted, SIOCGIFADDR = socket.inet_aton(address), 0x8915
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _, name in socket.if_nameindex():
                try:
                    found = fcntl.ioctl(sock, SIOCGIFADDR, name.encode().ljust(40, b"\0"))
                except OSError:  # it has no address
                    continue
                if found[20:24] == wanted:
                    return name
    except OSError:
        pass
    return None


def share(spec: EngineSpec, checkpoint: Checkpoint, found: Any, config: Any) -> tuple[Any, dict[str, Any]]:
    """This host's configuration and weights: what `from_pretrained` makes its model of."""
    import torch.distributed as dist

    rank, hosts, known = dist.get_rank(), dist.get_world_size(), plan(spec, config)
    own = copy.deepcopy(config)
    own.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name in DIVIDED:
        if getattr(config, name, None) is not None:
            setattr(own, name, getattr(config, name) // hosts)
    prefix = f"{found.base_model_prefix}."
    return own, {
        name: cut(tensor, known.get(generic(name, prefix)), name.endswith(".bias"), rank, hosts)
        for name, tensor in slices(checkpoint)
    }


def generic(name: str, prefix: str) -> str:
    """A weight's matrix as a plan names it."""
    return re.sub(r"\.\d+\.", ".*.", name.removeprefix(prefix).rpartition(".")[0])


def slices(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    """The weights by name, none of them read yet."""
    from safetensors import safe_open

    for file in checkpoint.weights:
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 — it is no mapping
                yield name, weights.get_slice(name)


def cut(weight: Any, style: str | None, bias: bool, rank: int, hosts: int) -> Any:
    """One share of a weight. The bias of an OUT matrix is added once, on the first host."""
    shape = weight.get_shape()
    if style == IN:
        size = shape[0] // hosts
        return weight[rank * size : (rank + 1) * size]
    if style == OUT and not bias:
        size = shape[1] // hosts
        return weight[:, rank * size : (rank + 1) * size].contiguous()
    whole = weight[:]
    return whole * 0 if style == OUT and rank else whole


def sum_up(model: Any, config: Any) -> None:
    """After each OUT matrix, add what all hosts have."""
    import torch.distributed as dist

    def add(module: Any, inputs: Any, output: Any) -> Any:
        dist.all_reduce(output)
        return output

    prefix = f"{model.base_model_prefix}."
    for name, module in model.named_modules():
        if (config.base_model_tp_plan or {}).get(generic(f"{name}.weight", prefix)) == OUT:
            module.register_forward_hook(add)
