"""The check after a quantization: score source and target on the token set, compare, judge."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl.catalog import QualityLimit
from llmctl.errors import DoesNotFit, LlmctlError, Refused, Unsupported
from llmctl.jobs.context import Context
from llmctl.models.checkpoint import Checkpoint, inspect
from llmctl.models.quality import text
from llmctl.models.quality.report import Metrics, Report, Side, verdict
from llmctl.models.quality.scoring import Scores, score

WINDOWS, LENGTH = 16, 128
SKIP = 4  # positions at the beginning of a window: after so little text most is guesswork for any model
SHORTEST = 16

Both = tuple[Checkpoint, Checkpoint]


class Incomparable(Refused):
    """The two models do not have the same vocabulary."""

    code = "incomparable"


class NotFinite(Exception):
    """A model's logits were not finite when it was loaded; the argument says which."""


def check(
    source: Path,
    target: Path,
    limit: QualityLimit,
    job: Context,
    *,
    allow_code: bool = False,
    windows: int = WINDOWS,
    length: int = LENGTH,
    scratch: Path | None = None,
) -> Report:
    """Measure `target` against `source` on up to `windows` windows of `length` tokens, or more of shorter ones.

    One model at a time is in memory; their logits lie in a temporary folder within `scratch` (None: the system's).
    LlmctlError when one of them cannot be scored at all; logits that are not finite are a failed report.
    """
    started = time.monotonic()
    both = inspect(source), inspect(target)
    tokens, length = windows * length, window_length(length, both)
    task = {**asdict(text.read()), "count": tokens // length, "length": length, "skip": SKIP}
    with tempfile.TemporaryDirectory(prefix="llmctl-quality-", dir=scratch) as folder:
        _check_disk(both, tokens, Path(folder))
        try:
            scores = _score_both(both, task, Path(folder), job, allow_code)
        except NotFinite as error:
            why = f"the logits of the {error} are not finite"
            return Report(False, why, Metrics(0), limit, "", 0, None, None, time.monotonic() - started)
        check_vocabularies(*scores)
        job.progress("compare")
        return _report(both, scores, limit, started)


def window_length(length: int, both: Both) -> int:
    """`length`, at most what both models are made for. Not beyond a sliding window: there engines do not agree."""
    bounds = [n for checkpoint in both for n in (checkpoint.context, checkpoint.sliding_window) if n]
    length = min([length, *bounds])
    if length < SHORTEST:
        raise Unsupported(
            f"a context of {length} tokens is too short to measure quality in; {SHORTEST} are needed",
            hint="llmctl models show MODEL tells its context",
        )
    return length


def _score_both(
    both: Both, task: Mapping[str, Any], folder: Path, job: Context, allow_code: bool
) -> tuple[Scores, Scores]:
    """The scores of source and target, on ids of the source's tokenizer; the target's where that cannot be read."""

    def one(name: str, more: Mapping[str, Any]) -> Scores:
        checkpoint = both[name == "target"]
        highest = max((id for window in more.get("windows", ()) for id in window), default=0)
        if 0 < checkpoint.vocab <= highest:
            raise Incomparable(
                f"the models have different vocabularies: the text has the id {highest} in the other's, the {name} "
                f"only {checkpoint.vocab} ids"
            )
        try:
            return score(checkpoint, {**task, **more}, folder / name, job, name=name, allow_code=allow_code)
        except LlmctlError as error:
            if error.code == "nonfinite_logits":
                raise NotFinite(name) from error
            raise

    try:
        source = one("source", {})
    except LlmctlError as error:
        if error.code != "no_tokenizer":
            raise
        job.note(f"{error.message}; the token set is made with the target's tokenizer")
        shutil.rmtree(folder / "source")
        target = one("target", {})
        return one("source", {"windows": target.windows}), target
    return source, one("target", {"windows": source.windows})


def check_vocabularies(source: Scores, target: Scores) -> None:
    """Incomparable unless the ids mean the same in both; ids that pad the larger one up to a round size may lack."""
    common = min(source.vocab, target.vocab)
    known = [n for n in (source.tokenizer_vocab, target.tokenizer_vocab) if n]
    if known and min(known) > common:
        raise Incomparable(
            f"the models have different vocabularies: the source {source.vocab} ids, the target {target.vocab}, "
            f"their tokenizers {' and '.join(map(str, known))}"
        )
    for id, piece in source.pieces.items():
        other = target.pieces[id]
        if piece and other and piece != other:
            texts = [bytes.fromhex(p).decode("utf-8", "replace") for p in (piece, other)]
            raise Incomparable(
                f"the models have different vocabularies: id {id} is {texts[0]!r} in the source and {texts[1]!r} "
                "in the target",
                hint="is it a conversion of this very model?",
            )


def _check_disk(both: Both, positions: int, folder: Path) -> None:
    needed = sum(4 * positions * checkpoint.vocab for checkpoint in both)
    free, place = shutil.disk_usage(folder).free, folder.parent
    if needed > free:
        raise DoesNotFit(
            f"measuring the quality takes {needed / 1e9:.1f} GB of disk in {place}, {free / 1e9:.1f} GB are free",
            hint="llmctl models gc removes what nothing uses",
            details={"needed": needed, "free": free},
        )


def figures(source: Scores, target: Scores) -> Metrics:
    """The figures of two models that were scored on the same windows."""
    import numpy as np

    from llmctl.models.quality.metrics import measure, summary

    following = [np.array(window[1 + SKIP :]) for window in source.windows]
    positions = measure(source.rows_of_logits(), target.rows_of_logits(), np.concatenate(following))
    return summary(positions, [len(ids) for ids in following])


def _report(both: Both, scores: tuple[Scores, Scores], limit: QualityLimit, started: float) -> Report:
    metrics = figures(*scores)
    why = verdict(metrics, limit)
    source, target = (
        Side(s.identity["engine"], c.format, s.identity["dtype"], s.vocab, s.seconds)
        for c, s in zip(both, scores, strict=True)
    )
    windows = scores[0].windows
    name = hashlib.sha256(json.dumps(windows).encode()).hexdigest()[:12]
    return Report(not why, why, metrics, limit, name, len(windows), source, target, time.monotonic() - started)
