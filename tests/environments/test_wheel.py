"""The wheel of the running llmctl: valid for installers, complete, and the same bytes each time."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import llmctl
from llmctl.environments import wheel
from llmctl.errors import Refused
from tests.environments.conftest import UV


def test_the_same_files_are_the_same_bytes_and_the_same_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = wheel.make(tmp_path / "a")
    monkeypatch.setattr(wheel, "PACKAGE", copied(tmp_path / "copy"))
    two = wheel.make(tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()
    assert wheel.release_id(one) == wheel.release_id(two)
    assert wheel.release_id(one).startswith(f"{llmctl.__version__}-")
    assert [path.name for path in (tmp_path / "a").iterdir()] == [one.name]


def test_another_byte_is_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = wheel.release_id(wheel.make(tmp_path))
    package = copied(tmp_path / "copy")
    (package / "domain.py").write_text((package / "domain.py").read_text() + "\n")
    monkeypatch.setattr(wheel, "PACKAGE", package)
    assert wheel.release_id(wheel.make(tmp_path)) != before


def copied(folder: Path) -> Path:
    """The package as another checkout has it: made later, compiled, with an editor's hidden file in it."""
    for path in wheel.PACKAGE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = folder / "llmctl" / path.relative_to(wheel.PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            target.chmod(0o600)
    (folder / "llmctl" / "__pycache__").mkdir()
    (folder / "llmctl" / "__pycache__" / "domain.cpython-311.pyc").write_bytes(b"x")
    (folder / "llmctl" / ".domain.py.swp").write_bytes(b"x")
    return folder / "llmctl"


def test_it_holds_data_and_locks_and_nothing_compiled(tmp_path: Path) -> None:
    archive = zipfile.ZipFile(wheel.make(tmp_path))
    names = archive.namelist()
    assert {(entry.date_time, entry.compress_type) for entry in archive.infolist()} == {((1980, 1, 1, 0, 0, 0), 0)}
    assert {"llmctl/catalog.toml", "llmctl/environments/locks/base.txt", "llmctl/__main__.py"} <= set(names)
    assert not [name for name in names if name.endswith(".pyc") or "/." in name]
    assert names[-1].endswith(".dist-info/RECORD")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the wheel in it, by pip, which checks every file against RECORD's rules."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    made = wheel.make(folder)
    pip = [sys.executable, "-m", "pip", "--python", folder / "env/bin/python", "--isolated", "install", "--no-index"]
    subprocess.run([*pip, "--quiet", "--no-deps", "--disable-pip-version-check", made], check=True)
    yield folder / "env"


def test_pip_installs_it_with_its_program_and_its_dependencies(installed: Path) -> None:
    place = next(installed.glob("lib/python3*/site-packages"))
    found = next(metadata.distributions(name="llmctl-fleet", path=[str(place)]))
    ours = metadata.distribution("llmctl-fleet")
    assert found.version == llmctl.__version__ and sorted(found.requires or []) == sorted(ours.requires or [])
    assert "uvicorn; extra == 'server'" in (found.requires or [])
    assert (installed / "bin" / "llmctl").is_file()
    for file in found.files or []:
        assert not file.hash or _sha(Path(str(file.locate()))) == file.hash.value


def _sha(path: Path) -> str:
    from tests.environments.conftest import _digest

    return _digest(path.read_bytes())


def test_the_installed_one_makes_the_same_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from llmctl.environments import wheel; wheel.make(Path(sys.argv[1]))"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([installed / "bin/python", "-c", code, tmp_path / "again"], check=True, cwd=tmp_path, env=env)
    again = next((tmp_path / "again").glob("*.whl"))
    assert again.read_bytes() == wheel.make(tmp_path).read_bytes()


@pytest.mark.skipif(not UV.exists(), reason="needs uv: scripts/test installs it")
def test_uv_installs_it_too(tmp_path: Path) -> None:
    subprocess.run([UV, "venv", "--quiet", "--offline", "--python", sys.executable, tmp_path / "env"], check=True)
    made = wheel.make(tmp_path)
    words = ["pip", "install", "--quiet", "--offline", "--no-deps", "--python", tmp_path / "env/bin/python", made]
    subprocess.run([UV, *words], check=True)
    assert (tmp_path / "env/bin/llmctl").is_file()


def test_its_host_side_runs_out_of_it(tmp_path: Path) -> None:
    """No environment, nothing but the standard library, not unpacked."""
    code = "from llmctl.environments import build, managers, programs; print(build.__file__)"
    made = wheel.make(tmp_path)
    env = {"PYTHONPATH": str(made), "PATH": "/usr/bin:/bin"}
    python = os.path.realpath(sys.executable)  # of no environment
    done = subprocess.run([python, "-S", "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(str(made)), done.stderr


def test_what_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "DISTRIBUTION", "llmctl-not-installed")
    with pytest.raises(Refused, match="is not installed") as caught:
        wheel.make(tmp_path)
    assert "pip install" in str(caught.value.hint) and not list(tmp_path.iterdir())


def test_a_version_that_is_not_the_installed_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llmctl, "__version__", "9.9.9")
    with pytest.raises(Refused, match=r"is 9\.9\.9, and was installed as"):
        wheel.make(tmp_path)
