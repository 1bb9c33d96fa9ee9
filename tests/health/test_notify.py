"""People are told: by real commands, real HTTP servers and apprise; a listener that is ill holds nobody up."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from llmctl.errors import LlmctlError, NotifyFailed
from llmctl.health import kept, notify
from llmctl.health.changes import Key, Run
from llmctl.health.deliver import perform
from llmctl.health.message import PROBLEM, Message
from llmctl.health.notify import deliver, send, tell
from llmctl.health.settings import MessageSettings
from llmctl.health.target import Secret, Target, parse_target
from llmctl.health.verdict import DOWN, OK, Finding, Judged
from tests.conftest import eventually
from tests.health.http import dripping, serving

SLOT: Key = ("box", 8101)
WELL, ILL = Judged(OK), Judged(DOWN, (Finding(DOWN, "no token within 30 s", "llmctl restart box:8101", "wedged"),))
CANARY = "canary-5e3c2e7d"
MESSAGE = Message(
    PROBLEM, "box:8101 is down", ("box:8101 is down: no token within 30 s",), ({"host": "box", "port": 8101},), 5.0
)
SETTINGS = MessageSettings(steady=0.0)


def command(*argv: str | Path, timeout: float = 20.0) -> Target:
    return Target("page", "command", tuple(map(str, argv)), timeout=timeout)


def script(folder: Path, text: str) -> Path:
    path = folder / "page"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def webhook(url: str, timeout: float = 20.0, **more: Secret) -> Target:
    return Target("chat", "webhook", address=url, timeout=timeout, **more)


def failed(target: Target) -> LlmctlError:
    """Why it was not told, by all of what a run does."""
    with pytest.raises(NotifyFailed) as error:
        deliver(target, MESSAGE)
    assert error.value.message.startswith(f"{target.name} was not told: ")
    assert error.value.hint
    assert CANARY not in f"{error.value.to_dict()}{error.value.__cause__}"
    return error.value


def refused(target: Target) -> str:
    """The same by the sender alone, in this process: a start of Python less."""
    answer = perform({**asdict(target), "message": MESSAGE.to_dict()})
    assert answer["code"] == "notify_failed" and answer["hint"] and CANARY not in str(answer)
    return str(answer["message"])


# ── a command ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_command_gets_the_message_as_json_and_in_short_in_its_environment(tmp_path: Path) -> None:
    deliver(
        command(script(tmp_path, f'cat >{tmp_path}/in; env >{tmp_path}/env; echo "$1" >{tmp_path}/arg'), "a b"), MESSAGE
    )
    assert json.loads((tmp_path / "in").read_text()) == json.loads(json.dumps(MESSAGE.to_dict()))
    environment = (tmp_path / "env").read_text().splitlines()
    for line in ("LLMCTL_KIND=problem", "LLMCTL_TITLE=box:8101 is down", "LLMCTL_SLOTS=box:8101"):
        assert line in environment
    assert f"LLMCTL_ID={MESSAGE.id}" in environment
    assert (tmp_path / "arg").read_text() == "a b\n"


def test_a_command_that_hangs_is_ended_with_its_children_at_its_deadline(tmp_path: Path) -> None:
    target = command(script(tmp_path, f"sleep 300 & echo $! >{tmp_path}/child; wait"), timeout=1.0)
    assert "it took more than 1 s, and was ended" in failed(target).message
    child = int((tmp_path / "child").read_text())
    eventually(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split())


def test_a_command_that_reads_nothing_and_one_that_says_too_much_are_no_trouble(tmp_path: Path) -> None:
    large = Message(PROBLEM, "x", ("y" * 500_000,), (), 1.0)
    deliver(command("/bin/true"), large)
    deliver(command(script(tmp_path, "yes | head -c 5000000; yes 2>/dev/null | head -c 5000000 >&2")), large)


@pytest.mark.parametrize(
    "text, said",
    [
        ("echo one; echo 'no such pager' >&2; exit 7", "it ended with 7: no such pager"),
        ("kill -9 $$", "it ended with -9"),
    ],
)
def test_a_command_that_fails_is_named_with_its_last_words(tmp_path: Path, text: str, said: str) -> None:
    assert said in failed(command(script(tmp_path, text))).message


def test_a_command_that_is_none_is_told(tmp_path: Path) -> None:
    assert "cannot be started: No such file" in failed(command(tmp_path / "nothing")).message
    (tmp_path / "page").write_text("text")
    assert "cannot be started: Permission denied" in failed(command(tmp_path / "page")).message
    assert "cannot be started" in failed(command("/bin/true", "a\0b")).message


# ── a webhook ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_webhook_gets_json_and_its_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{CANARY}\n")
    token.chmod(0o600)
    with serving([503, 429]) as server:
        deliver(webhook(server.url(), token=Secret(file=str(token))), MESSAGE)
    assert len(server.got) == 3, "who is busy is asked again"
    assert server.got[2] == json.loads(json.dumps(MESSAGE.to_dict()))
    assert server.headers[2]["Authorization"] == f"Bearer {CANARY}"
    assert server.headers[2]["User-Agent"].startswith("llmctl/")


def test_a_webhook_that_stays_busy_is_given_up_after_three_tries() -> None:
    with serving([503] * 9) as server:
        assert "answers 503" in refused(webhook(server.url()))
    assert len(server.got) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_webhook_that_says_no_is_asked_once(status: int) -> None:
    with serving([status]) as server:
        said = refused(webhook(server.url(f"/{CANARY}")))
    assert said == f"http://127.0.0.1:{server.port} answers {status}"
    assert len(server.got) == 1


def test_a_redirect_is_not_followed_and_tells_no_path() -> None:
    with serving() as other, serving([other.url(f"/{CANARY}")]) as server:
        assert refused(webhook(server.url())).endswith(f"redirects to http://127.0.0.1:{other.port}")
    assert len(server.got) == 1 and other.got == []


def test_a_webhook_that_drips_is_ended_at_its_deadline() -> None:
    with dripping() as url:
        began = time.monotonic()
        error = failed(webhook(url, timeout=3.0))
        assert "it took more than 3 s" in error.message
        assert time.monotonic() - began < 15


def test_s9_no_secret_is_in_errors_or_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender's own command line, while it sends, and every error."""
    seen = tmp_path / "cmdlines"
    spy = f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' >{seen}"
    with dripping() as url:
        monkeypatch.setenv("HOOK", f"{url}/{CANARY}")
        errors = send(
            [
                (Target("chat", "webhook", url=Secret("HOOK"), timeout=4.0), MESSAGE),
                (command(script(tmp_path, f"sleep 1.5; {spy}"), timeout=20.0), MESSAGE),
            ]
        )
    assert errors[0] and errors[1] is None
    assert CANARY not in str(errors[0].to_dict()) and CANARY not in seen.read_text()
    assert "llmctl.health.deliver" in seen.read_text(), "it was there to be seen"


def test_an_address_that_is_wrong_or_dead_is_told_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("chat", "webhook", url=Secret("HOOK"), timeout=5.0)
    with serving() as gone:
        monkeypatch.setenv("HOOK", f"http://op:{CANARY}@127.0.0.1:{gone.port}/{CANARY}")
        assert perform({**asdict(target), "message": MESSAGE.to_dict()}) == {}
        assert gone.headers[0]["Authorization"].startswith("Basic ")
    assert "is not reached" in refused(target)
    monkeypatch.setenv("HOOK", CANARY)
    assert refused(target) == "$HOOK is no http:// or https:// address"
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:1/\x01{CANARY}")
    assert "InvalidURL" in refused(target)


def test_a_secret_that_others_may_read_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    path.write_text(CANARY)
    path.chmod(0o644)
    target = Target("chat", "webhook", url=Secret(file=str(path)))
    error = failed(target)
    assert "others may read it" in error.message and error.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_text("\n")
    assert "is empty" in refused(target)
    path.unlink()
    assert "cannot be read: No such file" in refused(target)
    assert "LLMCTL_NO_SUCH is not set" in refused(Target("chat", "webhook", url=Secret("LLMCTL_NO_SUCH")))


# ── apprise ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what apprise itself imports
def test_apprise_tells_whom_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("apprise")
    target = parse_target("apprise:PAGER")
    with serving([200, 403]) as server:
        monkeypatch.setenv("PAGER", f"json://127.0.0.1:{server.port}/{CANARY}")
        deliver(target, MESSAGE)
        assert refused(target) == "the service of $PAGER did not take it (it answers 403)"
    assert (server.got[0]["title"], server.got[0]["message"]) == (MESSAGE.title, MESSAGE.text)
    assert server.got[0]["type"] == "failure" and server.paths[0].startswith(f"/{CANARY}")
    monkeypatch.setenv("PAGER", f"no-such-service://{CANARY}")
    assert refused(target) == "$PAGER is no address that apprise knows"


def test_without_apprise_what_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.setenv("PAGER", f"json://127.0.0.1/{CANARY}")
    answer = perform({**asdict(parse_target("apprise:PAGER")), "message": MESSAGE.to_dict()})
    assert (answer["message"], answer["hint"]) == (
        "apprise is not installed here", "pip install 'llmctl-fleet[notify]'"
    )  # fmt: skip


# ── run after run ───────────────────────────────────────────────────────────────────────────────────────────────────


def count(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_each_listener_is_told_once_and_again_after_it_was_deaf(tmp_path: Path) -> None:
    ear, other = tmp_path / "ear", tmp_path / "other"
    page = script(tmp_path, f"test -e {tmp_path}/deaf && exit 1; cat >>{ear}; echo >>{ear}")
    targets = [command(page), Target("other", "command", ("/bin/sh", "-c", f"cat >>{other}; echo >>{other}"))]

    def run(at: float, judged: Judged) -> notify.Told:
        return tell(tmp_path, targets, Run(at, {SLOT: judged}), SETTINGS)

    (tmp_path / "deaf").touch()
    told = run(1000.0, ILL)
    assert [error.code for error in told.errors] == ["notify_failed"]
    assert [name for name, _ in told.sent] == ["other"]
    assert [(name, "was not told" in why) for name, _, why in told.deaf] == [("page", True)]
    (tmp_path / "deaf").unlink()
    told = run(1300.0, ILL)
    assert [name for name, _ in told.sent] == ["page"] and not told.errors
    assert run(1600.0, ILL).sent == ()
    assert [message.title for _, message in run(1900.0, WELL).sent] == ["box:8101 is well again"] * 2
    assert run(2200.0, WELL).sent == ()
    assert (count(ear), count(other)) == (2, 2)
    late = tell(tmp_path, [command("/bin/true")], Run(2500.0, {SLOT: ILL}), SETTINGS)
    assert [name for name, _ in late.sent] == ["page"], "each has a memory of its own, by its name"


def test_a_listener_that_hangs_holds_up_the_others_no_longer_than_its_deadline(tmp_path: Path) -> None:
    hung = [Target(f"hung-{n}", "command", ("/bin/sleep", "300"), timeout=2.0) for n in range(8)]
    began = time.monotonic()
    told = tell(tmp_path, [*hung, command("/bin/true")], Run(1000.0, {SLOT: ILL}), SETTINGS)
    assert time.monotonic() - began < 14, "side by side; one after the other it would be 16"
    assert [name for name, _ in told.sent] == ["page"] and len(told.errors) == 8


def test_what_is_kept_is_private_bounded_and_survives_damage(tmp_path: Path) -> None:
    run = Run(1000.0, {SLOT: ILL})
    for n in range(105):
        kept.keep_listeners(tmp_path, {**kept.listeners(tmp_path)[0], f"n{n}": {}})
    assert list(kept.listeners(tmp_path)[0]) == [f"n{n}" for n in range(5, 105)]
    folder = tmp_path / "health"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "told.json").stat().st_mode) == 0o600
    for name in ("told.json", "told.bak"):
        (folder / name).write_text("{torn")
    told = tell(tmp_path, [command("/bin/true")], run, SETTINGS)
    assert [error.code for error in told.errors] == ["state"] and len(told.sent) == 1
    assert (folder / "told.bad").read_text() == "{torn"
    assert tell(tmp_path, [command("/bin/true")], run, SETTINGS) == notify.Told()


@pytest.mark.parametrize("data", ["[]", '{"page": [{}]}', '{"page": 5}', "7"])
def test_f8_what_is_json_but_something_else_is_put_aside(tmp_path: Path, data: str) -> None:
    for name in ("told", "seen"):
        (tmp_path / "health").mkdir(exist_ok=True)
        (tmp_path / "health" / f"{name}.json").write_text(f'{{"version": 1, "data": {data}}}')
    told = tell(tmp_path, [command("/bin/true")], Run(1.0, {SLOT: ILL}), SETTINGS)
    assert len(told.sent) == 1
    assert kept.changed(tmp_path, Run(1.0, {SLOT: ILL}))[0] == [SLOT]
    assert [error.code for error in told.errors] == ["state"]
    assert data in (tmp_path / "health" / "told.bad").read_text()


def test_quiet_works_over_runs_and_a_full_disk_is_an_error_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept.changed(tmp_path, Run(1.0, {SLOT: ILL})) == ([SLOT], [])
    assert kept.changed(tmp_path, Run(2.0, {SLOT: ILL})) == ([], [])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmctl.files.write_json", full)
    keys, (error,) = kept.changed(tmp_path, Run(3.0, {SLOT: WELL}))
    assert keys == [SLOT] and "No space left on device" in error.message and error.hint
    told = tell(tmp_path, [command("/bin/true")], Run(3.0, {SLOT: ILL}), SETTINGS)
    assert len(told.sent) == 1 and "will be told again" in told.errors[0].message


def test_the_sender_is_light(tmp_path: Path) -> None:
    """A run that tells nobody anything loads nothing for it."""
    code = "import sys, llmctl.health.notify; print(sorted({'httpx', 'apprise', 'rich', 'typer'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
