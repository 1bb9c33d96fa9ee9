"""The script of facts in every shell that is here, beside programs that hang, read stdin, or are a Mac's."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from llmctl.fleet.facts import Facts, Python
from llmctl.fleet.facts.gathering import Clock, parse, script
from tests.fleet.recorded import printed

SHELLS = {
    "sh": ["sh"],
    "dash": ["dash"],
    "bash": ["bash", "--posix"],
    "busybox": ["busybox", "sh"],
    "mksh": ["mksh"],
    "zsh": ["zsh", "--emulate", "sh"],
}


class Machine:
    """A home folder, and programs of one's own that come before those of the system."""

    def __init__(self, folder: Path) -> None:
        self.home, self.programs, self.said = folder / "a home", folder / "programs", folder / "said"
        self.home.mkdir()
        self.programs.mkdir()

    def program(self, name: str, text: str) -> Path:
        return self.file(self.programs / name, f"#!/bin/sh\n{text}\n")

    def python(self, path: Path, version: str) -> Path:
        """An interpreter as far as `-V` goes."""
        return self.file(path, f"#!/bin/sh\necho 'Python {version}'\n")

    def file(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def answer(self, shell: str = "sh", path: str = "/usr/bin:/bin", **more: str) -> str:
        environment = {"HOME": str(self.home), "PATH": f"{self.programs}:{path}", **more}
        program, *options = SHELLS[shell]
        argv = [shutil.which(program) or program, *options, "-s"]
        ran = subprocess.run(argv, input=script(), capture_output=True, env=environment, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, b"")
        return ran.stdout.decode()

    def facts(self, shell: str = "sh", **more: str) -> Facts:
        before = time.time()
        return parse(self.answer(shell, **more), Clock(before, time.time()))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """This machine, which has no way to a package index."""
    made = Machine(tmp_path)
    made.program("curl", "exit 7")
    return made


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_tells_what_python_knows_of_this_machine(machine: Machine, shell: str) -> None:
    if not shutil.which(SHELLS[shell][0]):
        pytest.skip(f"no {shell} here")
    facts = machine.facts(shell)
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) * 1024
    assert (facts.os, facts.arch, facts.libc) == ("linux", platform.machine(), " ".join(platform.libc_ver()))
    assert (facts.memory, facts.cores) == (memory, len(os.sched_getaffinity(0)))
    assert (facts.uid, facts.home, facts.sudo) == (os.getuid(), str(machine.home), os.getuid() == 0 or facts.sudo)
    assert facts.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    free = shutil.disk_usage(machine.home).free
    assert abs(facts.disk_free - free) < max(free // 2, 10**9)
    assert (facts.skew, facts.release, facts.index) == (0.0, "", False)
    assert facts.os_version == platform.freedesktop_os_release()["PRETTY_NAME"]
    assert facts.chip not in ("", facts.arch) or facts.arch != "x86_64"


def test_it_writes_nothing(machine: Machine) -> None:
    before = sorted(machine.home.parent.rglob("*"))
    machine.answer(TMPDIR=str(machine.home))
    assert sorted(machine.home.parent.rglob("*")) == before


@pytest.mark.parametrize("shell", ["sh", "bash"])  # some read their script by the block, some by the byte
def test_programs_that_read_stdin_get_none_of_the_script(machine: Machine, shell: str) -> None:
    for name in ("uname", "id", "df", "getconf", "nproc", "date", "curl"):
        real = shutil.which(name, path="/usr/bin:/bin")
        machine.program(name, f'cat >>"{machine.said}"; exec {real} "$@"' if name != "curl" else "exit 7")
    facts = machine.facts(shell)
    assert facts.os == "linux"
    assert machine.said.read_text() == ""


def test_a_program_that_hangs_is_ended_and_the_rest_is_told(machine: Machine) -> None:
    machine.program("nvidia-smi", "sleep 300")
    machine.program("df", "sleep 300")
    began = time.monotonic()
    facts = machine.facts()
    assert time.monotonic() - began < 40
    assert (facts.disk_free, facts.accelerators, facts.os) == (0, (), "linux")


def test_an_empty_environment_and_a_bare_path_suffice(machine: Machine) -> None:
    ran = subprocess.run(["/bin/sh", "-s"], input=script(), capture_output=True, env={}, timeout=60)
    facts = parse(ran.stdout.decode(), Clock(time.time() - 30, time.time()))
    assert (facts.os, facts.home) == ("linux", pwd.getpwuid(os.getuid()).pw_dir)


# ── Pythons and tools ───────────────────────────────────────────────────────────────────────────────────────────────


def test_each_python_is_told_once_by_the_name_with_its_version(machine: Machine) -> None:
    home = machine.home
    system = machine.python(machine.programs / "python3.12", "3.12.4")
    (machine.programs / "python3").symlink_to(system)
    managed = machine.python(home / ".local/share/uv/python/cpython-3.13.1-linux/bin/python3.13", "3.13.1")
    conda = machine.python(home / "miniforge3/bin/python3", "3.11.9")
    local = home / ".local/bin"
    local.mkdir()
    (local / "python3.13").symlink_to(managed)
    found = machine.facts(path="/nowhere").pythons
    mine = [python for python in found if str(machine.home.parent) in python.path]
    assert mine == [
        Python(str(system), (3, 12, 4)),
        Python(str(local / "python3.13"), (3, 13, 1)),
        Python(str(conda), (3, 11, 9)),
    ]


def test_shims_and_virtual_environments_are_no_pythons(machine: Machine) -> None:
    shims, venv = machine.home / ".pyenv/shims", machine.home / "project/.venv/bin"
    machine.file(shims / "python3.12", f"#!/bin/sh\ntouch '{machine.said}'\necho Python 3.12.1\n")
    machine.python(venv / "python3", "3.12.1")
    (venv.parent / "pyvenv.cfg").write_text("")
    found = machine.facts(path=f"{shims}:{venv}:/usr/bin:/bin").pythons
    assert not [python for python in found if str(machine.home) in python.path]
    assert not machine.said.exists()


def test_tools_are_found_where_a_login_shell_would_look(machine: Machine) -> None:
    uv = machine.file(machine.home / ".cargo/bin/uv", "")
    conda = machine.file(machine.home / "miniforge3/bin/conda", "")
    machine.file(machine.home / ".local/bin/mamba", "").chmod(0o644)
    (machine.home / ".local/bin/micromamba").mkdir()
    tools = dict(machine.facts().tools)
    assert (tools["uv"], tools["conda"]) == (str(uv), str(conda))
    assert str(machine.home) not in tools.get("mamba", "") + tools.get("micromamba", "")


def test_the_release_that_is_there(machine: Machine) -> None:
    state = machine.home / ".llmctl"
    state.mkdir()
    (state / "current").symlink_to("releases/1.2.3-0a1b2c3d")
    uv = machine.file(state / "bin/uv", "")
    facts = machine.facts()
    assert (facts.release, facts.version) == ("1.2.3-0a1b2c3d", "1.2.3")
    assert dict(facts.tools)["uv"] == str(uv)


# ── the package index ───────────────────────────────────────────────────────────────────────────────────────────────


def test_s09_the_password_of_an_index_is_in_nobodys_arguments(machine: Machine) -> None:
    machine.program("curl", f'echo "$@" >"{machine.said}.argv"; cat >"{machine.said}"')
    facts = machine.facts(PIP_INDEX_URL="https://me:hunter2@mirror.example/simple/")
    assert facts.index
    assert machine.said.read_text() == 'url = "https://me:hunter2@mirror.example/simple/pip/"\n'
    assert "hunter2" not in Path(f"{machine.said}.argv").read_text()


def test_the_index_of_pip_conf_is_asked(machine: Machine) -> None:
    machine.program("curl", f'cat >"{machine.said}"; exit 22')
    machine.file(machine.home / ".config/pip/pip.conf", "[global]\nindex-url = https://mirror.example/simple\n")
    assert not machine.facts().index
    assert machine.said.read_text() == 'url = "https://mirror.example/simple/pip/"\n'


# ── programs as their documentation shows them ──────────────────────────────────────────────────────────────────────

SMI = """\
case "$*" in
*compute_cap*) {new} ;;
*memory.total*) echo 'Tesla K80, 11441, 470.57.02'; echo 'Tesla K80, 11441, 470.57.02' ;;
-L) echo 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)'; echo '  MIG 7g.40gb     Device  0: (UUID: MIG-1)' ;;
'') cat <<'END'
Mon Nov 24 12:00:00 2025
+-----------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.14    Driver Version: 550.54.14    CUDA Version: 12.4     |
|-------------------------------+----------------------+----------------------+
END
;;
esac"""


def test_a_driver_that_does_not_know_the_newer_fields_is_asked_for_the_older(machine: Machine) -> None:
    machine.program(
        "nvidia-smi", SMI.format(new="""echo 'Field "compute_cap" is not a valid field to query.'; exit 2""")
    )
    gpus = machine.facts().accelerators
    assert [(gpu.name, gpu.cuda, gpu.compute) for gpu in gpus] == [("Tesla K80", "12.4", None)] * 2


def test_mig_is_looked_into_where_it_is_on(machine: Machine) -> None:
    machine.program("nvidia-smi", SMI.format(new="echo 'NVIDIA A100-SXM4-40GB, 40960, 550.54.14, Enabled, 8.0'"))
    assert [gpu.name for gpu in machine.facts().accelerators] == ["NVIDIA A100-SXM4-40GB MIG 7g.40gb"]


def test_a_driver_that_is_not_loaded_is_told_in_its_words(machine: Machine) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    machine.program("nvidia-smi", f'echo "{said}"; echo; exit 9')
    facts = machine.facts()
    assert facts.accelerators == ()
    assert f"nvidia-smi: {said}" in facts.notes


MAC = {
    "uname": "echo Darwin arm64",
    "sw_vers": "grep @sw {printed} | cut -c5-",
    "sysctl": "grep @sysctl {printed} | cut -c9-",
    "system_profiler": "grep @display {printed} | cut -c10-",
    "launchctl": "test $2 = system",
    "xcode-select": "exit 2",
}


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_mac_as_its_programs_are_documented(machine: Machine, shell: str) -> None:
    """Never run on a Mac by this project."""
    for name, text in MAC.items():
        machine.program(name, text.format(printed=machine.file(machine.said, printed("mac-studio-m3-ultra"))))
    facts = machine.facts(shell)
    assert (facts.os, facts.arch, facts.os_version, facts.chip) == ("darwin", "arm64", "macOS 15.5", "Apple M3 Ultra")
    assert [(gpu.name, gpu.cores) for gpu in facts.accelerators] == [("Apple M3 Ultra", 80)]
    assert "launchd" in facts.services
    assert "nobody is logged in" in facts.notes[0]
    assert not [python for python in facts.pythons if python.path.startswith("/usr/bin/")]
    machine.program("xcode-select", "echo /Library/Developer/CommandLineTools")
    assert [python for python in machine.facts(shell).pythons if python.path.startswith("/usr/bin/")]
