"""`bench list`, `show` and `compare`: what was measured is found again, and compared only where it may be."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl.checks.bench_compare import compared
from llmctl.domain import SlotSpec
from llmctl.errors import Refused
from tests.checks.test_bench import QUICK, Bench, bench
from tests.conftest import RunningSlot

__all__ = ["bench"]
Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
RATES = ("prompt_tokens_per_second", "generation_tokens_per_second", "tokens_per_second")


def result(id: str, rate: float, first: float = 1.0, **load: int) -> dict[str, Any]:
    """A result of one load whose rates are `rate` ± 10 %, as `bench run` answers it."""
    figures = {name: {"median": rate, "low": rate * 0.9, "high": rate * 1.1} for name in RATES}
    times = {f"first_token_{p}": {"median": first, "low": first, "high": first} for p in ("p50", "p95")}
    cell = {"streams": 1, "prompt": 128, "new": 64, "requests": 8, "runs": 3, **load, **figures, **times}
    return {"id": id, "at": 0.0, "model": "m", "engine": "llamacpp", "chip": "c", "cells": [cell]}


def figures(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells without words, which a bundle shows masked."""
    return [{key: value for key, value in cell.items() if not key.endswith("_why")} for cell in data["cells"]]


# ── compare, pure ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_ratios_are_of_the_second_over_the_first_with_all_that_the_ranges_allow() -> None:
    found = compared(result("a", 100.0, first=1.0), result("b", 50.0, first=4.0))
    (row,) = found.rows
    rate, first = row["tokens_per_second"], row["first_token_p50"]
    assert (rate["first"], rate["second"], rate["ratio"]) == (100.0, 50.0, 0.5)
    assert rate["low"] == pytest.approx(45 / 110) and rate["high"] == pytest.approx(55 / 90)
    assert first["ratio"] == 0.25 and not found.slower and not found.differ


def test_a_rate_below_the_limit_is_told_and_times_judge_nothing() -> None:
    found = compared(result("a", 100.0), result("b", 94.0, first=9.0), 0.95)
    assert [text.split(" ")[0] for text in found.slower] == list(RATES)
    assert not compared(result("a", 100.0), result("b", 96.0, first=9.0), 0.95).slower


@pytest.mark.parametrize("key", ["streams", "prompt", "new", "requests"])
def test_another_load_is_not_compared(key: str) -> None:
    with pytest.raises(Refused, match=r"only a has 8 requests of 128 .* only b has") as caught:
        compared(result("a", 1.0), result("b", 1.0, **{key: 99}))
    assert "99" in caught.value.message


def test_more_runs_are_the_same_load_and_another_machine_is_told() -> None:
    other = {**result("b", 1.0, runs=9), "chip": "d"}
    assert compared(result("a", 1.0), other).differ == ["chip: c and d"]


def test_a_figure_that_one_of_them_has_not_is_left_out() -> None:
    one = result("a", 1.0)
    two = copy.deepcopy(one)
    two["cells"][0]["prompt_tokens_per_second"] = None
    assert compared(one, two).rows[0]["prompt_tokens_per_second"] is None


# ── what is kept ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_results_are_kept_and_found_again(
    bench: Bench, slots: Slots, script: Script, home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from llmctl.__main__ import main

    assert bench("list") == (0, {"results": []}, [])
    slot = slots(script("alpha"))
    _, first, _ = bench("run", slot.port, *QUICK)
    _, second, _ = bench("run", slot.port, *QUICK, "--no-proof")
    _, third, _ = bench("run", slot.port, *QUICK, "--streams", "2")
    ids = [first["id"], second["id"], third["id"]]
    assert len(set(ids)) == 3 and second["proof"] is None and Path(first["proof"]).name == first["id"]

    _, data, _ = bench("list")
    assert [row["id"] for row in data["results"]] == ids[::-1]
    assert data["results"][0]["host"] == "here" and data["results"][0]["loads"][0]["streams"] == 2
    assert len(bench("list", "--model", "alpha", "--host", "here", "--since", "1h")[1]["results"]) == 3
    for words in (("--model", "beta"), ("--host", "there"), ("--since", "0s")):
        assert bench("list", *words)[1]["results"] == []
    assert bench("list", "--since", "yesterday")[0] == 2

    shown = bench("show", second["id"])[1]
    assert shown["cells"] == second["cells"] and shown["host"] == "here"
    code, data, _ = bench("compare", first["id"], second["id"])
    assert (
        code == 0 and data["rows"][0]["tokens_per_second"]["first"] == first["cells"][0]["tokens_per_second"]["median"]
    )
    assert bench("compare", first["id"], second["id"], "--fail-below", "1000")[0] == 1
    code, _, errors = bench("compare", first["id"], third["id"])
    assert (code, errors[0]["code"]) == (1, "refused") and "not the same load" in errors[0]["message"]

    for typed in (["bench", "list"], ["bench", "show", ids[0]], ["bench", "compare", *ids[:2]]):
        assert main(typed) == 0 and ids[0] in capsys.readouterr().out
    code, _, errors = bench("show", ids[0][:-1])
    assert code == 2 and ids[0] in errors[0]["hint"]
    assert bench("show", "../../../etc")[2][0]["code"] == "unknown_name"

    away = tmp_path / "bundle"  # of somebody else, or after history was lost
    shutil.copytree(first["proof"], away)
    assert figures(bench("show", away)[1]) == figures(first)
    for path in home.glob("history.db*"):
        path.unlink()
    assert [row["id"] for row in bench("list")[1]["results"]] == [ids[2], ids[0]]
    (away / "cells.ndjson").write_text("{}\n{")
    assert bench("show", away)[2][0]["code"] == "state"


def test_a_bundle_names_no_host_and_history_that_cannot_be_written_costs_no_result(
    bench: Bench, slots: Slots, script: Script, home: Path
) -> None:
    slot = slots(script("alpha"))
    (home / "history.db").mkdir()
    code, data, _ = bench("run", slot.port, *QUICK)
    assert code == 0 and "history" in data["history"] and data["cells"]
    for file in Path(data["proof"]).iterdir():
        text = file.read_text()
        assert "here" not in text.split() and '"here"' not in text and str(home) not in text, file
    meta = json.loads((Path(data["proof"]) / "metadata.json").read_text())
    assert meta["subjects"][0]["host"] == "host-1" and meta["subjects"][0]["chip"]
    assert bench("list")[1]["results"][0]["host"] == "host-1"
    assert bench("run", slot.port, *QUICK, "--private")[1]["proof"] != data["proof"]
    assert os.path.isdir(home / "history.db")
