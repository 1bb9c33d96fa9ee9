"""What can be made of what: the names of all targets, how large they get, and which artifact they are made from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmctl.catalog import Artifact
from llmctl.errors import Refused, Unsupported, UsageError, nearest
from llmctl.models.checkpoint import Checkpoint
from llmctl.models.fit import DTYPE_BYTES

FORMATS = {"mlx": "mlx", "gguf": "gguf", "torch": "safetensors"}
"""What `--to` says → the format it makes."""

# Bits per weight of the matrices, scales and offsets included: what `expected_bytes` reckons with.
CASTS = {
    "mlx": {"bf16": 16.0, "fp16": 16.0, "fp32": 32.0},
    "gguf": {"f32": 32.0, "f16": 16.0, "bf16": 16.0},
    "torch": {"bf16": 16.0, "fp16": 16.0, "fp32": 32.0},
}
GROUPS = (32, 64, 128)
AFFINE_BITS = (3, 4, 5, 6, 8)
QUANTIZED = {
    "mlx": {
        **{f"{bits}bit": bits + 32 / 64 for bits in AFFINE_BITS},
        **{f"{bits}bit-g{group}": bits + 32 / group for bits in AFFINE_BITS for group in GROUPS},
        "mxfp4": 4.25, "nvfp4": 4.5, "mxfp8": 8.25,
        "mixed-2-6": 3.5, "mixed-3-4": 3.9, "mixed-3-6": 4.3, "mixed-4-6": 5.1,
    },
    "gguf": {
        "q8_0": 8.5, "q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0, "q2_k": 3.2, "q3_k_s": 3.5, "q3_k_m": 3.9,
        "q3_k_l": 4.3, "q4_k_s": 4.6, "q4_k_m": 4.9, "q5_k_s": 5.5, "q5_k_m": 5.7, "q6_k": 6.6,
    },
    "torch": {"int8": 8.1, "int4": 8.5},  # on a CPU torchao keeps each four-bit value in a byte
}  # fmt: skip
USUAL = {"mlx": "4bit", "gguf": "q4_k_m", "torch": "bf16"}
DTYPES = {"fp32": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "bf16": "bfloat16"}
SLACK = 64 * 2**20  # tokenizer, configuration, the file system's own


@dataclass(frozen=True)
class Source:
    """An artifact that lies here, and what its header says."""

    artifact: Artifact
    checkpoint: Checkpoint

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def label(self) -> str:
        """As `--from` names it."""
        return "/".join(filter(None, (self.artifact.format, self.artifact.quantization)))

    @property
    def precision(self) -> int:
        """Bytes of one weight, 0 for quantized ones."""
        return 0 if self.checkpoint.quantization else DTYPE_BYTES.get(self.checkpoint.dtype, 0)


@dataclass(frozen=True)
class Target:
    """What is to be made: `to` is mlx, gguf or torch."""

    to: str
    quantization: str

    @property
    def artifact(self) -> Artifact:
        return Artifact(FORMATS[self.to], self.quantization)

    @property
    def is_cast(self) -> bool:
        return self.quantization in CASTS[self.to]

    @property
    def dtype(self) -> str:
        """Of a cast: float32, float16 or bfloat16."""
        return DTYPES[self.quantization]


def target(to: str, quantization: str | None) -> Target:
    """The target that these words name; UsageError lists those that there are."""
    if to not in FORMATS:
        raise UsageError(f"no format {to[:40]!r} to convert to", hint=f"--to {' or '.join(FORMATS)}")
    known = [*CASTS[to], *(name for name in QUANTIZED[to] if "-g" not in name)]
    name = (quantization or USUAL[to]).lower()
    name = name.replace("_", "-") if to == "mlx" else name.replace("-", "_")
    same = [cast for cast in CASTS[to] if DTYPES[cast] == DTYPES.get(name, name)]
    name = same[0] if same else name
    if name not in CASTS[to] and name not in QUANTIZED[to]:
        close = nearest(name, known)
        more = f", and {'bit, '.join(map(str, AFFINE_BITS))}bit with -g32 or -g128" if to == "mlx" else ""
        raise UsageError(
            f"no quantization {name[:40]!r} for {to}{f'; did you mean {close}?' if close else ''}",
            hint=f"--quantization is one of {', '.join(known)}{more}",
        )
    return Target(to, name)


def choose(model: str, sources: Sequence[Source], wanted: Target, named: str | None) -> Source:
    """The artifact to convert: the one that `named` (FORMAT or FORMAT/QUANTIZATION) says, else the most precise."""
    if named is not None:
        format, _, quantization = named.lower().partition("/")
        format = FORMATS.get(format, format)
        sources = [
            source for source in sources
            if source.artifact.format == format and quantization in ("", *_names(source))
        ]  # fmt: skip
        if not sources:
            raise Refused(f"{model} is not here as {named[:80]}", hint="llmctl models show " + model)
    able = [source for source in sources if why_not(source, wanted) is None]
    if not able and not sources:
        raise Refused(f"{model} is not here", hint=f"llmctl pull {model} --format safetensors")
    if not able:
        reasons = "; ".join(f"{source.label}: {why_not(source, wanted)}" for source in sources)
        raise Unsupported(
            f"{model}: nothing here can become {wanted.to} {wanted.quantization} ({reasons})",
            hint=f"llmctl pull {model} --format safetensors",
        )
    return max(able, key=lambda source: (source.artifact.format == "safetensors", source.precision))


def why_not(source: Source, wanted: Target) -> str | None:
    """Why this artifact cannot become that, or None."""
    has, of = source.artifact.format, source.checkpoint
    if has not in FORMATS.values():
        return f"{has} is not weights"
    if of.quantization and not (has == "gguf" and of.quantization in CASTS["gguf"]):
        return f"is quantized already ({of.quantization}), and what that lost no conversion brings back"
    if has == "mlx" and wanted.to != "mlx":
        return "MLX weights become MLX only"
    if has == "gguf" and (wanted.to != "gguf" or wanted.is_cast):
        return "GGUF becomes quantized GGUF only"
    if has == wanted.artifact.format and wanted.is_cast and of.dtype == wanted.dtype:
        return f"is {wanted.quantization} already"
    return None


def base_type(checkpoint: Checkpoint) -> str:
    """The unquantized GGUF type that loses nothing of these weights."""
    return {"float32": "f32", "float16": "f16"}.get(checkpoint.dtype, "bf16")


def expected_bytes(checkpoint: Checkpoint, wanted: Target) -> int:
    """About how large the result gets, rather too large; embeddings keep more bits than the rest."""
    bits = {**CASTS[wanted.to], **QUANTIZED[wanted.to]}[wanted.quantization]
    size = checkpoint.parameters * bits / 8
    if not wanted.is_cast:
        tables = 2 * checkpoint.vocab * checkpoint.hidden
        size += tables * max(0.0, {"gguf": 8.5, "torch": 16.0, "mlx": bits}[wanted.to] - bits) / 8
    return int(size) + SLACK


def needed_bytes(source: Source, wanted: Target) -> int:
    """Free disk that the conversion takes at its height: the result, and the file it is quantized from."""
    between = 0
    if wanted.to == "gguf" and not wanted.is_cast and source.artifact.format != "gguf":
        between = expected_bytes(source.checkpoint, Target("gguf", base_type(source.checkpoint)))
    return expected_bytes(source.checkpoint, wanted) + between


def divisible(names: Mapping[str, int], group: int) -> list[str]:
    """The matrices (name → row length) whose rows `group` does not divide."""
    return [name for name, columns in names.items() if columns % group]


def groups_for(columns: Collection[int]) -> list[int]:
    """The group sizes that divide all these row lengths."""
    return [group for group in GROUPS if all(length % group == 0 for length in columns)]


def _names(source: Source) -> tuple[str, ...]:
    """What `--from` may call the quantization of an artifact."""
    dtype = source.checkpoint.dtype
    short = [name for name, long in DTYPES.items() if long == dtype] if not source.checkpoint.quantization else []
    return (source.artifact.quantization or "", source.checkpoint.quantization or "", dtype, *short)
