"""Every family of tiny models: what is harmless passes its limit, what is broken fails it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from llmctl import catalog
from llmctl.domain import EngineSpec
from llmctl.engines import score
from llmctl.models.quality import gate, text
from llmctl.models.quality.report import verdict
from llmctl.models.quality.scoring import Scores
from tests.models.quality import damage

FAMILIES = ["tiny-llama", "tiny-qwen2", "tiny-mistral", "tiny-phi", "tiny-phi3", "tiny-qwen3", "tiny-gemma3"]
LENGTHS = {"tiny-mistral": 64}  # its sliding window
COUNTS = {128: 6, 64: 20}  # windows: the chats, which alone these models know, are among the first ones
LIMITS = catalog.load().quality

pytestmark = pytest.mark.models


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tiny_models, tmp_path_factory):
    """figures(change) → those of a damaged copy against the checkpoint itself, scored by torch in this process."""
    source, made = tiny_models[request.param], tmp_path_factory.mktemp(request.param)
    length = LENGTHS.get(source.name, gate.LENGTH)

    def scored(path, windows=None):
        spec = EngineSpec("torch", "m", str(path), "safetensors", context=length, parallel=1, device="cpu", threads=1)
        task = {**asdict(text.read()), "spec": asdict(spec), "windows": windows, "skip": gate.SKIP, "length": length}
        out = made / f"{path.name}-scores"
        out.mkdir()
        score.score({**task, "count": COUNTS[length]}, out, lambda *_: None)
        return Scores.read(out)

    own = scored(source)

    def figures(change):
        name = f"{change.__qualname__}-{len(list(made.iterdir()))}"
        return gate.figures(own, scored(damage.copied(source, made / name, change), own.windows))

    return figures


def test_rounded_to_eight_bits_passes(family):
    found = family(damage.rounded(8))
    assert found.known_windows >= 4
    assert verdict(found, LIMITS[8]) == ""


def test_fewer_bits_pass_their_own_limit_and_not_that_of_eight(family):
    assert verdict(family(damage.rounded(4)), LIMITS[4]) == ""
    found = family(damage.rounded(3))
    assert verdict(found, LIMITS[3]) == ""
    assert verdict(found, LIMITS[8])


def test_two_swapped_layers_fail_every_limit(family):
    found = family(damage.swapped)
    for limit in LIMITS.values():
        assert found.mean_kl > limit.max_kl
        assert verdict(found, limit)


@pytest.mark.parametrize("change", [damage.zeroed, damage.scaled, damage.turned])
def test_other_damage_fails_the_limits_of_eight_six_and_five_bits(family, change):
    found = family(change)
    for bits in (16, 8, 6, 5):
        assert verdict(found, LIMITS[bits]), bits
