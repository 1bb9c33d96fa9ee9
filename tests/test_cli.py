"""The command line as a whole: errors, exit codes, the envelope, and what it needs no slot for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmctl import __version__
from llmctl.__main__ import command_of, hoist, main

REPO = Path(__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("status", ...) → (exit code, stdout, stderr), in an empty folder without a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LLMCTL_CONFIG", raising=False)

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def envelope(result: tuple[int, str, str]) -> dict[str, Any]:
    code, out, _ = result
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out)
    assert found["exit_code"] == code
    return found


# ── parsing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argv", "common", "words"),
    [
        (["status", "--json"], ["--json"], ["status"]),
        (["load", "8101", "m", "-y", "--config-dir", "d"], ["-y", "--config-dir", "d"], ["load", "8101", "m"]),
        (["--config-dir=d", "status"], ["--config-dir=d"], ["status"]),
        (["ask", "8101", "--", "--json"], [], ["ask", "8101", "--", "--json"]),
        (["status", "--config-dir"], ["--config-dir"], ["status"]),
    ],
)
def test_common_options_may_stand_anywhere(argv: list[str], common: list[str], words: list[str]) -> None:
    assert hoist(argv) == (common, words)


@pytest.mark.parametrize(
    ("words", "command"),
    [(["load", "8101"], "load"), (["models", "list"], "models list"), (["models", "--help"], "models"), ([], "")],
)
def test_the_envelope_names_the_verb(words: Sequence[str], command: str) -> None:
    assert command_of(words) == command


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("argv", "code", "exit_code"),
    [
        (["lod", "8101", "x"], "usage", 2),
        (["load", "8101"], "usage", 2),
        (["load", "8101", "x", "--parallel", "many"], "usage", 2),
        (["load", "8101", "gpt-oss-20"], "unknown_name", 2),
        (["load", "eighty", "gpt-oss-20b"], "usage", 2),
        (["load", "70000", "gpt-oss-20b"], "usage", 2),
        (["load", "nowhere:8101", "gpt-oss-20b"], "unknown_name", 2),
        (["load", "8101", "gpt-oss-20b"], "refused", 1),
        (["swap", "auto", "gpt-oss-20b"], "usage", 2),
        (["swap", "8101", "gpt-oss-20b", "--order", "sideways"], "usage", 2),
        (["status", "8199"], "unknown_name", 2),
        (["unload", "8199"], "unknown_name", 2),
        (["disable", "8101"], "usage", 2),
        (["disable", "8101", "--why", "x", "--until", "someday"], "usage", 2),
        (["logs", "8101", "-f"], "usage", 2),
        (["ask", "9", "hello"], "unreachable", 4),
        (["ask", "gpt-oss-20b", "hello"], "refused", 1),
        (["profile", "show", "nope"], "unknown_name", 2),
        (["profile", "show", "../hosts"], "usage", 2),
        (["models", "show", "-x"], "usage", 2),
        (["status", "--config-dir", "/nowhere"], "usage", 2),
    ],
)
def test_every_error_is_one_envelope_and_reads_the_same_as_text(
    run: Run, argv: list[str], code: str, exit_code: int
) -> None:
    found = envelope(run(*argv, "--json"))
    assert (found["errors"][0]["code"], found["exit_code"]) == (code, exit_code)
    assert found["status"] == "error"
    if "-f" not in argv:  # alone it is no error
        text_code, out, err = run(*argv)
        assert (text_code, out) == (exit_code, "")
        assert f"error: {found['errors'][0]['message']}" in err
        assert f"hint: {found['errors'][0]['hint']}" in err or found["errors"][0]["hint"] is None


def test_an_unknown_verb_gets_the_nearest(run: Run) -> None:
    code, _, err = run("laod")
    assert code == 2
    assert "'load'" in err
    assert "hint: llmctl --help" in err


def test_a_bug_shows_its_traceback_with_debug_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("llmctl.slots.status.status", broken)
    code, _, err = run("status")
    assert code == 1
    assert "ZeroDivisionError: oh" in err
    assert "--debug" in err
    assert "Traceback" not in err
    assert "Traceback" in run("status", "--debug")[2]
    assert envelope(run("status", "--json"))["errors"][0]["code"] == "internal"


def test_a_question_that_nobody_can_answer_is_refused(run: Run, tmp_path: Path) -> None:
    run("init")
    run("profile", "save", "mine")
    code, _, err = run("profile", "save", "mine")
    assert code == 1
    assert "hint: add --yes" in err
    assert run("profile", "save", "mine", "--yes")[0] == 0


@pytest.mark.parametrize("argv", [["status", "--json"], ["models", "list"]])
def test_a_reader_that_goes_away_is_no_error(home: Path, argv: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "llmctl", *argv], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_ends_quietly_with_130(home: Path) -> None:
    argv = [sys.executable, "-m", "llmctl", "ask", "8101", "--json"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        with pytest.raises(subprocess.TimeoutExpired):
            asking.wait(2)  # it reads the question from stdin
        asking.send_signal(signal.SIGINT)
        out, err = asking.communicate(timeout=30)
    assert asking.returncode == 130
    assert json.loads(out)["errors"][0]["code"] == "interrupted"
    assert err == b""


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_arguments_show_help(run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    assert "swap" in out


def test_version(run: Run) -> None:
    assert run("version")[1] == f"llmctl {__version__}\n"
    assert envelope(run("version", "--json"))["data"] == {"version": __version__}


def test_init_writes_a_configuration_that_works_and_never_overwrites(run: Run, tmp_path: Path) -> None:
    assert run("init")[0] == 0
    assert run("profile", "list")[0] == 0
    (tmp_path / "hosts.toml").write_text("# mine\n")
    assert run("init")[0] == 1
    assert (tmp_path / "hosts.toml").read_text() == "# mine\n"


def test_the_starter_of_init_is_the_configuration_of_the_repository(run: Run, tmp_path: Path) -> None:
    run("init")
    for name in ("hosts.toml", "profiles/demo.toml"):
        assert (tmp_path / name).read_text() == (REPO / name).read_text()


def test_status_without_slots(run: Run) -> None:
    hosts = [{"host": "local", "state": "ok", "version": __version__, "why": None}]
    assert envelope(run("status", "--json"))["data"] == {"slots": [], "shares": [], "hosts": hosts}
    assert "llmctl load" in run("status")[1]


def test_models_list_has_the_shape_others_read(run: Run, home: Path) -> None:
    folder = home / "models" / "gpt-oss-20b" / "gguf-mxfp4"
    folder.mkdir(parents=True)
    (folder / "m.gguf").touch()
    rows = envelope(run("models", "list", "--json"))["data"]["models"]
    assert all(set(row) == {"id", "aliases", "tier", "present", "artifacts"} for row in rows)
    assert all(set(a) == {"format", "quantization", "path", "bytes"} for row in rows for a in row["artifacts"])
    here = {row["id"]: [a["path"] for a in row["artifacts"] if a["path"]] for row in rows if row["present"]}
    assert here == {"gpt-oss-20b": [str(folder / "m.gguf")]}


def test_models_show_takes_any_spelling(run: Run) -> None:
    assert envelope(run("models", "show", "GPT_OSS_20B", "--json"))["data"]["id"] == "gpt-oss-20b"
    assert "openai/gpt-oss-20b" in run("models", "show", "openai/gpt-oss-20b")[1]


def test_completion_offers_models_ports_and_profiles(home: Path) -> None:
    (home / "slots" / "8107").mkdir(parents=True)

    def offered(line: str) -> str:
        words = {"_LLMCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        argv = [sys.executable, "-m", "llmctl"]
        done = subprocess.run(
            argv, env={**os.environ, **words}, cwd=REPO, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip()

    assert offered("llmctl swap 81") == "8107"
    assert "qwen2.5-72b" in offered("llmctl load 8101 qwen2.5-7").split()
    assert "ensemble" in offered("llmctl profile load e").split()
    assert "profile" in offered("llmctl pr").split()
