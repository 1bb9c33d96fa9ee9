"""What a deploy brings to a host that is to build llama.cpp, and when it does not."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from llmctl.config import Host
from llmctl.environments import locks, wheelhouse
from llmctl.errors import LlmctlError, Refused
from llmctl.fleet.deploy import native
from llmctl.fleet.deploy.choice import Order
from llmctl.fleet.facts.choices import Chosen
from llmctl.native import source
from llmctl.sdist import Sdist

HOST = Host("h1")
THERE = {"native": {"due": True, "programs": [], "archive": False}}
CHOICE = SimpleNamespace(
    engines=(Chosen("llamacpp", ""),), backend=Chosen("cpu", ""), python=SimpleNamespace(version=(3, 11, 2))
)


def changed(**fields):
    return SimpleNamespace(**{**CHOICE.__dict__, **fields})


def test_a_host_that_may_and_can_builds():
    assert native.due(HOST, CHOICE, THERE)


@pytest.mark.parametrize(
    ("host", "choice", "there"),
    [
        (replace(HOST, native=False), CHOICE, THERE),
        (HOST, changed(engines=(Chosen("torch", ""),)), THERE),
        (HOST, changed(backend=Chosen("cuda", "")), THERE),
        (HOST, CHOICE, {"native": {**THERE["native"], "due": False}}),
        (HOST, CHOICE, {}),
    ],
    ids=["native = false", "no llamacpp", "a GPU", "tried already", "an older host side"],
)
def test_a_host_that_may_not_or_need_not_does_not(host, choice, there):
    assert not native.due(host, choice, there)


def test_the_folder_that_was_brought_along_has_the_source_or_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Sdist, "fetch", lambda self, folder: pytest.fail("something was fetched"))
    order = Order(wheelhouse=tmp_path)
    with pytest.raises(LlmctlError, match=r"has no xllamacpp-.*gz") as caught:
        native.brought(THERE, CHOICE, None, order, tmp_path)
    assert native.skipped(caught.value).startswith("no native build of llama.cpp, the wheel serves: ")
    (tmp_path / source.SOURCE.archive).write_bytes(b"another")
    with pytest.raises(Refused, match="not c17ee116"):
        native.brought(THERE, CHOICE, None, order, tmp_path)
    monkeypatch.setattr(Sdist, "check", lambda self, path: None)
    assert native.brought(THERE, CHOICE, None, order, tmp_path) == [tmp_path / source.SOURCE.archive]
    there = {"native": {**THERE["native"], "archive": True}}
    assert native.brought(there, CHOICE, None, order, tmp_path) == []


def test_programs_that_the_host_lacks_come_from_the_lock(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(wheelhouse, "collect", lambda wanted, *rest: asked.extend(wanted) or [tmp_path / "c.whl"])
    there = {"native": {"due": True, "programs": ["cmake", "ninja"], "archive": True}}
    assert native.brought(there, CHOICE, None, Order(), tmp_path) == [tmp_path / "c.whl"]
    assert asked == [locks.tool("cmake"), locks.tool("ninja")]
    assert all("--hash=sha256:" in one.requirements for one in asked)
