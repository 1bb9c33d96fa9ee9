"""What a client keeps and sends along: settings, images, and conversations in files."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmctl.clients import conversation, pictures, settings
from llmctl.clients.conversation import Conversation
from llmctl.errors import LlmctlError, UsageError

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"

# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("top_k", "0", 0),
        ("seed", "-3", -3),
        ("stop", "end", ["end"]),
        ("stop", '"\\n\\n"', ["\n\n"]),
        ("stop", '["a", "b"]', ["a", "b"]),
        ("stop", "5", ["5"]),
    ],
)
def test_a_setting_as_it_is_typed(name: str, text: str, value: Any) -> None:
    assert settings.typed(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("temperature", "hot", "a number"),
        ("temperature", "2.1", "from 0 to 2"),
        ("temperature", "NaN", "a number"),
        ("temperature", "true", "a number"),
        ("top_p", "0", "above 0 to 1"),
        ("top_k", "1.5", "an integer"),
        ("top_k", "-1", "0 or more"),
        ("max_tokens", "0", "1 or more"),
        ("seed", str(2**63), "or less"),
        ("stop", "[]", "a text"),
        ("stop", '["a", 1]', "a text"),
        ("stop", json.dumps(["a"] * 17), "at most 16"),
    ],
)
def test_a_setting_that_cannot_be(name: str, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be .*{says}"):
        settings.typed(name, text)


def test_a_setting_by_another_name() -> None:
    with pytest.raises(UsageError) as caught:
        settings.typed("temprature", "1")
    assert caught.value.hint == "did you mean 'temperature'?"


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"GIF89a", "gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
        (b"BM0000", "bmp"),
    ],
)
def test_an_image_becomes_a_data_url(tmp_path: Path, data: bytes, kind: str) -> None:
    file = tmp_path / "a"
    file.write_bytes(data)
    assert pictures.data_url(file) == f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def test_what_is_no_image_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    text, empty, large = tmp_path / "text", tmp_path / "empty", tmp_path / "large"
    text.write_text("<svg/>")
    empty.touch()
    large.write_bytes(PNG)
    os.truncate(large, pictures.LIMIT + 1)
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (text, "is no image"), (empty, "is empty"), (large, "larger than"), (tmp_path, "cannot be read"),
        (tmp_path / "none", "cannot be read"), (tmp_path / "pipe", "is not a file"), ("/dev/zero", "is not a file"),
        ("a\0b", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            pictures.data_url(path)


def test_an_image_of_just_the_size_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(PNG)
    os.truncate(file, pictures.LIMIT)
    assert pictures.data_url(file).startswith("data:image/png")


# ── conversations ───────────────────────────────────────────────────────────────────────────────────────────────────

URL = "data:image/png;base64,AA=="


def talked() -> Conversation:
    found = Conversation(settings={"top_p": 0.5}, model="alpha")
    found.system = "be\n\u2028terse \U0001f600"
    found.messages = [*found.asked("what?", [URL]), {"role": "assistant", "content": "a\x1bb"}]
    return found


def test_a_conversation_comes_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    talked().save(file)
    assert conversation.load(file) == talked()
    assert file.stat().st_mode & 0o777 == 0o600
    talked().save(file)  # a chat is written over


def test_the_system_message_is_the_first_or_none() -> None:
    found = Conversation()
    found.system = None
    assert found.messages == []
    found.system = "a"
    found.messages = found.asked("hi")
    found.system = "b"
    assert [message["content"] for message in found.messages] == ["b", "hi"]
    found.clear()
    assert [message["content"] for message in found.messages] == ["b"]
    found.system = None
    assert found.messages == []


def test_something_else_is_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text("years of work")
    with pytest.raises(UsageError, match="something else"):
        talked().save(file)
    assert file.read_text() == "years of work"
    with pytest.raises(LlmctlError, match="cannot be written"):
        talked().save(file / "below")


def saved(**changes: Any) -> bytes:
    base = {"llmctl": "chat", "version": 1, "model": None, "settings": {}, "messages": []}
    return json.dumps({**base, **changes}).encode()


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x", **fields}]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"{", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"[]", "no saved chat"),
        (b'{"messages": []}', "no saved chat"),
        (saved(version=2), "of version 2"),
        (saved(more=1), "unknown key 'more'"),
        (saved(model=3), "model must be"),
        (saved(settings=[]), "settings must be"),
        (saved(settings={"top_p": 7}), "settings: top_p must be"),
        (saved(settings={"logit_bias": {}}), "no setting"),
        (saved(messages={}), "messages must be"),
        (saved(messages=["x"]), r"messages\[0\] must be an object"),
        (saved(**message(role="tool")), r"messages\[0\].role"),
        (saved(messages=[*message()["messages"], {"role": "system", "content": "x"}]), r"messages\[1\].role"),
        (saved(**message(tool_calls=[])), "unknown key 'tool_calls'"),
        (saved(**message(content=3)), "content must be a string"),
        (saved(**message(content=[])), "content must be a string"),
        (saved(**message(role="assistant", content=[{"type": "text", "text": "x"}])), "content must be a string"),
        (saved(**message(content=[{"type": "text"}])), r"content\[0\]"),
        (saved(**message(content=[{"type": "image_url", "image_url": {"url": "http://a/b.png"}}])), "data URL"),
        (saved(**message(content=[{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])), "data URL"),
        (saved(**message(content=[{"type": "image_url", "image_url": {"url": 3}}])), "data URL"),
        (saved().replace(b'"model"', b'"model": 1, "model"'), "twice"),
    ],
)
def test_a_file_is_read_strictly(tmp_path: Path, data: bytes, says: str) -> None:
    file = tmp_path / "chat.json"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=says) as caught:
        conversation.load(file)
    assert str(file) in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        conversation.load(tmp_path / "none")
