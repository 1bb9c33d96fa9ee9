"""Load a transformers checkpoint for the torch engine: which class, which device and dtype, and with what progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from llmctl.domain import EngineSpec, Progress
from llmctl.engines import torch_attention, torch_checks
from llmctl.engines.checkpoint import Checkpoint, read_ahead
from llmctl.engines.checkpoint_checks import VERIFY, read_config, whole
from llmctl.engines.jobs import reason
from llmctl.engines.torch_linear import quicken
from llmctl.errors import LoadFailed, Unsupported

PLAIN_LAYERS = {"full_attention", "sliding_attention"}
DTYPES = ("float32", "bfloat16", "float16")


def model_class(spec: EngineSpec, checkpoint: Checkpoint) -> tuple[Any, Any]:
    """The transformers model class and configuration of a checkpoint; Unsupported by the architecture's name."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = checkpoint.architecture
    if spec.allow_code and (code := checkpoint.config.get("auto_map")):
        if AutoModelForCausalLM.__name__ not in code:
            raise Unsupported(f"{spec.model}: the code of its checkpoint has no AutoModelForCausalLM")
        return AutoModelForCausalLM, AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=True)
    types = {key.lower(): key for key in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    classes = {str(value).lower(): key for key, value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()}
    model_type = types.get(name.lower()) or classes.get(name.lower())
    if model_type is None or model_type not in CONFIG_MAPPING:
        raise Unsupported(f"{spec.model}: architecture {name!r} is not supported by the torch engine")
    config = read_config(spec, checkpoint, CONFIG_MAPPING[model_type], model_type)
    found = AutoModelForCausalLM._model_mapping[type(config)]
    why = unfit(found, config)
    if why:
        raise Unsupported(f"{spec.model}: architecture {name!r} {why}; the torch engine does not support that")
    return found, config


def unfit(found: Any, config: Any) -> str | None:
    """Why a model is not one of plain attention over keys and values of its own, or None."""
    quantization = config.to_dict().get("quantization_config")
    if quantization is not None and "quant_method" not in quantization:
        return "is quantized for MLX"
    layers = set(getattr(config, "layer_types", None) or ()) - PLAIN_LAYERS
    if getattr(found, "_is_stateful", False):
        return "keeps a recurrent state"
    if layers:
        return f"has {', '.join(sorted(layers))} layers"
    if config.is_encoder_decoder:
        return "is an encoder-decoder"
    if not found._supports_attention_backend:
        return "has an attention of its own"
    if config.get_text_config() is not config:
        return "takes images or sound"
    return None


@dataclass(frozen=True)
class Loaded:
    """A model in its dtype on its device, ready to infer; bytes of its weights, and of all it holds by device."""

    model: Any
    config: Any
    bytes: int
    residency: Mapping[str, int]


def load_model(spec: EngineSpec, checkpoint: Checkpoint, progress: Progress) -> Loaded:
    """The model with the attention of `torch_attention`."""
    import torch

    torch_attention.register()
    found, config = model_class(spec, checkpoint)
    options: dict[str, Any] = {"attn_implementation": torch_attention.NAME}
    if spec.spread:
        from llmctl.engines import torch_spread  # it needs `model_class`

        config, options["state_dict"] = torch_spread.share(spec, checkpoint, found, config)
    loaded = read_model(spec, checkpoint, progress, found, config, **options)
    model = loaded.model
    if model.device.type == "cpu" and model.dtype == torch.bfloat16:
        quicken(model)
    if spec.spread:
        torch_spread.sum_up(model, config)
    return loaded


def read_model(
    spec: EngineSpec, checkpoint: Checkpoint, progress: Progress, found: Any, config: Any,
    *, spare: str = "", **options: Any,
) -> Loaded:  # fmt: skip
    """A model of class `found`, made with `options`; LoadFailed when weights are missing but those named `spare…`."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = pick_device(spec.device)
    dtype = checkpoint.dtype if quantized(checkpoint) else pick_dtype(spec.dtype, checkpoint.dtype, device)
    straight = device != "cpu" and find_spec("accelerate") is not None  # no copy in host memory on the way
    whole(spec, checkpoint)
    read_ahead(checkpoint.weights, progress)
    try:
        model, report = found.from_pretrained(
            None if "state_dict" in options else checkpoint.path,
            config=config,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report has them, which says more than the error
            **options,
            **({"trust_remote_code": True} if spec.allow_code else {}),
            **({"device_map": device} if straight else {}),
        )
        torch_checks.accounted(spec, report, config, spare)
        model = (model if straight else model.to(device)).eval()
    except LoadFailed:
        raise
    except Exception as error:
        raise LoadFailed(f"{spec.model}: {reason(error)}", hint=VERIFY) from error
    residency = torch_checks.residency(spec, model, device)
    progress("weights", checkpoint.bytes, checkpoint.bytes)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Loaded(model, config, weights, residency)


def quantized(checkpoint: Checkpoint) -> bool:
    """Whether torchao quantized its weights: they compute in the type they were quantized from."""
    return (checkpoint.config.get("quantization_config") or {}).get("quant_method") == "torchao"


def pick_device(wanted: str) -> str:
    """`auto` is CUDA, else Metal, else the CPU; `metal` is torch's mps."""
    import torch

    if wanted not in ("auto", ""):
        return {"metal": "mps"}.get(wanted, wanted)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(wanted: str | None, stored: str, device: str) -> str:
    """The operator's dtype, else the checkpoint's where the device computes in it well."""
    import torch

    if wanted:
        if wanted not in DTYPES:
            raise Unsupported(f"no dtype {wanted!r}", hint=f"one of {', '.join(DTYPES)}")
        return wanted
    if stored == "float32":
        return stored
    if device.startswith("mps"):
        return "float16"
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    fast = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bfloat16" if fast else "float32"


def release(device: str) -> None:
    """Give the allocator's spare memory back to the device, so that others see it free."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def usable_context(wanted: int, config: Any) -> int:
    """The asked context, at most the model's.

    Rotary scalings that change with a sequence's length (dynamic, longrope) end where they would change: keys already
    in the cache would be wrong, and rows of one batch would not be independent.
    """
    most = getattr(config, "max_position_embeddings", None) or wanted
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        own = rope.get("original_max_position_embeddings")
        most = own or getattr(config, "original_max_position_embeddings", None) or most
    return min(wanted, most)
