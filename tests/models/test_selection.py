"""Which files of a repository are taken, and which never."""

from __future__ import annotations

import pytest

from llmctl.errors import HubError, LlmctlError, Unsupported, UsageError
from llmctl.models import selection
from llmctl.models.hub import Listing, RepoFile

CONFIGS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def listing(*names: str) -> Listing:
    return Listing("org/model", "a" * 40, tuple(RepoFile(name, 10, "b" * 64) for name in names))


def taken(names: tuple[str, ...], format: str = "safetensors", **more: object) -> list[str]:
    chosen = selection.select(listing(*names), format, **more)  # type: ignore[arg-type]
    return sorted(file.path for file in chosen.files)


@pytest.mark.parametrize(
    "extra",
    [
        "pytorch_model.bin", "tf_model.h5", "consolidated.safetensors", "original/consolidated.00.pth", "README.md",
        "onnx/model.onnx", "onnx/config.json", "LICENSE.txt", "modeling_evil.py", "training_args.bin", ".gitattributes",
        "pytorch_model.bin.index.json", "model.gguf", "runs/events.out", "manifest.json", "images/cat.png",
    ],
)  # fmt: skip
def test_only_what_an_engine_reads_is_taken(extra: str) -> None:
    assert taken((*CONFIGS, "model.safetensors", extra)) == sorted((*CONFIGS, "model.safetensors"))


def test_shards_are_taken_with_their_index_and_not_a_whole_copy_beside_them() -> None:
    assert taken((*CONFIGS, INDEX, *SHARDS, "model.safetensors")) == sorted((*CONFIGS, INDEX, *SHARDS))


def test_weights_of_another_name_are_taken_when_there_are_no_usual_ones() -> None:
    assert "weights.00.safetensors" in taken((*CONFIGS, "weights.00.safetensors"), "mlx")


def test_the_index_decides_and_a_shard_it_names_must_be_there() -> None:
    chosen = selection.select(listing(*CONFIGS, INDEX, *SHARDS), "safetensors")
    assert [f.path for f in selection.narrowed(chosen, SHARDS[:1], "org/model").weights] == [SHARDS[0]]
    with pytest.raises(HubError, match=r"lacks model-00003-of-00003") as caught:
        selection.narrowed(chosen, [*SHARDS, "model-00003-of-00003.safetensors"], "org/model")
    assert caught.value.code == "no_file"


def test_pickles_are_refused_unless_the_entry_allows_code() -> None:
    names = (*CONFIGS, "pytorch_model.bin", "training_args.bin", "modeling_x.py")
    with pytest.raises(Unsupported, match="pickles") as caught:
        taken(names)
    assert "allow_code" in str(caught.value.hint)
    assert taken(names, code=True) == sorted((*CONFIGS, "pytorch_model.bin", "modeling_x.py"))


def test_pickles_hint_at_gguf_where_there_is_some() -> None:
    with pytest.raises(Unsupported) as caught:
        taken(("config.json", "pytorch_model.bin", "x-q4_k_m.gguf"))
    assert caught.value.hint == "llmctl pull org/model --format gguf"


def test_no_weights_lists_what_there_is() -> None:
    with pytest.raises(HubError, match=r"no safetensors; there is README\.md, x\.ckpt\.index"):
        taken(("README.md", "x.ckpt.index"))


GGUFS = ("m-q2_k.gguf", "m-q4_k_m.gguf", "m-q5_k_m.gguf", "m-q8_0.gguf", "m-f16.gguf", "mmproj-m-f16.gguf")


def test_gguf_without_a_file_prefers_the_middle() -> None:
    assert taken(GGUFS, "gguf") == ["m-q4_k_m.gguf", "mmproj-m-f16.gguf"]
    assert taken(("m-q2_k.gguf", "m-Q5_0.gguf", "m-Q8_0.gguf"), "gguf") == ["m-Q5_0.gguf"]
    assert taken(("m-f16.gguf", "mmproj-m-q4_k_m.gguf"), "gguf") == ["m-f16.gguf", "mmproj-m-q4_k_m.gguf"]
    assert taken(("strange.gguf",), "gguf") == ["strange.gguf"]


def test_gguf_by_quantization_or_file() -> None:
    assert taken(GGUFS[:-1], "gguf", quantization="q8_0") == ["m-q8_0.gguf"]
    assert taken(GGUFS[:-1], "gguf", file="m-q2_k.gguf") == ["m-q2_k.gguf"]
    assert taken(("m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"), "gguf") == ["m-Q4_K_M.gguf"]


def test_gguf_brings_one_projector_of_images() -> None:
    several = ("m-q8_0.gguf", "mmproj-m-BF16.gguf", "mmproj-m-F32.gguf", "mmproj-m-f16.gguf")
    assert taken(several, "gguf") == ["m-q8_0.gguf", "mmproj-m-f16.gguf"]
    assert taken(several[:3], "gguf") == ["m-q8_0.gguf", "mmproj-m-BF16.gguf"]
    apart = ("a/m-q4_0.gguf", "a/mmproj-f32.gguf", "b/mmproj-f16.gguf")
    assert taken(apart, "gguf") == ["a/m-q4_0.gguf", "a/mmproj-f32.gguf"]


def test_gguf_shards_come_all_and_from_folders() -> None:
    names = ("Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf", "Q8_0/m-Q8_0.gguf")
    assert taken(names, "gguf") == list(names[:2])
    assert taken(names, "gguf", file="m-Q4_K_M-00002-of-00002.gguf") == list(names[:2])
    with pytest.raises(HubError, match="1 of the 2 shards"):
        taken(names[1:2], "gguf")


@pytest.mark.parametrize(
    ("names", "more", "error"),
    [
        (GGUFS, {"file": "m-q3_k.gguf"}, "no m-q3_k.gguf; there is m-f16.gguf, m-q2_k.gguf"),
        (GGUFS, {"quantization": "q6_k"}, "no GGUF of q6_k; there is m-f16.gguf, m-q2_k.gguf"),
        (("m-q2_k.gguf", "m-iq3_s.gguf"), {}, "there is m-iq3_s.gguf, m-q2_k.gguf"),
        (("a-q4_k_m.gguf", "b-q4_k_m.gguf"), {}, "several such files; there is a-q4_k_m.gguf, b-q4_k_m.gguf"),
        (("config.json",), {}, "has no GGUF"),
    ],
)
def test_gguf_that_is_missing_or_ambiguous_lists_the_candidates(names, more, error) -> None:
    with pytest.raises(LlmctlError, match=error) as caught:
        taken(names, "gguf", **more)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "q4_k_m"), ("Mistral-7B.Q8_0.gguf", "q8_0"), ("m-BF16.gguf", "bf16"),
        ("m-IQ4_XS-00001-of-00003.gguf", "iq4_xs"), ("gpt-oss-20b-mxfp4.gguf", "mxfp4"), ("model.gguf", None),
        ("phi-2.f16.gguf", "f16"), ("qwen2.gguf", None),
    ],
)  # fmt: skip
def test_the_quantization_is_read_from_a_file_name(name: str, found: str | None) -> None:
    assert selection.quantization_of(name) == found


def test_a_file_cannot_be_named_of_a_folder() -> None:
    with pytest.raises(UsageError):
        taken(("config.json", "model.safetensors"), file="model.safetensors")


def test_formats_of_a_repository() -> None:
    assert selection.formats(listing("config.json", "model.safetensors", "m-q4_0.gguf")) == ("gguf", "safetensors")
    assert selection.formats(listing("sub/model.safetensors", "mmproj-x.gguf")) == ()
