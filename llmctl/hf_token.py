"""The token of Hugging Face that an operator gave this host: `hf_token` in the state folder, 0600.

The hub's own places come first: HF_TOKEN, and the file that `hf auth login` keeps.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from llmctl import paths
from llmctl.errors import UsageError
from llmctl.files import private, sync

FILE = "hf_token"
LONGEST = 512


def check(text: str) -> str:
    """The token in what was typed; UsageError, which does not show it, when it cannot be one."""
    token = text.strip()
    if not token:
        raise UsageError("no token came", hint="type it at the prompt, or pipe it: llmctl hosts token HOST < FILE")
    if len(token) > LONGEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("this is no token: one word of letters, digits, '_' and '-' is", hint="it begins with hf_")
    return token


def store(home: Path, token: str) -> None:
    """Keep the token, in place of an earlier one."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    temp = home / f".{FILE}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temp, "x", opener=private) as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, home / FILE)
        sync(home)
    finally:
        temp.unlink(missing_ok=True)


def remove(home: Path) -> bool:
    """Forget it; whether there was one."""
    there = (home / FILE).exists()
    (home / FILE).unlink(missing_ok=True)
    return there


def stored(home: Path) -> str | None:
    """The token that is kept; None when none is, or it cannot be read."""
    try:
        return (home / FILE).read_text().strip() or None
    except (OSError, ValueError):
        return None


def fallback() -> str | None:
    """The token that is kept, where the hub's own places have none; None leaves the choice to the hub's library."""
    from huggingface_hub import get_token

    return None if get_token() else stored(paths.home())
