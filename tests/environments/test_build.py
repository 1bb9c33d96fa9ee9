"""Environments made on a host: real uv and real pip, out of a wheelhouse, broken off, short of disk, tampered with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.environments import Wanted, wheelhouse
from llmctl.environments.build import MARKER, build, environment, is_complete, sweep
from llmctl.environments.programs import uv_from
from llmctl.errors import Busy, DeployFailed, NoPython, NoSpace
from llmctl.files import locked
from tests.conftest import REPO, eventually
from tests.environments.conftest import base, lock_of, make_wheel

HERE = Path(sys.executable).resolve()
MANAGERS = ("uv", "venv")
IMPORTS = "import huggingface_hub, rich, typer, uvicorn, prometheus_client"


@pytest.fixture
def tools(house: Path, tmp_path: Path) -> dict[str, Path | None]:
    """What each manager is brought: uv out of its wheel, pip's wheel; "ensurepip" is venv with Python's own pip."""
    uv, pip = (next(house.glob(f"{name}-*.whl")) for name in ("uv", "pip"))
    return {"uv": uv_from(uv, tmp_path / "tools"), "venv": pip, "ensurepip": None}


def make(
    wanted: Wanted, envs: Path, house: Path | None, manager: str, tool: Path | None, lines: list[str] | None = None
) -> Path:
    told = [] if lines is None else lines
    return build(wanted, manager, HERE, envs, wheelhouse=house, tool=tool, on_line=told.append)


def says(python: Path, code: str) -> str:
    """What code prints in an environment, with nothing of ours in sight."""
    done = subprocess.run([python, "-c", code], env={"PATH": "/usr/bin:/bin"}, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def small(tmp_path: Path) -> tuple[Wanted, Path]:
    """An environment of one package, and the wheelhouse that has it."""
    wheel = make_wheel(tmp_path / "small-house", "demo", "1.0", says="hello")
    return Wanted("demo", lock_of(wheel)), wheel.parent


# ── out of a wheelhouse ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("manager", MANAGERS)
def test_the_base_is_made_offline(
    manager: str, house: Path, tmp_path: Path, tools: dict[str, Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # who asks an index all the same is refused there
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    lines: list[str] = []
    python = make(base(), tmp_path / "envs", house, manager, tools[manager], lines)
    assert python == tmp_path / "envs" / base().folder / "bin" / "python" and lines
    says(python, IMPORTS)
    with pytest.raises(AssertionError, match="No module named 'llmctl'"):
        says(python, "import llmctl")


def test_venv_falls_back_to_the_pip_of_python(small: tuple[Wanted, Path], tmp_path: Path) -> None:
    python = make(small[0], tmp_path / "envs", small[1], "venv", None)
    assert says(python, "import demo; print(demo.SAYS)") == "hello"


@pytest.mark.parametrize("manager", MANAGERS)
def test_what_is_made_is_found_at_once(
    manager: str, small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    first = make(small[0], tmp_path / "envs", small[1], manager, tools[manager])
    lines: list[str] = []
    again = make(small[0], tmp_path / "envs", tmp_path / "no-such-house", manager, Path("/no/such/tool"), lines)
    assert again == first and not lines


def test_an_engine_whose_library_of_the_system_is_not_there_is_not_made(
    tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    needs = "import ctypes; ctypes.CDLL('libnothere.so.1')"
    wheel = make_wheel(tmp_path / "house", "xllamacpp", "1.0", code=needs)
    wanted = Wanted("llamacpp", lock_of(wheel))
    with pytest.raises(DeployFailed, match="lacks the system library libnothere") as caught:
        make(wanted, tmp_path / "envs", wheel.parent, "uv", tools["uv"])
    assert caught.value.hint and "install the package that has libnothere.so.1" in caught.value.hint
    assert not (tmp_path / "envs" / wanted.folder).exists()


def test_another_lock_is_another_environment_beside_it(
    small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    other = Wanted("demo", lock_of(make_wheel(small[1], "demo", "2.0", says="hello again")))
    one = make(small[0], tmp_path / "envs", small[1], "uv", tools["uv"])
    two = make(other, tmp_path / "envs", small[1], "uv", tools["uv"])
    assert says(one, "import demo; print(demo.SAYS)") == "hello"
    assert says(two, "import demo; print(demo.SAYS)") == "hello again"


def test_only_what_its_lock_names_is_in_it(
    small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    make_wheel(small[1], "demo", "3.0", says="newer")
    python = make(small[0], tmp_path / "envs", small[1], "uv", tools["uv"])
    names = says(python, "from importlib.metadata import distributions as d; print(*[x.name for x in d()])")
    assert names == "demo"


def test_a_wheelhouse_is_asked_and_no_index_that_the_lock_names(
    small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    wanted = Wanted("demo", f"--extra-index-url http://127.0.0.1:9/simple\n{small[0].requirements}")
    for manager in MANAGERS:
        python = make(wanted, tmp_path / manager, small[1], manager, tools[manager])
        assert says(python, "import demo; print(demo.SAYS)") == "hello"


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_missing_package_is_named_in_the_last_lines(
    manager: str, small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeployFailed, match="a package is missing") as caught:
        make(small[0], tmp_path / "envs", tmp_path / "empty", manager, tools[manager])
    assert any("demo" in line for line in caught.value.details["log"])
    assert not (tmp_path / "envs" / small[0].folder).exists()


def test_programs_see_nothing_of_another_python_and_no_index_offline() -> None:
    told = {"PATH": "/bin", "PYTHONPATH": "/x", "VIRTUAL_ENV": "/v", "PIP_INDEX_URL": "i", "UV_INDEX_URL": "i"}
    offline, online = (environment(Path("/e"), offline, told) for offline in (True, False))
    assert not {"PYTHONPATH", "VIRTUAL_ENV", "PIP_INDEX_URL", "UV_INDEX_URL"} & set(offline)
    assert online["PIP_INDEX_URL"] == "i" and online["UV_CACHE_DIR"] == "/e/.uv-cache" and "PYTHONPATH" not in online


def test_an_index_is_trusted_by_the_certificates_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle.pem").write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle.pem"))
    assert environment(tmp_path, False, {})["UV_SYSTEM_CERTS"] == "1"
    assert environment(tmp_path, False, {"UV_SYSTEM_CERTS": "0"})["UV_SYSTEM_CERTS"] == "0"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert "UV_SYSTEM_CERTS" not in environment(tmp_path, False, {})


# ── S13 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("manager", [*MANAGERS, "ensurepip"])
def test_s13_a_tampered_wheel_is_not_installed(
    manager: str, small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    make_wheel(small[1], "demo", "1.0", says="tampered")
    with pytest.raises(DeployFailed, match="does not have the hash") as caught:
        make(small[0], tmp_path / "envs", small[1], manager.replace("ensurepip", "venv"), tools[manager])
    assert caught.value.hint and caught.value.details["log"]
    assert not (tmp_path / "envs" / small[0].folder).exists()


@pytest.mark.parametrize("manager", MANAGERS)
def test_s13_a_package_without_a_hash_is_not_installed(
    manager: str, small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    with pytest.raises(DeployFailed):
        make(Wanted("demo", "demo==1.0\n"), tmp_path / "envs", small[1], manager, tools[manager])


# ── broken off ──────────────────────────────────────────────────────────────────────────────────────────────────────

BUILDER = """
import sys
from pathlib import Path
from llmctl.environments import Wanted
from llmctl.environments.build import build
name, lock, envs, house, pip = sys.argv[1:]
wanted = Wanted(name, Path(lock).read_text())
build(wanted, "venv", Path(sys.executable).resolve(), Path(envs), wheelhouse=Path(house), tool=Path(pip))
"""


@pytest.fixture
def killed(house: Path, tmp_path: Path, tools: dict[str, Path | None]) -> Iterator[Path]:
    """The folder of an environment whose builder was killed with pip at work, which goes on."""
    (tmp_path / "lock.txt").write_text(base().requirements)
    argv = [sys.executable, "-c", BUILDER, "base", tmp_path / "lock.txt", tmp_path / "envs", house, str(tools["venv"])]
    builder = subprocess.Popen(argv, cwd=REPO)
    folder = tmp_path / "envs" / base().folder
    eventually(lambda: list(folder.glob("lib/python3*/site-packages/*")))
    os.kill(builder.pid, signal.SIGKILL)
    builder.wait()
    yield folder


def test_f04_a_killed_build_is_waited_for_and_made_anew(
    killed: Path, house: Path, tools: dict[str, Path | None]
) -> None:
    assert not is_complete(killed)
    with pytest.raises(Busy), locked(killed.parent / f".{killed.name}.lock", wait=False):
        pass  # what it left running holds the lock
    (killed / "half").write_text("made")
    python = make(base(), killed.parent, house, "uv", tools["uv"])
    assert python.parents[1] == killed and is_complete(killed) and not (killed / "half").exists()
    says(python, IMPORTS)


def test_a_half_made_environment_is_removed_first(
    small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    folder = tmp_path / "envs" / small[0].folder
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(HERE)
    (folder / "half").write_text("made")
    python = make(small[0], tmp_path / "envs", small[1], "uv", tools["uv"])
    assert not (folder / "half").exists() and says(python, "import demo; print(demo.SAYS)") == "hello"


def test_an_environment_whose_python_went_is_made_anew(
    small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    python = make(small[0], tmp_path / "envs", small[1], "uv", tools["uv"])
    python.unlink()
    assert says(make(small[0], tmp_path / "envs", small[1], "uv", tools["uv"]), "import demo; print(demo.SAYS)")


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: a small file system is mounted")
@pytest.mark.parametrize("manager", MANAGERS)
def test_f06_a_full_disk_is_an_error_and_leaves_nothing(
    manager: str, tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    wheel = make_wheel(tmp_path / "big-house", "big", "1.0", extra=12_000_000)
    wanted, disk = Wanted("big", lock_of(wheel)), tmp_path / "disk"
    disk.mkdir()
    size = "8m" if manager == "uv" else "20m"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(NoSpace) as caught:
            make(wanted, disk / "envs", wheel.parent, manager, tools[manager] if manager == "uv" else None)
        assert caught.value.hint and caught.value.details["path"] == str(disk / "envs")
        assert not (disk / "envs" / wanted.folder).exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_written_is_an_error(small: tuple[Wanted, Path], tmp_path: Path) -> None:
    (tmp_path / "envs").write_text("a file")
    with pytest.raises(DeployFailed, match="cannot be made"):
        make(small[0], tmp_path / "envs", small[1], "venv", None)


@pytest.mark.parametrize("kind", ["missing", "broken"])
def test_no_python_is_said_so(kind: str, small: tuple[Wanted, Path], tmp_path: Path) -> None:
    python = tmp_path / "python3"
    if kind == "broken":
        python.write_text("#!/bin/sh\necho no luck >&2; exit 3\n")
        python.chmod(0o755)
    with pytest.raises(NoPython, match="does not run") as caught:
        build(small[0], "venv", python, tmp_path / "envs", wheelhouse=small[1], tool=None)
    assert caught.value.hint


def test_a_manager_that_does_not_start_is_an_error(small: tuple[Wanted, Path], tmp_path: Path) -> None:
    with pytest.raises(DeployFailed, match="cannot start"):
        make(small[0], tmp_path / "envs", small[1], "uv", tmp_path / "no-uv")


def test_uv_comes_out_of_its_wheel_once(house: Path, tmp_path: Path) -> None:
    program = uv_from(next(house.glob("uv-*.whl")), tmp_path)
    assert subprocess.run([program, "--version"], capture_output=True, text=True).stdout.startswith("uv ")
    assert uv_from(tmp_path / f"uv-{program.name.removeprefix('uv-')}-gone.whl", tmp_path) == program
    (tmp_path / "uv-1-x.whl").write_bytes(b"not a zip")
    with pytest.raises(DeployFailed, match="holds no uv"):
        uv_from(tmp_path / "uv-1-x.whl", tmp_path)
    with zipfile.ZipFile(tmp_path / "uv-2-x.whl", "w") as archive:
        archive.writestr("uv/__init__.py", "")
    with pytest.raises(DeployFailed, match="holds no uv"):
        uv_from(tmp_path / "uv-2-x.whl", tmp_path)


# ── what nothing needs ──────────────────────────────────────────────────────────────────────────────────────────────


def test_sweep_removes_what_no_release_needs(
    small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None]
) -> None:
    other = Wanted("demo", lock_of(make_wheel(small[1], "demo", "2.0", says="kept")))
    make(small[0], tmp_path / "envs", small[1], "uv", tools["uv"])
    python = make(other, tmp_path / "envs", small[1], "uv", tools["uv"])
    assert sweep(tmp_path / "envs", {other.folder}) == [small[0].folder]
    assert says(python, "import demo; print(demo.SAYS)") == "kept"  # its files are its own, not uv's
    assert sorted(path.name for path in (tmp_path / "envs").iterdir()) == [f".{other.folder}.lock", other.folder]
    assert sweep(tmp_path / "envs", {other.folder}) == []


def test_an_environment_goes_marker_first(
    small: tuple[Wanted, Path], tmp_path: Path, tools: dict[str, Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    python = make(small[0], tmp_path / "envs", small[1], "uv", tools["uv"])
    seen = []
    monkeypatch.setattr(shutil, "rmtree", lambda path, **how: seen.append((path.name, (path / MARKER).exists())))
    sweep(tmp_path / "envs", ())
    assert (small[0].folder, False) in seen and python.exists()


def test_the_wheelhouse_of_the_tests_is_for_this_machine(house: Path) -> None:
    from tests.environments.conftest import PYTHON, facts_here

    wheelhouse.check(house.glob("*.whl"), PYTHON, facts_here())
