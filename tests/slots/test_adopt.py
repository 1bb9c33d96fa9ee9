"""adopt: what is found out about a server that somebody started, and the slot that stands in front of it then."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmctl import catalog_file
from llmctl.__main__ import main
from llmctl.config import Host
from llmctl.errors import LlmctlError, Refused, Unsupported, UsageError
from llmctl.servers import Server
from llmctl.slots import adopt, listening, uses
from llmctl.slots.listening import Listener
from llmctl.slots.resolve import Wish, resolve
from llmctl.slots.state import Launch
from tests.clients import chat
from tests.conftest import RunningSlot, eventually, free_port
from tests.engines.odd_server import ANSWER
from tests.engines.upstream_bench import ODD

HAND = ("vllm", "serve", "org/m", "--port", "8000", "--host", "0.0.0.0", "--api-key", "sk", "--x", "8000")


# ── what is decided ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argv", "kind", "words"),
    [
        (HAND, "vllm", "vllm serve org/m --port {port} --host 127.0.0.1 --x 8000"),
        (("s", "--port=8000", "--host=::"), "other", "s --port={port} --host=127.0.0.1"),
        (("s", "-p", "8000"), "other", "s -p {port}"),
        (("s", "8000", "x"), "other", "s {port} x"),
        (("vllm", "serve", "m"), "vllm", "vllm serve m --port {port}"),
        (("s", "--api-key=sk", "--hf-token", "t", "--port", "8000"), "other", "s --port {port}"),
    ],
)
def test_its_words_are_used_again_on_another_port(argv: tuple[str, ...], kind: str, words: str) -> None:
    assert " ".join(adopt.relocated(argv, 8000, kind)) == words


@pytest.mark.parametrize("argv", [("s",), ("s", "8000", "8000"), ()])
def test_words_without_a_port_are_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="cannot be seen") as caught:
        adopt.relocated(argv, 8000, "other")
    assert "models.toml" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("argv", "owner", "kind"),
    [
        (("python", "/opt/bin/vllm", "serve", "m"), None, "vllm"),
        (("python", "-m", "vllm.entrypoints.openai.api_server"), None, "vllm"),
        (("/usr/bin/llama-server", "-m", "x"), None, "llama-server"),
        (("python", "-m", "mlx_lm.server"), None, "mlx_lm"),
        (("python", "-m", "mlx_lm", "server"), None, "mlx_lm"),
        (("/usr/local/bin/ollama", "serve"), None, "ollama"),
        (("python", "/bin/transformers", "serve"), None, "transformers"),
        (("anything",), "llamacpp", "llama-server"),
        (("anything",), "library", "ollama"),
        (("optillm",), "somebody", "other"),
    ],
)
def test_its_kind_is_known_by_what_it_says_or_by_its_words(argv: tuple[str, ...], owner: str | None, kind: str) -> None:
    assert adopt._kind(argv, [{"id": "m", "owned_by": owner}]) == kind


def found(*served: str, kind: str = "vllm", **fields: Any) -> adopt.Found:
    one = Listener(8000, "127.0.0.1", 1, "me", HAND, "/srv", {"HF_TOKEN": "hf_x", "HF_HOME": "/hf", "SHELL": "sh"})
    return adopt.Found(replace(one, **fields), kind, served, 2048)


def test_the_slot_is_called_as_the_server_calls_its_model() -> None:
    made = adopt.spec(found("org/My_Model 7B"), None, None, None, False)
    assert made.model == "my_model-7b" and made.names == ("org/My_Model 7B",)
    assert made.engine.context == 2048 and made.engine.parallel == 256
    assert adopt.spec(found("a", "b"), "mine", "b", None, False).engine.options["server"]["served"] == "b"
    assert adopt.spec(found("a", "b", kind="mlx_lm"), "mine", None, None, False).engine.options["server"]["served"]
    for served, asked in ((("a", "b"), None), ((), None), (("a",), "c")):
        with pytest.raises(UsageError) as caught:
            adopt.spec(found(*served), None, asked, None, False)
        assert "--served" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="gives no name"):
        adopt.spec(found("///"), None, None, None, False)
    with pytest.raises(UsageError, match="not a model name"):
        adopt.spec(found("a"), "../x", None, None, False)


def test_s09_secrets_are_neither_shown_nor_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "mine", True)
    it = found("m")
    made = adopt.spec(it, None, None, None, True)
    server = made.engine.options["server"]
    assert server["env"] == {"HF_HOME": "/hf"} and server["folder"] == "/srv"
    assert it.to_dict()["variables"] == ["HF_HOME", "HF_TOKEN"]
    for text in (json.dumps(made.to_dict()), json.dumps(it.to_dict()), adopt.again(it)):
        assert "hf_x" not in text and "sk " not in text and '"sk"' not in text
    assert adopt.shown(["a", "--api-key=x", "--api-key", "y", "z"]) == ["a", "--api-key=***", "--api-key", "***", "z"]


def test_f12_the_server_of_another_user_is_not_managed() -> None:
    for user in ("somebody-else", None):
        with pytest.raises(Refused, match="belongs to") as caught:
            adopt.spec(found("m", user=user), None, None, None, True)
        assert "--manage" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("::1", "::1"),
        ("10.0.0.5", "10.0.0.5"),
    ],
)
def test_where_a_listener_is_reached(address: str, reached: str) -> None:
    assert listening._reachable({address}) == reached
    it = found("m", address=reached)
    made = adopt.spec(it, None, None, None, False).engine.options["server"]
    assert made["url"] == it.url and made["allow_remote"] is (reached == "10.0.0.5")


def test_an_entry_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    from llmctl.models import entry_text

    made = adopt.spec(found("org/m"), None, None, "MY_KEY", False)
    path = tmp_path / "models.toml"
    path.write_text(entry_text.entry(adopt.entry(made)))
    catalog = catalog_file.load(path)
    assert catalog.models["m"] == adopt.entry(made)
    again = resolve(catalog, Host("local", backend="cpu"), Wish("org/m"))
    assert again.engine.options["server"] == made.engine.options["server"] and again.engine.context == 2048


# ── the real thing ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Callable[..., tuple[int, subprocess.Popen[bytes]]]]:
    """theirs("--id", "m") → (port, process): a server that somebody started by hand."""
    running = []

    def start(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, subprocess.Popen[bytes]]:
        port = free_port()
        argv = [sys.executable, ODD, str(port), *arguments]
        made = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        running.append(made)
        eventually(lambda: listening.find(port))
        return port, made

    yield start
    for one in running:
        one.kill()
        one.wait()


@pytest.fixture
def run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, dict[str, Any], list[dict[str, Any]]]]]:
    """run("adopt", …) → (exit code, data, errors), on a host with three managed ports."""
    ports = [free_port() for _ in range(3)]
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "hosts.toml").write_text(f"[hosts.here]\nports = [{min(ports)}, {max(ports)}]\n")
    monkeypatch.setenv("LLMCTL_CONFIG", str(folder))

    def call(*argv: object) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        code = main([*map(str, argv), "--json"])
        said = json.loads(capsys.readouterr().out)
        return code, said["data"], said["errors"]

    yield call
    for path in (home / "slots").glob("[0-9]*"):
        RunningSlot(home, int(path.name), Launch()).kill()


Run = Callable[..., tuple[int, dict[str, Any], list[dict[str, Any]]]]
Theirs = Callable[..., tuple[int, "subprocess.Popen[bytes]"]]


def says(port: int) -> str:
    return str(chat(port, "What is a slot?")[2]["choices"][0]["message"]["content"])


def test_who_listens_is_found_with_its_words(theirs: Theirs, tmp_path: Path) -> None:
    port, process = theirs("--id", "m", env={"HF_HOME": "/x"})
    one = listening.find(port)
    assert one and (one.pid, one.folder, one.mine) == (process.pid, str(tmp_path), True)
    assert one.argv == (sys.executable, ODD, str(port), "--id", "m") and one.env["HF_HOME"] == "/x"
    assert listening.find(free_port()) is None


def test_f12_an_adopted_server_is_left_as_it_is(run: Run, theirs: Theirs, home: Path) -> None:
    port, process = theirs("--id", "org/M")
    code, plan, _ = run("adopt", port, "--dry-run")
    assert (code, plan["plan"], plan["model"]) == (0, "attach", "m") and not (home / "slots").exists()
    code, data, _ = run("adopt", port, "--save")
    assert code == 0 and data["state"] == "ready" and data["port"] != port and not data["managed"]
    assert data["server"]["pid"] == process.pid and says(data["port"]) == ANSWER
    assert chat(data["port"], "hi", model="org/M")[0] == 200
    assert uses.used(home)[data["port"]] == ()  # no file, and not the working folder either
    assert run("unload", data["port"])[0] == 0 and process.poll() is None
    assert run("load", data["port"], "m")[1]["state"] == "ready"  # its entry was saved
    assert "already" in run("adopt", port, "--save")[2][0]["message"]
    code, _, errors = run("adopt", data["port"])
    assert code == 1 and "is a slot of llmctl already" in errors[0]["message"]


def test_a_managed_server_comes_back_below_the_slot_on_its_port(run: Run, theirs: Theirs) -> None:
    port, process = theirs("--id", "m", env={"HF_HOME": "/x"})
    code, _, errors = run("adopt", port, "--manage")
    assert code == 1 and errors[0]["code"] == "consent" and process.poll() is None
    code, data, _ = run("adopt", port, "--manage", "--as", "mine", "--yes")
    assert code == 0 and (data["port"], data["managed"], data["state"]) == (port, True, "ready")
    assert process.wait(30) is not None and says(port) == ANSWER
    assert run("restart", port)[1]["state"] == "ready" and says(port) == ANSWER


def test_a_slot_is_put_where_it_is_wanted(run: Run, theirs: Theirs) -> None:
    port, _ = theirs("--id", "m")
    wanted = free_port()
    assert run("adopt", wanted, "--port-of-server", port)[1]["port"] == wanted and says(wanted) == ANSWER
    assert run("adopt", port, "--port-of-server", port)[0] == 2


def test_f12_a_server_that_does_not_end_goes_on(run: Run, theirs: Theirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "LEAVE", 1.0)
    port, process = theirs("--id", "m", "--stubborn")
    code, _, errors = run("adopt", port, "--manage", "--yes")
    assert code == 1 and "goes on after" in errors[0]["message"]
    assert process.poll() is None and listening.find(port)


def test_a_start_that_fails_says_how_it_was_started(run: Run, theirs: Theirs, tmp_path: Path) -> None:
    flag = tmp_path / "gone"
    flag.write_text("x")
    port, _ = theirs("--id", "m", "--brood", str(flag))
    flag.unlink()
    flag.mkdir()  # it cannot be started again
    code, _, errors = run("adopt", port, "--manage", "--yes")
    assert code == 1 and errors[0]["code"] == "load_failed"
    assert f"cd {tmp_path} && {sys.executable}" in errors[0]["hint"] and "--brood" in errors[0]["hint"]


def test_f12_what_is_no_server_of_models_is_left_alone(run: Run) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        adopt_timeout, adopt.ANSWER = adopt.ANSWER, 0.5
        code, _, errors = run("adopt", silent.getsockname()[1])
        adopt.ANSWER = adopt_timeout
    assert code == 4 and "does not speak OpenAI's dialect" in errors[0]["message"]
    code, _, errors = run("adopt", free_port())
    assert code == 4 and "nothing listens" in errors[0]["message"] and errors[0]["hint"]


# ── its entry in the catalog ────────────────────────────────────────────────────────────────────────────────────────

ENTRY = '[models.m]\nartifacts = [\n  {{ format = "server", {0} }},\n]\n'
GOOD = 'server = { command = ["vllm", "serve", "{model}", "--port", "{port}"], model = "org/m", kind = "vllm" }'


def read(tmp_path: Path, text: str) -> Server:
    path = tmp_path / "models.toml"
    path.write_text(ENTRY.format(text))
    server = catalog_file.load(path).models["m"].artifacts[0].server
    assert server
    return server


@pytest.mark.parametrize(
    ("server", "name"),
    [
        (Server("vllm", ("vllm", "{model}", "{port}"), model="org/m"), "org/m"),
        (Server("vllm", ("vllm", "{model}", "{port}", "{id}"), model="org/m"), "m"),
        (Server("vllm", ("vllm", "{path}", "{port}")), "m"),
        (Server("mlx_lm", ("mlx_lm.server", "{path}", "{port}")), "default_model"),
        (Server("transformers", ("transformers", "serve", "{path}", "{port}")), "/models/m"),
        (Server("other", url="http://127.0.0.1:1", served="x", model="y"), "x"),
    ],
)
def test_the_name_that_a_server_knows_its_model_by(server: Server, name: str) -> None:
    assert server.name("m", "/models/m") == name


def test_a_server_is_read_with_all_it_says(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).name("m") == "org/m"
    rich = read(
        tmp_path,
        'server = { url = "http://gpu:8000", allow_remote = true, key_env = "K", memory = "2GB", parallel = 3, '
        'stall = "5m", sleep = true, env = { A = "1" }, fields = { seed = false, min_p = "mp" }, tasks = ["embed"], '
        'inputs = ["text", "image"], generates = false, ready = "/up", served = "x", folder = "here" }',
    )
    assert (rich.memory, rich.parallel, rich.stall, rich.sleep) == (2 * 10**9, 3, 300.0, True)
    assert rich.carries()["min_p"] == "mp" and "seed" not in rich.carries() and rich.folder == str(tmp_path / "here")


MISTAKES = [
    ('server = { kind = "vllm" }', "neither a command nor a url"),
    (GOOD.replace("kind", 'url = "http://127.0.0.1:1", kind'), "both a command and a url"),
    (GOOD.replace("{port}", "{prt}"), "no placeholder {prt}"),
    (GOOD.replace("{port}", "8000"), "neither {port} nor {socket}"),
    (GOOD.replace('"serve"', '"{socket}"'), "both {port} and {socket}"),
    (GOOD.replace(', model = "org/m"', ""), "says {model}"),
    (GOOD.replace('"serve"', '"{path}"'), "says {path}"),
    (GOOD.replace('"serve"', '"--api-key=x"'), "shows a secret"),
    (GOOD.replace('"vllm", "serve"', '"", "serve"'), "name is empty"),
    (GOOD.replace("kind", 'env = { HF_TOKEN = "x" }, kind'), "looks like a secret"),
    (GOOD.replace("kind", 'env = { "a b" = "x" }, kind'), "no name of a variable"),
    (GOOD.replace("kind", 'key_env = "sk-123", kind'), "name of a variable, not a key"),
    (GOOD.replace("kind", 'ready = "health", kind'), "is no path"),
    (GOOD.replace("kind", 'fields = { minp = true }, kind'), "unknown key"),
    (GOOD.replace("kind", 'fields = { min_p = 3 }, kind'), "the name of the server's own field"),
    (GOOD.replace("kind", 'tasks = ["sing"], kind'), "not one of"),
    (GOOD.replace("kind", 'parallell = 3, kind'), "unknown key"),
    (GOOD.replace('"vllm" }', '"vlm" }'), "not one of"),
    (GOOD.replace('kind = "vllm"', 'kind = "mlx_lm", sleep = true'), "mlx_lm cannot sleep"),
    ('server = { url = "http://gpu1:8000" }', "gpu1 is another machine"),
    ('server = { url = "http://127.0.0.1" }', "the port is missing"),
    ('server = { url = "ftp://127.0.0.1:1" }', "no address of a server"),
    ('server = { url = "http://me:pw@127.0.0.1:1" }', "no address of a server"),
    ('server = { url = "http://127.0.0.1:99999" }', "no address of a server"),
    ('quantization = "q4"', "needs a server"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), MISTAKES, ids=[why for _, why in MISTAKES])
def test_a_mistake_in_an_entry_names_file_and_line(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(LlmctlError) as caught:
        read(tmp_path, text)
    assert caught.value.code == "config" and why in caught.value.message
    assert f"{tmp_path / 'models.toml'}:2:" in caught.value.message


def test_a_server_becomes_a_spec_and_what_is_its_own_affair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(ENTRY.format(GOOD.replace("kind", 'memory = "1GB", kind')))
    catalog, host = catalog_file.load(path), Host("local", backend="cpu")
    with pytest.raises(Unsupported, match="runs on 'vllm', and there is no such program") as missing:
        resolve(catalog, host, Wish("m"))
    assert missing.value.hint
    path.write_text(path.read_text().replace('"vllm", "serve"', f'"{sys.executable}", "serve"'))
    catalog = catalog_file.load(path)
    spec = resolve(catalog, host, Wish("m", idle_unload=60.0))
    assert (spec.engine.engine, spec.engine.parallel, spec.needed_bytes) == ("upstream", 256, 10**9)
    assert resolve(catalog, host, Wish("m", context=100, parallel=2)).engine.parallel == 2
    with pytest.raises(UsageError, match="cache-bits is for that to know"):
        resolve(catalog, host, Wish("m", cache_bits=8))
