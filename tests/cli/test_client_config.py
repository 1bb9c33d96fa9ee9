"""`llmctl client-config`: what it prints is valid, names what the slot is, and works where it is pasted."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmctl import keys
from llmctl.cli import client_config
from llmctl.cli.session import Session
from llmctl.clients.configs import CONTEXT, ENV, JSON, KINDS, NO_KEY, Slot
from llmctl.config import Host
from llmctl.domain import SlotSpec
from llmctl.slots.state import Launch
from tests.cli.fleet import Fleet
from tests.cli.test_ask import Run, envelope, run
from tests.conftest import RunningSlot, eventually

__all__ = ["run"]

FULL = Slot(
    "http://studio:8101", "tiny-1.5", ("first", "ov-tiny"), 8192, images=True, tools=True, schema=True, wants_key=True
)
SECRET = "lm-secret"
Parsed = Mapping[str, Any]


def parsed(text: str, format: str) -> Any:
    """A part, as the program that it is for reads it; of a shell's lines what they set."""
    if format == JSON:
        return json.loads(text)
    if format != ENV:
        return yaml.safe_load(text)
    names = [line.split("=")[0].removeprefix("export ") for line in text.splitlines() if line.startswith("export")]
    # The command that would fetch the key is found first in the PATH.
    shown = subprocess.run(
        ["sh", "-ec", f'llmctl() {{ echo "client: {SECRET}"; echo "admin: no"; }}\n{text}\nenv'],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    found = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    return {name: found[name] for name in names}


def made(kind: str, slot: Slot) -> list[Any]:
    return [parsed(part.text, part.format) for part in KINDS[kind].make(slot).parts]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slot", [FULL, Slot("http://127.0.0.1:8101", "alpha")])
def test_every_kind_is_valid_and_names_the_slot(kind: str, slot: Slot) -> None:
    parts = KINDS[kind].make(slot).parts
    assert slot.base in json.dumps([parsed(part.text, part.format) for part in parts])
    assert slot.model in "".join(part.text for part in parts)
    assert all(part.text.endswith("\n") for part in parts)


def test_the_openai_variables() -> None:
    assert made("openai", FULL) == [{"OPENAI_BASE_URL": "http://studio:8101/v1", "OPENAI_API_KEY": SECRET}]
    assert "tiny-1.5, also first, ov-tiny, 8192 tokens" in KINDS["openai"].make(FULL).parts[0].text


def test_the_anthropic_variables() -> None:
    (found,) = made("claude-code", FULL)
    assert (found["ANTHROPIC_BASE_URL"], found["ANTHROPIC_AUTH_TOKEN"]) == ("http://studio:8101", SECRET)
    assert found["ANTHROPIC_MODEL"] == found["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "tiny-1.5"
    assert any("8192 tokens" in note for note in KINDS["claude-code"].make(FULL).notes)


def test_open_webui() -> None:
    (found,) = made("open-webui", FULL)
    assert (found["OPENAI_API_BASE_URL"], found["OPENAI_API_KEY"]) == ("http://studio:8101/v1", SECRET)
    assert found["DEFAULT_MODELS"] == "tiny-1.5"


def test_llm() -> None:
    (found,) = made("llm", FULL)
    assert found == [
        {
            "model_id": "tiny-1.5", "model_name": "tiny-1.5", "api_base": "http://studio:8101/v1",
            "aliases": ["first", "ov-tiny"], "api_key_name": "llmctl", "vision": True, "supports_tools": True,
            "supports_schema": True,
        }
    ]  # fmt: skip
    assert "api_key_name" not in made("llm", Slot("http://a:1", "m"))[0][0]


def test_aider() -> None:
    conf, known = made("aider", FULL)
    assert (conf["model"], conf["openai-api-base"]) == ("openai/tiny-1.5", "http://studio:8101/v1")
    assert known["openai/tiny-1.5"]["max_input_tokens"] == 8192
    assert len(made("aider", Slot("http://a:1", "m"))) == 1


def test_continue() -> None:
    (found,) = made("continue", FULL)
    assert found["schema"] == "v1"
    assert found["models"][0]["apiBase"] == "http://studio:8101/v1"
    assert found["models"][0]["apiKey"] == "${{ secrets.LLMCTL_KEY }}"
    assert found["models"][0]["defaultCompletionOptions"] == {"contextLength": 8192}
    assert found["models"][0]["capabilities"] == ["tool_use", "image_input"]


def test_zed() -> None:
    (found,) = made("zed", FULL)
    provider = found["language_models"]["openai_compatible"]["llmctl"]
    assert provider["api_url"] == "http://studio:8101/v1"
    assert provider["available_models"][0]["max_tokens"] == 8192
    assert provider["available_models"][0]["capabilities"]["images"] is True
    unknown = KINDS["zed"].make(Slot("http://a:1", "m"))
    assert str(CONTEXT) in unknown.parts[0].text
    assert any("guess" in note for note in unknown.notes)


def test_litellm() -> None:
    (found,) = made("litellm", FULL)
    (model,) = found["model_list"]
    assert model["model_name"] == "tiny-1.5"
    params = {"model": "openai/tiny-1.5", "api_base": "http://studio:8101/v1", "api_key": "os.environ/LLMCTL_KEY"}
    assert model["litellm_params"] == params
    assert model["model_info"]["max_input_tokens"] == 8192


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_is_written_out_only_where_it_is_shown(kind: str) -> None:
    hidden = KINDS[kind].make(FULL)
    shown = KINDS[kind].make(Slot(**{**FULL.__dict__, "key": "lm-it's"}))
    told = " ".join([*hidden.notes, *(part.text for part in hidden.parts)])
    assert "llmctl keys show" in told
    assert NO_KEY not in told
    assert "lm-it" in " ".join([*shown.notes, *(part.text for part in shown.parts)])
    assert all(parsed(part.text, part.format) for part in shown.parts)
    keyless = KINDS[kind].make(Slot("http://a:1", "m"))
    assert "keys show" not in " ".join([*keyless.notes, *(part.text for part in keyless.parts)])


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_kinds(run: Run) -> None:
    code, out, _ = run("client-config")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(KINDS)
    found = envelope(run("client-config", "zedd", "--json"))
    assert (found["exit_code"], found["errors"][0]["hint"]) == (2, "did you mean 'zed'?")


def test_a_slot_here(run: Run, scripted_slot: RunningSlot) -> None:
    code, out, err = run("client-config", "openai")
    assert code == 0
    assert out == (
        "# model: alpha, also first, 1024 tokens\n"
        f"export OPENAI_BASE_URL=http://127.0.0.1:{scripted_slot.port}/v1\nexport OPENAI_API_KEY={NO_KEY}\n"
    )
    assert err == "in a shell:\n"
    for kind in ("zed", "aider"):
        data = envelope(run("client-config", kind, "first", "--json"))["data"]
        assert (data["host"], data["port"], data["model"]) == ("local", scripted_slot.port, "alpha")
        assert all(parsed(part["text"], part["format"]) for part in data["parts"])


def test_a_slot_here_that_wants_a_key(
    run: Run, home: Path, slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec]
) -> None:
    key = keys.show(home)["client"]
    slots(script(), launch=Launch(require_key=True))
    assert key not in "".join(map(str, run("client-config", "openai")))
    assert f"export OPENAI_API_KEY={key}\n" in run("client-config", "openai", "--show-key")[1]


def test_nothing_to_configure(run: Run) -> None:
    assert envelope(run("client-config", "llm", "--json"))["errors"][0]["message"] == "no slot has a model"
    assert run("client-config", "llm", "9")[0] == 4


# ── addresses ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def session(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "hosts.toml").write_text('[hosts.gate]\ntransport = "ssh"\naddress = "gate.lan"\nuser = "me"\n')
    return Session(config_dir=str(tmp_path))


def far(**fields: Any) -> Host:
    return Host("far", "ssh", **{"address": "far.lan", "user": "op", **fields})


@pytest.mark.parametrize(
    ("host", "base", "note"),
    [
        (Host("here"), "http://127.0.0.1:8101", None),
        (Host("here", bind="::1"), "http://[::1]:8101", None),
        (Host("here", bind="0.0.0.0"), "http://127.0.0.1:8101", "on other machines it is http://"),
        (Host("here", bind="10.1.1.1"), "http://10.1.1.1:8101", "on other machines it is http://"),
        (far(bind="0.0.0.0"), "http://far.lan:8101", None),
        (far(bind="10.1.1.1"), "http://10.1.1.1:8101", None),
        (far(), "http://127.0.0.1:8101", "ssh -N -L 8101:127.0.0.1:8101 op@far.lan"),
        (far(ssh_port=2222), "http://127.0.0.1:8101", "ssh -N -L 8101:127.0.0.1:8101 -p 2222 op@far.lan"),
        (
            far(gateway="gate", bind="0.0.0.0"), "http://127.0.0.1:8101",
            "is behind a gateway; keep this open beside it: "
            "ssh -N -L 8101:127.0.0.1:8101 -J me@gate.lan:22 op@far.lan",
        ),
    ],
)  # fmt: skip
def test_the_address_that_a_client_reaches(session: Session, host: Host, base: str, note: str | None) -> None:
    found, notes = client_config.address(session, host, 8101)
    assert found == base
    assert notes == [] if note is None else note in notes[0]


def test_a_port_that_is_taken_here_is_not_the_near_end_of_a_tunnel(session: Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] % 50000  # another may be taken, and none is above 65535
        with socket.create_server(("127.0.0.1", port)) if port != server.getsockname()[1] else server:
            base, notes = client_config.address(session, far(), port)
    assert base == f"http://127.0.0.1:{port + 10000}"
    assert f"-L {port + 10000}:127.0.0.1:{port} " in notes[0]


def test_the_line_for_a_tunnel_works(fleet: Fleet, emptied: None, tmp_path: Path) -> None:
    slot = fleet.at("gpu1")
    fleet("load", slot, "alpha")
    data = fleet("client-config", "openai", slot).data
    (note,) = data["notes"]
    words = shlex.split(note.partition("beside it: ")[2])
    trusted = ["-o", f"UserKnownHostsFile={tmp_path}/known", "-o", "BatchMode=yes"]
    (tmp_path / "known").write_text(fleet.hosts["gpu1"].known())
    tunnel = subprocess.Popen([words[0], *trusted, *words[1:]], stdin=subprocess.DEVNULL)
    try:
        url = data["base_url"]
        port = int(url.rpartition(":")[2])
        eventually(lambda: listening(port))
        assert fleet.text("ask", "--url", url, "Who?")[:2] == (0, "I am alpha.\n")
    finally:
        tunnel.terminate()
        tunnel.wait()


def listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
