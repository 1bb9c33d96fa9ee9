"""registry.json is read with every mistake named at its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.models.registry import places, reading
from llmctl.models.registry.shape import Registry
from tests.models.registry.fixtures import GPT, Run, change, files_of

BROKEN: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "a future version": (change("version", 3), "/version", "a newer tool"),
    "no version beside lanes": (change("version", ...), "/version", "must be 1 or 2"),
    "a version in words": (change("version", "2"), "/version", "must be 1 or 2"),
    "models in a list": (change("models", []), "/models", "must be an object, not an array"),
    "a model that is a text": (change(f"models.{GPT}", "x"), f"/models/{GPT}", "not a string"),
    "no format": (change(f"models.{GPT}.format", ...), f"/models/{GPT}", "has no format"),
    "another format": (change(f"models.{GPT}.format", "onnx"), f"/models/{GPT}/format", "mlx or gguf"),
    "no cache_path": (change(f"models.{GPT}.cache_path", None), f"/models/{GPT}", "has no cache_path"),
    "a port too high": (change(f"models.{GPT}.port", 70000), f"/models/{GPT}/port", "a port number"),
    "a port that is true": (change(f"models.{GPT}.port", True), f"/models/{GPT}/port", "a port number"),
    "a context of 0": (change(f"models.{GPT}.context_length", 0), f"/models/{GPT}/context_length", "1 or more"),
    "a time of text": (
        change(f"models.{GPT}.startup_timeout_seconds", "9"), f"/models/{GPT}/startup_timeout_seconds", "seconds",
    ),
    "a vllm in a list": (change(f"models.{GPT}.vllm", []), f"/models/{GPT}/vllm", "an object"),
    "a lane under another port": (change("lanes.8100.port", 8101), "/lanes/8100/port", "own port"),
    "a target of text": (change("lanes.8100.desired_target", GPT), "/lanes/8100/desired_target", "an object or null"),
    "a target of nothing": (change("lanes.8100.desired_target", {}), "/lanes/8100/desired_target", "no target_slug"),
    "an odd state": (change("lanes.8100.health_state", "ok"), "/lanes/8100/health_state", "one of down"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_of_shape_is_refused_at_its_place(
    case: str, run: Run, registry: Callable[..., Path], folder: Path
) -> None:
    edit, where, says = BROKEN[case]
    path = registry("v2", edit)
    code, answer = run("import", path)
    found = next(f for f in answer["data"]["findings"] if f["where"] == where)
    assert code == 1 and found["refused"] and says in found["message"]
    key = where.rsplit("/", 1)[-1]
    assert f'"{key}"' in path.read_text().splitlines()[found["line"] - 1] or case == "no version beside lanes"
    assert not (folder / "models.toml").exists()


@pytest.mark.parametrize("name", ["../x", "a\nb", "x" * 300, "A-B", "a--b", "-rf", "a b", "", "a/b", "a.b", "a\x00"])
def test_s5_unsafe_slugs_are_refused(
    name: str, run: Run, registry: Callable[..., Path], folder: Path, home: Path
) -> None:
    before = files_of(folder, home)
    for edit in (
        lambda data: data["models"].update({name: data["models"][GPT]}),
        lambda data: data["lanes"]["8100"]["desired_target"].update(target_slug=name),
    ):
        code, answer = run("import", registry("v2", edit))
        assert code == 1 and any("not a slug" in f["message"] and f["refused"] for f in answer["data"]["findings"])
    assert files_of(folder, home) == before


@pytest.mark.parametrize("key", ["model_id", "served_model_name", "repo_id", "tool_call_parser"])
@pytest.mark.parametrize("name", ["../x", "a\nb", "x" * 300, "\x1b[2J", " "])
def test_s5_unsafe_names_are_refused(
    key: str, name: str, run: Run, registry: Callable[..., Path], folder: Path
) -> None:
    code, answer = run("import", registry("v2", change(f"models.{GPT}.{key}", name)))
    assert code == 1 and answer["data"]["findings"][0]["where"] == f"/models/{GPT}/{key}"
    assert not (folder / "models.toml").exists()


RAW: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b" \n", 1, "is empty"),
    "half": (b'{"version": 2,\n "models": {', 2, "is not JSON"),
    "not a number": (b'{"version": 2,\n "models": NaN}', 1, "NaN"),
    "too large a number": (b'{"version": 1e999}', 1, "too large"),
    "digits": (b'{"version": ' + b"9" * 5000 + b"}", 1, "too many digits"),
    "a key twice": (b'{"version": 2, "models": {\n\n"a": {},\n"b": 1, "a": {}}}', 4, "twice"),
    "deep": (b"[" * 200_000, 1, "nested deeper"),
    "deep and whole": (b"[" * 500 + b"]" * 500, 1, "nested deeper"),
    "latin-1": (b'{"version": 2,\n "x": "\xe9"}', 2, "not UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", 1, "byte order mark"),
    "half a pair": (b'{"version": 1, "models": {"\\ud800": {}}}', 1, "surrogate"),
    "a list": (b"[]", 1, "must be an object"),
}


@pytest.mark.parametrize("case", RAW)
def test_what_is_no_registry_is_a_finding(case: str, run: Run, tmp_path: Path) -> None:
    data, line, says = RAW[case]
    (tmp_path / "r.json").write_bytes(data)
    for verb in ("check", "import"):
        code, answer = run(verb, tmp_path / "r.json")
        found = answer["data"]["findings"]
        assert code == 1 and len(found) == 1
        assert says in found[0]["message"] and found[0]["line"] == line


def test_a_huge_file_is_refused_unread(tmp_path: Path, run: Run) -> None:
    with open(tmp_path / "r.json", "wb") as file:
        file.truncate(2**34)  # a hole: nothing of it is on the disk
    code, answer = run("check", tmp_path / "r.json")
    assert code == 1 and "larger than 16 MiB" in answer["data"]["findings"][0]["message"]


def test_a_file_that_is_not_there_is_a_mistake_of_the_command(tmp_path: Path, run: Run) -> None:
    assert run("import", tmp_path / "none.json")[0] == 2
    assert run("check", tmp_path)[0] == 2


def test_a_key_twice_is_named_by_its_pointer() -> None:
    found = reading.read(b'{"version": 2, "models": {"a": {"port": 1,\n "port": 2}}}').findings
    assert [(f.where, f.line) for f in found] == [("/models/a/port", 2)]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=25,
    ),
    st.sampled_from([None, 1, "\t"]),
)
@settings(deadline=None)
def test_every_value_is_found_on_its_line(value: Any, indent: Any) -> None:
    text = json.dumps(value, indent=indent)
    expected: dict[str, Any] = {}

    def walk(item: Any, path: list[str | int]) -> None:
        expected[places.pointer(path)] = item
        inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, part in inner:
            walk(part, [*path, key])

    walk(value, [])
    found = places.lines(text)
    assert set(found) == set(expected)
    rows = text.splitlines() if indent is None else text.split("\n")
    for where, line in found.items():
        if where and indent:
            item, key = expected[where], where.rsplit("/", 1)[-1]
            start = json.dumps(item, indent=indent).split("\n")[0]
            assert rows[line - 1].strip().rstrip(",").endswith(start), (where, key)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_reading_never_raises(data: bytes) -> None:
    found = reading.read(data)
    assert found.findings or found.registry == Registry({}, {}, found.registry.version)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 70000) | st.sampled_from(["mlx", "a-b", "../x", ""]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["port", "a-b", "8100"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*reading.KNOWN, "vllm"]), JSON),
    st.dictionaries(st.sampled_from(["8100", "x"]), JSON),
)
@settings(deadline=None)
def test_any_json_in_its_places_is_read_or_found(entry: Any, lanes: Any) -> None:
    reading.read(json.dumps({"version": 2, "models": {"a-b": entry}, "lanes": lanes}).encode())
