"""The cases of a driver: each is run, whatever the ones before did, and told as JSON."""

from __future__ import annotations

import base64
import json
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUESTION = "What is a slot?"
CUT = "host"
MANY = 900  # tokens that an endless answer would have
PARAMETERS = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}
TOOL = {"name": "paint", "description": "Paints the wall.", "parameters": PARAMETERS}
WORDS = ["A slot is a port.", "Bread, apples and cheese."]


@dataclass(frozen=True)
class Setting:
    """Where the slots are; `endless` goes on for ever and wants the key. `image` is a file, `shows` what it is of."""

    url: str
    endless: str
    key: str
    embedding: str
    seeing: str
    image: str
    shows: str

    def picture(self) -> str:
        """The picture in base64."""
        with open(self.image, "rb") as file:
            return base64.b64encode(file.read()).decode()

    def generated(self, *, at_rest: bool = False) -> float:
        """Tokens that the endless slot has sent on so far; `at_rest`: once it has nothing to do."""
        end = time.monotonic() + 30
        while True:
            request = urllib.request.Request(f"{self.endless}/metrics", headers={"x-api-key": self.key})
            with urllib.request.urlopen(request, timeout=30) as response:
                lines = [line.split() for line in response.read().decode().splitlines()]
            found = {line[0]: float(line[1]) for line in lines if len(line) == 2}
            if not at_rest or found["llmctl_active_requests"] == 0:
                return found["llmctl_generated_tokens_total"]
            if time.monotonic() > end:
                raise TimeoutError("the engine goes on for a client that has gone")
            time.sleep(0.02)


Case = Callable[[Setting], Any]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """A case of this driver, by its function's name."""
    CASES[function.__name__] = function
    return function


def main() -> None:
    """Run all cases in the setting of argv[1]; the last line of stdout is {case: what came of it}."""
    setting = Setting(**json.loads(sys.argv[1]))
    found: dict[str, Any] = {}
    for name, function in CASES.items():
        try:
            found[name] = {"value": function(setting)}
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            status = getattr(error, "status_code", None)
            found[name] = {"raised": kinds, "status": status, "message": str(error)}
    print(json.dumps(found))
