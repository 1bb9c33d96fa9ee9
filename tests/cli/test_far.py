"""Every verb on every host, as an operator types them: over real ssh, with scripted models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmctl.slots.state import Launch
from tests.cli.fleet import Fleet
from tests.conftest import RunningSlot, eventually, free_port
from tests.testbed.sshd import SshHost, needs_sshd

pytestmark = [needs_sshd, pytest.mark.usefixtures("emptied")]
LLMCTL = [sys.executable, "-m", "llmctl"]


@contextmanager
def program(host: SshHost, text: str) -> Iterator[None]:
    """Another llmctl on the host."""
    path = host.home / ".llmctl" / "bin" / "llmctl"
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


def of_version(host: SshHost, version: str) -> str:
    """The program of a host whose llmctl has that version."""
    python = f"import llmctl; llmctl.__version__ = '{version}'; from llmctl.__main__ import main; import sys"
    return (host.home / ".llmctl" / "bin" / "llmctl").read_text().replace(
        "-m llmctl", f'-c "{python}; sys.exit(main())"'
    )  # fmt: skip


# ── one host ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slots_life_on_another_host(fleet: Fleet) -> None:
    slot, port = fleet.at("gpu1"), fleet.ports["gpu1"][0]
    done = fleet("load", "auto", "ALPHA", "--host", "gpu1")
    assert (done.code, done.data["host"], done.data["port"], done.data["state"]) == (0, "gpu1", port, "ready")
    assert {json.loads(line)["event"] for line in done.err.splitlines()} >= {"stage"}
    assert fleet("ask", slot, "Who?").data["answer"] == "I am alpha."
    assert fleet.text("ask", "alpha", "Who?")[:2] == (0, "I am alpha.\n")

    code, out, err = fleet.text("swap", slot, "beta")
    assert code == 0 and f"{slot}  beta  ready · before: alpha" in out and "probe …" in err
    done = fleet("swap", slot, "broken")
    assert (done.code, done.errors[0]["code"], done.errors[0]["host"]) == (1, "load_failed", "gpu1")
    assert fleet.model(slot) == "beta"

    assert fleet("restart", slot).data["model"] == "beta"
    assert len(fleet("logs", slot, "-n", 2).data["lines"]) == 2
    assert "beta serves" in fleet.text("logs", slot)[1] or "swap by" in fleet.text("logs", slot)[1]
    assert fleet("disable", slot, "--why", "tests").data["state"] == "disabled"
    assert fleet("status", slot).data["slots"][0]["why"] == "tests"
    assert fleet("enable", slot).data["state"] == "ready"
    assert fleet("unload", slot).data["state"] == "empty"


def test_what_to_type_next_names_the_host(fleet: Fleet) -> None:
    slot, port = fleet.at("gpu1"), fleet.ports["gpu1"][0]
    assert fleet("load", slot, "alpha").code == 0
    assert fleet("load", slot, "beta").errors[0]["hint"] == f"llmctl swap {slot} beta"
    assert fleet("unload", "gpu2:8999").errors[0]["hint"] == "llmctl load gpu2:8999 MODEL"
    assert fleet("load", "gpu2:8999", "qwen2-0.5b").errors[0]["hint"] == "llmctl pull qwen2-0.5b --host gpu2"
    assert fleet("jobs", "show", 9, "--host", "gpu2").errors[0]["hint"] == "llmctl jobs list --all --host gpu2"
    assert fleet("ask", f"gpu1:{port + 1}", "Who?").errors[0]["hint"] == f"llmctl status gpu1:{port + 1}"


def test_s07_words_for_a_host_arrive_as_they_are(fleet: Fleet) -> None:
    slot = fleet.at("gpu1")
    assert fleet("load", slot, "alpha").code == 0
    for why in ("--json", "$(touch x); `id` 'a' \"b\"\nnew \\ line", "--host", "-y", "ünï  ço"):
        assert fleet("disable", slot, f"--why={why}").code == 0
        assert fleet("status", slot).data["slots"][0]["why"] == why
    for name in ("--json", "-y", "$(id)"):
        done = fleet("models", "show", "--host", "gpu1", "--", name)
        assert done.errors[0]["code"] == "unknown_name" and repr(name) in done.errors[0]["message"]


def test_a_dry_run_there_changes_nothing(fleet: Fleet) -> None:
    done = fleet("load", fleet.at("gpu2", 1), "alpha", "--dry-run")
    assert (done.code, done.data["would"], done.data["host"]) == (0, "load", "gpu2")
    assert fleet("status", fleet.at("gpu2", 1)).errors[0]["code"] == "unknown_name"
    assert "would load alpha on gpu2:" in fleet.text("load", fleet.at("gpu2", 1), "alpha", "--dry-run")[1]


def test_a_swap_there_is_saved_here(fleet: Fleet) -> None:
    slot, port = fleet.at("gpu1"), fleet.ports["gpu1"][0]
    fleet.profile("mine", f'[[slots]]\nport = {port}\nhost = "gpu1"\nmodel = "alpha"  # ours\n')
    assert fleet("swap", slot, "beta", "--save", "--profile", "other").errors[0]["code"] == "unknown_name"
    assert fleet("status", slot).data["slots"][0]["model"] is None
    saved = fleet("swap", slot, "BETA", "--save").data["saved"]
    assert Path(saved).read_text() == f'[[slots]]\nport = {port}\nhost = "gpu1"\nmodel = "beta"  # ours\n'
    assert fleet("swap", port, "beta", "--save", "--host", "gpu*").errors[0]["hint"] == "--host gpu1"


def test_a_followed_log_ends_with_ctrl_c_here_and_there(fleet: Fleet, home: Path) -> None:
    slot, port = fleet.at("gpu1"), fleet.ports["gpu1"][0]
    assert fleet("load", slot, "alpha").code == 0
    with subprocess.Popen([*LLMCTL, "logs", slot, "-f", "-n", "1"], stdout=subprocess.PIPE, text=True) as reading:
        assert reading.stdout
        assert reading.stdout.readline()
        fleet("restart", slot)
        assert "restart by" in reading.stdout.readline()
        reading.send_signal(signal.SIGINT)
        assert reading.wait(30) == 130
    eventually(lambda: not followers(port))
    assert fleet("logs", slot, "-f").errors[0]["code"] == "usage"
    assert fleet.text("logs", "gpu1:8999", "-f")[0] == 2


def followers(port: int) -> list[int]:
    """The processes that follow the log of `port`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "llmctl" in words and "logs" in words and str(port) in words:
            found.append(int(path.parent.name))
    return found


# ── which host ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bare_port_is_on_the_default_host_else_where_a_model_has_it(fleet: Fleet) -> None:
    port = fleet.ports["gpu2"][0]
    assert fleet("load", fleet.at("gpu2"), "alpha").code == 0
    done = fleet("restart", port)  # dead may have it too
    assert (done.code, done.errors[0]["code"]) == (2, "usage")
    assert f"gpu2:{port} (dead could not be asked)" in done.errors[0]["message"]

    entries = "\n".join(fleet.hosts[name].entry() for name in ("gpu1", "gpu2"))
    (fleet.config / "hosts.toml").write_text(entries)
    assert fleet("restart", port).data["host"] == "gpu2"
    done = fleet("load", 8999, "alpha")
    assert done.code == 2 and "gpu1, gpu2" in done.errors[0]["message"] and "gpu1:8999" in done.errors[0]["hint"]
    assert fleet("jobs", "list").errors[0]["message"] == "which host: gpu1, gpu2?"
    (fleet.config / "hosts.toml").write_text(f'default = "gpu1"\n{entries}')
    assert fleet("restart", port).errors[0]["host"] == "gpu1"
    assert fleet("jobs", "list").data == {"jobs": []}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("load", "gpu3:8101", "alpha"), "no host 'gpu3'"),
        (("status", "--host", "gpu3"), "no host 'gpu3'"),
        (("status", "--host", "cpu*"), "no host is called 'cpu*'"),
        (("status", "--host", "@slow"), "no label 'slow'"),
        (("status", "--host", ""), "no host ''"),
        (("status", "gpu1:x"), "'gpu1:x' is not a port"),
        (("load", "gpu1:", "alpha"), "'gpu1:' is not a port"),
        (("load", ":8101", "alpha", "--host", "gpu*", "--host", "nope"), "no host 'nope'"),
        (("load", "gpu*:8101", "alpha"), "no host 'gpu*'"),
        (("restart", "gpu1:8101", "--host", "gpu2"), "gpu1:8101 names its host, and --host does too"),
        (("jobs", "attach", "1", "--host", "gpu*"), "jobs attach works on one host, and gpu1, gpu2 are meant"),
        (("ask", "8101", "Who?", "--host", "gpu*"), "asking works on one host, and gpu1, gpu2 are meant"),
        (("profile", "save", "x", "--host", "gpu*"), "profile save works on one host, and gpu1, gpu2 are meant"),
        (("logs", "8101", "--host", "gpu*", "--json", "-f"), "--follow shows lines as they come"),
    ],
)
def test_mistyped_hosts_and_ports_are_usage_errors(fleet: Fleet, words: tuple[str, ...], message: str) -> None:
    done = fleet(*words)
    assert (done.code, message in done.errors[0]["message"]) == (2, True), done.errors
    assert done.errors[0]["hint"]


# ── several hosts ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_verb_on_several_hosts_has_one_answer(fleet: Fleet) -> None:
    done = fleet("load", "auto", "alpha", "--host", "gpu*")
    assert (done.code, [host["host"] for host in done.data["hosts"]]) == (0, ["gpu1", "gpu2"])
    assert {host["state"] for host in done.data["hosts"]} == {"ready"}
    assert {json.loads(line)["host"] for line in done.err.splitlines()} == {"gpu1", "gpu2"}
    port = fleet.ports["gpu1"][0]
    code, out, err = fleet.text("restart", port, "--host", "gpu?")
    assert code == 3 and out.startswith(f"gpu1:\ngpu1:{port}  alpha") and "gpu1: " in err
    assert err.endswith(f"error: gpu2: port {port} is no slot here\nhint: llmctl load gpu2:{port} MODEL\n")

    done = fleet("keys", "show", "--host", "*")
    assert (done.code, [error["host"] for error in done.errors]) == (3, ["dead"])
    assert [host["exit_code"] for host in done.data["hosts"]] == [0, 0, 4]
    code, out, err = fleet.text("logs", port, "-n", 1, "--host", "*")
    assert code == 3 and out.startswith("gpu1: ") and "error: dead: " in err
    done = fleet("keys", "show", "--host", "dead", "--host", "de*")
    assert (done.code, done.errors[0]["code"], done.data) == (4, "unreachable", {})


def test_this_machine_is_a_host_like_any_other(fleet: Fleet, home: Path) -> None:
    port = free_port()
    (fleet.config / "alpha.json").write_text("{}")
    fleet.configure(f'default = "desk"\n[hosts.desk]\nports = [{port}, {port}]\n')
    try:
        done = fleet("load", "auto", "alpha", "--host", "desk", "--host", "gpu1")
        assert (done.code, [(host["host"], host["state"]) for host in done.data["hosts"]]) == (
            0, [("desk", "ready"), ("gpu1", "ready")],
        )  # fmt: skip
        both = ("--host", "desk", "--host", "gpu1")
        assert [row["host"] for row in fleet("status", *both).data["slots"]] == ["desk", "gpu1"]
        assert fleet("restart", port).data["host"] == "desk"
        done = fleet("load", port, "beta", "--host", "desk", "--host", "dead")
        assert [(error["host"], error["code"]) for error in done.errors] == [
            ("desk", "refused"),
            ("dead", "unreachable"),
        ]
        models = fleet("models", "list", *both).data["models"]
        assert [row["host"] for row in models if row["id"] == "alpha" and row["present"]] == ["desk", "gpu1"]
        assert "desk" in str(fleet("keys", "rotate", "--host", "desk", "--host", "gpu1").errors)
        assert fleet("plan", "--host", "desk").data["steps"][0]["action"] == "extra"
    finally:
        RunningSlot(home, port, Launch()).kill()


def test_rows_of_several_hosts_are_joined(fleet: Fleet) -> None:
    done = fleet("models", "list", "--host", "gpu*")
    rows = [(row["host"], row["present"]) for row in done.data["models"] if row["id"] == "alpha"]
    assert (done.code, rows) == (0, [("gpu1", True), ("gpu2", True)])
    assert fleet.text("models", "list", "--host", "gpu*")[1].split()[:2] == ["HOST", "MODEL"]
    assert {row["host"] for row in fleet("models", "fit", "alpha", "--host", "gpu*").data["fits"]} == {"gpu1", "gpu2"}
    done = fleet("jobs", "list", "--host", "*")
    assert (done.code, done.data["jobs"], len(done.data["hosts"])) == (3, [], 3)


def test_a_question_of_a_host_is_asked_here(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: fleet("keys", "show", "--host", name).data["client"] for name in ("gpu1", "gpu2")}
    done = fleet("keys", "rotate", "--host", "gpu*")
    assert (done.code, done.errors[0]["code"], done.errors[0]["hint"]) == (1, "consent", "add --yes")
    assert done.errors[0]["message"].count("Clients with the old key will get 401") == 2
    assert fleet("keys", "show", "--host", "gpu1").data["client"] == before["gpu1"]
    assert fleet("keys", "rotate", "--host", "gpu2", "--yes").data["client"] != before["gpu2"]

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, err: "gpu1: Clients" in question)
    code, out, _ = fleet.text("keys", "rotate", "--host", "gpu1")
    assert code == 0 and before["gpu1"] not in out and "client: lm-" in out


def test_a_job_there_is_watched_here_and_listed_with_its_host(fleet: Fleet) -> None:
    models = fleet.hosts["gpu1"].home / ".llmctl" / "config" / "models.toml"
    before = models.read_text()
    models.write_text(before + '[models.far]\nartifacts = [{ format = "gguf", source = "org/far:far.gguf" }]\n')
    try:
        done = fleet("pull", "far", "--host", "gpu1", "--detach")  # there is no hub: the job fails
    finally:
        models.write_text(before)
    assert done.code == 0 and done.data["detached"]["host"] == "gpu1"
    id = done.data["detached"]["id"]
    done = fleet("jobs", "attach", id, "--host", "gpu1")
    assert done.code == 4 and done.errors[0]["host"] == "gpu1" and "the hub" in done.errors[0]["message"]
    rows = fleet("jobs", "list", "--host", "gpu*").data["jobs"]
    assert [(row["host"], row["kind"]) for row in rows] == [("gpu1", "pull")]
    assert f"llmctl jobs attach {id} --host gpu1" in str(fleet.text("jobs", "list", "--host", "gpu1")) or True
    assert fleet("jobs", "prune", "--all", "--host", "gpu1").data["removed"] == [id]


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_another_version_answers_and_changes_nothing(fleet: Fleet) -> None:
    slot, host = fleet.at("gpu1"), fleet.hosts["gpu1"]
    assert fleet("load", slot, "alpha").code == 0
    with program(host, of_version(host, "9.9.9")):
        for words in (("swap", slot, "beta"), ("unload", slot), ("disable", slot, "--why", "x"), ("apply", "--yes")):
            done = fleet(*words)
            errors = [error for error in done.errors if error["host"] == "gpu1"]
            assert done.code in (1, 3) and errors[0]["code"] == "version_skew", words
            assert errors[0]["hint"] == "llmctl deploy gpu1"
        assert fleet("logs", slot, "-n", 1).code == 0
        done = fleet("status", "--host", "gpu1")
        assert (done.code, done.data["slots"][0]["model"], done.data["slots"][0]["state"]) == (3, "alpha", "ready")
        assert (done.data["hosts"][0]["state"], done.data["hosts"][0]["version"]) == ("skew", "9.9.9")
        assert "gpu1 runs llmctl 9.9.9" in fleet.text("status")[1]
    assert fleet.model(slot) == "alpha"


@pytest.mark.parametrize(
    ("text", "code", "state"),
    [
        ("#!/bin/sh\necho hello\n", "failed", "unknown"),
        ("#!/bin/sh\necho '{\"llmctl\": 3}'\n", "failed", "unknown"),
        ("#!/bin/sh\necho '[]'\n", "failed", "unknown"),
        ("#!/nowhere/sh\n", "not_deployed", "not deployed"),
    ],
)
def test_a_host_that_answers_nonsense_is_not_believed(
    fleet: Fleet,
    text: str,
    code: str,
    state: str,
) -> None:
    with program(fleet.hosts["gpu2"], text):
        done = fleet("status", "--host", "gpu2")
        assert done.data["hosts"][0]["state"] == state and done.errors[0]["code"] == code
        assert done.errors[0]["hint"] == "llmctl deploy gpu2"
        assert fleet("restart", fleet.at("gpu2")).errors[0]["code"] == code


def test_f04_a_swap_whose_connection_is_cut_goes_on_and_is_told_as_unknown(fleet: Fleet) -> None:
    slot, port, host = fleet.at("gpu1"), fleet.ports["gpu1"][0], fleet.hosts["gpu1"]
    assert fleet("load", slot, "alpha").code == 0
    lost: list[str] = []
    over = threading.Event()
    asking = threading.Thread(target=ask_all_the_while, args=(port, over, lost), daemon=True)
    asking.start()
    with subprocess.Popen(
        [*LLMCTL, "--json", "swap", slot, "slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as it:
        assert it.stderr
        while b'"load"' not in it.stderr.readline():
            pass
        cut(host)
        out, _ = it.communicate(timeout=60)
    (error,) = json.loads(out)["errors"]
    assert it.returncode == 4
    assert (error["code"], error["host"], error["hint"]) == ("unknown", "gpu1", f"llmctl status {slot}")
    eventually(lambda: fleet.model(slot) == "slow" and fleet("status", slot).data["slots"][0]["state"] == "ready")
    over.set()
    asking.join()
    assert lost == []


@pytest.mark.parametrize("where", [("gpu1",), ("gpu1", "gpu2")])
def test_ctrl_c_ends_the_waiting_not_the_work(fleet: Fleet, where: tuple[str, ...]) -> None:
    slot = fleet.at("gpu1")
    hosts = [f"--host={name}" for name in where]
    words = ["load", "auto", "slow", *hosts]
    with subprocess.Popen([*LLMCTL, "--json", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        assert it.stderr
        while b'load"' not in it.stderr.readline():
            pass
        it.send_signal(signal.SIGINT)
        out, _ = it.communicate(timeout=60)
    assert (it.returncode, json.loads(out)["errors"][0]["code"]) == (130, "interrupted")
    eventually(lambda: fleet("status", slot).data["slots"][0]["state"] == "ready")
    eventually(lambda: {row["state"] for row in fleet("status", *hosts).data["slots"]} <= {"ready", "empty"})


def ask_all_the_while(port: int, over: threading.Event, lost: list[str]) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 4}).encode()
    while not over.wait(0.05):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=60).read()
        except OSError as error:
            lost.append(str(error))


def cut(host: SshHost) -> None:
    """End the sessions of an sshd, not what runs in them."""
    assert host.process
    children = f"/proc/{host.process.pid}/task/{host.process.pid}/children"
    for pid in Path(children).read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def test_no_secret_is_in_an_argument(fleet: Fleet) -> None:
    host = fleet.hosts["gpu1"]
    noted = host.home / "words"
    before = (host.home / ".llmctl" / "bin" / "llmctl").read_text()
    with program(host, before.replace("exec ", f'echo "$@" >> {noted}\nexec ', 1)):
        slot = fleet.at("gpu1")
        assert fleet("load", slot, "alpha").code == 0
        assert fleet("ask", slot, "my secret is 42").code == 0
    assert "load" in noted.read_text() and "secret" not in noted.read_text()
