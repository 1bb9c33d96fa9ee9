"""The catalog: any spelling finds its model, artifacts are found on disk, mistakes are named."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from llmctl import catalog
from llmctl.catalog import Artifact, Catalog, Model, QualityLimit
from llmctl.environments import pins
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
        '[models.mine]\nallow_code = true\nartifacts = [{ format = "gguf", path = "m.gguf", bytes = "4.1GB" }]\n'
        '[models."qwen2.5-0.5b"]\nprobe = { prompt = "Hi", expect = "Hello", max_tokens = 3 }\n'
    )
    known = catalog.load(tmp_path)
    mine = known.resolve("mine")
    assert mine.allow_code
    assert mine.artifacts == (Artifact("gguf", path=tmp_path / "m.gguf", bytes=4_100_000_000),)
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


def test_every_model_of_the_mission_is_there_with_its_tier() -> None:
    known = catalog.load()
    tiers = {model.id: model.tier for model in known.models.values() if not model.id.startswith("tiny-")}
    small = (
        "qwen2-0.5b qwen2.5-0.5b tinyllama-1.1b phi-2 phi-3.5-mini mistral-7b-v0.2 molmo2 gpt-oss-20b gemma-3-27b-qat"
    )
    assert tiers == {
        **dict.fromkeys(small.split(), "small"),
        "qwen2.5-32b": "fast", "gpt-oss-120b": "fast", "qwen2-57b-a14b": "balanced", "qwen3-235b-a22b": "balanced",
        "mistral-large-2411": "balanced", "llama-3.1-70b": "high", "qwen2.5-72b": "high",
    }  # fmt: skip
    sizes = {(m.id, a.quantization): a.tier for m in known.models.values() for a in m.artifacts}
    assert sizes["qwen3-235b-a22b", "6bit"] == "beyond"
    assert sizes["mistral-large-2411", "8bit"] == "balanced"


def test_every_shipped_artifact_says_its_bytes_and_its_licence() -> None:
    for model in catalog.load().models.values():
        for artifact in model.artifacts:
            if artifact.source:
                assert artifact.bytes and model.traits(artifact).licence, f"{model.id} {artifact.folder}"


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [(1, "small"), (49.999, "small"), (50, "fast"), (90, "balanced"), (140, "high"), (170, "high"), (170.1, "beyond")],
)
def test_a_tier_is_computed_from_the_bytes(gigabytes: float, expected: str) -> None:
    assert catalog.tier(int(gigabytes * 1e9)) == expected


def test_the_tier_of_a_model_is_that_of_its_first_artifact_with_bytes() -> None:
    artifacts = (Artifact("gguf"), Artifact("mlx", bytes=100 * 10**9), Artifact("safetensors", bytes=1))
    assert Model("m", artifacts=artifacts).tier == "balanced"
    assert Model("m", artifacts=artifacts[:1]).tier is None


def test_an_artifact_says_what_its_format_has_otherwise() -> None:
    here = Artifact("gguf", context=512, stop_ids=(7,))
    model = Model("m", context=1024, licence="mit", tool_parser="hermes", artifacts=(here,))
    traits = model.traits(here)
    assert (traits.context, traits.licence, traits.stop_ids, traits.tool_parser) == (512, "mit", (7,), "hermes")
    assert model.traits().context == 1024


def test_molmo_runs_code_only_at_a_pinned_commit_and_in_its_own_stack() -> None:
    molmo = catalog.load().resolve("allenai/Molmo2-8B")
    assert molmo.allow_code and molmo.env == {"transformers": "4.57.1"}
    assert len(str(molmo.artifacts[0].revision)) == 40


def test_a_pin_is_met_by_its_version_or_its_series_only() -> None:
    here = metadata.version("pytest")
    series = here.split(".")[0]
    assert pins.unmet({"pytest": here}) == pins.unmet({"pytest": f"{series}.*"}) == []
    assert pins.unmet({"pytest": "0.1", "no-such-package": "1.*"}) == [
        "no-such-package 1.* (here: none)",
        f"pytest 0.1 (here: {here})",
    ]


def test_a_series_is_no_prefix_of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "5.10.2")
    assert pins.unmet({"transformers": "5.10.*"}) == []
    assert pins.unmet({"transformers": "5.1.*"}) == ["transformers 5.1.* (here: 5.10.2)"]


def test_a_local_part_of_a_version_is_no_part_of_its_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cpu")
    assert pins.unmet({"torch": "2.13.0"}) == pins.unmet({"torch": "2.13.*"}) == []


def test_quality_limits_are_read_and_overridden_per_bits(tmp_path: Path) -> None:
    shipped = catalog.load().quality
    (tmp_path / "models.toml").write_text(
        "[[quality]]\nbits = 7\nmax_kl = 0.5\nmin_top1 = 0.9\nseen_kl = [0, 0.25]\nseen_top1 = [0.95, 1.0]\n"
    )
    known = catalog.load(tmp_path).quality
    assert known[7] == QualityLimit(7, 0.5, 0.9, (0.0, 0.25), (0.95, 1.0))
    assert {bits: limit for bits, limit in known.items() if bits != 7} == {b: q for b, q in shipped.items() if b != 7}


def test_a_template_is_a_file_beside_the_toml_or_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").touch()
    (tmp_path / "models.toml").write_text(
        '[models.a]\nchat_template = "mine.jinja"\nchat_template_args = { enable_thinking = false }\n'
        '[models.b]\nchat_template = "tool_use"\n'
    )
    known = catalog.load(tmp_path)
    assert known.models["a"].chat_template == str(tmp_path / "mine.jinja")
    assert known.models["a"].chat_template_args == {"enable_thinking": False}
    assert known.models["b"].chat_template == "tool_use"


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
        ("[models.a]\n[models.A-]\n", 2, "not a model name"),
        ("[models.a-b]\n[models.'a.b']\n", 2, "another spelling of the model 'a-b'"),
        ("[models.a]\n\n[models.b]\naliases = ['x', 'A']\n", 4, "'A' is the id of another model"),
        ("[models.'qwen2-5-32b']\n", 1, "another spelling of the model 'qwen2.5-32b'"),
        ("\n[models.mistral-7b]\n", 2, "an alias of the shipped model 'mistral-7b-v0.2'"),
        ("[models.a]\naliases = ['gpt_oss_20b']\n", 2, "the id of another model"),
        ("[models.a]\nenv = { torch = 'new' }\n", 2, "no pin"),
        ("[models.a]\nstop_ids = [-1]\n", 2, "token ids"),
        ("[models.a]\n[models.a.chat_template_args]\nthink = true\nmessages = 1\n", 4, "may set"),
        ("[models.a.chat_template_args]\n'a b' = 1\n", 2, "may set"),
        ("[models.a]\nstop_ids = [true]\n", 2, "token ids"),
        ("[models.a]\nchat_template = 'none.jinja'\n", 2, "there is no file"),
        ("[models.a]\n[[models.a.artifacts]]\nformat = 'mlx'\nsource = '../x'\n", 4, "no source"),
        ("[models.a]\n[[models.a.artifacts]]\nformat = 'mlx'\nnames = ['PHI_2']\n", 4, "the id of another model"),
        (
            "[models.a]\nallow_code = true\n[[models.a.artifacts]]\nformat = 'mlx'\nsource = 'o/r'\nrevision = 'v1'\n",
            6,
            "must be pinned",
        ),
        ("[[quality]]\nbits = 4\nmax_kl = 1\n", 1, "needs min_top1"),
        ("[[quality]]\nbits = 4\nmin_top1 = 1\nmax_kl = nan\n", 4, "0 or more"),
        ("[[quality]]\nbits = 4\nmax_kl = 1\nmin_top1 = 97\n", 4, "a share"),
        ("[[quality]]\nbits = 4\nmax_kl = 1\nmin_top1 = 1\nseen_kl = [1]\n", 5, "lowest, highest"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    (tmp_path / "models.toml").write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        catalog.load(tmp_path)
    assert f"models.toml:{line}: " in caught.value.message
