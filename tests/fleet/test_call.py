"""A verb on another host: its envelope, its events and errors; and what there is to say where no llmctl answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.errors import LlmctlError, NoPython, NotDeployed, TimedOut, UnknownName, VersionSkew
from llmctl.fleet import call
from tests.fleet.reaching import Operator, operator
from tests.testbed.sshd import SshHost, needs_sshd, ssh_hosts

pytestmark = needs_sshd
GOOD = '{"llmctl": "%s", "command": "x", "status": "success", "exit_code": %d, "data": %s, "errors": %s}'


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with ssh_hosts(tmp_path_factory.mktemp("ssh"), ["h1"]) as hosts:
        yield hosts[0]


@pytest.fixture
def one(tmp_path: Path, host: SshHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    with operator(tmp_path, monkeypatch) as someone:
        someone.add(host)
        yield someone


def scripted(host: SshHost, script: str, mode: int = 0o755) -> None:
    """What the host has for llmctl."""
    program = host.home / call.PROGRAM
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(script)
    program.chmod(mode)


def answering(envelope: str, code: int = 0) -> str:
    return f"#!/bin/sh\ncat <<'END'\n{envelope}\nEND\nexit {code}\n"


def test_the_real_llmctl_answers_over_ssh(host: SshHost, one: Operator) -> None:
    host.install()
    host.configure("[hosts.h1]\n")
    reply = call.call(one.transport("h1"), ["status"])
    assert (reply.value()["slots"], reply.exit_code, reply.errors) == ([], 0, ())
    missing = call.call(one.transport("h1"), ["profile", "show", "nosuch"])
    assert missing.exit_code == 2
    with pytest.raises(UnknownName) as failed:
        missing.value()
    assert failed.value.host == "h1"


def test_events_come_while_it_works_and_other_lines_do_not(host: SshHost, one: Operator) -> None:
    events = """#!/bin/sh
echo 'warning: no event' >&2; echo '{"event": "stage", "done": 1}' >&2; echo '[1]' >&2; echo '{"x": 1}' >&2
"""
    scripted(host, events + answering(GOOD % (call.__version__, 0, "{}", "[]")).removeprefix("#!/bin/sh\n"))
    seen: list[object] = []
    call.call(one.transport("h1"), ["x"], on_event=seen.append)
    assert seen == [{"event": "stage", "done": 1}]


def test_what_a_login_shell_says_first_does_not_matter(host: SshHost, one: Operator) -> None:
    scripted(host, answering("Welcome!\n" + GOOD % (call.__version__, 0, '{"a": 1}', "[]")))
    assert call.call(one.transport("h1"), ["x"]).data == {"a": 1}


def test_an_error_has_the_details_of_its_envelope(host: SshHost, one: Operator) -> None:
    error = '[{"code": "no_space", "message": "full", "host": "localhost", "port": 8101, "hint": "rm"}]'
    scripted(host, answering(GOOD % (call.__version__, 1, '{"needed": 5}', error), 1))
    with pytest.raises(LlmctlError) as failed:
        call.call(one.transport("h1"), ["x"]).value()
    assert (failed.value.code, failed.value.host, failed.value.port) == ("no_space", "h1", 8101)
    assert failed.value.details == {"needed": 5}


def test_no_llmctl_there(host: SshHost, one: Operator) -> None:
    (host.home / call.PROGRAM).unlink(missing_ok=True)
    with pytest.raises(NotDeployed) as failed:
        call.call(one.transport("h1"), ["status"])
    assert failed.value.hint == "llmctl deploy h1"
    scripted(host, "#!/bin/sh\n", mode=0o644)
    with pytest.raises(NotDeployed):
        call.call(one.transport("h1"), ["status"])
    (host.home / call.PROGRAM).unlink()
    (host.home / call.PROGRAM).symlink_to("../current/bin/llmctl")
    with pytest.raises(NotDeployed):
        call.call(one.transport("h1"), ["status"])
    (host.home / call.PROGRAM).unlink()


def test_the_python_of_llmctl_is_gone(host: SshHost, one: Operator) -> None:
    scripted(host, '#!/bin/sh\nexec /no/such/env/bin/python -m llmctl "$@"\n')
    with pytest.raises(NoPython, match="Python that llmctl on h1 runs on is gone") as failed:
        call.call(one.transport("h1"), ["status"])
    assert failed.value.hint == "llmctl deploy h1"


def test_an_llmctl_that_dies_shows_its_last_lines(host: SshHost, one: Operator) -> None:
    scripted(host, "#!/bin/sh\nexec python3 -c 'import no_such_module_at_all'\n")
    with pytest.raises(LlmctlError, match="ended with 1 and no answer") as failed:
        call.call(one.transport("h1"), ["status"])
    assert "no_such_module_at_all" in failed.value.details["log"][-1]
    scripted(host, "#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(LlmctlError, match="ended with 137"):
        call.call(one.transport("h1"), ["status"])


@pytest.mark.parametrize("said", ["", "[]", "null", "{}", '{"llmctl": "1"}', '"text"', "{", "7"])
def test_an_answer_that_is_no_envelope(host: SshHost, one: Operator, said: str) -> None:
    scripted(host, answering(said))
    with pytest.raises(LlmctlError, match="no answer"):
        call.call(one.transport("h1"), ["status"])


def test_another_version_says_which_deploy_to_type(host: SshHost, one: Operator) -> None:
    scripted(host, answering(GOOD % ("0.0.9", 0, "{}", "[]")))
    with pytest.raises(VersionSkew, match=r"h1 runs llmctl 0\.0\.9") as failed:
        call.call(one.transport("h1"), ["status"])
    assert failed.value.hint == "llmctl deploy h1"
    assert call.call(one.transport("h1"), ["status"], any_version=True).version == "0.0.9"


def test_a_verb_that_takes_too_long_is_ended(host: SshHost, one: Operator) -> None:
    scripted(host, "#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(TimedOut, match="llmctl status did not end within 1 s"):
        call.call(one.transport("h1"), ["status"], timeout=1)
