"""The table of a quality report, wherever one is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.render.text import Table, duration, plain_table


def lines(report: Mapping[str, Any]) -> list[str]:
    """The verdict, the figures beside their limits, and what was measured; `report` is a Report as JSON."""
    found, limit = report["metrics"], report["limit"]
    bits = f"the limits for {limit['bits']} bits"
    verdict = f"quality: within {bits}" if report["passed"] else f"quality: not within {bits}: {report['why']}"
    if found["mean_kl"] is None:
        return [verdict]
    rows = [
        ("mean KL divergence, nats per token", f"{found['mean_kl']:.3g}", f"at most {limit['max_kl']:.3g}"),
        ("  99th percentile, highest", f"{found['p99_kl']:.3g}, {found['max_kl']:.3g}", ""),
        ("top-1 agreement", f"{found['top1']:.2%}", f"at least {limit['min_top1']:.2%}"),
        ("perplexity, source → target", _arrow(found), ""),
    ]
    sides = (f"{side['format']} {side['dtype']} on {side['engine']}" for side in (report["source"], report["target"]))
    known = f"{found['known_windows'] or 'none'} of {report['windows']} windows known to the source"
    measured = f"{found['tokens']} tokens, {known}; {' → '.join(sides)}; {duration(report['seconds'])}"
    table = plain_table(Table(("", "FOUND", "LIMIT"), rows, right=("FOUND", "LIMIT")))
    return [verdict, *(f"  {line}" for line in table.splitlines()), f"  {measured}"]


def _arrow(found: Mapping[str, Any]) -> str:
    return f"{found['source_perplexity']:.5g} → {found['target_perplexity']:.5g}"
