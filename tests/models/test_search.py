"""`models search`: words of the catalog, and the hub's own search with its errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmctl import catalog
from llmctl.__main__ import main
from llmctl.models import search
from tests.testbed.hub import Hub

Call = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def small_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of five repositories; huggingface-hub's waits between its tries take no time."""
    from huggingface_hub import constants

    for repo in ("a/owl-7b", "b/owl-7b-gguf", "mlx-c/owl-7b-4bit", "mlx-c/owl-7b-8bit", "d/other"):
        (tmp_path / "hub" / repo).mkdir(parents=True)
        (tmp_path / "hub" / repo / "config.json").write_text("{}")
    with Hub(tmp_path / "hub") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub


@pytest.fixture
def call(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """call("owl", "--hub") → (exit code, envelope)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["--json", "models", "search", *words])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    ("text", "format", "ids"),
    [
        ("qwen2.5 32b", None, ["qwen2.5-32b"]),
        ("QWEN/32B", None, ["qwen2.5-32b"]),
        ("mxfp4", None, ["gpt-oss-20b", "gpt-oss-120b"]),
        ("bartowski phi", None, ["phi-3.5-mini"]),
        ("gemma", "mlx", ["gemma-3-27b-qat"]),
        ("gemma", "safetensors", []),
        ("mit", "gguf", ["phi-2", "phi-3.5-mini"]),
        ("balanced apache", None, ["qwen2-57b-a14b", "qwen3-235b-a22b"]),
        ("no-such-thing", None, []),
    ],
)
def test_every_word_must_be_somewhere_in_the_entry(text: str, format: str | None, ids: list[str]) -> None:
    assert [model.id for model in search.in_catalog(catalog.load(), text, format)] == ids


def test_nothing_found_is_a_finding(call: Call) -> None:
    code, answer = call("nothing-like-it")
    assert (code, answer["data"]) == (1, {"text": "nothing-like-it", "models": [], "hub": None})
    assert call("molmo")[0] == 0


def test_the_hub_is_asked_for_all_its_pages_up_to_the_limit(call: Call, small_hub: Hub) -> None:
    code, answer = call("owl", "--hub")
    assert code == 0
    assert [repo["repo"] for repo in answer["data"]["hub"]] == [
        "a/owl-7b", "b/owl-7b-gguf", "mlx-c/owl-7b-4bit", "mlx-c/owl-7b-8bit",
    ]  # fmt: skip
    assert answer["data"]["hub"][2] == {
        "repo": "mlx-c/owl-7b-4bit", "formats": ["mlx"], "licence": "apache-2.0", "gated": False, "downloads": 7,
    }  # fmt: skip
    small_hub.log.clear()
    assert len(call("owl", "--hub", "--limit", "1")[1]["data"]["hub"]) == 1
    assert len(small_hub.log) == 1
    assert [r["repo"] for r in call("owl", "--hub", "--format", "gguf")[1]["data"]["hub"]] == ["b/owl-7b-gguf"]
    assert call("owl", "--hub", "--limit", "0")[0] == 2


def test_names_of_the_hub_that_are_none_are_left_out(call: Call, small_hub: Hub) -> None:
    (small_hub.root / "owl" / "-rf ; owl").mkdir(parents=True)
    (small_hub.root / "owl" / "owl\x1b[2J").mkdir(parents=True)
    assert not {repo["repo"] for repo in call("owl", "--hub")[1]["data"]["hub"]} & {"owl/-rf ; owl", "owl/owl\x1b[2J"}


def test_a_licence_from_the_hub_is_printable_and_short() -> None:
    found = search.repository(
        SimpleNamespace(id="a/b", tags=["license:a\x1b[2J" + "x" * 90], gated="auto", downloads=True)
    )
    assert found == search.Repo("a/b", (), "a[2J" + "x" * 35, True, None)


@pytest.mark.parametrize(
    ("fault", "exit_code", "code", "hint"),
    [
        ({"kind": "status", "status": 429, "headers": {"Retry-After": "7"}}, 1, "rate_limited", "sleep 7, then search"),
        ({"kind": "status", "status": 503}, 1, "hub_down", "search without --hub"),
        ({"kind": "nonsense"}, 1, "hub_answer", "search without --hub"),
    ],
)
def test_a_hub_that_refuses_says_what_to_do(
    fault: dict[str, Any], exit_code: int, code: str, hint: str, call: Call, small_hub: Hub
) -> None:
    small_hub.fault(path="search", **fault)
    found, answer = call("owl", "--hub")
    assert (found, answer["errors"][0]["code"]) == (exit_code, code)
    assert answer["errors"][0]["hint"].startswith(hint)


def test_no_hub_and_offline_are_unreachable(call: Call, small_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    code, answer = call("owl", "--hub")
    assert (code, answer["errors"][0]["code"]) == (4, "unreachable")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, answer = call("owl", "--hub")
    assert code == 4 and "HF_HUB_OFFLINE" in answer["errors"][0]["message"]


def test_text_names_the_way_to_the_hub(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "search", "no-such-thing"]) == 1
    assert "--hub" in capsys.readouterr().out
    assert main(["models", "search", "molmo"]) == 0
    assert "molmo2" in capsys.readouterr().out
