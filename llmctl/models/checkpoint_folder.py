"""A Checkpoint from a Hugging Face or MLX folder: config.json, tokenizer files and safetensors headers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmctl.errors import BadCheckpoint
from llmctl.models import bounded_json, safetensors_header
from llmctl.models.checkpoint import FULL, RECURRENT, SLIDING, Checkpoint, layer_count, layer_types, number
from llmctl.models.safetensors_header import SafetensorsHeader

JSON_LIMIT, TOKENIZER_LIMIT = 4 * 2**20, 16 * 2**20  # bytes; the largest tokenizer_config.json seen has 10 MB
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WITHOUT_KEYS = ("linear_attention", "conv", "mamba", "recurrent", "moe", "mlp")  # among `layer_types`
NESTED = ("text_config", "llm_config", "language_config")
EYES = ("vision_config", "vit_config")  # as Molmo calls its own
EYE = re.compile(r"(^|[._])(vision|visual|vit|image)")
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
KEY_WEIGHT = re.compile(r"\.(\d+)\.(?:self_attn|attention|attn)\.(?:k_proj|wk|key)\.weight$")
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings)\.weight$")


def inspect(path: Path) -> Checkpoint:
    """Read the folder `path`, which holds a config.json."""
    top = read_json(path / "config.json")
    nested: Mapping[str, Any] = next((top[name] for name in NESTED if isinstance(top.get(name), dict)), {})
    config = {**top, **nested}
    tokenizer_config = _optional(path / "tokenizer_config.json", TOKENIZER_LIMIT)
    generation = _optional(path / "generation_config.json")
    headers = safetensors_header.read_folder(path)
    pickles = [] if headers else [f for p in PICKLES for f in path.glob(p) if f.name != "training_args.bin"]
    if not headers and not pickles:
        raise BadCheckpoint(f"{path}: no weights (*.safetensors) in it")
    architecture = _architecture(path, top)
    layers = layer_count(path / "config.json", _first(config, "num_hidden_layers", "n_layer", "n_layers"))
    hidden = number(_first(config, "hidden_size", "n_embd", "d_model"))
    heads = number(_first(config, "num_attention_heads", "n_head", "n_heads"))
    kv_heads = number(_first(config, "num_key_value_heads", "num_kv_heads")) or heads
    head_dim = number(config.get("head_dim")) or (hidden // heads if heads else 0)
    window = number(config.get("sliding_window")) if config.get("use_sliding_window", True) else 0
    types = _types(config, architecture, window, layers)
    quantization = top.get("quantization")
    mlx = isinstance(quantization, dict) or any(h.metadata.get("format") == "mlx" for h in headers)
    eos = [*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id"))]
    return Checkpoint(
        path=path,
        format="mlx" if mlx else "safetensors",
        architecture=architecture,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        vocab=number(config.get("vocab_size")) or _embedding_rows(headers),
        context=number(_first(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")),
        sliding_window=window or None,
        layer_types=types,
        kv_widths=_kv_widths(config, types, 2 * kv_heads * head_dim, headers),
        weights_bytes=sum(t.bytes for h in headers for t in h.tensors.values())
        or sum(f.stat().st_size for f in pickles),
        parameters=_parameters(headers, quantization),
        dtype=_stored_dtype(headers) or str(_first(config, "dtype", "torch_dtype") or "float32"),
        quantization=_quantization(top),
        tokenizer=_tokenizer(path),
        has_chat_template="chat_template" in tokenizer_config or any(path.glob("chat_template.*")),
        eos_ids=tuple(dict.fromkeys(eos)),
        needs_code=_code(top, tokenizer_config, pickles),
        sees=any(isinstance(top.get(name), dict) for name in EYES),
    )


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """A JSON object from an untrusted file; BadCheckpoint names the file."""
    try:
        if path.stat().st_size > limit:
            raise BadCheckpoint(f"{path}: larger than {limit >> 20} MiB")
        data = bounded_json.loads(path.read_bytes())
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BadCheckpoint(f"{path}: not JSON: {error}"[:500]) from error
    if not isinstance(data, dict):
        raise BadCheckpoint(f"{path}: not a JSON object")
    return data


def _optional(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    return read_json(path, limit) if path.is_file() else {}


def _first(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these settings that is there: families name the same number differently."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def _architecture(path: Path, config: Mapping[str, Any]) -> str:
    if isinstance(config.get("model_type"), str) and config["model_type"]:
        return str(config["model_type"]).lower()
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return re.sub(r"(forcausallm|lmheadmodel|forconditionalgeneration|model)$", "", names[0].lower())
    raise BadCheckpoint(f"{path / 'config.json'}: neither model_type nor architectures is set")


def _tokenizer(path: Path) -> str:
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model"):
        if (path / name).is_file():
            return name
    raise BadCheckpoint(f"{path}: no tokenizer (tokenizer.json or tokenizer.model) in it")


def _code(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], pickles: Sequence[Path]) -> tuple[str, ...]:
    """What in the folder would run code of its author."""
    found = []
    if config.get("auto_map"):
        found.append("auto_map in config.json")
    if config.get("model_file"):
        found.append("model_file in config.json")
    if tokenizer_config.get("auto_map"):
        found.append("auto_map in tokenizer_config.json")
    return (*found, *(f"pickle weights {file.name}" for file in pickles))


def _ids(value: Any) -> list[int]:
    return [i for i in (value if isinstance(value, list) else [value]) if type(i) is int and i >= 0]


def _types(config: Mapping[str, Any], architecture: str, window: int, layers: int) -> tuple[str, ...]:
    """The layers as the config names them, else by the family's rule. A name that is not known counts as FULL."""
    named = _first(config, "layer_types", "layers_block_type")
    if isinstance(named, list) and len(named) == layers:
        kinds = {**dict.fromkeys(WITHOUT_KEYS, RECURRENT), "sliding_attention": SLIDING if window else FULL}
        return tuple(kinds.get(str(name), FULL) for name in named)
    heads = number(_first(config, "num_attention_heads", "n_head", "n_heads"))
    if heads == 0 and architecture.startswith(("mamba", "rwkv")):
        return (RECURRENT,) * layers
    return layer_types(architecture, window, config.get("sliding_window_pattern"), [1] * layers)


def _kv_widths(
    config: Mapping[str, Any], types: Sequence[str], width: int, headers: Sequence[SafetensorsHeader]
) -> tuple[int, ...]:
    """Key and value elements per token and layer, from the shapes of the key weights where they are: a config may
    leave its family's defaults out. DeepSeek's latent attention is counted expanded, as transformers caches it."""
    if number(config.get("kv_lora_rank")):
        key = number(config.get("qk_nope_head_dim")) + number(config.get("qk_rope_head_dim"))
        width = number(config.get("num_attention_heads")) * (key + number(config.get("v_head_dim")))
        return (width,) * len(types)
    found = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            match = KEY_WEIGHT.search(name)
            if match and tensor.shape and not EYE.search(name):
                found[int(match[1])] = 2 * tensor.shape[0]
    return tuple(0 if kind == RECURRENT else found.get(i, width) for i, kind in enumerate(types))


def _embedding_rows(headers: Sequence[SafetensorsHeader]) -> int:
    rows = (t.shape[0] for h in headers for name, t in h.tensors.items() if EMBEDDING.search(name) and t.shape)
    return max(rows, default=0)


def _stored_dtype(headers: Sequence[SafetensorsHeader]) -> str:
    """The floating-point type of most elements; empty when there is none."""
    elements = Counter[str]()
    for header in headers:
        for tensor in header.tensors.values():
            elements[tensor.dtype] += tensor.elements
    return next((DTYPES[name] for name, _ in elements.most_common() if name in DTYPES), "")


def _quantization(config: Mapping[str, Any]) -> str | None:
    """`4bit` or `mxfp4` for an MLX block, the method's name for a Hugging Face one, None for plain weights."""
    block = config.get("quantization")
    if isinstance(block, dict):
        mode = block.get("mode", "affine")
        return f"{block.get('bits', '?')}bit" if mode == "affine" else str(mode)
    block = config.get("quantization_config")
    return str(block.get("quant_method", "unknown")) if isinstance(block, dict) else None


def _parameters(headers: Sequence[SafetensorsHeader], quantization: Any) -> int:
    """All elements; of MLX's packed weights what they stand for, without their scales and biases."""
    total = 0
    for header in headers:
        for name, tensor in header.tensors.items():
            module, _, kind = name.rpartition(".")
            packed = isinstance(quantization, dict) and f"{module}.scales" in header.tensors
            if not packed:
                total += tensor.elements
            elif kind == "weight":
                own = quantization.get(module)
                bits = number((own if isinstance(own, dict) else quantization).get("bits")) or 4
                total += tensor.elements * 32 // bits
    return total
