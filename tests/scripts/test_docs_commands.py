"""Every command line in the pages that people follow when something is wrong is one that llmctl takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from llmctl.cli.app import app

DOCS = Path(__file__).parents[2] / "docs"


def lines(page: str) -> Iterator[str]:
    """What is to be typed: in blocks, and within sentences."""
    text, blocks = (DOCS / page).read_text(encoding="utf-8"), re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    typed = [
        line for block in blocks.findall(text) for line in re.findall(r"^(?:\$ )?(llmctl .+)$", block, re.MULTILINE)
    ]
    for line in (*typed, *re.findall(r"`(llmctl [^`]+)`", blocks.sub("", text))):
        yield line.partition("  #")[0].replace("…", "text").strip()


@pytest.mark.parametrize("page", ["troubleshooting.md", "profiling.md"])
def test_every_command_exists_with_its_options(page: str) -> None:
    root = typer.main.get_command(app)
    seen = 0
    for line in lines(page):
        words = shlex.split(line)[1:]
        if "--help" in words:
            words.remove("--help")
            command = root
            for word in words:
                found = getattr(command, "commands", {}).get(word)
                assert found or command is not root, line
                command = found or command
        else:
            common = [word for word in words if word in ("--json", "--yes")]
            command, context = root, typer.Context(root, info_name="llmctl")
            rest = [word for word in words if word not in common]
            while hasattr(command, "commands"):
                assert rest and rest[0] in command.commands, f"{line}: no command {rest[:1]}"
                command, rest = command.commands[rest[0]], rest[1:]
            command.make_context(words[0], rest, parent=context)
        seen += 1
    assert seen >= 3
