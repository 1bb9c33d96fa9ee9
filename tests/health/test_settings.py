"""health.toml: what it says for all, for a host and for a slot, and each mistake with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmctl.errors import ConfigError
from llmctl.health import settings
from llmctl.health.settings import HealSettings, MessageSettings, Settings
from llmctl.health.target import Secret
from llmctl.health.verdict import Rules
from tests.conftest import REPO


def read(folder: Path, text: str) -> Settings:
    (folder / "health.toml").write_text(text)
    return settings.read(folder, ["box", "studio"])


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert settings.read(tmp_path, ["box"]) == settings.read(None) == Settings()
    assert Settings().of("box", 8101) == Settings()


def test_a_slot_is_over_its_host_and_that_over_all(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
timeout = "20s"
[rules]
slower = 3
queue = 0.5
disk = "10GB"
[heal]
most = 4
budget = 2
[messages]
degraded = 0
steady = "5m"
remind = 0
[hosts.studio]
timeout = 60
[hosts.studio.rules]
slower = 4
[slots."studio:8101".heal]
on = false
[slots."box:8102"]
timeout = "2m"
""",
    )
    every = found.of("box")
    assert (every.rules, every.timeout) == (Rules(slower=3, queue=0.5, disk=10**10), 20.0)
    assert every.heal == HealSettings(budget=2)
    assert found.of("studio", 8102) == found.of("studio")
    assert (found.of("studio").timeout, found.of("studio").rules.slower, found.of("studio").rules.queue) == (60, 4, 0.5)
    slot = found.of("studio", 8101)
    assert (slot.heal.on, slot.heal.budget, slot.timeout, slot.rules.slower) == (False, 2, 60, 4)
    assert found.of("box", 8102).timeout == 120 and found.of("box", 8102).heal.on
    assert found.most == 4
    hurried = found.within(5.0)
    assert {hurried.of(*key).timeout for key in (("box", None), ("studio", 8101), ("box", 8102))} == {5.0}
    assert hurried.of("studio").rules.slower == 4
    assert found.messages == MessageSettings(degraded=0, steady=300.0)


def test_who_is_told_and_where_the_secrets_lie(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
[[notify]]
command = ["/usr/local/bin/page", "--now"]
timeout = "3s"
[[notify]]
name = "chat"
webhook = "https://chat.example/hooks/1"
token_file = "chat.token"
[[notify]]
apprise_env = "TELEGRAM"
""",
    )
    page, chat, telegram = found.notify
    assert (page.kind, page.argv, page.timeout) == ("command", ("/usr/local/bin/page", "--now"), 3.0)
    assert (chat.name, chat.kind, chat.address) == ("chat", "webhook", "https://chat.example/hooks/1")
    assert chat.token == Secret(file=str(tmp_path / "chat.token"))
    assert (telegram.name, telegram.kind, telegram.url) == ("apprise:$TELEGRAM", "apprise", Secret("TELEGRAM"))
    assert len({target.name for target in found.notify}) == 3
    assert "hooks" not in repr(chat)


def test_the_example_of_the_docs_says_the_defaults(tmp_path: Path) -> None:
    page = (REPO / "docs" / "health.md").read_text(encoding="utf-8")
    found = read(tmp_path, page.partition("```toml\n")[2].partition("```")[0])
    usual = Settings()
    assert (found.rules, found.timeout, found.heal, found.most) == (usual.rules, usual.timeout, usual.heal, usual.most)
    assert found.messages == usual.messages
    assert [target.kind for target in found.notify] == ["command", "webhook"]
    assert (found.of("studio").timeout, found.of("studio", 8105).heal.on) == (90.0, False)


@pytest.mark.parametrize(
    "text, said, hint",
    [
        ("\ntimeot = 1", "health.toml:2: timeot: unknown key", "timeout"),
        ("timeout = 0", "health.toml:1: timeout: must be more than 0", None),
        ("[rules]\nslow = 2", "health.toml:2: rules.slow: unknown key", "slower"),
        ("[rules]\nslower = 1", "health.toml:2: rules.slower: must be more than 1", "twice"),
        ("[rules]\nqueue = 80", "health.toml:2: rules.queue: must be a share from 0 to 1, not 80", "four fifths"),
        ("[rules]\nmemory = 0", "health.toml:2: rules.memory: must be a share", None),
        ('[rules]\ndisk = "lots"', "health.toml:2: rules.disk: 'lots' is not a number with a unit", None),
        ("[rules]\nruns = 0", "health.toml:2: rules.runs: must be 1 or more", None),
        ("[heal]\nbudgets = 2", "health.toml:2: heal.budgets: unknown key", "budget"),
        ('[heal]\non = "yes"', "health.toml:2: heal.on: must be true or false", None),
        ("[heal]\nmost = 0", "health.toml:2: heal.most: must be 1 or more", None),
        ("[hosts.box.heal]\nmost = 2", "health.toml:2: hosts.box.heal.most: unknown key", "known keys"),
        ("[messages]\ndown = -1", "health.toml:2: messages.down: must be a number of runs in a row", None),
        ("[messages]\ndown = true", "health.toml:2: messages.down: must be a number of runs in a row", None),
        ('[messages]\nsteady = "long"', "health.toml:2: messages.steady: 'long' is not a number", None),
        ("[hosts.bax]\ntimeout = 1", "health.toml:1: hosts.bax: there is no host bax", "hosts: box, studio"),
        ('[slots."bax:8101"]\ntimeout = 1', "health.toml:1: slots.bax:8101: there is no host bax", "hosts: box"),
        ("[slots.8101]\ntimeout = 1", "health.toml:1: slots.8101: must be a slot", 'slots."HOST:8101"'),
        ('[slots."box:80x"]\ntimeout = 1', "health.toml:1: slots.box:80x: must be a slot", None),
        ('[slots."box:8101"]\nmost = 1', "health.toml:2: slots.box:8101.most: unknown key", None),
        ("notify = 1", "health.toml:1: notify: must be a list of tables ([[notify]])", None),
        ("[[notify]]\nname = 'x'", "health.toml:1: notify[0]: must have one way to tell, and names none", "command"),
        ("[[notify]]\ncommand = []", "health.toml:2: notify[0].command: must be a program and its arguments", None),
        ("[[notify]]\ncommand = 'page'", "health.toml:2: notify[0].command: must be a list of texts", None),
        ("[[notify]]\ncommand = ['a']\ntoken_env = 'T'", "notify[0].token_env: is for a webhook alone", None),
        ("[[notify]]\nwebhook = 'ftp://x/'", "health.toml:2: notify[0].webhook: is no http:// or", "webhook_env"),
        ("[[notify]]\nwebhook = 'https://u:p@x/'", "notify[0].webhook: has a password in it", "webhook_env"),
        ("[[notify]]\nwebhook = 'https://x:99999/'", "notify[0].webhook: Port out of range", None),
        ("[[notify]]\nwebhook_env = 'https://x/y'", "notify[0].webhook_env: must be the name of an environment", None),
        ("[[notify]]\napprise_env = 'A'\napprise_file = 'b'", "notify[0]: must have one way to tell, and has", None),
        ("[[notify]]\nname = 'all'\ncommand = ['x']", "health.toml:2: notify[0].name: 'all' means all of them", None),
        ("[[notify]]\nname = 'a b'\ncommand = ['x']", "health.toml:2: notify[0].name: 'a b' is not a", "letters"),
        ("[[notify]]\nwebhook_file = ''", "notify[0].webhook_file: must name a file", None),
        ("[[notify]]\nname = 'a'\ncommand = ['x']\n[[notify]]\nname = 'a'\ncommand = ['y']",
         "health.toml:5: notify[1].name: 'a' is there twice", "name ="),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_the_right_spelling(
    tmp_path: Path, text: str, said: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert said in error.value.message
    assert hint is None or hint in (error.value.hint or "")
