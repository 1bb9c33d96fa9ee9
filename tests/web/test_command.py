"""What can be wrong with the command line of `llmctl web`."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmctl.__main__ import main
from tests.conftest import free_port

WRONG = [
    (["--every", "99s"], 2, "0.1s to 10s"),
    (["--json"], 2, "until it is interrupted"),
    (["--host", "nobody"], 2, "nobody"),
    (["--bind", "no-such-name.invalid"], 1, "no-such-name.invalid"),
    (["--bind", "192.0.2.1"], 1, "needs a key"),
]


@pytest.mark.parametrize(("words", "code", "said"), WRONG)
def test_a_wrong_word_is_told(
    home: Path, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", "--port", str(free_port()), *words]) == code
    shown = capsys.readouterr()
    assert said in shown.err + shown.out and "Traceback" not in shown.err


def test_a_port_that_is_taken_is_left_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["web", "--port", str(taken.getsockname()[1])]) == 1
    assert "cannot be taken" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["starlette", "jinja2", "uvicorn"])
def test_what_is_not_installed_is_named(home: Path, name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from llmctl.__main__ import main; sys.exit(main(['web']))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and f"needs {name}" in ran.stderr and "llmctl-fleet[web]" in ran.stderr


def test_the_command_line_imports_nothing_of_the_page(home: Path) -> None:
    code = (
        "import sys, llmctl.cli.app; sys.exit(any(name in sys.modules for name in ('starlette', 'jinja2', 'uvicorn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
