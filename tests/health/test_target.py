"""Who is meant by --notify."""

from __future__ import annotations

import pytest

from llmctl.errors import UsageError
from llmctl.health.target import Secret, Target, choose, parse_target

CANARY = "canary-77aa"
KNOWN = (Target("pager", "command", ("/bin/page",)), Target("chat", "webhook", url=Secret("CHAT")))


def test_what_may_be_typed() -> None:
    page = parse_target("command:/bin/page --to 'a b'")
    assert (page.kind, page.argv) == ("command", ("/bin/page", "--to", "a b"))
    hook = parse_target(f"https://chat.example/{CANARY}")
    assert (hook.kind, hook.address) == ("webhook", f"https://chat.example/{CANARY}")
    assert CANARY not in hook.name and CANARY not in repr(hook)
    assert hook.name != parse_target("https://chat.example/other").name
    assert parse_target("webhook:CHAT").url == Secret("CHAT")
    assert parse_target("apprise:CHAT").url == Secret("CHAT") and parse_target("apprise:CHAT").kind == "apprise"


@pytest.mark.parametrize(
    "text",
    ["", "command:", "command:'open", "command:''", "https://", f"http://u:{CANARY}@h/", "http://h:99999/", "apprise:",
     f"apprise:tgram://{CANARY}/1", f"tgram://{CANARY}/1", "webhook:a b", "webhook:é", "https://[::1/", "ftp://h/"],
)  # fmt: skip
def test_what_may_not_says_what_may_and_repeats_no_secret(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_target(text)
    assert "command:/path" in (error.value.hint or "")
    assert CANARY not in error.value.message


def test_names_of_health_toml_and_all_of_them_each_once() -> None:
    assert choose(["pager"], KNOWN) == KNOWN[:1]
    assert choose(["all", "pager", "webhook:X"], KNOWN) == (*KNOWN, parse_target("webhook:X"))
    assert choose([], KNOWN) == ()
    with pytest.raises(UsageError, match="no \\[\\[notify\\]\\] called 'pagr'") as error:
        choose(["pagr"], KNOWN)
    assert error.value.hint == "did you mean 'pager'?"
    with pytest.raises(UsageError, match="names nobody to tell"):
        choose(["all"], ())
