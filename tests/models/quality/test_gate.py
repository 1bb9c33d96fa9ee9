"""The gate over real engines in their own processes: verdicts, refusals, and what is left behind (nothing)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from llmctl import backends, catalog
from llmctl.backends import cpu
from llmctl.catalog import QualityLimit
from llmctl.errors import BadCheckpoint, DoesNotFit, LlmctlError, LoadFailed, Unsupported
from llmctl.jobs.context import Cancelled, Silent
from llmctl.models import quality
from llmctl.models.checkpoint import inspect
from llmctl.models.quality import gate, scoring
from llmctl.models.quality.scoring import Scores
from tests.models.making import make_gguf
from tests.models.quality import damage

LIMITS = catalog.load().quality
FEW = 6  # windows: the five chats and a passage

pytestmark = pytest.mark.models


def processes(mark):
    """The pids of processes with `mark` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(mark).encode() in path.read_bytes() and int(path.parts[2]) != os.getpid():
                found.append(int(path.parts[2]))
    return found


@pytest.fixture
def check(tmp_path):
    """check(source, target) → the report on FEW windows; the scratch folder must be empty afterwards."""

    def run(source, target, limit=LIMITS[8], job=None, **options):
        try:
            return quality.check(
                source, target, limit, job or Silent(), **{"windows": FEW, "scratch": tmp_path, **options}
            )
        finally:
            assert not list(tmp_path.glob("llmctl-quality-*"))
            assert not processes(tmp_path)

    return run


# ── verdicts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_files_are_exactly_equal(check, tiny_models):
    report = check(tiny_models["tiny-llama-gguf"], tiny_models["tiny-llama-gguf"], QualityLimit(16, 0.0, 1.0))
    found = report.metrics
    assert report.passed and not report.why
    assert (found.mean_kl, found.max_kl, found.top1) == (0.0, 0.0, 1.0)
    assert found.source_perplexity == found.target_perplexity
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["metrics"]["tokens"] == found.tokens > 300


def test_a_gguf_is_its_safetensors_in_half_precision(check, tiny_models):
    report = check(tiny_models["tiny-qwen2"], tiny_models["tiny-qwen2-gguf"], LIMITS[16])
    assert report.passed, report.why
    assert report.metrics.mean_kl < 1e-4
    assert (report.source.engine, report.source.dtype) == ("torch", "float32")
    assert (report.target.engine, report.target.format, report.target.vocab) == ("llamacpp", "gguf", 1024)
    assert report.windows == FEW and report.metrics.known_windows == 4


def test_eight_bits_of_mlx_pass_and_a_wrong_order_of_layers_fails(check, tiny_models, tmp_path):
    mlx_lm = pytest.importorskip("mlx_lm")
    with contextlib.redirect_stdout(io.StringIO()):
        mlx_lm.convert(str(tiny_models["tiny-qwen2"]), str(tmp_path / "mlx"), quantize=True, q_bits=8)
    good = check(tiny_models["tiny-qwen2-gguf"], tmp_path / "mlx")
    assert good.passed, good.why
    assert (good.target.engine, good.target.dtype) == ("mlx", "8-bit")
    bad = check(tmp_path / "mlx", tiny_models["tiny-qwen2-shuffled"], LIMITS[3])
    assert not bad.passed
    assert bad.why.startswith("the mean KL divergence of ")
    assert bad.metrics.mean_kl > 1
    assert bad.text == good.text


def test_nan_weights_fail_without_an_error(check, tiny_models, tmp_path):
    poisoned = damage.copied(tiny_models["tiny-llama"], tmp_path / "poisoned", damage.poisoned)
    report = check(tiny_models["tiny-llama-gguf"], poisoned, QualityLimit(2, 1e9, 0.0))
    assert (report.passed, report.why) == (False, "the logits of the target are not finite")
    assert json.dumps(asdict(report), allow_nan=False)


def test_logits_that_turn_out_not_finite_fail(check, tmp_path):
    good, bad = make_gguf(tmp_path / "good.gguf"), make_gguf(tmp_path / "bad.gguf", poison=True)
    report = check(good, bad, QualityLimit(2, 1e9, 0.0), length=32)
    assert not report.passed
    assert report.why.startswith("the logits of the target are not finite at ")
    assert check(bad, good, QualityLimit(2, 1e9, 0.0), length=32).why.startswith("the logits of the source")


# ── what can be compared, and with which text ───────────────────────────────────────────────────────────────────────


def test_a_source_without_a_readable_tokenizer_is_scored_by_ids_of_the_target(check, tiny_models, tmp_path):
    def nothing(weights, config):
        pass

    broken = damage.copied(tiny_models["tiny-qwen2"], tmp_path / "broken", nothing)
    (broken / "tokenizer.json").write_text("{}")
    job = Silent()
    report = check(broken, tiny_models["tiny-qwen2-gguf"], LIMITS[16], job)
    assert report.passed, report.why
    assert "the target's tokenizer" in job.notes[0]


def scores(vocab=100, tokenizer_vocab=100, pieces=None):
    """Scores with just the vocabulary in them."""
    return Scores(Path(), 0, vocab, [], tokenizer_vocab, pieces or {}, {}, 0.0)


def test_vocabularies():
    words = {"5": b"the".hex(), "7": ""}
    gate.check_vocabularies(scores(pieces=words), scores(pieces=words))
    gate.check_vocabularies(scores(128, 100), scores(100, 100))
    gate.check_vocabularies(scores(128, 0), scores(112, 100))
    gate.check_vocabularies(scores(pieces=words), scores(pieces={"5": "", "7": b"x".hex()}))  # specials add no text
    with pytest.raises(quality.Incomparable, match="100 ids, the target 64"):
        gate.check_vocabularies(scores(100, 100), scores(64, 100))
    with pytest.raises(quality.Incomparable, match="id 5 is 'the' in the source and 'and' in the target"):
        gate.check_vocabularies(scores(pieces=words), scores(pieces={"5": b"and".hex(), "7": ""}))


def test_another_vocabulary_is_an_error(check, tiny_models, tmp_path):
    with pytest.raises(quality.Incomparable, match="the target only 265 ids"):
        check(tiny_models["tiny-qwen2-gguf"], make_gguf(tmp_path / "other.gguf"))
    with pytest.raises(quality.Incomparable, match="different vocabularies: id"):
        check(tiny_models["tiny-llama-gguf"], tiny_models["tiny-qwen2-gguf"])


def test_windows_fit_the_shorter_context(check, tmp_path):
    long, short = make_gguf(tmp_path / "long.gguf"), make_gguf(tmp_path / "short.gguf", context=48)
    report = check(long, short, QualityLimit(16, 0.0, 1.0))
    assert report.passed, report.why
    assert report.windows == FEW * gate.LENGTH // 48
    with pytest.raises(Unsupported, match="8 tokens is too short"):
        check(long, make_gguf(tmp_path / "tiny.gguf", context=8))


def test_windows_end_before_a_sliding_window(tiny_models):
    both = inspect(tiny_models["tiny-mistral"]), inspect(tiny_models["tiny-llama-gguf"])
    assert gate.window_length(128, both) == 64
    assert gate.window_length(32, both) == 32


def test_which_engine(tiny_models, monkeypatch):
    safetensors, gguf = inspect(tiny_models["tiny-llama"]), inspect(tiny_models["tiny-llama-gguf"])
    assert (scoring.engine_of(safetensors), scoring.engine_of(gguf)) == ("torch", "llamacpp")
    monkeypatch.setattr(scoring, "find_spec", lambda name: None)
    assert scoring.engine_of(safetensors) == "mlx"


# ── refused, failed, cancelled ──────────────────────────────────────────────────────────────────────────────────────


def test_refused_where_memory_does_not_suffice(check, tiny_models, monkeypatch):
    monkeypatch.setattr(cpu, "memory", lambda: backends.Memory(2**30, 1000))
    monkeypatch.setattr(backends, "detect", lambda: "cpu")
    with pytest.raises(DoesNotFit, match=r"source takes 0\.\d GB of memory, 0\.0 GB are free") as caught:
        check(tiny_models["tiny-llama"], tiny_models["tiny-llama-gguf"])
    assert caught.value.details["free"] == 1000
    assert caught.value.hint


def test_refused_where_the_disk_does_not_suffice(check, tiny_models, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(gate.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DoesNotFit, match=f"of disk in {tmp_path}, 0.0 GB are free") as caught:
        check(tiny_models["tiny-llama-gguf"], tiny_models["tiny-llama-gguf"])
    assert caught.value.details["needed"] == 2 * 4 * FEW * gate.LENGTH * 1024


def test_what_an_engine_cannot_load_is_its_error(check, tiny_models, tmp_path):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(tiny_models["tiny-llama-gguf"].read_bytes())
    with open(torn, "r+b") as file:
        file.seek(-200_000, os.SEEK_END)
        file.truncate()
    with pytest.raises(BadCheckpoint, match=r"torn\.gguf"):
        check(tiny_models["tiny-llama-gguf"], torn)
    unknown = make_gguf(tmp_path / "unknown.gguf", architecture="novel")
    with pytest.raises(LlmctlError, match="unknown model architecture: 'novel'") as caught:
        check(unknown, tiny_models["tiny-llama-gguf"])
    assert caught.value.code == "unsupported"


class Meddling(Silent):
    """Does something when the scoring process is up."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def progress(self, stage, *others):
        self.act(stage)


def test_a_killed_scoring_process_is_an_error_with_its_log(check, tiny_models, tmp_path):
    def kill(stage):
        for pid in processes(tmp_path):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(LoadFailed, match="source: the process that scores it was killed by SIGKILL") as caught:
        check(tiny_models["tiny-llama"], tiny_models["tiny-llama-gguf"], job=Meddling(kill))
    assert "log" in caught.value.details


def test_cancelling_ends_the_scoring_process(check, tiny_models, tmp_path):
    """It is stopped, so that it cannot come to its end by itself; after a deadline it may go on, and the test fails."""
    late = []

    def go_on(pid):
        late.append(pid)
        os.kill(pid, signal.SIGCONT)

    def cancel(stage):
        (pid,) = processes(tmp_path)
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(20, go_on, [pid])
        timer.daemon = True
        timer.start()
        timers.append(timer)
        raise Cancelled

    timers = []
    with pytest.raises(Cancelled):
        check(tiny_models["tiny-llama"], tiny_models["tiny-llama-gguf"], job=Meddling(cancel))
    timers[0].cancel()
    assert not late
