"""scripts/model-support: the page is made of proof bundles, newest rows first, and of public ones only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmctl.checks import proof
from scripts import support_page

SUBJECT = {"host": "here", "engine": "torch", "backend": "cpu", "chip": "A chip", "versions": {"torch": "2.13.0"}}


def bundle(out: Path, began: float, private: bool = False, **fields: Any) -> Path:
    row = {
        "host": "here", "backend": "cpu", "engine": "torch", "arch": "qwen2", "model": "qwen2-0.5b",
        "format": "safetensors", "quantization": None, "status": "pass", "why": "10 checks", "seconds": 1.0,
        "checks": {}, **fields,
    }  # fmt: skip
    return proof.write(out, proof.Run("test-models", [row], [SUBJECT], [42], 0, began), private=private)


def test_the_page_has_the_newest_row_of_each_cell(tmp_path: Path) -> None:
    old = bundle(tmp_path, 1_000_000.0, status="fail", why="batch: wrong")
    new = bundle(tmp_path, 1_000_060.0)
    other = bundle(tmp_path, 1_000_120.0, model="tiny-phi", arch="phi", status="fail", why="load: | and\nlines")
    kept = support_page.merged([support_page.read(path) for path in (new, other, old)])
    page = support_page.page(json.loads(json.dumps(kept)))
    assert "| qwen2 | qwen2-0.5b | safetensors | pass |" in page and "batch: wrong" not in page
    assert "| phi | tiny-phi | safetensors | fail |" in page
    assert "- fail: tiny-phi (safetensors) on torch: load: | and lines" in page
    assert "| cpu | A chip | torch | torch 2.13.0 | 1970-01-12 |" in page
    assert "`llmctl pull qwen2-0.5b`" in page and "- tiny-phi (phi): `scripts/test-matrix`" in page


def test_what_is_no_public_bundle_of_test_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--private"):
        support_page.read(bundle(tmp_path, 1.0, private=True))
    run = proof.Run("smoke", [{"host": "here", "status": "pass"}], [SUBJECT], [42], 0, 1.0)
    with pytest.raises((ValueError, OSError)):
        support_page.read(proof.write(tmp_path, run))
    assert support_page.main([]) == 2
    assert support_page.main([tmp_path / "nothing"]) == 1
