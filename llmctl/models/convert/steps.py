"""Which processes make a target out of a source, in order, and what each of them is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmctl.jobs.context import Context
from llmctl.models.convert import child, fetch, plan
from llmctl.models.convert.child import Step
from llmctl.models.convert.plan import Source, Target

CONVERTER_MAKES = (*plan.CASTS["gguf"], "q8_0")
HALF_SPEED = "on a CPU, torch ran weight-only {} at half of bf16's speed; it saves memory, not time"


@dataclass
class Made:
    """What the processes said: the tools' versions, and the most resident memory that one of them had."""

    tools: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> int:
        return max(self.peaks.values(), default=0)


@dataclass
class Steps:
    """One conversion: `view` is what the converters see of the source, `staged` the folder they fill."""

    model: str
    wanted: Target
    source: Source
    view: Path
    staged: Path
    scratch: Path
    home: Path
    job: Context
    made: Made = field(default_factory=Made)
    proof: Mapping[str, str] | None = None

    def run(self, *, allow_code: bool, pre: str | None) -> Made:
        """Fill `staged`, which is to be proved yet; the processes' LlmctlError."""
        common = {"model": self.model, "allow_code": allow_code, "source": str(self.view), "target": str(self.staged)}
        if self.wanted.to == "gguf":
            self._gguf({**common, "pre": pre})
        elif self.wanted.to == "mlx":
            self._step("mlx_weights", {**common, "quantization": self.wanted.quantization}, self.staged)
        elif self.wanted.is_cast:
            self._step("torch_cast", {**common, "dtype": self.wanted.dtype}, self.staged)
        else:
            self.job.note(HALF_SPEED.format(self.wanted.quantization))
            self._step("torch_quantize", {**common, "quantization": self.wanted.quantization}, self.staged)
        return self.made

    def _gguf(self, common: Mapping[str, Any]) -> None:
        result, name = self.staged / f"{self.model}.gguf", self.wanted.quantization
        if self.source.artifact.format == "gguf":
            self._quantize(self.view, result)
            return
        direct = name in CONVERTER_MAKES
        base = result if direct else self.scratch / "base.gguf"
        kind = name if direct else plan.base_type(self.source.checkpoint)
        expected = str(self.scratch / "expected.json")
        about = {"type": kind, "converter": str(fetch.converter(self.home, self.job)), "version": fetch.VERSION}
        request = {**common, **about, "target": str(base), "expected": expected}
        self._step("gguf_base", request, base, Target("gguf", kind))
        if not direct:
            self._quantize(base, result)
        self.proof = {"target": str(result), "expected": expected}

    def prove(self) -> None:
        """Compare a GGUF file's tokens with its source's; Unsupported where they differ."""
        if self.proof:
            self._step("gguf_tokens", self.proof, Path(self.proof["target"]))

    def _quantize(self, base: Path, result: Path) -> None:
        request = {"source": str(base), "target": str(result), "quantization": self.wanted.quantization}
        self._step("gguf_quantize", request, result)

    def _step(self, module: str, request: Mapping[str, Any], grows: Path, makes: Target | None = None) -> None:
        size = plan.expected_bytes(self.source.checkpoint, makes or self.wanted) - plan.SLACK
        answer = child.run(Step(NAMES[module], module, request, grows, size), self.scratch, self.job)
        self.made.tools |= answer.get("tools", {})
        self.made.peaks[module] = answer["peak_bytes"]


NAMES = {
    "gguf_base": "convert to GGUF",
    "gguf_quantize": "quantize",
    "gguf_tokens": "compare the tokens",
    "mlx_weights": "convert to MLX",
    "torch_cast": "cast",
    "torch_quantize": "quantize",
}
