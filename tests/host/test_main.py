"""The host side as a process: asked by one line, ended with its operator, and always an answer that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llmctl.environments import wheel
from llmctl.processes import start_time
from tests.conftest import eventually
from tests.host.conftest import Asker, made_environment, send_wheel, tree, wanted

root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, which the host side runs out of."""
    return wheel.make(tmp_path_factory.mktemp("wheel"))


def argv(code: Path, home: Path) -> list[str]:
    """The host side as a deploy starts it, on a Python without any package, in an environment without any variable."""
    python = Path(sys.executable).resolve()
    told = [f"PYTHONPATH={code}", "PYTHONSAFEPATH=1", f"LLMCTL_HOME={home}", "PATH=/usr/bin:/bin"]
    return ["env", "-i", *told, str(python), "-s", "-m", "llmctl.host"]


def ask(code: Path, home: Path, line: str) -> dict[str, Any]:
    """The answer to one line; it never ends without one."""
    ran = subprocess.run(argv(code, home), input=line, capture_output=True, text=True, timeout=120)
    answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert ran.returncode == (0 if answer["ok"] else 1)
    assert "Traceback" not in ran.stdout + ran.stderr
    return answer


def look(code: Path, home: Path) -> dict[str, Any]:
    return ask(code, home, json.dumps({"step": "look", "wanted": asdict(wanted("1.0-a"))}) + "\n")


def test_it_runs_out_of_the_wheel_on_a_python_without_packages(code: Path, home: Path) -> None:
    answer = look(code, home)
    assert answer["ok"] and answer["data"]["current"] is None
    assert not list(home.iterdir())


BAD = ("", "\n", "[]\n", "{\n", "null\n", '{"step": null}\n', '{"step": "look"}\n', "\ud800\n", "[" * 200_000 + "\n")


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_what_is_no_request_is_a_typed_error(code: Path, home: Path, line: str) -> None:
    ran = subprocess.run(argv(code, home), input=line.encode(errors="surrogatepass"), capture_output=True, timeout=120)
    answer = json.loads(ran.stdout)
    assert not answer["ok"] and answer["error"]["hint"] and answer["error"]["code"] in ("usage", "failed")
    assert b"Traceback" not in ran.stderr


SLOW_UV = """\
#!/bin/sh
echo started >"{mark}"
sleep 600 & echo $! >"{child}"
wait
"""


@pytest.fixture
def building(code: Path, home: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A step that makes an environment, and a process that it waits for."""
    program, mark, child = tmp_path / "uv", tmp_path / "mark", tmp_path / "child"
    program.write_text(SLOW_UV.format(mark=mark, child=child))
    program.chmod(0o755)
    begun = Asker(home)
    begun("begin")
    request = {
        "step": "environment", "attended": True, "lease": begun.lease, "name": "base", "requirements": "x==1\n",
        "manager": "uv", "tool": str(program), "wheel": None, "online": True,
    }  # fmt: skip
    process = subprocess.Popen(argv(code, home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    pid = int(eventually(lambda: child.exists() and child.read_text().strip()))
    yield process, pid
    for left in (process.pid, pid):
        if start_time(left):
            os.kill(left, signal.SIGKILL)
    process.communicate()


def test_f05_an_attended_step_ends_with_its_operator_and_so_does_what_it_started(
    building: tuple[subprocess.Popen[str], int], home: Path
) -> None:
    process, child = building
    time.sleep(0.3)
    assert process.poll() is None, "it must not end while stdin is open"
    assert process.stdin
    process.stdin.close()
    process.stdin = None
    assert process.wait(60) != 0
    eventually(lambda: start_time(child) is None)
    assert not list((home / "envs").glob("base-*/.llmctl-complete"))


def test_f05_a_step_whose_time_is_up_ends_what_it_started(building: tuple[subprocess.Popen[str], int]) -> None:
    process, child = building
    process.terminate()
    process.wait(60)
    eventually(lambda: start_time(child) is None)


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small", "size=5m")


@root
def test_f06_a_full_disk_is_told_in_bytes_and_the_state_stays_readable(code: Path, small_disk: Path) -> None:
    home = small_disk / "home"
    begun = Asker(home)
    begun("begin")
    built = send_wheel(home, "1.0-a", says="x = 1\n" * 100_000)
    _fill(small_disk)
    request = {"step": "release", "lease": begun.lease, "release": "1.0-a", "version": "1.0", "sha256": built.sha256}
    answer = ask(code, home, json.dumps(request) + "\n")
    assert answer["error"]["code"] == "no_space" and "free" in answer["error"]["details"]
    assert "--prune" in answer["error"]["hint"]
    (small_disk / "rest").unlink()
    assert look(code, home)["data"]["whole"] is False
    begun.release(built)
    assert look(code, home)["data"]["whole"] is True


def _fill(folder: Path) -> None:
    """Leave 100 kB."""
    size = shutil.disk_usage(folder).free - 100_000
    subprocess.run(["fallocate", "-l", str(size), folder / "rest"], check=True)


@root
def test_f06_a_state_folder_that_cannot_be_written_is_refused_and_named(code: Path, home: Path, tmp_path: Path) -> None:
    for folder in mounted(tmp_path / "readonly", "ro"):
        claim = {"token": "a", "owner": "ann"}
        answer = ask(code, folder / "x", json.dumps({"step": "begin", "claim": claim}) + "\n")
        assert answer["error"]["code"] == "refused" and str(folder) in answer["error"]["message"]
        assert "hosts.toml" in answer["error"]["hint"]


def test_the_host_side_imports_the_standard_library_only(code: Path) -> None:
    script = "import sys; before = set(sys.modules); import llmctl.host.__main__; print(*set(sys.modules) - before)"
    python = Path(sys.executable).resolve()
    told = {"PYTHONPATH": str(code)}
    ran = subprocess.run([python, "-s", "-c", script], env=told, capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in ran.stdout.split()}
    assert "llmctl" in roots and roots <= {"llmctl", *sys.stdlib_module_names}


def test_s09_no_secret_of_the_host_is_in_any_answer(code: Path, home: Path) -> None:
    secret = "hf_canary0123456789"
    (home / "hf_token").write_text(secret)
    (home / "keys.json").write_text(json.dumps({"admin": secret}))
    made_environment(home, "base-1")
    begun = Asker(home)
    begun("begin")
    begun.release(send_wheel(home, "1.0-a"))
    begun.activate(wanted("1.0-a"))
    begun.finish()
    said = json.dumps([look(code, home), ask(code, home, '{"step": "overview"}\n')])
    assert secret not in said
    files = [home / name for name in tree(home) if name not in ("hf_token", "keys.json", "current")]
    assert not [path for path in files if secret in path.read_text()]
