"""The table of a quality report."""

from __future__ import annotations

import json
from dataclasses import asdict

from llmctl.catalog import QualityLimit
from llmctl.models.quality import Metrics, Report, Side
from llmctl.render import quality

SOURCE, TARGET = Side("torch", "safetensors", "bfloat16", 1024, 3.0), Side("llamacpp", "gguf", "Q4_K", 1024, 1.0)
FOUND = Metrics(480, 0.0314, 0.25, 1.5, 0.925, 182.6, 185.04, 4)


def shown(**fields):
    """The lines for a report that went through JSON, as the view gets it."""
    whole = {
        "passed": True, "why": "", "metrics": FOUND, "limit": QualityLimit(4, 0.3, 0.75), "text": "abc", "windows": 16,
        "source": SOURCE, "target": TARGET, "seconds": 12.3,
    }  # fmt: skip
    return quality.lines(json.loads(json.dumps(asdict(Report(**{**whole, **fields})))))


def test_passed():
    assert shown() == [
        "quality: within the limits for 4 bits",
        "                                               FOUND            LIMIT",
        "  mean KL divergence, nats per token          0.0314      at most 0.3",
        "    99th percentile, highest               0.25, 1.5",
        "  top-1 agreement                             92.50%  at least 75.00%",
        "  perplexity, source → target         182.6 → 185.04",
        "  480 tokens, 4 of 16 windows known to the source; safetensors bfloat16 on torch → gguf Q4_K on llamacpp; "
        "12.3s",
    ]


def test_failed():
    first, *_, last = shown(passed=False, why="too much", metrics=Metrics(480, 1.0, 1.0, 1.0, 0.9, 2.0, 3.0, 0))
    assert first == "quality: not within the limits for 4 bits: too much"
    assert last.startswith("  480 tokens, none of 16 windows known to the source; ")


def test_nothing_to_compare():
    why = "the logits of the target are not finite"
    assert shown(passed=False, why=why, metrics=Metrics(0), source=None, target=None) == [
        f"quality: not within the limits for 4 bits: {why}"
    ]
