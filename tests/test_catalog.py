"""The catalog: any spelling finds its model, artifacts are found on disk, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctl import catalog
from llmctl.catalog import Artifact, Catalog, Model
from llmctl.errors import ConfigError, UnknownName, UsageError
from llmctl.models import store


@pytest.mark.parametrize(
    "spelling",
    [
        "qwen2.5-0.5b",
        "QWEN2.5-0.5B",
        "qwen2-5-0-5b",
        "qwen2_5_0_5b",
        "Qwen2.5-0.5B-Instruct",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "mlx-community/Qwen2.5-0.5B-Instruct-4bit",
        "mlx-qwen2-5-0-5b-4bit-instruct",
    ],
)
def test_any_spelling_finds_the_model(spelling: str) -> None:
    assert catalog.load().resolve(spelling).id == "qwen2.5-0.5b"


@pytest.mark.parametrize(
    ("old", "id"),
    [
        ("gpt-oss-120b-MXFP4-Q4", "gpt-oss-120b"),
        ("Qwen3-235B-A22B-Instruct-2507-4bit", "qwen3-235b-a22b"),
        ("gemma-3-27b-it-qat-4bit", "gemma-3-27b-qat"),
    ],
)
def test_the_ids_of_the_older_system_are_aliases(old: str, id: str) -> None:
    assert catalog.load().resolve(old).id == id


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        catalog.load().resolve("qwen25-72b")
    assert caught.value.hint == "did you mean qwen2.5-72b?"


def test_an_ambiguous_name_lists_the_candidates_and_an_exact_id_is_never_ambiguous() -> None:
    known = Catalog([Model("a.b"), Model("a-b"), Model("c", aliases=("shared",)), Model("d", aliases=("Shared",))])
    with pytest.raises(UnknownName, match="c, d"):
        known.resolve("shared")
    with pytest.raises(UnknownName, match=r"a-b, a\.b"):
        known.resolve("A_B")
    assert known.resolve("a.b").id == "a.b"


def test_no_two_shipped_models_share_a_spelling() -> None:
    known = catalog.load()
    for model in known.models.values():
        sources = [a.source.split(":")[0] for a in model.artifacts if a.source]
        for spelling in (model.id, *model.aliases, *sources):
            assert known.resolve(spelling) is model


def test_models_toml_adds_and_replaces(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        '[models.mine]\nallow_code = true\nartifacts = [{ format = "gguf", path = "m.gguf", bytes = "2GB" }]\n'
        '[models."qwen2.5-0.5b"]\nprobe = { prompt = "Hi", expect = "Hello", max_tokens = 3 }\n'
    )
    known = catalog.load(tmp_path)
    mine = known.resolve("mine")
    assert mine.allow_code
    assert mine.artifacts == (Artifact("gguf", path=tmp_path / "m.gguf", bytes=2 * 10**9),)
    assert known.resolve("qwen2.5-0.5b").probe.expect == "Hello"
    assert known.resolve("qwen2.5-0.5b").artifacts == ()
    assert "gpt-oss-20b" in known.models


def test_artifacts_are_found_by_path_and_by_folder(tmp_path: Path) -> None:
    own = tmp_path / "elsewhere"
    own.mkdir()
    artifacts = (
        Artifact("safetensors", path=own),
        Artifact("gguf", "q4_k_m"),
        Artifact("mlx", "4bit"),
    )
    model = Model("m", artifacts=artifacts)
    assert store.present(model, tmp_path) == [(artifacts[0], own)]
    folder = tmp_path / "m" / "gguf-q4_k_m"
    folder.mkdir(parents=True)
    assert store.locate(model, artifacts[1], tmp_path) is None
    for part in ("b-00002-of-2.gguf", "b-00001-of-2.gguf"):
        (folder / part).touch()
    assert store.locate(model, artifacts[1], tmp_path) == folder / "b-00001-of-2.gguf"


def test_a_missing_model_names_the_pull_line() -> None:
    error = store.missing(catalog.load().resolve("gpt-oss-20b"), "local")
    assert error.hint == "llmctl pull gpt-oss-20b"


@pytest.mark.parametrize(
    "name", ["../up", "/abs", "a\x00b", "a\nb", "%2e%2e", "-rf", "a..b", "x" * 300, "", "Upper", "a b", "a/b"]
)
def test_s5_unsafe_model_ids_are_refused(tmp_path: Path, name: str) -> None:
    from llmctl.paths import check_name

    with pytest.raises(UsageError):
        check_name(name, "model")
    with pytest.raises(UnknownName):
        catalog.load().resolve(name)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[models."../x"]\n', 1, "not a model name"),
        ('[models.a]\nalias = ["b"]\n', 2, "unknown key"),
        ('[models.a]\n\ncontext = "long"\n', 3, "whole number"),
        ("[models.a]\n[[models.a.artifacts]]\nquantization = 'q4'\n", 2, "needs a format"),
        ('[models.a]\n[[models.a.artifacts]]\nformat = "gguff"\n', 3, "gguff"),
        ('[models.a]\n[[models.a.artifacts]]\nformat = "gguf"\nquantization = "../q"\n', 4, "not a quantization name"),
        ('[models.a]\n[[models.a.artifacts]]\nformat = "gguf"\n[[models.a.artifacts]]\nformat = 3\n', 5, "a text"),
        ("[models.a]\nprobe = { promt = 'x' }\n", 2, "unknown key"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    (tmp_path / "models.toml").write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        catalog.load(tmp_path)
    assert f"models.toml:{line}: " in caught.value.message
