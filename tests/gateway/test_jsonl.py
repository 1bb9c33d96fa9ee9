"""handles.jsonl: the exact shape, byte-stable, and each mistake with its line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmctl.gateway import jsonl, naming
from llmctl.gateway.registry import Handle, Registry, Replica

GPT = Handle("mlx-gpt-oss-120b-mxfp4-q4", (Replica("studio", 8100, "gpt-oss-120b", "mlx"),))
EXAMPLE = (
    '{"handle":"mlx-gpt-oss-120b-mxfp4-q4","kind":"model","invoke":"openai-chat","managed_by":"launchd",'
    '"endpoint_ref":"ep_mlx_slot_8100","selector":{"model":"mlx-gpt-oss-120b-mxfp4-q4"}}'
)


def of(*handles: Handle) -> Registry:
    return Registry({one.name: one for one in handles})


def test_the_example_of_the_system_that_it_replaces() -> None:
    assert jsonl.export(of(GPT), {"studio": "launchd-system"}) == EXAMPLE + "\n"
    (line,), mistakes = jsonl.parse(EXAMPLE.encode())
    assert not mistakes and line.text() == EXAMPLE


def test_lines_are_in_the_order_of_names_and_the_same_each_time() -> None:
    deep = Handle("deep", (Replica("gpu-1", 8101, "m", "torch"), Replica("gpu2", 8101, "m", "torch")), group="deep")
    text = jsonl.export(of(GPT, deep, Handle("empty")), {"gpu-1": "systemd"})
    assert text == jsonl.export(of(deep, GPT), {"gpu-1": "systemd"})
    rows = [json.loads(row) for row in text.splitlines()]
    assert [row["handle"] for row in rows] == ["deep", GPT.name]
    assert rows[0]["endpoint_ref"] == "ep_gpu_1_torch_slot_8101" and "notes" not in rows[0]
    assert rows[1]["managed_by"] == "manual"
    assert not jsonl.parse(text.encode())[1]
    extra = json.loads(jsonl.sidecar(of(deep), text))
    assert {"replicas", "fallbacks", "group", "tags", "technique"} <= set(extra["handles"]["deep"])
    assert extra["sha256"] == jsonl.digest(text.encode())


def test_lines_of_others_are_among_them_but_for_a_name_that_is_a_handle() -> None:
    tool = jsonl.Line("calendar", "callable", "mcp-tool", "docker", "ep_calendar", {"b": 1, "a": 2}, "each day")
    taken = replace(tool, handle=GPT.name)
    text = jsonl.export(of(GPT), {}, [tool, taken])
    assert [line.handle for line in jsonl.parse(text.encode())[0]] == ["calendar", GPT.name]
    assert text.splitlines()[0] == tool.text() and '"notes":"each day"' in text and '{"b":1,"a":2}' in text


def test_notes_and_the_way_of_a_handle_are_in_its_line() -> None:
    text = jsonl.export(of(replace(GPT, notes="old", invoke="openai-embeddings")), {})
    assert json.loads(text)["notes"] == "old" and json.loads(text)["invoke"] == "openai-embeddings"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (EXAMPLE[:-1] + ',"kind":"model"}', "'kind' twice"), (EXAMPLE.replace("8100", "8100\\ud800"), "surrogate"),
        (EXAMPLE.replace("{", "[" * 500, 1), "not JSON"), (EXAMPLE.replace('"mlx', 'NaN,"x', 1), "NaN"),
    ],
)  # fmt: skip
def test_what_two_parsers_would_read_differently_is_a_mistake(line: str, says: str) -> None:
    lines, (mistake, *_) = jsonl.parse(line.encode())
    assert not lines and says in mistake.what
    assert "not UTF-8" in jsonl.parse(b'{"handle": "\xff"}')[1][0].what


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"handle": "A.b"}, "a-z, 0-9 and -"), ({"handle": 1}, "a-z, 0-9 and -"), ({"kind": "x"}, "model, callable"),
        ({"invoke": "x"}, "openai-chat"), ({"managed_by": "cron"}, "systemd"), ({"endpoint_ref": "a b"}, "0-9 and _"),
        ({"selector": 1}, "an object or null"), ({"notes": 1}, "a text"), ({"port": 1}, "unknown key 'port'"),
    ],
)  # fmt: skip
def test_a_mistake_has_its_line(change: dict[str, object], says: str) -> None:
    lines, (mistake,) = jsonl.parse(f"\n{json.dumps({**json.loads(EXAMPLE), **change})}\r\n".encode())
    assert not lines and mistake.line == 2 and says in mistake.what


def test_what_is_missing_no_json_or_there_twice() -> None:
    _, mistakes = jsonl.parse(b'{"handle":"a"}\n{\n[]\n')
    assert [m.line for m in mistakes] == [1] * 5 + [2, 3]
    other = json.dumps({**json.loads(EXAMPLE), "handle": "other"})
    lines, mistakes = jsonl.parse(f"{EXAMPLE}\n{EXAMPLE}\n{other}\n".encode())
    assert mistakes[0].what.endswith("is on line 1 already") and [line.handle for line in lines] == [GPT.name]
    assert [m.line for m in mistakes] == [2, 2, 3]


def named(name: str, engine: str = "torch", model: str = "qwen2.5-7b", **fields: object) -> list[str]:
    return list(naming.problems(Handle(name, (Replica("h", 8101, model, engine),), **fields)))  # type: ignore[arg-type]


def test_a_prefix_is_checked_against_engine_and_technique() -> None:
    assert not named("qwen2-5-7b") and not named("fast") and not named("fast", "mlx")
    assert not named("mlx-qwen2-5-7b-4bit", "mlx") and not named("ov-qwen2-5-7b", "openvino")
    assert "promises the engine mlx, and h:8101 runs torch" in named("mlx-qwen2-5-7b")[0]
    assert not named("mlx-qwen3-235b-4bit-a22b-instruct-2507", "mlx", "qwen3-235b-a22b-instruct-2507")
    assert not named("mlx-gemma-3-27b-4bit-it-qat", "mlx", "gemma-3-27b-it-qat")
    assert not list(naming.problems(GPT)) and not named("mlx-qwen2-5-7b-4bit", "mlx", "qwen2.5-7b-4bit")
    assert named("mlx-qwen2-5-7b-instruct", "mlx"), "another base model"
    odd = Handle("mlx-big-one", (Replica("h", 8101, "qwen2.5-7b", "mlx"),))
    assert list(naming.problems(odd)) and not list(naming.problems(odd, {"mlx-big-one": "qwen2.5-7b"}.get))
    assert "which is qwen2-5-7b on h:8101" in named("mlx-llama", "mlx")[0]
    assert "declares none" in named("opt-quick-cot")[0]
    assert not named("opt-quick-cot", technique="cot", tier="quick")
    assert not named("opt-deep-code", intent="code", tier="deep")
    assert "opt-deep-cot" in named("opt-quick-cot", technique="cot", tier="deep")[0]
    assert "begins with opt-" in named("fast", technique="cot")[0]
