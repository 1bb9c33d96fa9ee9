"""What a checkpoint's author or an archive could make a converter do: five canaries, and no network."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmctl.errors import ConversionFailed, LlmctlError, Refused
from llmctl.jobs.context import Silent
from llmctl.models.convert import child, fetch, work
from tests.conftest import REPO
from tests.models.convert.conftest import arguments

Convert = Callable[..., Mapping[str, Any]]
TARGETS = [("torch", "bf16"), ("torch", "int8"), ("mlx", "4bit"), ("gguf", "q4_0")]
EACH = pytest.mark.parametrize(("to", "quantization"), TARGETS, ids=["-".join(target) for target in TARGETS])


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def source(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models["tiny-qwen2"], tmp_path / "source"))


def code(canary: Path) -> str:
    """Leaves the canary wherever it is imported or built."""
    return (
        f"open({str(canary)!r}, 'w').close()\n"
        "from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer\n"
        "class Config(Qwen2Config): pass\nclass Model(Qwen2ForCausalLM): pass\nclass Tokenizer(Qwen2Tokenizer): pass\n"
    )


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.canary), "w")


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.models
@EACH
def test_s06_pickle_weights_are_refused(
    source: Path, convert: Convert, canary: Path, to: str, quantization: str
) -> None:
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(Refused, match="pickle weights"):
        convert(source, to, quantization)
    assert not canary.exists()


def with_auto_map(source: Path, canary: Path) -> None:
    (source / "modeling_it.py").write_text(code(canary))
    names = {"AutoConfig": "modeling_it.Config", "AutoModelForCausalLM": "modeling_it.Model"}
    change(source / "config.json", auto_map=names)
    change(source / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_it.Tokenizer", None]})


def with_model_file(source: Path, canary: Path) -> None:
    (source / "custom.py").write_text(code(canary))
    change(source / "config.json", model_file="custom.py")


@pytest.mark.models
@EACH
@pytest.mark.parametrize("plant", [with_auto_map, with_model_file])
def test_s06_code_of_its_own_is_refused(
    source: Path, convert: Convert, canary: Path, plant: Callable[[Path, Path], None], to: str, quantization: str
) -> None:
    plant(source, canary)
    with pytest.raises(Refused, match="run code of its author") as error:
        convert(source, to, quantization)
    assert "allow_code" in (error.value.hint or "") and not canary.exists()


@pytest.mark.models
@EACH
def test_s06_code_is_out_of_sight_even_past_the_refusal(
    source: Path, convert: Convert, canary: Path, monkeypatch: pytest.MonkeyPatch, to: str, quantization: str
) -> None:
    with_auto_map(source, canary)
    if to == "mlx":
        with_model_file(source, canary)
    monkeypatch.setattr(work, "trusted", lambda checkpoint, model, allow_code: checkpoint)
    try:
        made = Path(convert(source, to, quantization)["path"])
    except LlmctlError:
        pass
    else:
        assert not list(made.glob("*.py"))
    assert not canary.exists()


@pytest.mark.models
def test_s06_the_canary_does_sing_where_code_is_allowed(source: Path, convert: Convert, canary: Path) -> None:
    """So that the tests above would notice."""
    with_auto_map(source, canary)
    convert(source, "gguf", "f16", allow_code=True)
    assert canary.exists()


@pytest.mark.models
@EACH
def test_s06_a_template_is_carried_over_and_never_run_and_pickle_beside_the_weights_not_touched(
    source: Path, convert: Convert, canary: Path, to: str, quantization: str
) -> None:
    opens = f"open({str(canary)!r}, 'w')"
    evil = "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}{{ ''.__class__.__mro__ }}"
    evil += "{% for c in ''.__class__.__base__.__subclasses__() %}{{ c.__init__.__globals__['__builtins__'].exec(\""
    evil += opens + '") if c.__name__ == "_wrap_close" }}{% endfor %}'
    change(source / "tokenizer_config.json", chat_template=evil)
    for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth"):
        (source / name).write_bytes(pickle.dumps(Payload(canary)))
    made = Path(convert(source, to, quantization)["path"])
    assert not canary.exists()
    assert not [path for path in made.iterdir() if path.suffix in (".bin", ".pt", ".pth")]
    kept = next(made.glob("*.gguf"), made / "tokenizer_config.json").read_bytes()
    assert (evil if to == "gguf" else json.dumps(evil)).encode() in kept


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("conversion/../../canary", tarfile.REGTYPE),
        ("conversion/../../../../../../canary", tarfile.REGTYPE),
        ("conversion/link", tarfile.SYMTYPE),
        ("conversion/link", tarfile.LNKTYPE),
        ("conversion/pipe", tarfile.FIFOTYPE),
        ("conversion/device", tarfile.CHRTYPE),
    ],
)
def test_s06_an_archive_that_leads_elsewhere_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    archive = tmp_path / "it.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for member in ("convert_hf_to_gguf.py", name, "/" + name):
            info = tarfile.TarInfo(fetch.SOURCE.inside + member)
            info.type = kind if member == name else tarfile.REGTYPE
            info.linkname = str(tmp_path / "elsewhere")
            info.size = 5 if info.type == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"hello") if info.size else None)
    with pytest.raises(Refused, match="does not unpack"):
        fetch.SOURCE.unpack(archive, tmp_path / "deep" / "er" / "tree")
    outside = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert {path.parts[:3] for path in outside} <= {("it.tar.gz",), ("deep", "er", "tree")}
    assert not any(path.name == "canary" or path.is_symlink() for path in tmp_path.rglob("*"))


def test_s13_an_archive_with_another_hash_is_not_unpacked(tmp_path: Path) -> None:
    downloads = tmp_path / "converters"
    downloads.mkdir()
    with tarfile.open(downloads / fetch.SOURCE.archive, "w:gz"):
        pass
    with pytest.raises(Refused, match="has the sha256"):
        fetch.converter(tmp_path, Silent())
    assert {path.name for path in downloads.iterdir()} == {".lock", fetch.SOURCE.archive}


def test_without_a_package_index_the_archive_can_be_brought_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(LlmctlError, match="could not be fetched") as error:
        fetch.converter(tmp_path, Silent())
    assert f"put {fetch.SOURCE.archive} into {tmp_path / 'converters'}" in (error.value.hint or "")
    assert [path.name for path in (tmp_path / "converters").iterdir()] == [".lock"]


# ── the network ─────────────────────────────────────────────────────────────────────────────────────────────────────

CALLS = {
    "connect": "__import__('socket').create_connection(('127.0.0.1', int(request['port'])))",
    "name": "__import__('socket').getaddrinfo('example.org', 80)",
    "urllib": "__import__('urllib.request').request.urlopen('http://127.0.0.1:' + request['port'])",
    "datagram": "__import__('socket').socket(type=2).sendto(b'x', ('127.0.0.1', int(request['port'])))",
}


@pytest.mark.parametrize("call", CALLS)
def test_s12_a_converter_that_calls_someone_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    package = tmp_path / "others"
    package.mkdir()
    work = f"lambda request: {{'got': str({CALLS[call]})}}"
    (package / "calling.py").write_text(f"from llmctl.models.convert.processes.serving import serve\nserve({work})\n")
    monkeypatch.setattr(child, "PROCESSES", "others")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        step = child.Step("call", "calling", {"port": str(server.getsockname()[1])}, tmp_path, 1)
        with pytest.raises(ConversionFailed, match="tried to reach the network"):
            child.run(step, tmp_path, Silent())
        with pytest.raises(TimeoutError):
            server.accept()


def test_s12_s09_converters_are_told_to_stay_offline_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "LLMCTL_KEY", "http_proxy"):
        monkeypatch.setenv(name, "canary")
    seen = child.environment(tmp_path)
    assert "canary" not in seen.values()
    assert seen["HF_HUB_OFFLINE"] == seen["TRANSFORMERS_OFFLINE"] == "1"
    assert seen["HOME"] == seen["HF_HOME"] == str(tmp_path)


@pytest.mark.models
@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_s12_every_converter_works_where_there_is_no_network_at_all(
    source: Path, converters: Path, tmp_path: Path
) -> None:
    told = [arguments(source, to, q, tmp_path / "models", converters) for to, q in TARGETS]
    script = (
        "import json, sys; from llmctl.jobs.context import Silent; from llmctl.models.convert import run\n"
        "for told in json.load(sys.stdin): print(run(told, Silent())['path'])"
    )
    argv = ["unshare", "-n", sys.executable, "-c", script]
    done = subprocess.run(argv, input=json.dumps(told), text=True, capture_output=True, cwd=REPO, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == len(TARGETS)
