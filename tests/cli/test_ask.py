"""`llmctl ask`: here, through ssh to a slot on loopback, to another server; with images and settings."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmctl import keys
from llmctl.__main__ import main
from llmctl.cli import chat_partner
from llmctl.cli.chat_options import Meant
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.gateway import life, registry
from llmctl.gateway.registry import Handle, Registry, Replica
from llmctl.slots.state import Launch
from tests.cli.fleet import Fleet
from tests.conftest import eventually, free_port
from tests.test_client import LAST, PIECE, Serve, models, serve

__all__ = ["serve"]

PNG = b"\x89PNG\r\n\x1a\nrest"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("ask", …, stdin=b"…") → (exit code, stdout, stderr), in a folder without a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMCTL_CONFIG", raising=False)
    monkeypatch.delenv("LLMCTL_KEY", raising=False)

    def call(*argv: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(argv)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def envelope(result: tuple[int, str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result[1])
    return found


# ── another server ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_everything_that_is_asked_arrives(run: Run, serve: Serve, tmp_path: Path) -> None:
    port, seen = serve(200, PIECE + LAST)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    options = ["--top-p=0.5", "--top-k=3", "--seed=7", "--stop=x", "--stop=y", "--temperature=0", "--max-tokens=9"]
    images = ["--image", "a.png", "--image", "b.png"]
    url = f"http://127.0.0.1:{port}"
    assert run("ask", "--url", url, "--model", "m", "--key", "k", "-s", "be", *options, *images, "What?") == (
        0,
        "Hello\n",
        "",
    )
    body = seen[0]["body"]
    system, question = body["messages"]
    assert system == {"role": "system", "content": "be"}
    assert [part["type"] for part in question["content"]] == ["image_url", "image_url", "text"]
    assert question["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    asked = {"top_p": 0.5, "top_k": 3, "seed": 7, "stop": ["x", "y"], "temperature": 0, "max_tokens": 9, "model": "m"}
    assert asked.items() <= body.items()
    assert seen[0]["headers"]["Authorization"] == "Bearer k"


def test_the_answer_as_json(run: Run, serve: Serve) -> None:
    url = f"http://127.0.0.1:{serve(200, PIECE + LAST)[0]}"
    data = envelope(run("ask", "--url", url, "--model", "m", "What?", "--json"))["data"]
    assert {**data, "seconds": 0} == {
        "url": url, "model": "m", "answer": "Hello", "reasoning": "", "finish": "stop", "usage": None, "seconds": 0,
    }  # fmt: skip


@pytest.mark.parametrize("words", [[], ["-"]])
def test_the_question_may_come_on_stdin(run: Run, serve: Serve, words: list[str]) -> None:
    port, seen = serve(200, LAST)
    assert run("ask", "--url", f"http://127.0.0.1:{port}", "--model", "m", *words, stdin="Größe?\n".encode())[0] == 0
    assert seen[0]["body"]["messages"] == [{"role": "user", "content": "Größe?"}]


def test_the_key_of_the_environment_goes_to_urls_only(
    run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("LLMCTL_KEY", "of a cloud")
    port, seen = serve(200, LAST, models=models("m"))
    assert run("ask", "--url", f"http://127.0.0.1:{port}", "What?")[0] == 0
    assert run("ask", f"local:{port}", "What?")[0] == 0
    assert [one["headers"].get("Authorization") for one in seen[1:]] == ["Bearer of a cloud", None]


def test_a_slot_here_gets_the_key_of_this_host(run: Run, serve: Serve, home: Path) -> None:
    port, seen = serve(200, LAST, key=keys.show(home)["client"])
    assert run("ask", str(port), "What?")[:2] == (0, "lo\n")
    assert [one["headers"].get("Authorization") for one in seen] == [None, f"Bearer {keys.show(home)['client']}"]


def test_thoughts_are_no_part_of_the_answer(run: Run, serve: Serve) -> None:
    thought = b'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}\n\n'
    url = f"http://127.0.0.1:{serve(200, thought + LAST)[0]}"
    assert run("ask", "--url", url, "--model", "m", "What?")[1] == "lo\n"
    assert envelope(run("ask", "--url", url, "--model", "m", "What?", "--json"))["data"]["reasoning"] == "hm"


def test_an_error_while_it_answers_exits_1(run: Run, serve: Serve) -> None:
    error = b'data: {"error": {"message": "it died", "code": "engine_failed"}}\n\n'
    url = f"http://127.0.0.1:{serve(200, PIECE + error)[0]}"
    code, out, err = run("ask", "--url", url, "--model", "m", "What?")
    assert (code, out) == (1, "Hel")
    assert "error: it died" in err
    assert envelope(run("ask", "--url", url, "--model", "m", "What?", "--json"))["errors"][0]["code"] == "engine_failed"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["ask"], "usage", "ask whom"),
        (["ask", "8101", "x", "--url", "http://a"], "usage", "--url says where"),
        (["ask", "--url", "http://a", "x", "--host", "local"], "usage", "--url says where"),
        (["ask", "8101", "x", "--key", "k"], "usage", "goes with --url"),
        (["ask", "8101", "x", "--model", "m"], "usage", "both say who"),
        (["ask", "8101", "x", "--top-p", "0"], "usage", "top_p must be"),
        (["ask", "8101", "x", "--stop", ""], "usage", "stop must be"),
        (["ask", "8101", "x", "--image", "none.png"], "usage", "cannot be read"),
        (["ask", "8101", "x", *["--image", "a.png"] * 17], "usage", "17 images"),
        (["ask", "8101"], "usage", "no question"),
        (
            ["ask", "--url", "http://127.0.0.1:9", "--model", "m", "x"],
            "unreachable",
            "no answer from http://127.0.0.1:9",
        ),
        (["ask", "--url", "ws://127.0.0.1:9", "x"], "unreachable", "no answer from ws://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_asked(run: Run, tmp_path: Path, words: list[str], code: str, says: str) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    found = envelope(run(*words, "--json"))
    assert found["errors"][0]["code"] == code
    assert says in found["errors"][0]["message"]


def test_stdin_that_is_no_text(run: Run) -> None:
    assert envelope(run("ask", "8101", "--json", stdin=b"a\xff"))["errors"][0]["message"].endswith("byte 1")


# ── through ssh ─────────────────────────────────────────────────────────────────────────────────────────────────────


def active(fleet: Fleet, slot: str) -> int:
    return int(fleet("status", slot).data["slots"][0]["active"])


def test_a_slot_on_the_loopback_of_another_host(fleet: Fleet, emptied: None) -> None:
    slot = fleet.at("gpu1")
    fleet("load", slot, "alpha")
    assert fleet.text("ask", slot, "Who?") == (0, "I am alpha.\n", "")
    assert fleet.text("ask", "alpha", "Who?", "--host", "gpu*")[:2] == (0, "I am alpha.\n")
    data = fleet("ask", slot, "Who?").data
    assert (data["host"], data["port"], data["answer"]) == ("gpu1", fleet.ports["gpu1"][0], "I am alpha.")
    found = fleet("ask", fleet.at("gpu1", 1), "Who?")
    assert (found.code, found.errors[0]["code"], found.errors[0]["host"]) == (4, "unreachable", "gpu1")
    assert fleet("ask", f"dead:{fleet.ports['dead'][0]}", "Who?").code == 4


def test_a_gateway_on_the_loopback_of_another_host(fleet: Fleet, emptied: None) -> None:
    fleet("load", fleet.at("gpu1"), "alpha")
    there, port = fleet.hosts["gpu1"].home / ".llmctl", free_port()
    replica = Replica("gpu1", fleet.ports["gpu1"][0], "alpha", "scripted", f"127.0.0.1:{fleet.ports['gpu1'][0]}")
    registry.write(there, Registry({"deep": Handle("deep", (replica,))}, "deep"))
    life.up(there, port, Launch())
    try:
        eventually(lambda: fleet("status", f"gpu1:{port}").data["slots"][0]["handles"] == ["deep"])
        found = fleet("ask", "-m", "deep", "Who?")
        assert (found.data["host"], found.data["port"], found.data["answer"]) == ("gpu1", port, "I am alpha.")
        config = fleet("client-config", "openai", "deep").data
        assert (config["model"], config["port"]) == ("deep", port) and f":127.0.0.1:{port}" in config["notes"][0]
    finally:
        life.down(there, port)
    assert fleet("ask", "-m", "deep", "Who?").errors[0]["hint"].startswith("llmctl load auto")


def test_its_answer_comes_as_it_is_made_and_ends_when_nobody_reads(fleet: Fleet, emptied: None) -> None:
    slot = fleet.at("gpu1")
    fleet("load", slot, "chatty")
    session = Session()
    with Reach(session) as reach:
        partner = chat_partner.of(reach, Meant(slot))
        talk = partner.client.ask([{"role": "user", "content": "go"}], {})
        assert next(talk).text
        assert active(fleet, slot) == 1  # it goes on: 20 seconds in all
        talk.close()
        eventually(lambda: active(fleet, slot) == 0, within=10)


def test_the_key_of_another_host_is_fetched_when_its_slot_wants_it(fleet: Fleet, emptied: None) -> None:
    host, slot = fleet.hosts["gpu2"], fleet.at("gpu2")
    toml = host.home / ".llmctl" / "config" / "hosts.toml"
    before = toml.read_text()
    toml.write_text(before + 'bind = "0.0.0.0"\n')
    try:
        fleet("load", slot, "beta")
        assert fleet.text("ask", slot, "Who?") == (0, "I am beta.\n", "")
        fleet("keys", "rotate", "--host", "gpu2", "--yes")
        assert fleet.text("ask", slot, "Who?")[0] == 0
    finally:
        toml.write_text(before)


def test_a_connection_that_broke_while_nobody_spoke_is_opened_again(fleet: Fleet, emptied: None) -> None:
    slot = fleet.at("gpu1")
    fleet("load", slot, "alpha")
    with Reach(Session()) as reach:
        partner = chat_partner.of(reach, Meant(slot))
        assert partner.client.models() == ["alpha"]
        reach.open["gpu1"]._link.close()  # type: ignore[attr-defined]
        assert partner.client.models() == ["alpha"]
