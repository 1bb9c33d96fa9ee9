"""`llmctl handles …` and what people see of it and of `llmctl gateway …`: over real slots, and a real gateway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl import keys
from llmctl.cli import handles_import
from llmctl.domain import SlotSpec
from llmctl.gateway import hosts, jsonl, registry
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually
from tests.gateway.around import DEEP, FAST, LATE, Machine, machine

__all__ = ["machine"]
Capture = pytest.CaptureFixture[str]
Slots = Callable[..., RunningSlot]
Script = Callable[..., SlotSpec]
GENERATED = (jsonl.FILE, jsonl.SIDECAR)


@pytest.fixture
def files(machine: Machine) -> Iterator[Path]:
    """The folder of the configuration; afterwards as it was."""
    profile = machine.config / "profiles" / "all.toml"
    text = profile.read_text()
    yield machine.config
    profile.write_text(text)
    for name in (*GENERATED, jsonl.OTHERS):
        (machine.config / name).unlink(missing_ok=True)


def problems(machine: Machine, capsys: Capture, *words: str, code: int | None = 1) -> list[str]:
    found = machine.llmctl(capsys, "handles", "check", *words, code=code)["data"]["problems"]
    return [f"{one['where']}: {one['what']}" for one in found]


# ── list, show, sync ────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_handles_and_one(machine: Machine, capsys: Capture) -> None:
    data = machine.llmctl(capsys, "handles", "list")["data"]
    assert [one["name"] for one in data["handles"]] == [FAST, DEEP, LATE, "alpha", "beta"]
    assert (data["default"], data["problems"], data["kept"]) == (FAST, [], [])
    code, out, _ = machine.shown(capsys, "handles", "list")
    assert code == 0 and out.splitlines()[0].split() == ["HANDLE", "MODEL", "SLOTS", "ON", "DEMAND", "FALLBACKS"]
    assert out.splitlines()[1].split() == [FAST, "*", "alpha", machine.where(FAST), "-", "-"]
    assert "yes" in out.splitlines()[3]

    data = machine.llmctl(capsys, "handles", "show", DEEP)["data"]
    assert (data["handle"]["context"], data["chain"]) == (512, [DEEP])
    code, out, _ = machine.shown(capsys, "handles", "show", DEEP)
    assert code == 0 and "context: 512" in out and f"{machine.where(DEEP)} · beta · scripted" in out


def test_an_unknown_handle_names_the_nearest(machine: Machine, capsys: Capture) -> None:
    (error,) = machine.llmctl(capsys, "handles", "show", "depe", code=2)["errors"]
    assert error["code"] == "unknown_name" and "'depe'" in error["message"] and error["hint"] == "did you mean 'deep'?"


def test_what_is_synced_the_gateway_takes_up(machine: Machine, capsys: Capture, files: Path) -> None:
    profile = files / "profiles" / "all.toml"
    profile.write_text(profile.read_text().replace('handle = "fast"', 'handle = "quick"'))
    data = machine.llmctl(capsys, "handles", "sync")["data"]
    assert data["handles"][0]["name"] == "quick" and data["hash"] == registry.read(machine.home).hash
    assert "quick" in machine.gateway.status().handles
    profile.write_text(profile.read_text().replace('handle = "quick"', 'handle = "fast"'))
    assert "5 handles" in machine.shown(capsys, "handles", "sync")[1]
    assert FAST in machine.gateway.status().handles


def test_a_fallback_that_is_none_is_told_by_all_verbs(machine: Machine, capsys: Capture, files: Path) -> None:
    profile = files / "profiles" / "all.toml"
    profile.write_text(profile.read_text().replace("context = 512", 'fallbacks = ["gone"]'))
    assert problems(machine, capsys)[0] == "handle deep: it falls back to gone, which is none"
    code, out, _ = machine.shown(capsys, "handles", "list")
    assert code == 3 and "it falls back to gone" in out and "    llmctl handles list" in out


def test_what_a_profile_says_of_a_handle_is_checked_with_its_line(
    machine: Machine, capsys: Capture, files: Path
) -> None:
    profile = files / "profiles" / "all.toml"
    profile.write_text(profile.read_text().replace("context = 512", 'invoke = "openai-chart"'))
    (error,) = machine.llmctl(capsys, "handles", "list", code=2)["errors"]
    assert f"{profile}:12: slots[1].handles[0].invoke: 'openai-chart' is not one of" in error["message"]
    assert error["hint"] == "did you mean 'openai-chat'?"


# ── export, check, --fix ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_export_is_the_same_each_time_and_check_agrees(machine: Machine, capsys: Capture, files: Path) -> None:
    assert machine.llmctl(capsys, "handles", "export")["data"]["files"] == [str(files / name) for name in GENERATED]
    first = [(files / name).read_bytes() for name in GENERATED]
    lines, mistakes = jsonl.parse(first[0])
    assert [line.handle for line in lines] == sorted([FAST, DEEP, LATE, "alpha", "beta"]) and not mistakes
    assert json.loads(first[1])["handles"][DEEP]["context"] == 512
    machine.llmctl(capsys, "handles", "export")
    assert [(files / name).read_bytes() for name in GENERATED] == first
    assert problems(machine, capsys, code=0) == []
    (files / jsonl.FILE).unlink()
    assert problems(machine, capsys) == ["handles.jsonl: it is missing"]
    assert problems(machine, capsys, "--fix", code=0) == [] and (files / jsonl.FILE).read_bytes() == first[0]
    assert "5 handles, nothing is wrong" in machine.shown(capsys, "handles", "check")[1]


def test_what_differs_is_told_line_by_line_and_fixed(machine: Machine, capsys: Capture, files: Path) -> None:
    machine.llmctl(capsys, "handles", "export")
    lines, extra = files / jsonl.FILE, files / jsonl.SIDECAR
    before = lines.read_bytes(), extra.read_bytes()
    lines.write_text(lines.read_text().replace('"managed_by":"manual"', '"managed_by":"launchd"', 1) + "{\n")
    extra.write_text(extra.read_text().replace('"context": 512', '"context": 4096'))
    path = registry.path(machine.home)
    path.write_text(path.read_text().replace('"context": 512', '"context": 256'))
    assert problems(machine, capsys) == [
        "handles.jsonl:6: it is not JSON: Expecting property name enclosed in double quotes at line 1, column 2",
        'handles.jsonl: alpha: managed_by is "launchd", now "manual"',
        "handles.extra.json: deep: context is 4096, now 512",
        "the gateway's registry: deep: context is 256, now 512",
    ]
    code, out, _ = machine.shown(capsys, "handles", "check")
    assert code == 1 and "deep: context is 4096, now 512\n    llmctl handles check --fix" in out
    fixed = machine.llmctl(capsys, "handles", "check", "--fix")["data"]
    assert fixed["files"] == [str(path), str(lines), str(extra)] and fixed["problems"] == []
    assert (lines.read_bytes(), extra.read_bytes()) == before
    assert machine.llmctl(capsys, "handles", "check", "--fix")["data"]["files"] == []


def test_fix_never_touches_what_llmctl_did_not_write(machine: Machine, capsys: Capture, files: Path) -> None:
    own = jsonl.Line("mine", "model", "openai-chat", "manual", "ep_x", None).text() + "\n"
    (files / jsonl.FILE).write_text(own)
    profile = (files / "profiles" / "all.toml").read_text()
    assert problems(machine, capsys, "--fix") == ["handles.jsonl: it was not written by llmctl, which leaves it alone"]
    (error,) = machine.llmctl(capsys, "handles", "export", code=1)["errors"]
    assert error["code"] == "consent" and error["hint"] == "add --yes"
    assert (files / jsonl.FILE).read_text() == own and not (files / jsonl.SIDECAR).exists()
    assert (files / "profiles" / "all.toml").read_text() == profile
    (files / jsonl.SIDECAR).write_text('{"mine": 1}')
    assert "handles.extra.json: it was not written by llmctl" in problems(machine, capsys, "--fix")[1]
    assert (files / jsonl.SIDECAR).read_text() == '{"mine": 1}'


def test_fix_loses_no_line_of_what_is_no_slot(machine: Machine, capsys: Capture, files: Path) -> None:
    machine.llmctl(capsys, "handles", "export")
    tool = jsonl.Line("calendar", "callable", "mcp-tool", "docker", "ep_calendar", None).text()
    lines = files / jsonl.FILE
    lines.write_text(f"{lines.read_text()}{tool}\n")
    text = lines.read_text()
    found = problems(machine, capsys, "--fix")
    assert found[0] == "handles.jsonl: calendar stands only here, and would be lost" and lines.read_text() == text
    (files / jsonl.OTHERS).write_text(f"{tool}\n")
    assert problems(machine, capsys, "--fix", code=0) == [] and "calendar" in lines.read_text()


def test_a_line_of_the_others_that_makes_no_sense_is_named(machine: Machine, capsys: Capture, files: Path) -> None:
    (files / jsonl.OTHERS).write_text('\n{"handle": "x"}\n')
    (error,) = machine.llmctl(capsys, "handles", "export", code=2)["errors"]
    assert f"{files / jsonl.OTHERS}:2: kind is missing" in error["message"]
    assert any("kind is missing" in what for what in problems(machine, capsys, "--fix"))
    taken = jsonl.Line(FAST, "model", "openai-chat", "external", "ep_x", None).text()
    (files / jsonl.OTHERS).write_text(f"{taken}\n")
    assert problems(machine, capsys) == ["handles.others.jsonl: fast is a handle of a slot now"]


def test_a_registry_that_makes_no_sense_is_told_and_fixed(machine: Machine, capsys: Capture) -> None:
    path = registry.path(machine.home)
    whole = path.read_bytes()
    for nonsense in (b"{", b'{"version": 1, "data": {"version": 1, "handles": [{"name": "a"}]}}'):
        path.write_bytes(nonsense)
        (what,) = problems(machine, capsys)
        assert what.startswith("the gateway's registry: ") and str(path) in what
        assert problems(machine, capsys, "--fix", code=0) == []
        assert path.read_bytes() == whole


# ── --live ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_live_asks_the_slots_and_the_gateway(machine: Machine, capsys: Capture, files: Path) -> None:
    data = machine.llmctl(capsys, "handles", "check", "--live")["data"]
    assert data["problems"] == [] and data["not_asked"] == [f"{machine.where(LATE)}, loaded at its first request"]
    profile = files / "profiles" / "all.toml"
    profile.write_text(profile.read_text().replace("context = 512", "context = 900000"))
    spec = machine.slot(DEEP).folder.read_desired().spec
    takes = spec.engine.context if spec else 0
    machine.llmctl(capsys, "handles", "sync")
    assert problems(machine, capsys, "--live") == [
        f"handle deep: it promises 900,000 tokens, and {machine.where(DEEP)} takes {takes:,}"
    ]


def test_live_finds_what_a_gateway_does_not_list_yet(machine: Machine, capsys: Capture, files: Path) -> None:
    profile = files / "profiles" / "all.toml"
    text = profile.read_text()
    profile.write_text(text.replace('"deep"', '"depth"'))
    found = problems(machine, capsys, "--live")
    gateway = f"the gateway {machine.ports['gateway']}"
    assert found[-2:] == [f"{gateway}: it lists deep, which is none", f"{gateway}: it does not list depth"]
    assert "the gateway's registry: depth is missing" in found
    profile.write_text(text)
    machine.llmctl(capsys, "handles", "sync")
    eventually(lambda: problems(machine, capsys, "--live", code=None) == [])


def test_a_technique_that_the_engine_cannot_serve_is_refused_here(
    machine: Machine, capsys: Capture, files: Path
) -> None:
    profile = files / "profiles" / "all.toml"
    text = profile.read_text()
    for technique, says in (
        ("deepconf", "deepconf needs fork, and the engine scripted has no such thing"),
        ("deepcomf", "there is no technique 'deepcomf', did you mean 'deepconf'?"),
    ):
        profile.write_text(text.replace("context = 512", f'technique = "{technique}"'))
        assert f"handle deep: {says}" in problems(machine, capsys)
        assert f"handle deep: {says}" in problems(machine, capsys, "--live")


def test_live_finds_a_slot_that_does_not_answer(machine: Machine, capsys: Capture) -> None:
    deep = machine.where(DEEP)
    machine.slot(DEEP).kill()
    (found,) = {what for what in problems(machine, capsys, "--live") if what.startswith("handle deep")}
    assert found.startswith(f"handle deep: {deep} does not answer: ")
    machine.llmctl(capsys, "disable", deep, "--why", "new fan")
    data = machine.llmctl(capsys, "handles", "check", "--live")["data"]
    assert data["problems"] == [] and f"{deep}, which is disabled" in data["not_asked"]
    assert f"not asked: {deep}, which is disabled" in machine.shown(capsys, "handles", "check", "--live")[1]
    machine.llmctl(capsys, "enable", deep)
    machine.settled()
    assert problems(machine, capsys, "--live", code=0) == []


def test_live_brings_the_key_that_a_host_asks_for(
    slots: Slots, script: Script, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("LLMCTL_CONFIG", str(tmp_path))
    (tmp_path / "hosts.toml").write_text('[hosts.here]\ntransport = "local"\nbind = "0.0.0.0"\n')
    key = str(keys.show(home)["client"])
    open_one = Machine(home, tmp_path, {})
    assert open_one.shown(capsys, "handles", "list")[:2] == (
        0,
        'no handles; a slot of a profile has one with: handle = "NAME"\n',
    )
    slots(script("alpha"), Launch(bind="0.0.0.0"))
    assert open_one.llmctl(capsys, "handles", "check", "--live")["data"]["handles"] == ["alpha"]
    assert problems(open_one, capsys, "--fix", code=0) == [] and not registry.path(home).exists()
    open_one.llmctl(capsys, "handles", "sync")
    file = home / "gateway" / hosts.NAME
    assert hosts.read(home)["keys"] == {"here": key} and file.stat().st_mode & 0o077 == 0
    (tmp_path / "hosts.toml").write_text('[hosts.here]\ntransport = "local"\n')
    (what,) = problems(open_one, capsys, "--live")
    assert what.endswith("does not answer: GET /v1/models is answered with 401")


def test_a_slot_that_runs_another_model_or_none_is_found(machine: Machine, capsys: Capture) -> None:
    deep = machine.where(DEEP)
    machine.llmctl(capsys, "swap", deep, "alpha")
    assert f"handle deep: {deep} runs alpha, and it stands for beta" in problems(machine, capsys)
    machine.llmctl(capsys, "unload", deep)
    assert f"handle deep: {deep} runs nothing, and it stands for beta" in problems(machine, capsys)
    machine.llmctl(capsys, "profile", "load", "all")
    machine.llmctl(capsys, "handles", "sync")
    machine.settled()
    assert problems(machine, capsys, code=0) == []


# ── import ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def line(handle: str, port: int, **fields: object) -> jsonl.Line:
    """As the system that llmctl replaces has it."""
    usual = jsonl.Line(handle, "model", "openai-chat", "launchd", f"ep_mlx_slot_{port}", {"model": handle})
    return replace(usual, **fields)  # type: ignore[arg-type]


def written(folder: Path, *lines: jsonl.Line, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "old.jsonl"
    path.write_text("".join(f"{one.text()}\n" for one in lines) + more)
    return path


def test_handles_of_the_old_system_become_those_of_slots(
    machine: Machine, capsys: Capture, files: Path, tmp_path: Path
) -> None:
    tool = line("calendar", 0, kind="callable", invoke="mcp-tool", managed_by="docker", endpoint_ref="ep_calendar")
    far = line("far", 9999)
    file = written(
        tmp_path, line("quick", machine.ports[FAST], notes="from 2024"), line(FAST, machine.ports[FAST]), tool,
        line("alpha", machine.ports[FAST]), line("vectors", machine.ports[DEEP], invoke="openai-embeddings"), far,
    )  # fmt: skip
    profile = files / "profiles" / "all.toml"
    before = profile.read_text()
    dry = machine.llmctl(capsys, "handles", "import", file, "--dry-run", code=3)["data"]
    assert profile.read_text() == before and dry["written"] == [] and 'name = "quick"' in dry["texts"][str(profile)]

    data = machine.llmctl(capsys, "handles", "import", file, code=3)["data"]
    assert [(one["handle"], one["where"]) for one in data["added"]] == [
        ("quick", machine.where(FAST)), ("vectors", machine.where(DEEP))
    ]  # fmt: skip
    assert {one["handle"]: one["why"] for one in data["apart"]} == {
        "calendar": "it is called by mcp-tool", "far": "no profile has a slot ep_mlx_slot_9999"
    }  # fmt: skip
    assert Path(data["copy"]).read_bytes() == file.read_bytes()
    assert profile.read_text() == dry["texts"][str(profile)] and before.splitlines()[3] in profile.read_text()

    found = {one["name"]: one for one in machine.llmctl(capsys, "handles", "list")["data"]["handles"]}
    assert found["quick"]["notes"] == "from 2024" and found["vectors"]["invoke"] == "openai-embeddings"
    machine.llmctl(capsys, "handles", "export")
    lines = {one.handle: one for one in jsonl.parse((files / jsonl.FILE).read_bytes())[0]}
    assert (lines["calendar"], lines["far"], lines["quick"].notes) == (tool, far, "from 2024")
    more = written(tmp_path / "more", replace(tool, handle="mail", endpoint_ref="ep_mail"))
    machine.llmctl(capsys, "handles", "import", more)
    kept = jsonl.parse((files / jsonl.OTHERS).read_bytes())[0]
    assert [one.handle for one in kept] == ["calendar", "far", "mail"]
    again = machine.llmctl(capsys, "handles", "import", file)["data"]
    assert (again["added"], again["apart"], again["written"]) == ([], [], [])
    assert machine.shown(capsys, "handles", "import", file) == (0, "nothing to do\n", "")


def test_export_import_export_is_the_same_to_the_byte(
    machine: Machine, capsys: Capture, files: Path, tmp_path: Path
) -> None:
    profile = files / "profiles" / "all.toml"
    text = profile.read_text()
    rich = 'technique = "bon"\ntier = "deep"\nfallbacks = ["fast"]\ntags = ["x"]\nkeep_alive = 90.0\nnotes = "n"\n'
    rich += "price = { prompt = 0.5, completion = 2.0 }\n"
    profile.write_text(text.replace('name = "deep"\ncontext = 512\n', f'name = "opt-deep-bon"\ncontext = 512\n{rich}'))
    kept = line(
        "calendar", 0, kind="callable", invoke="http-get", endpoint_ref="ep_calendar", selector={"b": 1, "a": 2}
    )
    (files / jsonl.OTHERS).write_text(kept.text() + "\n")
    machine.llmctl(capsys, "handles", "export", tmp_path)
    first = [(tmp_path / name).read_bytes() for name in GENERATED]
    assert machine.llmctl(capsys, "handles", "import", tmp_path / jsonl.FILE)["data"]["written"] == []
    assert not (machine.home / "imported" / f"handles-{jsonl.digest(first[0])[:8]}.jsonl").exists()

    bare = text.replace('handle = "fast"\n', "").replace('handle = "late"\n', "")
    profile.write_text(bare.replace('[[slots.handles]]\nname = "deep"\ncontext = 512\n', "# mine\n"))
    (files / jsonl.OTHERS).unlink()
    done = machine.llmctl(capsys, "handles", "import", tmp_path / jsonl.FILE)["data"]
    assert [one["handle"] for one in done["added"]] == [
        "fast",
        "late",
        "opt-deep-bon",
    ] and "# mine" in profile.read_text()
    assert [one["handle"] for one in done["apart"]] == ["calendar"]
    machine.llmctl(capsys, "--yes", "handles", "export", tmp_path)
    assert [(tmp_path / name).read_bytes() for name in GENERATED] == first


def test_bad_lines_are_named_by_number_and_nothing_is_written(
    machine: Machine, capsys: Capture, files: Path, tmp_path: Path
) -> None:
    before = (files / "profiles" / "all.toml").read_text()
    file = written(tmp_path, line("quick", machine.ports[FAST]), line("quick", machine.ports[DEEP]), more="{}\n[\n")
    found = machine.llmctl(capsys, "handles", "import", file, code=1)
    whats = [(one["where"], one["what"]) for one in found["data"]["problems"]]
    assert (
        whats[0] == ("line 2", "the handle quick is on line 1 already")
        and len([w for w, _ in whats if w == "line 3"]) == 6
    )
    assert whats[-1][0] == "line 4" and found["errors"][0]["code"] == "refused"
    assert (files / "profiles" / "all.toml").read_text() == before and not (files / jsonl.OTHERS).exists()
    assert "line 2: the handle quick" in machine.shown(capsys, "handles", "import", file)[1]


@pytest.mark.parametrize("which", ["missing", "folder", "hosts", "profiles", "large"])
def test_what_cannot_be_meant_is_a_usage_error(
    which: str, machine: Machine, capsys: Capture, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles_import, "LIMIT", 2**10)
    file = written(tmp_path, line("quick", machine.ports[FAST]), more=" " * 2**10 if which == "large" else "")
    words, says = {
        "missing": ([tmp_path / "none"], "cannot be read"), "folder": ([tmp_path], "cannot be read"),
        "hosts": ([file, "--host", "hre"], "no host 'hre'"), "profiles": ([file, "--profile", "al"], "no profile 'al'"),
        "large": ([file], "is larger than"),
    }[which]  # fmt: skip
    (error,) = machine.llmctl(capsys, "handles", "import", *words, code=2)["errors"]
    assert error["hint"] and says in error["message"]


def test_a_handle_of_another_slot_is_not_taken_away(
    machine: Machine, capsys: Capture, files: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, line(FAST, machine.ports[DEEP]))
    (problem,) = machine.llmctl(capsys, "handles", "import", file, code=1)["data"]["problems"]
    assert problem["what"].startswith(f"it stands for {machine.where(FAST)} here, and in the file for ep_mlx_slot_")


def test_a_sidecar_that_makes_no_sense_is_named(machine: Machine, capsys: Capture, files: Path, tmp_path: Path) -> None:
    file = written(tmp_path, line("quick", machine.ports[FAST]))
    extra = tmp_path / jsonl.SIDECAR
    extra.write_text("{")
    (error,) = machine.llmctl(capsys, "handles", "import", file, code=2)["errors"]
    assert str(extra) in error["message"]
    for wrong, says in (({"context": "x"}, "context = 'x'"), ({"tags": 5}, "tags = 5"), ({"context": 0}, "1 or more")):
        extra.write_text(json.dumps({"handles": {"quick": wrong}}))
        (problem,) = machine.llmctl(capsys, "handles", "import", file, code=1)["data"]["problems"]
        assert says in problem["what"], problem


def test_a_profile_that_is_not_written_as_tables_is_left_alone(
    machine: Machine, capsys: Capture, files: Path, tmp_path: Path
) -> None:
    profile = files / "profiles" / "all.toml"
    profile.write_text(f'slots = [{{ port = {machine.ports[FAST]}, model = "alpha" }}]\n')
    file = written(tmp_path, line("quick", machine.ports[FAST]))
    (problem,) = machine.llmctl(capsys, "handles", "import", file, code=1)["data"]["problems"]
    assert "not written as [[slots]] tables" in problem["what"] and problem["hint"] == "change it by hand"
    profile.write_text(f'[[slots]]\nport = {machine.ports[FAST]}\nmodel = "alpha"\nhandles = [{{ name = "a" }}]\n')
    (problem,) = machine.llmctl(capsys, "handles", "import", file, code=1)["data"]["problems"]
    assert f"{profile}:4: " in problem["what"] and "[[slots.handles]]" in problem["what"]


# ── what people see of the gateway ──────────────────────────────────────────────────────────────────────────────────


def test_people_see_how_the_gateway_is(machine: Machine, capsys: Capture) -> None:
    port = machine.ports["gateway"]
    code, out, _ = machine.shown(capsys, "gateway", "up", "--port", port)
    assert (
        code == 0 and out == f"http://127.0.0.1:{port}  gateway  runs already, and takes the handles up · 5 handles\n"
    )
    code, out, _ = machine.shown(capsys, "gateway", "status", "--port", port)
    head, columns, first, *_ = out.splitlines()
    assert code == 0 and f"port {port} · gateway · ready" in head and "5 handles" in head
    assert columns.split() == ["SLOT", "MODEL", "STANDS", "ACTIVE", "TOKENS", "WHY"]
    assert first.split()[:3] == [machine.where(FAST), "alpha", "warm"] and "on demand" in out


def test_people_see_the_keys_of_clients(machine: Machine, capsys: Capture) -> None:
    assert machine.shown(capsys, "gateway", "keys", "list")[1].startswith("no keys; ")
    words = ("--handle", "fa*", "--requests", 60, "--quota", 1000, "--per", "day")
    _, out, _ = machine.shown(capsys, "gateway", "keys", "add", "ann", *words)
    assert out.startswith("ann: llmctl-") and "handles fa*, 60 requests a minute, 1000 tokens a day" in out
    _, listed, _ = machine.shown(capsys, "gateway", "keys", "list")
    head, ann = (line.split() for line in listed.splitlines())
    assert head == ["KEY", "MADE", "REVOKED", "TOKENS", "MAY"] and out.split()[1] not in listed
    assert (ann[0], ann[2:5]) == ("ann", ["-", "0", "handles"])
    assert machine.shown(capsys, "gateway", "keys", "revoke", "ann")[1] == "ann: revoked\n"
