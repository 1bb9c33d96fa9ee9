"""Which manager makes a host's environments, and the command lines of each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from llmctl.environments import Wanted, managers
from llmctl.environments.build import build
from llmctl.environments.managers import CONDAS, MANAGERS, Plan, choose
from llmctl.errors import DeployFailed, Refused

FOLDER, LOCK, PYTHON = Path("/h/envs/base-1"), Path("/h/envs/.base-1.txt"), Path("/usr/bin/python3")


def plan(tool: str | None = None, wheelhouse: str | None = None) -> Plan:
    return Plan(FOLDER, LOCK, PYTHON, "3.11", Path(tool) if tool else None, Path(wheelhouse) if wheelhouse else None)


def lines(manager: str, of: Plan) -> list[str]:
    return [" ".join(argv) for argv in MANAGERS[manager](of)]


def test_uv_offline_asks_no_index_and_fetches_no_python() -> None:
    assert lines("uv", plan("/h/tools/uv", "/h/wheelhouse")) == [
        "/h/tools/uv --no-config --no-python-downloads --no-progress venv --offline --python /usr/bin/python3 "
        "/h/envs/base-1",
        "/h/tools/uv --no-config --no-python-downloads --no-progress pip sync --python /h/envs/base-1/bin/python "
        "--require-hashes --no-build --offline --no-index --find-links /h/wheelhouse /h/envs/.base-1.txt",
    ]


def test_uv_online_takes_what_has_the_hash_from_any_index() -> None:
    assert lines("uv", plan())[1].endswith(
        "pip sync --python /h/envs/base-1/bin/python --require-hashes --no-build "
        "--index-strategy unsafe-best-match /h/envs/.base-1.txt"
    )


def test_venv_has_the_pip_that_was_brought_or_its_own() -> None:
    brought, own = plan("/h/pip-1-py3-none-any.whl", "/h/wheelhouse"), plan()
    assert lines("venv", brought) == [
        "/usr/bin/python3 -m venv --without-pip /h/envs/base-1",
        "/h/envs/base-1/bin/python /h/pip-1-py3-none-any.whl/pip install --no-input --disable-pip-version-check "
        "--no-cache-dir --progress-bar off --isolated --no-index --find-links /h/wheelhouse --no-deps "
        "--only-binary :all: --require-hashes -r /h/envs/.base-1.txt",
    ]
    assert lines("venv", own) == [
        "/usr/bin/python3 -m venv /h/envs/base-1",
        "/h/envs/base-1/bin/python -m pip install --no-input --disable-pip-version-check --no-cache-dir "
        "--progress-bar off --no-deps --only-binary :all: --require-hashes -r /h/envs/.base-1.txt",
    ]


@pytest.mark.parametrize("name", CONDAS)
def test_condas_bring_python_and_pip_and_the_lock_the_rest(name: str) -> None:
    assert lines(name, plan(f"/opt/{name}")) == [
        f"/opt/{name} create --yes --prefix /h/envs/base-1 python=3.11 pip",
        "/h/envs/base-1/bin/python -m pip install --no-input --disable-pip-version-check --no-cache-dir "
        "--progress-bar off --no-deps --only-binary :all: --require-hashes -r /h/envs/.base-1.txt",
    ]
    assert " --offline --prefix" in lines(name, plan(f"/opt/{name}", "/h/wheelhouse"))[0]


def test_every_install_wants_hashes() -> None:
    for name in MANAGERS:
        assert "--require-hashes" in lines(name, plan("/t"))[-1]
        assert "--require-hashes" in lines(name, plan("/t", "/w"))[-1]


# A program in a conda's place: it writes down its words and makes what the real one would leave.
FAKE = """#!{python}
import os, sys
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
prefix = sys.argv[sys.argv.index("--prefix") + 1]
os.makedirs(prefix + "/bin")
with open(prefix + "/bin/python", "w") as file:
    file.write("#!/bin/sh\\necho python: $* >> {log}\\nexit $(cat {status})\\n")
os.chmod(prefix + "/bin/python", 0o755)
"""


@pytest.mark.parametrize("name", CONDAS)
def test_a_conda_is_run_with_these_words_and_its_python_installs_the_lock(name: str, tmp_path: Path) -> None:
    log, status, program = tmp_path / "log", tmp_path / "status", tmp_path / name
    program.write_text(FAKE.format(python=sys.executable, log=str(log), status=status))
    program.chmod(0o755)
    status.write_text("0")
    wanted, python = Wanted("base", "demo==1.0 --hash=sha256:00\n"), Path(os.path.realpath(sys.executable))
    made = build(wanted, name, python, tmp_path / "envs", wheelhouse=None, tool=program)
    folder, version = tmp_path / "envs" / wanted.folder, ".".join(map(str, sys.version_info[:2]))
    assert made == folder / "bin" / "python"
    created, installed, proof = log.read_text().splitlines()
    assert created == f"create --yes --prefix {folder} python={version} pip"
    assert installed.startswith("python: -m pip install") and "--require-hashes" in installed
    assert proof == f"python: -c import {', '.join(wanted.proof)}"
    status.write_text("1")
    with pytest.raises(DeployFailed, match="ended with status 1"):
        build(Wanted("other", "x==1\n"), name, python, tmp_path / "envs", wheelhouse=None, tool=program)


# ── the choice ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tools", "can_ship", "chosen"),
    [
        ({"uv": "/u", "mamba": "/m"}, ("uv",), "uv"),
        ({"mamba": "/m"}, ("uv",), "uv"),
        ({"conda": "/c", "micromamba": "/mm", "mamba": "/m"}, (), "mamba"),
        ({"conda": "/c", "micromamba": "/mm"}, (), "micromamba"),
        ({"conda": "/c"}, (), "conda"),
        ({}, (), "venv"),
        ({}, ("uv",), "uv"),
    ],
)
def test_auto_takes_the_first_that_can_be_had_and_says_why(
    tools: dict[str, str], can_ship: tuple[str, ...], chosen: str
) -> None:
    name, why = choose("auto", tools, can_ship)
    assert name == chosen and why


def test_what_is_asked_for_is_taken_or_refused() -> None:
    assert choose("venv", {"uv": "/u"})[0] == "venv"
    assert choose("conda", {"conda": "/c"}) == ("conda", "asked for")
    assert choose("uv", {})[0] == "uv"
    with pytest.raises(Refused, match="there is no mamba") as caught:
        choose("mamba", {"conda": "/c"})
    assert "conda" in caught.value.message and "auto" in str(caught.value.hint)
    with pytest.raises(Refused, match="there is no uv"):
        choose("uv", {}, ())


def test_every_name_of_the_configuration_has_its_command_lines() -> None:
    from llmctl.config import ENVIRONMENTS

    assert {"auto", *managers.MANAGERS} == set(ENVIRONMENTS)
