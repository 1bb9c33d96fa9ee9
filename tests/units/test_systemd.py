"""Slots under the systemd of a real host: faults, reboots, another release, and what may not be."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from llmctl.domain import Limits
from tests.conftest import eventually
from tests.testbed.machines import machines
from tests.units.conftest import HOME, Host, add_release, install, use

UNIT = "llmctl@8101.service"
DROP_INS = "/home/op/.config/systemd/user/llmctl@.service.d"
ODD = "/home/op/o d%i $HOME"
TRAFFIC = """
import sys, time, urllib.request
body = b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}'
ok = failed = 0
end = time.monotonic() + 60
while time.monotonic() < end and not (home / "enough").exists():
    url, kind = "http://127.0.0.1:8103/v1/chat/completions", {"Content-Type": "application/json"}
    request = urllib.request.Request(url, body, kind)
    try:
        ok += urllib.request.urlopen(request, timeout=50).status == 200
    except OSError as error:
        failed += 1
        print(error)
print(ok, failed)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host with user units: alpha on 8101."""
    with machines(1) as bed:
        install(bed.machines[0], "systemd")
        host = Host(bed.machines[0])
        host.model("alpha")
        host.model("beta")
        assert "llmctl@.service" in host.install_units("systemd")
        host.llmctl("load 8101 alpha")
        yield host


def test_the_unit_is_as_systemd_wants_it(host: Host) -> None:
    assert host.install_units("systemd") == "[]"
    ran = host.machine.ran(f"systemd-analyze verify --user {UNIT}", "op")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert host.machine.sh("ls /var/lib/systemd/linger") == "op"


def test_f02_a_killed_slot_server_takes_its_engine_along_and_comes_back(host: Host) -> None:
    row = host.until(8101, "ready")
    host.machine.sh(f"kill -9 {row['runner_pid']}")
    eventually(lambda: host.gone(row["pid"]), within=2.0)
    again = host.until(8101, "ready")
    assert (again["model"], again["runner_pid"] != row["runner_pid"]) == ("alpha", True)
    assert host.show(UNIT, "MainPID", "NRestarts") == [str(again["runner_pid"]), "1"]


def test_an_engine_that_the_kernel_ends_does_not_end_the_unit(host: Host) -> None:
    row = host.until(8101, "ready")
    host.machine.sh(f"kill -9 {row['pid']}")
    eventually(lambda: host.slot(8101)["pid"] not in (row["pid"], None), every=0.2)
    assert host.until(8101, "ready")["runner_pid"] == row["runner_pid"]
    assert host.show(UNIT, "OOMPolicy") == ["continue"]


def test_f16_a_unit_starts_with_an_empty_environment(host: Host) -> None:
    names = host.machine.sh("systemctl --user show-environment | cut -d= -f1", "op").split()
    unset = "UnsetEnvironment=" + " ".join({*names, "HOME", "USER", "LOGNAME", "SHELL", "LANG"} - {"PATH"})
    lines = f"[Service]\\nEnvironment=PATH=/usr/bin:/bin\\n{unset}\\n"
    host.machine.sh(
        f"mkdir -p {DROP_INS}; printf '{lines}' >{DROP_INS}/empty.conf; systemctl --user daemon-reload", "op"
    )
    try:
        host.machine.sh(f"systemctl --user restart {UNIT}", "op")
        pid = host.until(8101, "ready")["runner_pid"]
        environment = dict(
            line.split("=", 1) for line in host.machine.sh(f"xargs -0n1 </proc/{pid}/environ").splitlines()
        )
        assert environment["PATH"] == "/usr/bin:/bin"
        assert not {"HOME", "USER", "LANG", "XDG_RUNTIME_DIR"} & set(environment)
    finally:
        host.machine.sh(f"rm -r {DROP_INS}; systemctl --user daemon-reload", "op")


def test_another_release_takes_over_and_the_one_before_again(host: Host) -> None:
    before = host.until(8101, "ready")
    add_release(host.machine, "two")
    for release in ("two", "one"):
        use(host.machine, release)
        host.llmctl("restart 8101 --reexec")
        now = host.until(8101, "ready")
        assert (now["runner_pid"], now["pid"]) == (before["runner_pid"], before["pid"])
        said = host.ping(8101)
        assert (said["code"], said["engine"]["code"]) == (f"{HOME}/releases/{release}/lib", f"{HOME}/releases/one/lib")
        assert host.show(UNIT, "MainPID", "ActiveState") == [str(now["runner_pid"]), "active"]
        host.llmctl("ask 8101 hello")
    use(host.machine, "two")
    host.machine.sh(f"kill -9 {before['runner_pid']}")
    eventually(lambda: host.slot(8101)["runner_pid"] not in (None, before["runner_pid"]), every=0.2)
    assert host.ping(8101)["code"] == f"{HOME}/releases/two/lib"
    host.until(8101, "ready")


def test_code_that_cannot_take_over_is_refused_and_the_old_goes_on(host: Host) -> None:
    before = host.until(8101, "ready")
    add_release(host.machine, "broken")
    host.machine.path(f"{HOME}/releases/broken/lib/llmctl/runner/listener.py").write_text(
        "raise RuntimeError('broken')"
    )
    asked = f"{{'python': sys.executable, 'code': '{HOME}/releases/broken/lib'}}"
    said = host.python(f"""
import sys
from llmctl.errors import Refused
from llmctl.slots import control
try:
    control.call(home / "slots" / "8101" / "control.sock", "reexec", {asked})
except Refused as error:
    print(error.message, error.details["log"][-1])
""")
    assert "the old code goes on" in said and "broken" in said
    assert host.slot(8101)["runner_pid"] == before["runner_pid"]
    host.llmctl("ask 8101 hello")


def test_f10_after_a_reboot_what_is_desired_comes_back_and_nothing_else(host: Host) -> None:
    for port in (8111, 8112, 8113):
        host.llmctl(f"load {port} beta")
    host.llmctl("disable 8111 --why because")
    host.llmctl("unload 8112")
    host.python("from llmctl.slots import verbs\nverbs.stop(home, 8113)")
    host.machine.reboot()
    assert host.until(8101, "ready")["model"] == "alpha"
    time.sleep(2)
    states = {row["port"]: (row["state"], row["pid"]) for row in host.llmctl("status")["slots"] if row["port"] > 8110}
    assert states == {8111: ("disabled", None), 8112: ("empty", None), 8113: ("down", None)}
    assert not host.answers(8112) and not host.answers(8113)
    host.llmctl("enable 8111")
    host.llmctl("restart 8113")
    assert host.until(8111, "ready") and host.until(8113, "ready")
    host.machine.crash()
    host.machine.boot()
    for port in (8101, 8111, 8113):
        assert host.until(port, "ready")
    for port in (8111, 8113):
        host.llmctl(f"unload {port} --stop-server")


def test_a_crash_loop_is_told_and_ends_with_the_next_try(host: Host) -> None:
    pid = host.until(8101, "ready")["runner_pid"]
    host.machine.sh(f"mv {HOME}/current/lib/llmctl/runner/listener.py {HOME}/kept", "op")
    host.machine.sh(f"kill -9 {pid}")
    row = host.until(8101, "crash-loop")
    assert "llmctl restart 8101" in row["why"]
    failed = host.llmctl("restart 8101", code=1)
    assert failed["errors"][0]["code"] == "load_failed" and any("listener" in line for line in failed["log"])
    time.sleep(1.5)
    assert host.show(UNIT, "ActiveState")[0] in ("failed", "inactive")  # it is not tried any more
    host.machine.sh(f"mv {HOME}/kept {HOME}/current/lib/llmctl/runner/listener.py", "op")
    assert host.llmctl("restart 8101")["state"] == "ready"


def test_f12_what_keeps_a_slot_server_from_starting_is_told_as_it_said_it(host: Host) -> None:
    script = "import socket, time; s = socket.create_server(('127.0.0.1', 8114)); time.sleep(60)"
    host.machine.sh(
        f"systemd-run --user -q --unit foreign python3 -c {script!r}".replace("'127.0.0.1'", '\\"\\"'), "op"
    )
    eventually(lambda: "8114" in host.machine.sh("ss -ltn"))
    failed = host.llmctl("load 8114 beta", code=1)
    assert failed["errors"][0]["code"] == "refused" and "cannot be taken" in failed["errors"][0]["message"]
    assert host.show("llmctl@8114.service", "ActiveState", "UnitFileState") == ["inactive", "disabled"]
    host.machine.sh("systemctl --user stop foreign", "op")
    assert host.llmctl("load 8114 beta")["state"] == "ready"
    host.llmctl("unload 8114 --stop-server")


def test_f03_a_slot_server_that_does_not_stop_is_ended_after_the_finish_cap(host: Host) -> None:
    timeout, mode = host.show(UNIT, "TimeoutStopUSec", "KillMode")
    assert (timeout, mode) == ("11min", "mixed") and Limits().request_time + Limits().drain < 11 * 60
    row = host.until(8101, "ready")
    lines = "[Service]\\nTimeoutStopSec=2\\n"
    host.machine.sh(
        f"mkdir -p {DROP_INS}; printf '{lines}' >{DROP_INS}/soon.conf; systemctl --user daemon-reload", "op"
    )
    host.machine.sh(f"kill -STOP {row['runner_pid']} {row['pid']}")
    host.machine.sh(f"systemctl --user stop {UNIT}; rm -r {DROP_INS}; systemctl --user daemon-reload", "op")
    assert host.gone(row["runner_pid"]) and host.gone(row["pid"])
    assert host.llmctl("restart 8101")["state"] == "ready"


def test_a_detached_slot_comes_under_its_unit_without_a_lost_request(host: Host) -> None:
    hosts = f"{HOME}/config/hosts.toml"
    host.machine.sh(f"sed -i 's/systemd/none/' {hosts}; rm -f {HOME}/enough", "op")
    host.llmctl("load 8103 beta")
    host.machine.sh(f'sed -i \'s/"none"/"systemd"/\' {hosts}', "op")
    before = host.slot(8103)
    assert host.ping(8103)["service"] == "none"
    folder = host.machine.path(HOME)
    (folder / "traffic.py").write_text(f"from pathlib import Path\nhome = Path({HOME!r})\n{TRAFFIC}")
    host.machine.sh(
        f"systemd-run --user -q --unit traffic -p StandardOutput=file:{HOME}/said python3 {HOME}/traffic.py", "op"
    )
    time.sleep(1)
    moved = host.llmctl("restart 8103 --reexec")
    now = host.slot(8103)
    assert (moved["state"], now["state"], now["model"]) == ("ready", "ready", "beta")
    time.sleep(1)
    (folder / "enough").touch()
    eventually(lambda: host.show("traffic", "ActiveState") == ["inactive"])
    said = (folder / "said").read_text()
    served, lost = map(int, said.splitlines()[-1].split())
    assert (served > 10, lost) == (True, 0), said
    assert now["runner_pid"] != before["runner_pid"] and host.gone(before["runner_pid"])
    assert host.show("llmctl@8103.service", "MainPID", "UnitFileState") == [str(now["runner_pid"]), "enabled"]
    host.llmctl("unload 8103 --stop-server")


def test_another_state_folder_has_units_of_its_own_whatever_it_is_called(host: Host) -> None:
    link = host.machine.sh(f"readlink -f {HOME}/current")
    host.machine.sh(f"mkdir -p '{ODD}/slots/8115'; ln -sfn {link} '{ODD}/current'", "op")
    said = host.python(f"""
from llmctl import units
odd, systemd = Path({ODD!r}), units.get("systemd")
print(systemd.install(odd)[0])
systemd.start(odd, 8115)
print(systemd.state(odd, 8115))
print(systemd.state(home, 8101).active, systemd.state(home, 8115).active)
""").splitlines()
    assert said[0] != "llmctl@.service" and "enabled=True, active='active'" in said[1] and said[2] == "active inactive"
    assert host.answers(8115)
    ran = host.machine.ran(f"systemd-analyze verify --user {said[0].replace('@', '@8115')}", "op")
    assert (ran.returncode, ran.stderr) == (0, "")
    host.python(f"from llmctl import units\nunits.get('systemd').remove(Path({ODD!r}))")
    assert not host.answers(8115) and host.answers(8101)
    assert host.machine.sh("ls .config/systemd/user", "op").split() == ["default.target.wants", "llmctl@.service"]


def test_without_linger_and_the_right_to_it_install_says_what_to_type(host: Host) -> None:
    host.machine.sh("id guest >/dev/null 2>&1 || useradd -m guest; chmod -R a+rX /home/op")
    said = host.machine.sh(f"""runuser -u guest -- env PYTHONPATH={HOME}/current/lib python3 -c '
from pathlib import Path
from llmctl import errors, units
try:
    units.get("systemd").install(Path("/home/guest/.llmctl"))
except errors.Refused as error:
    print(error.message, error.hint)
'""")
    assert "sudo loginctl enable-linger guest" in said
    assert not host.machine.path("/home/guest/.config/systemd").exists()


def test_remove_stops_all_and_leaves_no_file(host: Host) -> None:
    row = host.until(8101, "ready")
    host.python("from llmctl import units\nunits.get('systemd').remove(home)")
    assert host.gone(row["runner_pid"]) and host.gone(row["pid"])
    assert host.machine.sh("find .config/systemd/user -name 'llmctl*'", "op") == ""
    failed = host.llmctl("restart 8101", code=1)
    assert failed["errors"][0]["code"] == "not_deployed"
    assert "llmctl@.service" in host.install_units("systemd")
    assert host.llmctl("restart 8101")["state"] == "ready"
