"""What stands on the command line becomes one pull: an entry's artifact for this backend, or a repository."""

from __future__ import annotations

from typing import Any

import pytest

from llmctl.catalog import Artifact, Catalog, Model
from llmctl.errors import LlmctlError, Refused, UnknownName, Unsupported, UsageError
from llmctl.models.wanted import Wanted, Wish, resolve

SMALL = Model(
    "small-1b",
    aliases=("small",),
    artifacts=(
        Artifact("safetensors", "bf16", "org/Small-1B", revision="c" * 40),
        Artifact("gguf", "q4_k_m", "org/Small-1B-GGUF:small-1b-q4_k_m.gguf"),
        Artifact("mlx", "4bit", "mlx-community/Small-1B-4bit"),
    ),
)
CODED = Model("coded", allow_code=True, artifacts=(Artifact("safetensors", None, "org/coded", revision="d" * 40),))
MADE = Model("made", artifacts=(Artifact("gguf"),))
LOCAL = Model("other-2b", artifacts=(Artifact("gguf", "q8_0", "org/Other-2B:other-q8_0.gguf", revision="e" * 40),))
CATALOG = Catalog([SMALL, CODED, MADE, LOCAL])
PLACE = {"backend": "cpu", "models_dir": "/m", "cache": "/c", "endpoint": "http://hub"}


def wanted(name: str, **more: Any) -> Wanted:
    place = {**PLACE, **({"backend": more.pop("backend")} if "backend" in more else {})}
    return resolve(Wish(name, **more), CATALOG, pinned=("small-1b", "coded", "made"), **place)


def short(name: str, **more: Any) -> tuple[str, str, str, str | None, str | None]:
    found = wanted(name, **more)
    return found.model, found.format, found.source, found.quantization, found.revision


GGUF = ("small-1b", "gguf", "org/Small-1B-GGUF:small-1b-q4_k_m.gguf", "q4_k_m", None)
PLAIN = ("small-1b", "safetensors", "org/Small-1B", "bf16", "c" * 40)
MLX = ("small-1b", "mlx", "mlx-community/Small-1B-4bit", "4bit", None)


def test_auto_is_what_the_backends_first_engine_reads() -> None:
    assert (short("small-1b"), short("small-1b", backend="cuda"), short("small-1b", backend="metal")) == (
        GGUF,
        PLAIN,
        MLX,
    )


def test_every_spelling_of_an_entry_and_its_repositories() -> None:
    for name in ("small", "Small_1B", "SMALL-1B", "org/Small-1B-GGUF", "org/small-1b-gguf"):
        assert short(name) == GGUF
    assert short("org/Small-1B") == PLAIN and short("mlx-community/Small-1B-4bit", backend="metal") == MLX
    assert short("org/Small-1B-GGUF:small-1b-q4_k_m.gguf") == GGUF


def test_format_quantization_and_revision() -> None:
    assert short("small", format="safetensors") == PLAIN
    assert short("small", quantization="BF16") == PLAIN
    assert short("small", quantization="q8_0") == ("small-1b", "gguf", "org/Small-1B-GGUF", "q8_0", None)
    assert short("small", format="safetensors", revision="v2")[-1] == "v2"
    assert short("org/Small-1B-GGUF:x-q5_0.gguf") == ("small-1b", "gguf", "org/Small-1B-GGUF:x-q5_0.gguf", "q5_0", None)


def test_code_is_allowed_by_the_entry_only() -> None:
    assert wanted("coded").allow_code and wanted("coded").revision == "d" * 40
    assert not wanted("org/new").allow_code and not wanted("small").allow_code


def test_a_repository_without_an_entry_gets_an_id_of_its_name() -> None:
    assert short("new/Great_Model-3B") == ("great-model-3b", "auto", "new/Great_Model-3B", None, None)
    assert short("new/x:sub/x-Q8_0.gguf") == ("x", "gguf", "new/x:sub/x-Q8_0.gguf", "q8_0", None)


def test_what_was_pulled_without_an_entry_follows_its_branch_again() -> None:
    assert short("other-2b") == ("other-2b", "gguf", "org/Other-2B:other-q8_0.gguf", "q8_0", None)
    assert short("org/Other-2B", format="gguf", quantization="q4_0") == (
        "other-2b",
        "gguf",
        "org/Other-2B",
        "q4_0",
        None,
    )
    assert short("other-2b", format="safetensors") == ("other-2b", "safetensors", "org/Other-2B", None, None)


@pytest.mark.parametrize(
    ("name", "more", "kind", "message"),
    [
        ("nothing", {}, UnknownName, "no model"),
        ("made", {}, Refused, "names no source"),
        ("evil/small-1b", {}, Refused, "another model here"),
        ("evil/Other_2B", {}, Refused, "another model here"),
        ("small", {"format": "onnx"}, UsageError, "no format 'onnx'"),
        ("small", {"format": "mlx", "quantization": "8bit"}, UsageError, "no mlx 8bit in the catalog; there is"),
        ("coded", {"quantization": "q4_0"}, UsageError, "no q4_0 in the catalog"),
        ("coded", {"format": "gguf"}, UsageError, "no gguf in the catalog"),
        ("org/x:model.safetensors", {}, UsageError, "not the name of a .gguf"),
        ("org/x:../x.gguf", {}, UsageError, "not the name of a .gguf"),
        ("org/x:", {}, UsageError, "not the name of a .gguf"),
        ("small", {"quantization": "../q"}, UsageError, "quantization name"),
        ("small", {"revision": "../main"}, UsageError, "not a revision"),
    ],
)
def test_a_wrong_wish_is_an_error_with_a_hint(name: str, more: dict[str, str], kind: type, message: str) -> None:
    with pytest.raises(kind) as caught:
        wanted(name, **more)
    assert message in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b/c", "-rf", "x\0", "org/..", "org/%2e%2e", "org/x\n", "org/x:/etc/x.gguf", "o/" + "x" * 300, ""],
)
def test_s05_names_that_no_model_may_have(name: str) -> None:
    with pytest.raises(LlmctlError) as caught:
        wanted(name)
    assert len(caught.value.message) < 300


def test_nothing_that_this_backend_reads() -> None:
    only = Catalog([Model("m", artifacts=(Artifact("mlx", "4bit", "org/m"),))])
    with pytest.raises(Unsupported, match="no engine on cuda reads what there is of m: mlx 4bit"):
        resolve(Wish("m"), only, pinned=("m",), **{**PLACE, "backend": "cuda"})


def test_it_travels_as_json() -> None:
    found = wanted("coded")
    assert Wanted.from_dict(found.to_dict()) == found
