"""The first host's end of a spread, over processes that stand for other hosts' shares and say what they are told to."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmctl import config
from llmctl import spread as members
from llmctl.cli.reach import members as members_of
from llmctl.config import Host
from llmctl.domain import ENGINE, EngineSpec, Event, Failure
from llmctl.engines.spread import SpreadSteps
from llmctl.engines.spread_calls import arguments, perform
from llmctl.engines.spread_crew import Crew
from llmctl.errors import LlmctlError, UnknownName, UsageError
from llmctl.models import fit
from llmctl.models.checkpoint import Checkpoint, inspect
from llmctl.slots import spread
from llmctl.spread import Member
from tests.conftest import eventually
from tests.engines.toy import ToyEngine

SHARE = """#!{python}
import json, sys, time
def say(**head): print(json.dumps(head), flush=True)
say(t="beat"); say(t="here", place=["127.0.0.1", 1]); say(t="ready")
for line in sys.stdin:
    head = json.loads(line)
    if head["t"] == "call":
        open({calls!r}, "a").write(line)
    if head["t"] == "call" and head["name"] in {raises!r}:
        say(t="raised", n=head["n"], error=dict(code="failed", message="no memory there"))
    if head["t"] == "call" and head["name"] == {ends!r}:
        sys.exit(3)
"""
"""A program named ssh: whatever host it is to reach, this is what runs there."""


class Far:
    """One other host, whose share fails at some calls; `events` is what the engine said."""

    def __init__(self, folder: Path, raises: tuple[str, ...] = (), ends: str | None = None) -> None:
        self.calls, self.events = folder / "calls", list[Event]()
        program = folder / "ssh"
        program.write_text(SHARE.format(python=sys.executable, calls=str(self.calls), raises=raises, ends=ends))
        program.chmod(0o755)
        hosts = (Member("h1", "127.0.0.1"), Member("h2", "127.0.0.1", path="/there"))
        spec = EngineSpec("torch", "m", "/here", "safetensors", spread=tuple(host.to_dict() for host in hosts))
        self.crew = Crew(spec, hosts, lambda number: ["host", "rank"], self.events.append)
        self.crew.places()
        self.crew.ready()
        self.steps: Any = SpreadSteps(ToyEngine(), self.crew)

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.calls.read_text().splitlines()] if self.calls.exists() else []

    def ended(self) -> dict[str, Any]:
        """Why the engine ended."""
        (failure,) = eventually(lambda: [e for e in self.events if isinstance(e, Failure) and e.id == ENGINE])
        return dict(failure.error)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Far]]:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = list[Far]()

    def make(*raises: str, ends: str | None = None) -> Far:
        made.append(Far(tmp_path, raises, ends))
        return made[-1]

    yield make
    for one in made:
        one.crew.close()


def test_each_call_is_made_on_every_host_in_the_same_order(far: Callable[..., Far]) -> None:
    there = far()
    seq = there.steps.open()
    there.steps.prefill(seq, (3, 4))
    there.steps.step({seq: 5})
    there.steps.free(seq)
    calls = eventually(lambda: len(there.told()) == 4 and there.told())
    assert [(call["name"], call["args"], call["is"]) for call in calls] == [
        ("open", [None], seq), ("prefill", [seq, [3, 4]], None), ("step", [[[seq, 5]]], None), ("free", [seq], None),
    ]  # fmt: skip
    assert not there.events


def test_f14_a_share_that_fails_alone_ends_the_engine_with_its_host_named(far: Callable[..., Far]) -> None:
    there = far("step")
    seq = there.steps.open()
    there.steps.prefill(seq, (3,))
    there.steps.step({seq: 5})
    error = there.ended()
    assert error["host"] == "h2" and "no memory there" in error["message"]


def test_f01_a_share_that_ends_ends_the_engine(far: Callable[..., Far]) -> None:
    there = far(ends="prefill")
    there.steps.prefill(there.steps.open(), (3,))
    error = there.ended()
    assert error["host"] == "h1" and "h2" in error["message"] and error["code"] == "unreachable"


def test_what_all_hosts_refuse_alike_ends_one_request_only(far: Callable[..., Far]) -> None:
    there = far("prefill")
    with pytest.raises(KeyError):
        there.steps.prefill(999, (3,))  # no such sequence, here or there
    assert not there.events


def test_what_fails_here_alone_ends_the_engine(far: Callable[..., Far], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmctl.engines.spread_crew.TOGETHER", 0.2)
    there = far()
    with pytest.raises(KeyError):
        there.steps.prefill(999, (3,))
    assert there.ended()["code"] == "engine_failed"


def test_a_result_that_differs_is_out_of_step() -> None:
    from llmctl.runner.rank import obey

    toy = ToyEngine()
    assert obey(toy, {"n": 1, "name": "open", "args": [None], "is": 1}) is None
    problem = obey(toy, {"n": 2, "name": "open", "args": [None], "is": 7})
    assert problem and problem["n"] == 2 and "out of step" in problem["error"]["message"]


def test_a_call_survives_json() -> None:
    class Heard:
        def forward(self, *args: Any) -> Any:
            return args

    args = ({1: (5, 6), 2: [7]}, {2})
    sent = json.loads(json.dumps(arguments("forward", args)))
    assert perform(Heard(), "forward", sent) == ({1: [5, 6], 2: [7]}, frozenset({2}))
    with pytest.raises(ValueError, match="no call"):
        perform(Heard(), "__class__", [])


@pytest.mark.parametrize("text", ["h1", "h1=", "h1=-oProxyCommand=x", "h1=a b", "H1=a", "h1=u@a:99999999", "h1=a;b"])
def test_s07_what_is_no_address_never_reaches_a_command_line(text: str) -> None:
    with pytest.raises(UsageError):
        members.parse(text)


def test_a_member_is_written_as_it_is_read() -> None:
    for text in ("h1=10.0.0.1", "h1=op@host.example", "h1=op@10.0.0.1:2222"):
        assert str(members.parse(text)) == text
    argv = members.parse("h1=op@10.0.0.1:2222").argv(["status"])
    assert argv[argv.index("--") :][:4] == ["--", "op@10.0.0.1", ".llmctl/bin/llmctl", "--json"]


@pytest.fixture
def found(tiny_models: dict[str, Path]) -> Checkpoint:
    return inspect(tiny_models["tiny-llama"])


TORCH = EngineSpec("torch", "m", "/m", "safetensors")


@pytest.mark.parametrize(
    ("names", "spec", "said"),
    [
        ("h1 h2 h3", TORCH, "3 hosts cannot share"),
        ("h2 h1", TORCH, "belongs to the first host"),
        ("h1", TORCH, "two or more different hosts"),
        ("h1 h2 h2", TORCH, "two or more different hosts"),
        ("h1 h2", replace(TORCH, engine="llamacpp"), "runs on one host"),
        ("h1 h2", replace(TORCH, draft="/a/smaller/model"), "no second model as its draft"),
        ("h1 h2", replace(TORCH, adapters={"a": "/a"}), "no adapters"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_anybody_is_asked(
    found: Checkpoint, names: str, spec: EngineSpec, said: str
) -> None:
    with pytest.raises(LlmctlError, match=said):
        spread.fits(spec, found, Host("h1"), [Member(name, "a") for name in names.split()])


def test_a_model_that_two_hosts_can_share_is_not_refused(found: Checkpoint) -> None:
    spread.fits(replace(TORCH, draft="ngram"), found, Host("h1"), [Member("h1", "a"), Member("h2", "a")])


def test_a_share_is_half_of_the_layers_and_the_whole_of_the_embeddings(found: Checkpoint) -> None:
    whole = fit.estimate(found, 512, 2, "torch")
    half = spread.share(whole, found, 2)
    ends = 2 * found.vocab * found.hidden * 4  # float32, and a head of its own
    assert half.weights == ends + (whole.weights - ends) // 2
    assert (half.kv, half.compute, half.process) == (whole.kv // 2, whole.compute, whole.process)


def test_names_of_hosts_become_what_other_hosts_can_use(tmp_path: Path) -> None:
    (tmp_path / "hosts.toml").write_text(
        '[hosts.mine]\nspread_address = "10.0.0.1"\n[hosts.here]\n'
        '[hosts.far]\ntransport = "ssh"\naddress = "10.0.0.2"\nuser = "op"\nssh_port = 2222\n'
        '[hosts.two]\ntransport = "ssh"\naddress = "9.9.9.9"\nuser = "op"\nspread_address = "10.0.0.3"\n'
    )
    known = config.load(tmp_path)
    written = members_of(known, ["mine,far", "two"])
    assert written == ("mine=10.0.0.1", "far=op@10.0.0.2:2222", "two=op@10.0.0.3")
    assert members_of(known, written) == written
    with pytest.raises(UsageError, match="do not know where that is"):
        members_of(known, ["here"])
    with pytest.raises(UnknownName, match="no host 'h3'"):
        members_of(known, ["h3"])


def test_files_without_a_manifest_are_compared_by_what_they_are(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert spread.fingerprint(tmp_path / "a") == spread.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert spread.fingerprint(tmp_path / "a") != spread.fingerprint(tmp_path / "b")
