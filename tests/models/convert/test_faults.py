"""However a conversion ends, there is a whole artifact or none, and nothing goes on without it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmctl.errors import ConversionFailed, DoesNotFit
from llmctl.jobs.context import Cancelled, Silent
from llmctl.models import verify
from llmctl.models.convert import child, work
from llmctl.models.convert.processes import serving
from tests.conftest import REPO, eventually
from tests.models.convert.conftest import arguments, converted

Convert = Callable[..., Mapping[str, Any]]
pytestmark = pytest.mark.models

JOB = (
    "import json, sys; from llmctl.jobs.context import Silent; from llmctl.models.convert import run\n"
    "run(json.loads(sys.argv[1]), Silent())"
)


STRANGERS: set[int] = set()


@pytest.fixture(autouse=True)
def strangers() -> None:
    """Slot servers of other tests are children of this process too."""
    STRANGERS.clear()
    STRANGERS.update(converters_of(os.getpid()))


def converters_of(job: int) -> list[int]:
    """The converter processes that this process started: they are leaders of sessions of their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = path.read_text().split(" ", 1)
            if rest.rpartition(")")[2].split()[1] == str(job):
                found.append(int(pid))
    return [pid for pid in found if pid not in STRANGERS]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def artifacts(store: Path) -> list[str]:
    """What is published, and what lies in the staging folder besides locks."""
    staged = [path.name for path in store.glob(".staging/*") if path.is_dir()]
    return sorted(f"{path.parent.name}/{path.name}" for path in store.glob("[a-z]*/*")) + staged


class Cancelling(Silent):
    """Cancels the job at the n-th time that it tells how far a stage is."""

    def __init__(self, stage: str, after: int = 0) -> None:
        super().__init__()
        self.stage, self.after, self.children = stage, after, [0]

    def progress(self, stage: str, done: int = 0, total: int = 0, parts: Mapping[str, tuple[int, int]] = {}) -> None:
        if stage == self.stage:
            self.after -= 1
            if self.after < 0:
                self.children = converters_of(os.getpid())
                raise Cancelled


@pytest.mark.parametrize(
    ("to", "quantization", "stage", "after"),
    [("torch", "bf16", "cast", 3), ("torch", "bf16", "publish", 0), ("mlx", "4bit", "convert to MLX", 5),
     ("gguf", "q4_0", "convert to GGUF", 8), ("gguf", "q4_0", "quantize", 0)],
)  # fmt: skip
def test_c03_a_cancelled_job_leaves_no_process_and_no_file(
    tiny_models: dict[str, Path], convert: Convert, tmp_path: Path, to: str, quantization: str, stage: str, after: int
) -> None:
    job = Cancelling(stage, after)
    with pytest.raises(Cancelled):
        convert(tiny_models["tiny-qwen2"], to, quantization, job=job)
    assert job.children or stage == "publish"
    assert not [pid for pid in job.children if pid and alive(pid)]
    assert artifacts(tmp_path / "models") == []


def test_f01_kill_9_at_any_moment_leaves_nothing_half_made_and_the_next_run_sweeps(
    tiny_models: dict[str, Path], converters: Path, tmp_path: Path
) -> None:
    store, chance = tmp_path / "models", random.Random(0)
    told = json.dumps(arguments(tiny_models["tiny-qwen2"], "torch", "bf16", store, converters))
    seen = []
    for _ in range(6):
        job = subprocess.Popen([sys.executable, "-c", JOB, told], cwd=REPO)
        eventually(lambda: list(store.glob(".staging/tmp*")), every=0.002)
        time.sleep(chance.uniform(0, 1.5))
        own = converters_of(job.pid)
        job.kill()
        job.wait()
        for pid in own:
            eventually(lambda pid=pid: not alive(pid), within=5)
        made = artifacts(store)
        seen.append(bool(own))
        if "it/safetensors-bf16" in made:
            assert verify.verify(store / "it" / "safetensors-bf16", Silent()).passed
            shutil.rmtree(store / "it")
    assert any(seen)
    converted(tiny_models["tiny-qwen2"], "torch", "bf16", store, converters)
    assert artifacts(store) == ["it/safetensors-bf16"]


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> child.Step:
    """A converter that takes an hour, and says that it has begun by a file."""
    package = tmp_path / "others"
    package.mkdir()
    (package / "sleeping.py").write_text(
        "import time\nfrom pathlib import Path\nfrom llmctl.models.convert.processes.serving import serve\n"
        "serve(lambda request: (Path(request['begun']).touch(), time.sleep(3600)))\n"
    )
    monkeypatch.setattr(child, "PROCESSES", "others")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun = tmp_path / "begun"
    return child.Step("sleep", "sleeping", {"begun": str(begun)}, begun, 1)


def test_c03_cancelling_kills_a_converter_in_the_midst(sleeper: child.Step, tmp_path: Path) -> None:
    class Cancelling(Silent):
        def progress(self, stage: str, done: int = 0, total: int = 0, parts: Mapping[str, Any] = {}) -> None:
            if sleeper.grows.exists():
                self.children = converters_of(os.getpid())
                raise Cancelled

    job = Cancelling()
    with pytest.raises(Cancelled):
        child.run(sleeper, tmp_path, job)
    assert job.children and not any(map(alive, job.children))


def test_f01_a_converter_ends_with_a_job_that_was_killed(sleeper: child.Step, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from llmctl.jobs.context import Silent\n"
        "from llmctl.models.convert import child; child.PROCESSES = 'others'; begun = Path(sys.argv[1])\n"
        "child.run(child.Step('sleep', 'sleeping', {'begun': str(begun)}, begun, 1), begun.parent, Silent())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPO}"}
    job = subprocess.Popen([sys.executable, "-c", script, str(sleeper.grows)], cwd=tmp_path, env=environment)
    eventually(sleeper.grows.exists)
    (own,) = converters_of(job.pid)
    job.kill()
    job.wait()
    eventually(lambda: not alive(own), within=10)


def test_a_converter_that_is_killed_is_an_error_that_says_so(
    tiny_models: dict[str, Path], convert: Convert, tmp_path: Path
) -> None:
    class Killing(Silent):
        def progress(self, stage: str, done: int = 0, total: int = 0, parts: Mapping[str, Any] = {}) -> None:
            for pid in converters_of(os.getpid()) if stage == "convert to MLX" else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with pytest.raises(ConversionFailed, match="killed by signal 9") as error:
        convert(tiny_models["tiny-qwen2"], "mlx", "4bit", job=Killing())
    assert "memory" in (error.value.hint or "")
    assert artifacts(tmp_path / "models") == []


def test_a_converter_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    step = child.Step(
        "cast", "torch_cast", {"source": str(tmp_path), "target": str(tmp_path), "dtype": "float8"}, tmp_path, 1
    )
    with pytest.raises(ConversionFailed, match="float8") as error:
        child.run(step, tmp_path, Silent())
    assert any("Traceback" in line for line in error.value.details["log"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A store on a file system of 1 MB, most of it taken."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip("cannot mount a tmpfs here")
    (place / "others").write_bytes(bytes(600_000))
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("name", "to", "quantization"),
    [("tiny-qwen2", "torch", "bf16"), ("tiny-qwen2", "torch", "int8"), ("tiny-qwen2", "mlx", "bf16"),
     ("tiny-qwen2", "gguf", "f16"), ("tiny-qwen2-gguf", "gguf", "q8_0")],
)  # fmt: skip
def test_f06_disk_full(
    tiny_models: dict[str, Path], converters: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, name: str,
    to: str, quantization: str,
) -> None:  # fmt: skip
    store = small_disk / "models"
    with pytest.raises(DoesNotFit, match=r"takes about 0\.\d\d GB of disk"):
        converted(tiny_models[name], to, quantization, store, converters)
    monkeypatch.setattr(work, "check_disk", lambda request, source: None)
    with pytest.raises(DoesNotFit, match=r"filled the disk .* nothing of it was kept") as error:
        converted(tiny_models[name], to, quantization, store, converters)
    assert error.value.details["needed"] > 10**6 > error.value.details["free"] - 2**20
    assert artifacts(store) == []
    assert shutil.disk_usage(small_disk).free > 400_000


def test_a_library_that_is_missing_is_named_with_the_line_to_type() -> None:
    found = serving.failure(ModuleNotFoundError("No module named 'torchao'", name="torchao"))
    assert "torchao" in found.message and found.hint == "pip install 'llmctl-fleet[convert]'"
