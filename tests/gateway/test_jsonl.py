"""handles.jsonl: the exact shape, byte-stable, and each mistake with its line."""

from __future__ import annotations

import json

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
    (line,), mistakes = jsonl.parse(EXAMPLE)
    assert not mistakes and line.text() == EXAMPLE


def test_lines_are_in_the_order_of_names_and_the_same_each_time() -> None:
    deep = Handle("deep", (Replica("gpu-1", 8101, "m", "torch"), Replica("gpu2", 8101, "m", "torch")), group="deep")
    text = jsonl.export(of(GPT, deep, Handle("empty")), {"gpu-1": "systemd"})
    assert text == jsonl.export(of(deep, GPT), {"gpu-1": "systemd"})
    rows = [json.loads(row) for row in text.splitlines()]
    assert [row["handle"] for row in rows] == ["deep", GPT.name]
    assert rows[0]["endpoint_ref"] == "ep_gpu_1_torch_slot_8101" and "2 replicas" in rows[0]["notes"]
    assert rows[1]["managed_by"] == "manual" and "notes" not in rows[1]
    assert not jsonl.parse(text)[1]
    assert set(json.loads(jsonl.sidecar(of(deep)))["deep"]) >= {"replicas", "fallbacks", "group", "tags", "technique"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"handle": "A.b"}, "a-z, 0-9 and -"), ({"handle": 1}, "a-z, 0-9 and -"), ({"kind": "x"}, "model, callable"),
        ({"invoke": "x"}, "openai-chat"), ({"managed_by": "cron"}, "systemd"), ({"endpoint_ref": "a b"}, "0-9 and _"),
        ({"selector": 1}, "an object or null"), ({"notes": 1}, "a text"), ({"port": 1}, "unknown key 'port'"),
    ],
)  # fmt: skip
def test_a_mistake_has_its_line(change: dict[str, object], says: str) -> None:
    lines, (mistake,) = jsonl.parse(f"\n{json.dumps({**json.loads(EXAMPLE), **change})}\n")
    assert not lines and str(mistake).startswith("handles.jsonl:2: ") and says in mistake.what


def test_what_is_missing_no_json_or_there_twice() -> None:
    _, mistakes = jsonl.parse('{"handle":"a"}\n{\n[]\n')
    assert [m.line for m in mistakes] == [1] * 5 + [2, 3]
    other = json.dumps({**json.loads(EXAMPLE), "handle": "other"})
    _, mistakes = jsonl.parse(f"{EXAMPLE}\n{EXAMPLE}\n{other}\n")
    assert mistakes[0].what.endswith("is on line 1 already")
    assert [m.line for m in mistakes] == [2, 2, 3]


def named(name: str, engine: str = "torch", model: str = "qwen2.5-7b", **fields: object) -> list[str]:
    return list(naming.problems(Handle(name, (Replica("h", 8101, model, engine),), **fields)))  # type: ignore[arg-type]


def test_a_prefix_is_checked_against_engine_and_technique() -> None:
    assert not named("qwen2-5-7b") and not named("fast") and not named("fast", "mlx")
    assert not named("mlx-qwen2-5-7b-4bit", "mlx") and not named("ov-qwen2-5-7b", "openvino")
    assert "promises the engine mlx, and h:8101 runs torch" in named("mlx-qwen2-5-7b")[0]
    assert "which is qwen2-5-7b on h:8101" in named("mlx-llama", "mlx")[0]
    assert "declares none" in named("opt-quick-cot")[0]
    assert not named("opt-quick-cot", technique="cot", tier="quick")
    assert not named("opt-deep-code", intent="code", tier="deep")
    assert "opt-deep-cot" in named("opt-quick-cot", technique="cot", tier="deep")[0]
    assert "begins with opt-" in named("fast", technique="cot")[0]
