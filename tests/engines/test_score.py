"""Scoring a token set: the windows, the logits of every position, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from llmctl.domain import EngineSpec
from llmctl.engines import adapter, score
from llmctl.errors import Unsupported
from llmctl.models.quality import text
from tests.models.making import make_gguf


class Letters:
    """A tokenizer of single characters with a BOS of 0; its chats are wrapped in 1 and 2."""

    def __init__(self, chats):
        self.chats = chats

    def encode(self, text, *, special=False, bos=True):
        return [0] * bos + [ord(c) for c in text]

    def chat(self, messages, **more):
        return [id for m in messages for id in (1, len(m["role"]), *map(ord, m["content"]), 2)]


class Engine:
    def __init__(self, chats=True):
        self.tokenizer = Letters(chats)


def windows(passages, chats, *, count=99, length=20, template=True):
    task = {"passages": passages, "chats": chats, "count": count, "length": length}
    return score.cut(task, Engine(template))


def ids(text):
    return [ord(c) for c in text]


def test_a_window_of_every_text_comes_before_a_second_of_any():
    long, short = "abcdefghij" * 6, "0123456789" * 2
    found = windows([long, short], [["hello there, you"]])
    chat = [1, 4, *ids("hello there, you"), 2]
    assert found == [chat, [0, *ids(long[:19])], [0, *ids(short[:19])], [0, *ids(long[19:38])], [0, *ids(long[38:57])]]
    assert windows([long, short], [["hello there, you"]], count=2) == found[:2]


def test_a_short_rest_is_left_out_and_a_long_one_is_not():
    assert [len(w) for w in windows(["x" * (19 + 15)], [])] == [20]
    assert [len(w) for w in windows(["x" * (19 + 16)], [])] == [20, 17]


def test_chats_take_turns_in_the_template_or_are_lines_without_one():
    chat = ["how are you today?", "fine, thank you!", "and you?"]
    (whole,) = windows([], [chat], length=99)
    assert whole == [t for role, said in zip((4, 9, 4), chat, strict=True) for t in (1, role, *ids(said), 2)]
    assert windows([], [chat], length=99, template=False) == [[0, *ids("\n".join(chat))]]


def test_the_text_is_what_the_tiny_models_know_and_more():
    found = text.read()
    known = (Path(__file__).parents[2] / "scripts/tiny/qa.toml").read_text(encoding="utf-8")
    assert all(said in known for chat in found.chats[-4:] for said in chat)
    assert all(len(chat) % 2 == 0 for chat in found.chats[-4:])
    assert len(found.passages) == 10
    assert all(len(passage.encode()) > 500 for passage in found.passages)
    assert not any("  " in passage for passage in found.passages[:2])  # the lines are joined by single spaces


@pytest.mark.models
@pytest.mark.parametrize(
    ("engine", "model", "format"),
    [("torch", "tiny-mistral", "safetensors"), ("mlx", "tiny-phi3", "safetensors"),
     ("llamacpp", "tiny-qwen2-gguf", "gguf")],
)  # fmt: skip
def test_all_logits_equal_those_of_single_steps(tiny_models, engine, model, format):
    """In pieces of CHUNK, and the same as when the engine serves."""
    pytest.importorskip({"mlx": "mlx_lm", "llamacpp": "xllamacpp"}.get(engine, engine))
    spec = EngineSpec(engine, "m", str(tiny_models[model]), format, context=256, parallel=2, device="cpu", threads=1)
    steps = adapter(engine).load_steps(spec, lambda *_: None)
    tokens = steps.tokenizer.encode("A port on a host that holds at most one model. " * 6)[: score.CHUNK + 20]
    rows = np.concatenate(list(score.positions(steps, tokens, 0)))
    seq = steps.open()
    served = [steps.prefill(seq, tokens[:1]).row(0), *(steps.step({seq: token}).row(0) for token in tokens[1:])]
    assert rows.shape == (len(tokens), steps.identity.vocab)
    assert rows.dtype == np.float32
    assert abs(rows - np.array(served)).max() < 5e-3 * abs(rows).max()  # llama.cpp keeps keys and values in float16
    steps.free(seq)  # its tokens stay in llama.cpp's slot, and must not be taken over
    skipped = np.concatenate(list(score.positions(steps, tokens, 4)))
    assert (skipped == rows[4:]).all()
    steps.close()


def scored(tmp_path, path, **task):
    spec = EngineSpec("llamacpp", "m", str(path), "gguf", context=64, parallel=1, device="cpu", threads=1)
    told = []
    score.score({"spec": asdict(spec), "skip": 4, **task}, tmp_path, lambda *event: told.append(event))
    return json.loads((tmp_path / "score.json").read_text()), told


def test_what_is_written(tmp_path):
    given = [[5, 6, 7, 8, 9, 10, 11], [65] * 64]
    found, told = scored(tmp_path, make_gguf(tmp_path / "m.gguf"), windows=given)
    assert (found["windows"], found["vocab"], found["rows"]) == (given, 265, 2 + 59)
    assert (tmp_path / "logits.f32").stat().st_size == 4 * 265 * 61
    assert found["pieces"] == {str(id): bytes([id]).hex() for id in (*range(5, 12), 65)}  # this model's ids are bytes
    assert told[-1] == ("score", 2, 2)
    assert found["identity"]["engine"] == "llamacpp"


def test_windows_beyond_the_context_are_refused(tmp_path):
    with pytest.raises(Unsupported, match="windows of 65 tokens do not fit llamacpp's context for it of 64"):
        scored(tmp_path, make_gguf(tmp_path / "m.gguf"), windows=[[65] * 65])


def test_the_process_ends_with_the_one_that_started_it(tmp_path):
    """Whatever it waits for: here for a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "m.gguf")
    spec = EngineSpec("llamacpp", "m", str(tmp_path), "gguf")
    (tmp_path / "task.json").write_text(json.dumps({"spec": asdict(spec)}))
    argv = [sys.executable, "-m", "llmctl.engines.score", str(tmp_path / "task.json"), str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=2)
            out, _ = process.communicate(timeout=20)  # closes its stdin, as the end of the parent does
        finally:
            process.kill()
    assert (process.returncode, out) == (1, b"")


def test_the_process_answers_in_json_whatever_libraries_print(tmp_path):
    spec = EngineSpec("llamacpp", "m", str(tmp_path), "gguf")
    (tmp_path / "task.json").write_text(json.dumps({"spec": asdict(spec)}))
    argv = [sys.executable, "-m", "llmctl.engines.score", str(tmp_path / "task.json"), str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told = [json.loads(line) for line in process.stdout]
        assert process.wait() == 1
    assert told[-1]["error"]["code"] == "unsupported"
    assert "holds no GGUF models" in told[-1]["error"]["message"]
