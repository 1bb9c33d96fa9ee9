"""The JSON envelope: its keys, and what each kind of failure becomes."""

from __future__ import annotations

import json

import pytest

from llmctl import __version__
from llmctl.envelope import Answer, failure, to_json
from llmctl.errors import Busy, DoesNotFit, UnknownName, Unreachable


def test_the_keys_are_pinned() -> None:
    error = UnknownName("no model 'x'", hint="llmctl models list", host="local", port=8101)
    assert json.loads(to_json("load", failure(error))) == {
        "llmctl": __version__,
        "command": "load",
        "status": "error",
        "exit_code": 2,
        "data": {},
        "errors": [
            {
                "code": "unknown_name",
                "message": "no model 'x'",
                "host": "local",
                "port": 8101,
                "hint": "llmctl models list",
            }
        ],
    }


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (Busy("held"), "busy", 1),
        (Unreachable("gone"), "unreachable", 4),
        (KeyboardInterrupt(), "interrupted", 130),
        (FileNotFoundError(2, "No such file", "/x"), "os", 1),
        (ZeroDivisionError("division"), "internal", 1),
    ],
)
def test_every_exception_has_a_code_and_an_exit_code(error: BaseException, code: str, exit_code: int) -> None:
    answer = failure(error)
    assert (answer.errors[0].code, answer.exit_code) == (code, exit_code)


def test_a_failure_keeps_the_numbers_of_its_error() -> None:
    envelope = json.loads(to_json("load", failure(DoesNotFit("too big", details={"needed": 7, "free": 3}))))
    assert envelope["data"] == {"needed": 7, "free": 3}


@pytest.mark.parametrize(("exit_code", "status"), [(0, "success"), (3, "partial"), (1, "error"), (4, "error")])
def test_status_follows_the_exit_code(exit_code: int, status: str) -> None:
    assert json.loads(to_json("status", Answer({"slots": []}, exit_code)))["status"] == status
