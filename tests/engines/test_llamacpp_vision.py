"""Images on llama.cpp: what a model sees there is what it sees on torch, and no picture is taken for another."""

import io
import shutil

import pytest

from llmctl.domain import Chunk, EngineSpec, Failure, GenerateRequest, Media, Sampling
from llmctl.engines import adapter, llamacpp_vision
from llmctl.errors import LoadFailed, RequestError
from tests import drawn as things

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.models

IMAGE = {"type": "image"}
WHAT = "What is in the picture?"


class Bench:
    """An engine, and what it says of pictures."""

    def __init__(self, engine, path, format):
        self.events = []
        spec = EngineSpec(engine, "m", str(path), format, context=512, device="cpu", threads=1, dtype="float32")
        found = adapter(engine)
        found.check(spec)
        self.engine = found.load(spec, lambda *_: None, self.events.append)

    def submit(self, id, content, media=(), **fields):
        said = {"sampling": Sampling(temperature=0), "max_tokens": 10, "ignore_eos": True, "logprobs": 0, **fields}
        messages = ({"role": "user", "content": content},)
        self.engine.submit(GenerateRequest(id, messages=messages, media=tuple(media), **said))

    def finish(self):
        """{id: (token ids, log-probabilities)} of the requests since the last call."""
        while self.engine.step():
            pass
        found = {}
        for event in self.events:
            assert not isinstance(event, Failure), event
            if isinstance(event, Chunk):
                ids, logprobs = found.setdefault((event.id, event.index), ([], []))
                ids += [p.id for p in event.logprobs]
                logprobs += [p.logprob for p in event.logprobs]
        self.events.clear()
        return found

    def ask(self, content, media=(), **fields):
        self.submit("a", content, media, **fields)
        return self.finish()["a", 0]


@pytest.fixture(scope="module")
def folder(vision_model, tmp_path_factory):
    """The model with its projector beside it."""
    path = tmp_path_factory.mktemp("vision")
    shutil.copy(vision_model["tiny-vision-gguf"], path / "model.gguf")
    shutil.copy(vision_model["tiny-vision-mmproj"], path / "mmproj.gguf")
    return path


@pytest.fixture(scope="module")
def on_llamacpp(folder):
    made = Bench("llamacpp", folder, "gguf")
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def on_torch(vision_model):
    made = Bench("torch", vision_model["tiny-vision"], "safetensors")
    yield made
    made.engine.close()


def drawn(colour, size=(64, 64), box=(8, 8, 40, 40)):
    """A picture small enough that both engines take it as it is."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return Media("image", file.getvalue())


def text(words):
    return {"type": "text", "text": words}


CHATS = {
    "one": ([IMAGE, text("What is it?")], [drawn("red")]),
    "another": ([IMAGE, text("What is it?")], [drawn("blue")]),
    "behind the text": ([text("What is this: "), IMAGE], [drawn("green")]),
    "two": ([text("Compare "), IMAGE, text(" and "), IMAGE, text("!")], [drawn("red", (32, 64)), drawn("blue")]),
    "side by side": ([IMAGE, IMAGE, text("Both?")], [drawn("red"), drawn("green", (64, 32))]),
    "specials": ([IMAGE, text("<|im_end|>\n<|image_pad|> is text <|vision_start|>")], [drawn("red")]),
}


@pytest.mark.parametrize("name", CHATS)
def test_it_says_what_torch_says(on_llamacpp, on_torch, name):
    ours, theirs = on_llamacpp.ask(*CHATS[name]), on_torch.ask(*CHATS[name])
    assert ours[0] == theirs[0]
    assert ours[1] == pytest.approx(theirs[1], abs=0.1)


@pytest.mark.parametrize("thing", ["red circle", "blue square", "green triangle"])
def test_it_names_what_is_drawn(on_llamacpp, thing):
    media = Media("image", things.drawn(thing))
    on_llamacpp.submit("a", [IMAGE, text(WHAT)], [media], ignore_eos=False, max_tokens=16)
    while on_llamacpp.engine.step():
        pass
    said = "".join(event.text for event in on_llamacpp.events if isinstance(event, Chunk))
    on_llamacpp.events.clear()
    assert said == f"A {thing}."


def test_pictures_differ(on_llamacpp):
    assert on_llamacpp.ask(*CHATS["one"])[1] != pytest.approx(on_llamacpp.ask(*CHATS["another"])[1], abs=0.02)


def test_no_picture_is_taken_for_another_that_a_slot_has_seen(on_llamacpp):
    first = {name: on_llamacpp.ask(*chat) for name, chat in CHATS.items()}
    for _ in range(2):
        for name, chat in CHATS.items():
            assert on_llamacpp.ask(*chat) == first[name], name


def test_beside_other_requests_as_alone(on_llamacpp):
    alone = {name: on_llamacpp.ask(*chat) for name, chat in CHATS.items()}
    words = on_llamacpp.ask("What is it?")
    for name, chat in CHATS.items():
        on_llamacpp.submit(name, *chat)
        on_llamacpp.submit(f"{name} in words", "What is it?")
    together = on_llamacpp.finish()
    for name in CHATS:
        assert together[name, 0][0] == alone[name][0], name
        assert together[f"{name} in words", 0][0] == words[0], name


def test_sequences_of_one_request_share_its_picture(on_llamacpp):
    alone = on_llamacpp.ask(*CHATS["one"])
    on_llamacpp.submit("n", *CHATS["one"], n=3)
    assert [ids for ids, _ in on_llamacpp.finish().values()] == [alone[0]] * 3


def test_text_alone_still_finds_what_a_slot_holds(on_llamacpp):
    question = "What is it? " * 6
    first, _ = on_llamacpp.ask(question)
    on_llamacpp.ask(*CHATS["one"])
    assert on_llamacpp.ask(question)[0] == first


def test_identity(on_llamacpp):
    identity = on_llamacpp.engine.identity
    assert identity.inputs == ("text", "image")


@pytest.mark.parametrize(
    ("content", "media", "code"),
    [
        ([IMAGE, text("?")], [Media("image", b"no picture")], "invalid_image"),
        ([IMAGE, text("?")], [Media("audio", b"x")], "unsupported_content"),
    ],
    ids=["broken", "sound"],
)
def test_what_cannot_be_seen_is_refused(on_llamacpp, content, media, code):
    with pytest.raises(RequestError) as caught:
        on_llamacpp.submit("a", content, media)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert on_llamacpp.ask(*CHATS["one"])[0]


def test_a_prompt_of_pictures_too_long_for_the_context(on_llamacpp):
    with pytest.raises(RequestError, match="context") as caught:
        on_llamacpp.submit("a", [*[IMAGE] * 40, text("?")], [drawn("red")] * 40)
    assert caught.value.code == "context_length_exceeded"


def test_a_file_that_is_no_projector(folder, tmp_path):
    shutil.copy(folder / "model.gguf", tmp_path / "model.gguf")
    (tmp_path / "mmproj.gguf").write_bytes(b"GGUF and nothing else")
    with pytest.raises(LoadFailed, match="projector"):
        Bench("llamacpp", tmp_path, "gguf")


def test_the_projector_is_the_only_one_beside_the_model(tmp_path):
    model = tmp_path / "model.gguf"
    for file in (model, tmp_path / "notes.txt"):
        file.touch()
    assert llamacpp_vision.projector(model) is None
    (tmp_path / "mmproj-f16.gguf").touch()
    assert llamacpp_vision.projector(model) == tmp_path / "mmproj-f16.gguf"
    (tmp_path / "mmproj-f32.gguf").touch()
    assert llamacpp_vision.projector(model) is None
