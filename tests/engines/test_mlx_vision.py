"""Images on MLX, with mlx-vlm in an environment of its own: right answers, and in a batch as alone."""

import base64
import json
import subprocess

import pytest

from llmctl.domain import Chunk, EngineSpec, GenerateRequest, Sampling
from llmctl.engines import mlx, mlx_vision
from llmctl.errors import Unsupported
from tests.conformance.conftest import own_python
from tests.conftest import REPO
from tests.drawn import drawn
from tests.engines.asked import loaded

pytestmark = pytest.mark.models
WHAT = "What is in the picture?"


def test_sequences_with_images_are_computed_with_others_as_alone(vision_model):
    """Two pictures, one twice, and no picture; the tiny model knows what it sees."""
    pictures = {what: base64.b64encode(drawn(what)).decode() for what in ("red circle", "blue square")}
    asked = {
        "red": [pictures["red circle"], WHAT, 2],
        "text": [None, "What is a slot?", 1],
        "blue": [pictures["blue square"], WHAT, 1],
    }
    run = subprocess.run(
        [own_python("mlx-vision"), "-m", "tests.engines.seeing", str(vision_model["tiny-vision"])],
        input=json.dumps(asked), capture_output=True, text=True, cwd=REPO, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["together"] == found["alone"]
    for words, answer in ((("red", "circle"), "red 0"), (("red", "circle"), "red 1"), (("blue", "square"), "blue 0")):
        assert all(word in found["alone"][answer] for word in words), found["alone"]
    assert found["largest"] == 4
    assert found["kept"] == 1  # what an image stands for is not in the tokens: only the text's is kept


def test_an_image_text_checkpoint_answers_text_without_mlx_vlm(vision_model, monkeypatch):
    """Its rotary base stands where mlx-lm does not look."""
    monkeypatch.setattr(mlx_vision, "takes_images", lambda checkpoint: False)
    events = []
    engine = loaded("mlx", vision_model["tiny-vision"], events.append, context=256)
    chat = ({"role": "user", "content": "What is a slot?"},)
    engine.submit(GenerateRequest("a", messages=chat, sampling=Sampling(temperature=0), max_tokens=24))
    while engine.step():
        pass
    assert "".join(e.text for e in events if isinstance(e, Chunk)) == "A port on a host that holds at most one model."


@pytest.mark.parametrize("field", [{"adapters": {"a": "/a"}}, {"draft": "ngram"}, {"cache_bits": 8}])
def test_what_images_do_not_go_with_is_refused(vision_model, monkeypatch, field):
    monkeypatch.setattr(mlx_vision, "takes_images", lambda checkpoint: True)
    spec = EngineSpec("mlx", "m", str(vision_model["tiny-vision"]), "safetensors", **field)
    with pytest.raises(Unsupported, match=next(iter(field))):
        mlx.check(spec)
