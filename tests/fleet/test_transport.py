"""The transport over a real sshd on loopback: programs, their input and output, files, threads."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from llmctl.config import Host
from llmctl.errors import LlmctlError, NoSpace, TimedOut, UsageError
from llmctl.fleet import commands, output
from llmctl.fleet.local import LocalTransport
from llmctl.fleet.transport import Transport
from tests.conftest import eventually
from tests.fleet.reaching import Operator
from tests.testbed.sshd import SshHost, needs_sshd, ssh_hosts

ODD = ["", " ", "a b", ";", "$()", "$(id)", "`id`", "'", "''", '"', "\n", "a\nb", "-oProxyCommand=touch x", "--", "*",
       "~", "$HOME", "\\", "\\n", "!", "#", "%h", "&&", "|", ">x", "é", "\udcff", "\t", "(", "{a,b}"]  # fmt: skip
SHOW = r'for word; do printf "%s\0" "$word"; done'


@pytest.fixture(params=[pytest.param("ssh", marks=needs_sshd), "local"])
def transport(request: pytest.FixtureRequest, one: Operator, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """The same tests for both kinds."""
    if request.param == "local":
        return LocalTransport(Host("here"))
    host: SshHost = request.getfixturevalue("host")
    one.add(host)
    return one.transport("h1")


def home_of(transport: Transport) -> Path:
    return Path(transport.run(["pwd", "-P"]).out.strip())


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_program_gets_its_input_and_gives_both_outputs_and_its_code(transport: Transport) -> None:
    ran = transport.run(["sh", "-c", "cat; echo bad >&2; exit 7"], stdin="größe\n".encode())
    assert (ran.code, ran.out, ran.err) == (7, "größe\n", "bad\n")


def test_s07_arguments_arrive_exactly_as_they_are(transport: Transport) -> None:
    ran = transport.run(["sh", "-c", SHOW + " | od -An -v -tx1", "sh", *ODD])
    assert bytes.fromhex(ran.out) == b"".join(os.fsencode(word) + b"\0" for word in ODD)
    assert (ran.code, ran.err) == (0, "")


def test_s07_paths_of_files_arrive_exactly_as_they_are(transport: Transport, tmp_path: Path) -> None:
    home = home_of(transport)
    names = [word for word in ODD if word and "/" not in word and word not in ("~", "\udcff")]
    for number, name in enumerate(names):
        transport.put(name.encode(), f"odd/{name}")
        back = tmp_path / str(number)
        transport.get(f"odd/{name}", back)
        assert back.read_bytes() == name.encode()
    assert sorted(os.listdir(home / "odd")) == sorted(names)


def test_an_argument_with_nul_is_refused(transport: Transport) -> None:
    with pytest.raises(UsageError):
        transport.run(["echo", "a\0b"])


@pytest.mark.parametrize(
    ("argv", "code"), [(["no-such-program-here"], 127), (["./no/such"], 127), (["/etc/passwd"], 126)]
)
def test_a_program_that_cannot_start_has_the_code_of_a_shell(transport: Transport, argv: list[str], code: int) -> None:
    ran = transport.run(argv)
    assert ran.code == code
    assert ran.err


def test_a_program_ended_by_a_signal_has_a_code_too(transport: Transport) -> None:
    assert transport.run(["sh", "-c", "kill -9 $$"]).code == 137


def test_lines_come_while_the_program_runs(transport: Transport) -> None:
    home, out, err = home_of(transport), [], []

    def on_out(line: str) -> None:
        out.append(line)
        (home / "seen").touch()  # without which the program does not go on

    script = "printf 'first\\nhal'; while [ ! -e seen ]; do sleep 0.05; done; rm seen; echo f; echo no >&2; printf end"
    ran = transport.run(["sh", "-c", script], on_out=on_out, on_err=err.append)
    assert (out, err) == (["first", "half", "end"], ["no"])
    assert ran.out == "first\nhalf\nend"


def test_much_output_on_both_pipes_and_much_input_at_once(transport: Transport) -> None:
    data = os.urandom(3 * 2**20).hex().encode()
    script = "head -c 5000000 /dev/zero | tr '\\0' e >&2 & head -c 5000000 /dev/zero | tr '\\0' o; cat; wait"
    ran = transport.run(["sh", "-c", script], stdin=data)
    assert ran.out.encode() == b"o" * 5000000 + data
    assert ran.err == "e" * 5000000


def test_input_that_a_program_does_not_want_is_no_error(transport: Transport) -> None:
    ran = transport.run(["sh", "-c", "exec <&-; echo done"], stdin=b"x" * 8 * 2**20)
    assert (ran.code, ran.out) == (0, "done\n")


def test_output_without_end_is_an_error_and_ends_the_program(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "MOST", 2**20)
    pid = home_of(transport) / "pid"
    with pytest.raises(LlmctlError, match="printed more than 1 MiB"):
        transport.run(["sh", "-c", f"echo $$ > {pid}; exec yes"])
    eventually(lambda: gone(int(pid.read_text())))


def test_what_is_no_utf8_is_replaced(transport: Transport) -> None:
    assert transport.run(["printf", r"a\377b"]).out == "a�b"


def test_a_program_that_takes_too_long_is_ended_there(transport: Transport) -> None:
    pid = home_of(transport) / "pid"
    with pytest.raises(TimedOut, match="sh did not end within 1 s"):
        transport.run(["sh", "-c", f"echo $$ > {pid}; exec sleep 600"], timeout=1)
    eventually(lambda: gone(int(pid.read_text())))


def test_a_program_that_ignores_the_signal_is_killed(transport: Transport) -> None:
    pid = home_of(transport) / "pid"
    with pytest.raises(TimedOut):
        transport.run(["sh", "-c", f"trap '' TERM; echo $$ > {pid}; while :; do sleep 0.1; done"], timeout=1)
    eventually(lambda: gone(int(pid.read_text())))


def test_stdin_is_held_open_until_the_program_ends(transport: Transport) -> None:
    home, result = home_of(transport), []
    (home / "go").unlink(missing_ok=True)
    script = "read a; echo $a; while [ ! -e go ]; do sleep 0.05; done; echo over"
    out: list[str] = []
    work = threading.Thread(
        target=lambda: result.append(transport.run(["sh", "-c", script], stdin=b"x\n", hold=True, on_out=out.append))
    )
    work.start()
    eventually(lambda: out == ["x"])
    (home / "go").touch()
    work.join(30)
    assert result[0].out == "x\nover\n"
    # without hold the end of the input comes at once, with it only a broken connection brings it
    assert transport.run(["cat"], stdin=b"y").out == "y"
    with pytest.raises(TimedOut):
        transport.run(["cat"], stdin=b"y", hold=True, timeout=1)


def test_a_stream_gives_lines_and_the_code(transport: Transport) -> None:
    err: list[str] = []
    stream, lines = transport.stream(["sh", "-c", "echo a; echo oops >&2; printf b; exit 4"], on_err=err.append), []
    while True:
        try:
            lines.append(next(stream))
        except StopIteration as end:
            assert end.value == 4
            break
    assert (lines, err) == (["a", "b"], ["oops"])


def test_a_stream_that_is_closed_ends_the_program(transport: Transport) -> None:
    stream = transport.stream(["sh", "-c", "echo $$; exec sleep 600"])
    pid = int(next(stream))
    assert not gone(pid)
    stream.close()
    eventually(lambda: gone(pid))


def test_a_file_is_put_whole_with_its_mode_and_its_folders_are_private(transport: Transport, tmp_path: Path) -> None:
    home, seen = home_of(transport), []
    source = tmp_path / "source"
    source.write_bytes(os.urandom(300_000))
    transport.put(source, "kept/deep er/file", mode=0o755, on_bytes=lambda done, total: seen.append((done, total)))
    target = home / "kept" / "deep er" / "file"
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o755
    assert [folder.stat().st_mode & 0o777 for folder in (home / "kept", target.parent)] == [0o700, 0o700]
    assert seen[-1] == (300_000, 300_000)
    transport.put(b"", "kept/deep er/file")
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"", 0o600)
    assert os.listdir(target.parent) == ["file"]


def test_a_file_that_cannot_be_put_says_why(transport: Transport) -> None:
    home = home_of(transport)
    (home / "a_file").touch()
    (home / "a_folder").mkdir(exist_ok=True)
    for target in ("a_file/below", "a_folder"):
        with pytest.raises(LlmctlError, match=target):
            transport.put(b"x", target)
    assert not os.listdir(home / "a_folder")
    assert not [name for name in os.listdir(home) if name.endswith(".tmp")]


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: mounts a small disk")
def test_a_full_disk_is_named_and_leaves_what_was_there(transport: Transport) -> None:
    home = home_of(transport)
    (home / "small").mkdir(exist_ok=True)
    mounted = transport.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(home / "small")])
    if mounted.code:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.err}")
    try:
        transport.put(b"before", "small/file")
        with pytest.raises(NoSpace) as failed:
            transport.put(os.urandom(5 * 2**20), "small/file")
        assert failed.value.details["needed"] == 5 * 2**20
        assert 0 < failed.value.details["free"] <= 2**20
        assert "make room" in str(failed.value.hint)
        assert (home / "small" / "file").read_bytes() == b"before"
        assert os.listdir(home / "small") == ["file"]
    finally:
        transport.run(["umount", str(home / "small")])


def test_a_fetch_goes_on_where_it_was(transport: Transport, tmp_path: Path) -> None:
    data, seen = os.urandom(500_000), []
    transport.put(data, "whole")
    target = tmp_path / "fetched"
    target.write_bytes(data[:400_000])
    transport.get("whole", target, on_bytes=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == data
    assert seen[0][0] > 400_000
    assert seen[-1] == (500_000, 500_000)
    transport.get("whole", target)
    assert target.read_bytes() == data


def test_a_fetch_over_something_longer_starts_again(transport: Transport, tmp_path: Path) -> None:
    transport.put(b"short", "shorter")
    target = tmp_path / "fetched"
    target.write_bytes(b"something else that is longer")
    transport.get("shorter", target)
    assert target.read_bytes() == b"short"


def test_a_file_that_is_not_there_cannot_be_fetched(transport: Transport, tmp_path: Path) -> None:
    with pytest.raises(LlmctlError, match="no-such-file cannot be"):
        transport.get("no-such-file", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_programs_end_in_time_also_where_there_is_no_timeout(transport: Transport) -> None:
    """What macOS has: no `timeout` in the PATH of the script that wraps a program."""
    bare = home_of(transport) / "bare"
    bare.mkdir(exist_ok=True)
    for name in ("sh", "sleep", "cat", "tail"):
        if not (bare / name).exists():
            (bare / name).symlink_to(Path("/bin") / name)
    pid = bare.parent / "pid"

    def wrapped(line: bytes) -> list[str]:
        return ["env", "-i", f"PATH={bare}", "/bin/sh", "-c", os.fsdecode(line)]

    ran = transport.run(wrapped(commands.run(["sh", "-c", "cat; exit 5"], 30)), stdin=b"in")
    assert (ran.code, ran.out) == (5, "in")
    began = time.monotonic()
    slow = commands.run(["/bin/sh", "-c", f"echo $$ > {pid}; exec sleep 600"], 1)
    assert transport.run(wrapped(slow)).code == 143
    assert time.monotonic() - began < 60
    eventually(lambda: gone(int(pid.read_text())))
    follow = commands.stream(["/bin/sleep", "600"])
    ended = transport.run(wrapped(follow), stdin=b"")  # its input ends at once, as when a connection breaks
    assert ended.code == 143


@needs_sshd
def test_threads_share_one_connection(host: SshHost, one: Operator) -> None:
    one.add(host)
    transport, found, before = one.transport("h1"), [], host.log.count("Accepted publickey")

    def work(number: int) -> None:
        found.append((number, transport.run(["sh", "-c", f"sleep 0.2; echo {number}"]).out))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [(number, f"{number}\n") for number in range(12)]
    assert host.log.count("Accepted publickey") == before + 1


@needs_sshd
def test_more_sessions_than_the_server_allows_wait_for_each_other(tmp_path: Path, one: Operator) -> None:
    with ssh_hosts(tmp_path / "ssh", ["few"], lines=["MaxSessions 2"]) as (few,):
        one.add(few)
        transport, found = one.transport("few"), []
        threads = [
            threading.Thread(target=lambda: found.append(transport.run(["sh", "-c", "sleep 0.3; echo x"]).out))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == ["x\n"] * 6
