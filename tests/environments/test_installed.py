"""Which Python runs an engine: by a release's list of environments, and in a real release with a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmctl.environments import Wanted, installed, locks, wheel
from llmctl.environments.build import build
from llmctl.environments.installed import package, python_for
from llmctl.environments.programs import uv_from
from llmctl.errors import StateError, Unsupported
from llmctl.jobs import queue
from llmctl.models import architectures
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, free_port
from tests.environments.conftest import facts_here, lock_of, make_wheel

HERE = Path(sys.executable).resolve()


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """release(base=…, torch=…) → the folder of a release with these interpreters, as if llmctl ran from it."""

    def make(**pythons: str) -> Path:
        folder = tmp_path / "releases" / f"r{len(list(tmp_path.glob('releases/*')))}"
        folder.mkdir(parents=True)
        (folder / "environments.json").write_text(json.dumps({k.replace("_", "-"): v for k, v in pythons.items()}))
        monkeypatch.setattr(installed, "RELEASE", folder)
        return folder

    return make


@pytest.fixture
def demo(tmp_path: Path, house: Path) -> str:
    """The interpreter of a real environment that holds demo 1.0."""
    made = make_wheel(tmp_path / "house", "demo", "1.0")
    uv = uv_from(next(house.glob("uv-*.whl")), tmp_path / "tools")
    wanted = Wanted("demo", lock_of(made))
    return str(build(wanted, "uv", HERE, tmp_path / "envs", wheelhouse=made.parent, tool=uv))


def test_without_a_release_it_is_the_python_that_runs() -> None:
    assert python_for("llamacpp") == python_for("convert") == python_for("torch", {}) == sys.executable
    with pytest.raises(Unsupported, match=r"torch needs pytest 0\.1 \(here: .*was not deployed") as caught:
        python_for("torch", {"pytest": "0.1"})
    assert "llmctl deploy" in str(caught.value.hint)


def test_an_engine_has_its_own_and_one_without_a_library_the_base(release: Callable[..., Path]) -> None:
    release(base="/b/python", llamacpp="/l/python")
    assert python_for("llamacpp") == "/l/python" and python_for("scripted") == "/b/python"


def test_an_engine_that_was_not_deployed_is_refused_with_the_deploy_to_type(release: Callable[..., Path]) -> None:
    release(base="/b/python", llamacpp="/l/python")
    with pytest.raises(Unsupported, match=r"no environment for torch \(it has base, llamacpp\)") as caught:
        python_for("torch")
    assert caught.value.hint == "from the machine that deploys: llmctl deploy HOST --engine torch"


def test_pins_are_met_by_the_engines_environment_or_by_one_of_their_own(
    release: Callable[..., Path], demo: str
) -> None:
    release(base="/b/python", torch=demo)
    assert python_for("torch", {"demo": "1.0"}) == python_for("torch", {"demo": "1.*"}) == demo
    with pytest.raises(Unsupported, match=r"no environment for torch with demo 2\.\*"):
        python_for("torch", {"demo": "2.*"})
    release(**{"base": "/b/python", "torch": demo, "torch-demo-2.x": "/own/python"})
    assert python_for("torch", {"demo": "2.*"}) == "/own/python" and python_for("torch") == demo


def test_a_torn_list_is_an_error(release: Callable[..., Path]) -> None:
    folder = release(base="/b/python")
    (folder / "environments.json").write_text('{"base": ')
    with pytest.raises(StateError, match="cannot be read") as caught:
        python_for("torch")
    assert caught.value.hint


def test_a_conversion_is_refused_before_it_is_a_job(release: Callable[..., Path], home: Path) -> None:
    release(base="/b/python")
    with pytest.raises(Unsupported, match="no environment for convert"):
        queue.submit(home, "convert", {}, "convert", "heavy")
    assert not list(home.glob("jobs/*/job.json"))


def test_packages_of_an_engine_are_found_in_its_environment(release: Callable[..., Path], demo: str) -> None:
    assert package("torch", "pytest") is not None and architectures.takes("llamacpp", "llama") is True
    release(base="/b/python", torch=demo)
    assert package("torch", "pytest") is None and package("mlx", "mlx_lm") is None
    assert architectures.takes("llamacpp", "llama") is None
    place = next(Path(demo).parents[1].glob("lib/python3*/site-packages"))
    (place / "transformers").mkdir()
    assert package("torch", "transformers") == place / "transformers"


# ── a real release ──────────────────────────────────────────────────────────────────────────────────────────────────

MODELS = """
[models.tiny]
probe = { prompt = "What is a slot?", expect = "A port", max_tokens = 24 }
artifacts = [{ format = "gguf", path = "GGUF" }]
[models.tiny-pinned]
env = { jinja2 = "3.1.*" }
artifacts = [{ format = "gguf", path = "GGUF" }]
[models.tiny-other]
env = { jinja2 = "2.11.*" }
artifacts = [{ format = "gguf", path = "GGUF" }]
[models.tiny-torch]
artifacts = [{ format = "safetensors", path = "FOLDER" }]
"""


@dataclass
class Deployed:
    """A release under `home`, and its llmctl as its script would start it."""

    home: Path
    config: Path
    pythons: dict[str, Path]
    port: int

    def run(self, *words: object) -> tuple[int, dict[str, Any]]:
        env = {
            "PATH": "/usr/bin:/bin", "PYTHONPATH": str(self.home / "releases" / "r1" / "lib"), "HOME": str(self.home),
            "LLMCTL_HOME": str(self.home), "LLMCTL_CONFIG": str(self.config), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        argv = [self.pythons["base"], "-m", "llmctl", "--json", *map(str, words)]
        done = subprocess.run(argv, env=env, cwd=self.home, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        envelope = json.loads(done.stdout)
        return done.returncode, {**envelope["data"], "errors": envelope["errors"]}


@pytest.fixture
def deployed(home: Path, tmp_path: Path, house: Path, tiny_models: dict[str, Path]) -> Iterator[Deployed]:
    lib = home / "releases" / "r1" / "lib"
    with zipfile.ZipFile(wheel.make(tmp_path)) as archive:
        archive.extractall(lib)
    uv = uv_from(next(house.glob("uv-*.whl")), home / "tools")
    wanted = locks.wanted(["llamacpp"], facts_here())
    pythons = {w.name: build(w, "uv", HERE, home / "envs", wheelhouse=house, tool=uv) for w in wanted}
    (lib.parent / "environments.json").write_text(json.dumps({name: str(path) for name, path in pythons.items()}))
    config, port = tmp_path / "config", free_port()
    config.mkdir()
    (config / "hosts.toml").write_text(f"[hosts.here]\nbackend = 'cpu'\nports = [{port}, {port}]\n")
    models = MODELS.replace("GGUF", str(tiny_models["tiny-qwen2-gguf"])).replace(
        "FOLDER", str(tiny_models["tiny-llama"])
    )
    (config / "models.toml").write_text(models)
    yield Deployed(home, config, pythons, port)
    RunningSlot(home, port, Launch()).kill()


def test_an_engine_runs_in_an_environment_of_its_own_that_has_no_llmctl(deployed: Deployed) -> None:
    code, data = deployed.run("load", deployed.port, "tiny")
    assert code == 0, data
    row = deployed.run("status", deployed.port)[1]["slots"][0]
    started = {
        pid: Path(f"/proc/{row[pid]}/cmdline").read_bytes().split(b"\0")[0].decode() for pid in ("pid", "runner_pid")
    }
    assert started == {"pid": str(deployed.pythons["llamacpp"]), "runner_pid": str(deployed.pythons["base"])}
    assert "port" in deployed.run("ask", deployed.port, "What is a slot?")[1]["answer"]
    for name, has, has_not in (("llamacpp", "xllamacpp", "uvicorn"), ("base", "uvicorn", "xllamacpp")):
        place = next(deployed.pythons[name].parents[1].glob("lib/python3*/site-packages"))
        assert (place / has).is_dir() and not (place / has_not).exists() and not list(place.glob("llmctl*"))

    code, data = deployed.run("swap", deployed.port, "tiny-pinned")  # its pins are met by the engine's environment
    assert code == 0, data
    for model, words in (("tiny-other", "llamacpp with jinja2 2.11.*"), ("tiny-torch", "no environment for torch")):
        code, data = deployed.run("swap", deployed.port, model)
        assert code == 1 and words in data["errors"][0]["message"] and "llmctl deploy" in data["errors"][0]["hint"]
    assert deployed.run("status", deployed.port)[1]["slots"][0]["model"] == "tiny-pinned"


def test_every_verb_starts_with_the_packages_of_the_base(deployed: Deployed) -> None:
    assert deployed.run("models", "list")[0] == 0
    assert deployed.run("jobs", "list")[0] == 0
    code = "import pkgutil, importlib as i, llmctl.cli as c; "
    code += "[i.import_module(m.name) for m in pkgutil.iter_modules(c.__path__, 'llmctl.cli.')]"
    env = {"PYTHONPATH": str(deployed.home / "releases" / "r1" / "lib"), "PATH": os.environ["PATH"]}
    done = subprocess.run([deployed.pythons["base"], "-c", code], env=env, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
