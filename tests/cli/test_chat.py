"""`llmctl chat` on a real slot: at a terminal, line by line, one turn, and as llm.py was called."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli import chat_input, chat_partner
from llmctl.cli.chat import exit_code
from llmctl.cli.chat_commands import COMMANDS, Commands
from llmctl.cli.chat_options import Meant
from llmctl.cli.chat_turns import Chat
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.clients import conversation
from llmctl.clients.conversation import Conversation
from llmctl.domain import EngineSpec, Limits, Probe, SlotSpec
from llmctl.errors import LlmctlError, UnknownName, UsageError
from llmctl.render.chat import Voice, spoken
from llmctl.slots.state import Launch
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal
from tests.cli.test_ask import PNG, Run, envelope, run
from tests.conftest import RunningSlot, free_port
from tests.drawn import drawn
from tests.test_client import LAST, PIECE, Serve, serve

__all__ = ["run", "serve"]

EVIL = "a\x1b[31mb\x07\x9bc\u202ed\te"
ANSWERS = {"Who?": "I am alpha.", "evil": EVIL, "one\n\ntwo": "Two lines.", "/etc?": "A folder."}
PLAY = {"answers": ANSWERS, "length": 400, "step": 0.01}


@pytest.fixture(scope="module")
def slot() -> Iterator[RunningSlot]:
    """A slot of a state folder of its own: `alpha`, also called `first`, which takes 4 s for what it was not taught."""
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    path = folder / "alpha.json"
    path.write_text(json.dumps(PLAY))
    running = RunningSlot(folder, free_port(), Launch(limits=Limits(drain=5.0)))
    running.change("load", SlotSpec(EngineSpec("scripted", "alpha", str(path), "script", context=1024), ("first",)))
    yield running
    running.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def at_home(slot: RunningSlot, run: Run, monkeypatch: pytest.MonkeyPatch) -> RunningSlot:
    """Command lines of the test work in the slot's state folder."""
    monkeypatch.setenv("LLMCTL_HOME", str(slot.home))
    return slot


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(slot: RunningSlot, tmp_path: Path) -> Iterator[Open]:
    """terminal("chat", …) → llmctl on a terminal, past its greeting."""
    running: list[Terminal] = []

    def start(*argv: str, **environment: str) -> Terminal:
        home = {"LLMCTL_HOME": str(slot.home), "HOME": str(tmp_path)}
        running.append(Terminal([*argv], tmp_path, **{**home, **environment}))
        running[-1].wait(">>> ")
        return running[-1]

    yield start
    for one in running:
        one.close()


# ── at a terminal ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_conversation_at_a_terminal(terminal: Open, slot: RunningSlot, tmp_path: Path) -> None:
    chat = terminal("chat")
    assert f"local:{slot.port} · alpha" in chat.shown
    assert chat.say("Who?") == "I am alpha.\n"
    assert chat.say("") == ""
    assert chat.say("evil") == "a\\x1b[31mb\\x07\\x9bc\\u202ed\te\n"
    assert chat.say("//etc?") == "A folder.\n"
    assert "did you mean /set?" in chat.say("/sett")
    assert chat.say("/set top_p 0.5") == "top_p = 0.5\n"
    assert "must be above 0 to 1" in chat.say("/set top_p 0")
    assert chat.say("/models") == "alpha\nfirst\n"
    assert "first" in chat.say("/switch first")
    chat.type('"""one\n\n')
    assert chat.say('two"""').endswith("Two lines.\n")
    chat.say("/set max_tokens 2")
    assert chat.say("Who?") == "I am alp\n(cut: max_tokens, or the context is full)\n"
    chat.say("/set max_tokens")
    assert chat.say("/save said.json") == "saved 10 messages to said.json\n"
    chat.type(CTRL_D)
    assert chat.end() == 0
    found = conversation.load(tmp_path / "said.json")
    assert [message["content"] for message in found.messages[6:8]] == ["one\n\ntwo", "Two lines."]
    assert (found.settings, found.model) == ({"top_p": 0.5}, "alpha")


def test_ctrl_c_ends_the_answer_and_not_the_chat(terminal: Open, tmp_path: Path) -> None:
    chat = terminal("chat")
    chat.type("Tell me much.\n")
    begun = chat.wait("quick")
    chat.type(CTRL_C)
    stopped = begun + chat.wait("(stopped)")
    assert len(stopped) < 1600
    assert chat.wait(">>> ")
    chat.type("half a line" + CTRL_C)
    chat.wait("Ctrl-D or /bye ends the chat")
    chat.wait(">>> ")
    assert chat.say("Who?") == "I am alpha.\n"
    chat.say("/save said.json")
    chat.type("/bye\n")
    assert chat.end() == 0
    asked, partial, *rest = conversation.load(tmp_path / "said.json").messages
    assert asked == {"role": "user", "content": "Tell me much."}
    assert partial["content"].startswith("The quick") and len(partial["content"]) < 1600
    assert [message["content"] for message in rest] == ["Who?", "I am alpha."]


def test_past_lines_are_kept_for_their_owner_alone_or_not_at_all(terminal: Open, slot: RunningSlot) -> None:
    file = slot.home / chat_input.HISTORY
    file.unlink(missing_ok=True)
    chat = terminal("chat", "--no-history")
    chat.say("Who?")
    chat.type(CTRL_D)
    assert chat.end() == 0
    assert not file.exists()
    file.touch(0o644)
    chat = terminal("chat")
    chat.say("Who?")
    chat.process.kill()
    chat.end()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == "Who?\n"
    chat = terminal("chat")
    chat.type("\x1b[A\n")  # the arrow up
    assert chat.wait("I am alpha.")


def test_thoughts_are_dimmed_at_a_terminal(terminal: Open, serve: Serve) -> None:
    thought = b'data: {"choices": [{"delta": {"reasoning_content": "h\\u001bm"}}]}\n\n'
    url = f"http://127.0.0.1:{serve(200, thought + PIECE + LAST, models={'data': [{'id': 'm'}]})[0]}"
    assert terminal("chat", "--url", url).say("Who?") == "\x1b[2mh\\x1bm\x1b[0m\n\nHello\n"
    assert terminal("chat", "--url", url, NO_COLOR="1").say("Who?") == "h\\x1bm\n\nHello\n"


def test_an_error_leaves_the_conversation_as_it_was(terminal: Open, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(PNG)
    error = b'data: {"error": {"message": "it died"}}\n\n'
    port, seen = serve(200, PIECE + error, models={"data": [{"id": "m"}]})
    chat = terminal("chat", "--url", f"http://127.0.0.1:{port}", "--image", "a b.png")
    assert chat.say('/image "a b.png"') == "2 images with the next message\n"
    assert chat.say("Who?") == "Hel\nerror: it died\n"
    assert chat.say("Who?") == "Hel\nerror: it died\n"
    first, second = (one["body"]["messages"] for one in seen if "body" in one)
    assert first == second
    assert len(first) == 1 and len(first[0]["content"]) == 3


def test_ask_at_a_terminal_is_as_careful(slot: RunningSlot, tmp_path: Path) -> None:
    asked = Terminal(["ask", "alpha", "evil"], tmp_path, LLMCTL_HOME=str(slot.home), HOME=str(tmp_path))
    try:
        assert asked.end() == 0
        assert asked.shown == "a\\x1b[31mb\\x07\\x9bc\\u202ed\te\n"
    finally:
        asked.close()


def test_a_server_that_lists_no_models_is_talked_to_by_name(terminal: Open, serve: Serve) -> None:
    chat = terminal("chat", "--url", f"http://127.0.0.1:{serve(200, PIECE + LAST)[0]}", "--model", "m")
    assert chat.say("Who?") == "Hello\n"


# ── line by line, and one turn ──────────────────────────────────────────────────────────────────────────────────────


def answers(result: tuple[int, str, str]) -> list[dict[str, Any]]:
    """The envelopes of a chat in JSON, a line each."""
    return [json.loads(line) for line in result[1].splitlines()]


def test_each_line_of_a_pipe_is_a_turn_and_never_a_command(run: Run, at_home: RunningSlot) -> None:
    result = run("chat", "alpha", stdin=b"Who?\n\n/etc?\r\nWho?")
    assert result == (0, "I am alpha.\nA folder.\nI am alpha.\n", "")


def test_as_json_each_turn_is_a_line(run: Run, at_home: RunningSlot) -> None:
    found = answers(run("chat", "alpha", "--json", "-s", "be", stdin=b"Who?\nevil\n"))
    assert [one["data"]["answer"] for one in found] == ["I am alpha.", EVIL]
    assert [one["data"]["usage"]["prompt_tokens"] for one in found] == [6, 14]  # the second hears the first
    assert {one["exit_code"] for one in found} == {0}


def test_a_turn_that_fails_is_told_and_forgotten(run: Run, at_home: RunningSlot) -> None:
    long = b"word " * 1100
    result = run("chat", "alpha", "--json", stdin=b"Who?\n" + long + b"\n\xff\nWho?\n")
    assert result[0] == 3
    first, second, third, fourth = answers(result)
    assert [one["status"] for one in (first, second, third, fourth)] == ["success", "error", "error", "success"]
    assert second["errors"][0]["code"] == "context_length_exceeded"
    assert "not UTF-8" in third["errors"][0]["message"]
    assert fourth["data"]["usage"]["prompt_tokens"] == 11
    code, out, err = run("chat", "alpha", stdin=long)
    assert (code, out) == (1, "")
    assert "the context is 1024" in err


@pytest.mark.parametrize(("codes", "code"), [([], 0), ([0, 0], 0), ([4, 4], 4), ([0, 1], 3), ([1, 4], 3)])
def test_the_exit_code_of_many_turns(codes: list[int], code: int) -> None:
    assert exit_code(codes) == code


def test_one_turn(run: Run, at_home: RunningSlot) -> None:
    assert run("chat", "alpha", "-p", "Who?") == (0, "I am alpha.\n", "")
    assert run("chat", "alpha", "-p", "-", stdin=b"one\n\ntwo\n") == (0, "Two lines.\n", "")
    assert envelope(run("chat", "alpha", "-p", "Who?", "--json"))["data"]["answer"] == "I am alpha."
    assert run("chat", "alpha", "-p", "-")[0] == 2


def test_a_session_goes_on_where_it_was(run: Run, at_home: RunningSlot) -> None:
    for prompt_tokens in (6, 14):
        found = envelope(run("chat", "--session", "s1", "-s", "be", "--top-k", "3", "-p", "Who?", "--json"))
        assert found["data"]["usage"]["prompt_tokens"] == prompt_tokens
    kept = at_home.home / "chats" / "s1.json"
    assert conversation.load(kept).settings == {"top_k": 3}
    assert len(conversation.load(kept).messages) == 5
    for name in ("../s1", ".s1", "", "a/b", "a" * 129):
        assert run("chat", "--session", name, "-p", "x")[0] == 2
    kept.write_text("{}")
    assert run("chat", "--session", "s1", "-p", "x")[0] == 2
    assert kept.read_text() == "{}"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["chat", "8101", "--port", "8101"], 2, "another name"),
        (["chat", "--url", "http://a", "--port", "8101"], 2, "another name"),
        (["chat", "--url", "http://a", "--host", "local"], 2, "--url says where"),
        (["chat", "--host", "local", "--key", "k"], 2, "goes with --url"),
        (["chat", "--host", "@none"], 2, "no label"),
        (["chat", "--port", "0"], 2, "0 is not in the range"),
        (["chat", "nothing", "-p", "x"], 1, "no slot serves"),
        (["chat", "--host", "127.0.0.1", "--port", "9", "-p", "x"], 4, "no answer from ws://127.0.0.1:9"),
        (["chat", "--port", "9", "-p", "x"], 4, "no answer from ws://localhost:9"),
    ],
)
def test_whom_nobody_can_talk_to(run: Run, at_home: RunningSlot, words: list[str], code: int, says: str) -> None:
    found = envelope(run(*words, "--json"))
    assert found["exit_code"] == code
    assert says in found["errors"][0]["message"]


# ── as llm.py was called ────────────────────────────────────────────────────────────────────────────────────────────


def test_host_and_port_of_an_address_mean_a_websocket(run: Run, at_home: RunningSlot) -> None:
    words = ["chat", "--host", "127.0.0.1", "--port", str(at_home.port), "-s", "be", "--session", "W:1"]
    settings = ["--temperature", "0", "--top-p", "0.9", "--top-k", "5", "--max-tokens", "2"]
    assert run(*words, *settings, "-p", "Who?") == (0, "I am alp\n", "")
    found = envelope(run(*words, "-p", "Who?", "--json"))
    assert found["data"]["url"] == f"ws://127.0.0.1:{at_home.port}/"
    assert found["data"]["usage"]["prompt_tokens"] > 6  # the turn before went along
    code, out, err = run("chat", *words[1:5], "-p", "word " * 1100)
    assert (code, out) == (1, "")
    assert "error: " in err


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        (None, None, None),
        ("local", None, None),
        ("local", 8101, None),
        ("loc*", 8101, None),
        ("studio.lan", None, "ws://studio.lan:8765/"),
        ("10.0.0.5", 9000, "ws://10.0.0.5:9000/"),
        ("::1", 9000, "ws://[::1]:9000/"),
        (None, 9000, "ws://localhost:9000/"),
    ],
)
def test_whether_an_address_or_a_host_of_the_fleet_is_meant(
    host: str | None, port: int | None, url: str | None, run: Run
) -> None:
    assert chat_partner.llmws_url(Session(), host, port) == url


def test_a_port_that_is_a_slot_here_means_the_slot(at_home: RunningSlot) -> None:
    assert chat_partner.llmws_url(Session(), None, at_home.port) is None


def test_a_host_of_the_fleet_that_is_mistyped_is_not_called_up(run: Run) -> None:
    with pytest.raises(UsageError, match="no host is called"):
        chat_partner.llmws_url(Session(), "gpu*", None)
    with pytest.raises(UnknownName):
        chat_partner.llmws_url(Session(), "@fast", None)


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.models
def test_a_model_sees_what_is_sent_along(
    run: Run, slots: Callable[..., RunningSlot], vision_model: dict[str, Path], tmp_path: Path
) -> None:
    engine = EngineSpec("torch", "seeing", str(vision_model["tiny-vision"]), "safetensors", context=512, parallel=2)
    port = str(slots(SlotSpec(engine, probe=Probe("What is a slot?", "A port", 24))).port)
    for what in ("red circle", "blue square"):
        (tmp_path / what).write_bytes(drawn(what))
        for words in (["ask", port], ["chat", port, "-p"], ["ask", "--url", f"ws://127.0.0.1:{port}"]):
            code, out, err = run(*words, "What is in the picture?", "--image", what, "--temperature", "0")
            assert (code, err) == (0, "")
            assert what in out
    lines = b"What is in the picture?\n" * 2
    first, second = answers(run("chat", port, "--json", "--image", "red circle", "--temperature", "0", stdin=lines))
    assert "red circle" in first["data"]["answer"]
    once, again = (one["data"]["usage"]["prompt_tokens"] for one in (first, second))
    assert again > 1.5 * once  # the image went along again


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def commands(at_home: RunningSlot) -> Iterator[Commands]:
    with Reach(Session()) as reach:
        partner = chat_partner.of(reach, Meant("alpha"))
        yield Commands(Chat(partner, Conversation()), reach)


def told(chat: Chat, text: str) -> str:
    return "".join(chat.turn(text))


def test_every_command_is_there_and_explained(commands: Commands) -> None:
    shown = commands.run("/help")
    for name in COMMANDS:
        assert callable(getattr(commands, f"_{name}"))
        assert f"/{name}" in shown


def test_the_system_message(commands: Commands) -> None:
    assert commands.run("/system") == "no system message"
    assert commands.run("/system  be terse ") == "system: be terse"
    assert told(commands.chat, "Who?") == "I am alpha.\n"
    assert commands.run("/clear") == "forgotten"
    assert commands.run("/system") == "system: be terse"
    assert commands.run("/system -") == "no system message"
    assert commands.chat.conversation.messages == []


def test_settings_are_set_shown_and_taken_back(commands: Commands) -> None:
    assert commands.run("/set max_tokens 2") == "max_tokens = 2"
    assert told(commands.chat, "Who?") == "I am alp\n"
    commands.run('/set stop ["x", "y"]')
    assert commands.run("/set").splitlines() == ["max_tokens = 2", "stop = ['x', 'y']"]
    assert commands.run("/set max_tokens") == "max_tokens: the model's own"
    assert commands.chat.conversation.settings == {"stop": ["x", "y"]}
    with pytest.raises(UsageError, match="no setting"):
        commands.run("/set max_token")


def test_images_wait_for_the_next_message(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(PNG)
    (tmp_path / "c.txt").write_text("x")
    path = str(tmp_path / "a b.png").replace(" ", "\\ ")
    assert commands.run(f"/image {path}") == "1 image with the next message"
    with pytest.raises(UsageError, match="no image"):
        commands.run(f"/image {path} {tmp_path}/c.txt")
    with pytest.raises(UsageError, match="17 images"):
        commands.run(f"/image {' '.join([path] * 16)}")
    with pytest.raises(UsageError, match="quotation"):
        commands.run('/image "a')
    assert len(commands.chat.pending) == 1
    assert commands.run("/image") == "no images"


def test_a_conversation_is_saved_and_taken_up_again(commands: Commands, tmp_path: Path) -> None:
    chat = commands.chat
    told(chat, "Who?")
    commands.run(f"/save {tmp_path}/c.json")
    commands.run("/clear")
    assert commands.run(f"/load {tmp_path}/c.json") == "2 messages, of a chat with alpha"
    assert chat.conversation.messages[1]["content"] == "I am alpha."
    (tmp_path / "d.json").write_text('{"llmctl": "chat"}')
    with pytest.raises(UsageError):
        commands.run(f"/load {tmp_path}/d.json")
    assert len(chat.conversation.messages) == 2
    for line in ("/save", "/load", "/load a b", "/switch", "/clear x", "/models x", "/nothing"):
        with pytest.raises(UsageError) as caught:
            commands.run(line)
        assert caught.value.hint


def test_another_model_goes_on_with_the_conversation(commands: Commands, at_home: RunningSlot) -> None:
    other = RunningSlot(at_home.home, free_port(), at_home.launch)
    path = at_home.home / "beta.json"
    path.write_text('{"answers": {"Who?": "I am beta."}}')
    other.change("load", SlotSpec(EngineSpec("scripted", "beta", str(path), "script", context=1024)))
    try:
        told(commands.chat, "Who?")
        assert commands.run("/models").splitlines() == ["alpha", "first", "other slots:", f"local:{other.port}  beta"]
        assert commands.run("/switch beta") == f"local:{other.port} · beta"
        assert told(commands.chat, "Who?") == "I am beta.\n"
        assert len(commands.chat.conversation.messages) == 4
        for nowhere in ("gamma", f"local:{free_port()}"):
            with pytest.raises(LlmctlError):
                commands.run(f"/switch {nowhere}")
        assert told(commands.chat, "Who?") == "I am beta.\n"
        assert commands.run(f"/switch {at_home.port}").startswith(f"local:{at_home.port}")
    finally:
        other.kill()
        shutil.rmtree(other.folder.path)


def test_a_server_with_several_models_is_switched_by_name(serve: Serve) -> None:
    port, seen = serve(200, LAST, models={"data": [{"id": "a"}, {"id": "b"}]})
    with Reach(Session()) as reach:
        partner = chat_partner.of(reach, Meant(url=f"http://127.0.0.1:{port}", model="a"))
        commands = Commands(Chat(partner, Conversation()), reach)
        assert commands.run("/models") == "a\nb"
        commands.run("/switch b")
        with pytest.raises(UsageError, match="no model 'c'"):
            commands.run("/switch c")
        told(commands.chat, "Who?")
    assert seen[-1]["body"]["model"] == "b"


def test_a_line_is_completed(tmp_path: Path) -> None:
    (tmp_path / "a b.png").touch()
    (tmp_path / "dir").mkdir()
    assert chat_input.completions("/s") == ["/system ", "/switch ", "/set ", "/save "]
    assert chat_input.completions(f"/image {tmp_path}/a\\ ") == [f"/image {tmp_path}/a\\ b.png"]
    assert chat_input.completions(f"/load {tmp_path}/d") == [f"/load {tmp_path}/dir/"]
    assert chat_input.completions("hello") == []


# ── what a terminal shows ───────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_that_a_model_says_drives_the_terminal() -> None:
    every = "".join(map(chr, range(0x3000)))
    shown = spoken(every)
    assert {c for c in shown if not c.isprintable() and ord(c) < 0xA0} == {"\n", "\t"}
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert spoken("Größe → \U0001f469\u200d\U0001f680\n") == "Größe → \U0001f469\u200d\U0001f680\n"


def test_elsewhere_an_answer_is_left_as_it_is() -> None:
    voice = Voice(terminal=False)
    assert voice.text("a\x1b[31m", reasoning=False) == "a\x1b[31m"
    assert voice.text("thought", reasoning=True) == ""
