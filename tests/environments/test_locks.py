"""Which environments a host is to have: shipped locks, the torch that its driver runs, stacks of models' own."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from llmctl.environments import Wanted, locks, platforms, stack
from llmctl.environments.locks import entries, shipped, solve, torch_build, wanted
from llmctl.environments.wheelhouse import needs
from llmctl.errors import DeployFailed, Refused, UsageError
from llmctl.fleet.facts import Accelerator
from tests.environments.conftest import make_wheel

LINUX, MAC = platforms.named("linux-x86_64"), platforms.named("macos-arm64")
CUDA13 = platforms.named("linux-x86_64", "13.0")
NAMES = ("base", "convert", "llamacpp", "mlx", "tools", "torch")


def test_every_package_of_every_lock_has_a_pin_and_a_hash() -> None:
    for name in (*NAMES, "torch-builds"):
        found = entries(shipped(name))
        assert found
        for text in found:
            assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+ ", text) and re.search(r"--hash=sha256:[0-9a-f]{64}", text), (
                text
            )


def test_the_base_comes_first_and_what_needs_no_library_has_none() -> None:
    assert [each.name for each in wanted([], LINUX)] == ["base"]
    assert [each.name for each in wanted(["torch", "llamacpp", "scripted", "llamacpp"], LINUX)] == [
        "base", "llamacpp", "torch",
    ]  # fmt: skip


def test_an_unknown_engine_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no lock for 'vllm'") as caught:
        wanted(["vllm"], LINUX)
    assert "llamacpp" in str(caught.value.hint)


def test_the_folder_follows_the_requirements() -> None:
    one, two = Wanted("base", "a==1\n"), Wanted("base", "a==2\n")
    assert one.folder != two.folder and one.folder == Wanted("base", "a==1\n").folder
    assert one.folder.startswith("base-")


# ── torch by the driver ─────────────────────────────────────────────────────────────────────────────────────────────


def gpu(cuda: str | None, name: str = "NVIDIA L4") -> Accelerator:
    return Accelerator(name, 24 * 2**30, "550.54", cuda)


@pytest.mark.parametrize(
    ("cuda", "build"), [("13.1", "cu130"), ("13.0", "cu130"), ("12.8", "cu126"), ("12.2", "cu126"), (None, "cpu")]
)
def test_the_build_follows_the_driver(cuda: str | None, build: str) -> None:
    assert torch_build(replace(LINUX, accelerators=(gpu(cuda),))) == build


def test_the_oldest_of_several_drivers_decides_and_a_mac_has_its_own() -> None:
    assert torch_build(replace(LINUX, accelerators=(gpu("13.0"), gpu("12.6")))) == "cu126"
    assert torch_build(LINUX) == "cpu"
    assert torch_build(MAC) == torch_build(replace(MAC, accelerators=(gpu(None, "Apple M4 Max"),))) == "mps"


@pytest.mark.parametrize(
    ("cuda", "compute", "build"),
    [("13.0", "12.0", "cu130"), ("13.0", "7.5", "cu130"), ("13.0", "7.0", "cu126"), ("12.8", "9.0", "cu126")],
)
def test_a_gpu_gets_a_build_that_has_its_kernels(cuda: str, compute: str, build: str) -> None:
    assert torch_build(replace(LINUX, accelerators=(replace(gpu(cuda), compute=compute),))) == build


def test_a_gpu_that_no_build_for_its_driver_serves_is_refused() -> None:
    with pytest.raises(Refused, match=r"compute capability 12\.0") as caught:
        torch_build(replace(LINUX, accelerators=(replace(gpu("12.8"), compute="12.0"),)))
    assert "CUDA 13" in str(caught.value.hint)
    with pytest.raises(Refused, match=r"compute capability 12\.0"):
        both = (replace(gpu("13.0"), compute="12.0"), replace(gpu("13.0"), compute="7.0"))
        torch_build(replace(LINUX, accelerators=both))


def test_a_driver_that_is_too_old_is_refused_with_what_to_do() -> None:
    with pytest.raises(Refused, match=r"driver 550\.54 of NVIDIA L4 runs CUDA 11\.8 at most") as caught:
        torch_build(replace(LINUX, accelerators=(gpu("11.8"),)))
    assert "update the driver" in str(caught.value.hint)


@pytest.mark.parametrize("engine", ["torch", "convert"])
def test_the_cpu_build_brings_no_cuda_and_the_others_do(engine: str) -> None:
    cpu, cuda, mac = (wanted([engine], facts)[-1] for facts in (LINUX, CUDA13, MAC))
    names = {need.name for need in needs([cpu], (3, 11), LINUX)}
    assert not [name for name in names if name.startswith(("nvidia", "cuda")) or name == "triton"]
    assert re.search(r"^torch==\S+\+cpu ", cpu.requirements, re.M)
    assert "--extra-index-url https://download.pytorch.org/whl/cpu\n" in cpu.requirements
    brought = {need.name for need in needs([cuda], (3, 11), CUDA13)}
    assert {"torch", "triton", "nvidia-cudnn-cu13"} <= brought and brought > names
    assert cuda.requirements == mac.requirements == shipped(engine)
    on_mac = {need.name for need in needs([mac], (3, 12), MAC)}
    assert "torch" in on_mac and not [name for name in on_mac if name.startswith("nvidia")]


def test_what_is_left_out_for_the_cpu_is_what_cuda_alone_needs() -> None:
    gone = set(entries(shipped("torch"))) - set(entries(wanted(["torch"], LINUX)[-1].requirements))
    assert all("sys_platform == 'linux'" in text or text.startswith("torch==") for text in gone)


# ── stacks of models' own ───────────────────────────────────────────────────────────────────────────────────────────

LOCK = "# For: app | lib>=1\napp==2.0\nlib==1.1\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A package index of one's own with app and lib in several versions, as uv is told of it through pip's setting."""
    folder, asked = tmp_path / "files", []
    for version in ("1.0", "1.1", "1.2"):
        make_wheel(folder, "lib", version)
    for version in ("2.0", "2.1"):
        make_wheel(folder, "app", version)

    class Simple(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            last = unquote(self.path.rstrip("/").rpartition("/")[2])
            file = folder / last
            links = [f'<a href="/files/{path.name}">{path.name}</a>' for path in sorted(folder.glob(f"{last}-*.whl"))]
            body = file.read_bytes() if file.is_file() else "<br>".join(links).encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html" if links else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Simple)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_stack_is_solved_once_and_keeps_the_other_versions(index: list[str], tmp_path: Path) -> None:
    text = solve(LOCK, {"lib": "1.0"}, tmp_path / "kept", None)
    assert [entry.split()[0] for entry in entries(text)] == ["app==2.0", "lib==1.0"]  # app 2.1 is there too
    assert text.count("--hash=sha256:") == 2
    asked = len(index)
    assert asked and solve(LOCK, {"lib": "1.0"}, tmp_path / "kept", None) == text and len(index) == asked
    assert "lib==1.2" in solve(LOCK, {"lib": "1.2.*"}, tmp_path / "kept", None) and len(index) > asked


def test_a_pin_that_nothing_meets_is_an_error_with_uvs_words(index: list[str], tmp_path: Path) -> None:
    with pytest.raises(DeployFailed, match=r"no environment with lib 7\.0 can be locked") as caught:
        solve(LOCK, {"lib": "7.0"}, tmp_path / "kept", None)
    assert any("lib" in line for line in caught.value.details["log"]) and "models.toml" in str(caught.value.hint)
    assert not (tmp_path / "kept").exists()


def test_an_index_that_does_not_answer_is_the_same_error(
    index: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(DeployFailed, match="can be locked") as caught:
        solve(LOCK, {"lib": "1.0"}, tmp_path / "kept", None)
    assert "route to the package index" in str(caught.value.hint)


def test_no_uv_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "find_spec", lambda name: None)
    monkeypatch.setattr(locks.shutil, "which", lambda name: None)
    with pytest.raises(Refused, match="has no uv") as caught:
        solve(LOCK, {"lib": "1.0"}, tmp_path, None)
    assert caught.value.hint == "pip install 'llmctl-fleet[deploy]'"


def test_each_stack_is_an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def solved(lock: str, pins: dict[str, str], cache: Path, build: str | None) -> str:
        asked.append((pins, build))
        return lock

    monkeypatch.setattr(locks, "solve", solved)
    pins = [("torch", {"transformers": "4.57.*"}), ("torch", {}), ("torch", {"transformers": "4.57.*"})]
    found = wanted(["torch"], LINUX, pins, solved=tmp_path)
    assert [each.name for each in found] == ["base", "torch", "torch-transformers-4.57.x"]
    assert stack("torch", {"b": "2", "a": "1.*"}) == "torch-a-1.x-b-2"
    assert set(map(str, asked)) == {"({'transformers': '4.57.*'}, None)"}
    asked.clear()
    assert wanted(["torch"], platforms.named("linux-x86_64", "12.4"), solved=tmp_path) and asked == [({}, "cu126")]
