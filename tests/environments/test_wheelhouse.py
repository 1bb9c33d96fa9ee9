"""A host's wheels: the right files for its Python and platform, fetched once, checked before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmctl.__main__ import main
from llmctl.environments import Wanted, locks, platforms, wheelhouse
from llmctl.environments.wheelhouse import Need, carried, check, collect, failure, fill, needs, pick
from llmctl.errors import DeployFailed, NoSpace, Refused, UsageError
from tests.environments.conftest import PYTHON, WHEELS, base, facts_here, lock_of, make_wheel

DEBIAN = replace(platforms.named("linux-x86_64"), libc="glibc 2.36")
ARM = replace(platforms.named("linux-aarch64"), libc="glibc 2.36")
FIT = "cp311-cp311-manylinux_2_17_x86_64"


@pytest.fixture
def own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows of the world, as an operator sets it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def test_what_pip_is_told_of_the_operator_is_where_wheels_come_from(own_index: Path, tmp_path: Path) -> None:
    """For another Python and another kind of machine than this one."""
    arm = make_wheel(own_index, "demo", "1.0", "cp313-cp313-manylinux_2_28_aarch64")
    make_wheel(own_index, "demo", "1.0", FIT)
    found = collect([Wanted("demo", lock_of(arm))], (3, 13, 0), ARM, tmp_path / "cache")
    assert found == [tmp_path / "cache" / arm.name] and found[0].read_bytes() == arm.read_bytes()


def test_the_second_time_needs_no_index(own_index: Path, tmp_path: Path) -> None:
    wanted = [Wanted("demo", lock_of(make_wheel(own_index, "demo", "1.0")))]
    first = collect(wanted, PYTHON, DEBIAN, tmp_path / "cache")
    for path in own_index.iterdir():
        path.unlink()
    assert collect(wanted, PYTHON, DEBIAN, tmp_path / "cache") == first
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["demo-1.0-py3-none-any.whl"]


def test_a_damaged_file_in_the_cache_is_fetched_anew(own_index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(own_index, "demo", "1.0")
    (path,) = collect([Wanted("demo", lock_of(wheel))], PYTHON, DEBIAN, tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-7])
    assert collect([Wanted("demo", lock_of(wheel))], PYTHON, DEBIAN, tmp_path / "cache") == [path]
    assert path.read_bytes() == wheel.read_bytes()


def test_s13_what_an_index_sends_must_have_the_hash_of_the_lock(own_index: Path, tmp_path: Path) -> None:
    lock = lock_of(make_wheel(own_index, "demo", "1.0"))
    make_wheel(own_index, "demo", "1.0", says="tampered")
    with pytest.raises(DeployFailed, match="does not have the hash") as caught:
        collect([Wanted("demo", lock)], PYTHON, DEBIAN, tmp_path / "cache")
    assert caught.value.hint and not list((tmp_path / "cache").iterdir())


def test_s13_a_package_without_a_hash_is_not_fetched(own_index: Path, tmp_path: Path) -> None:
    make_wheel(own_index, "demo", "1.0")
    with pytest.raises(DeployFailed) as caught:
        collect([Wanted("demo", "demo==1.0\n")], PYTHON, DEBIAN, tmp_path / "cache")
    assert any("--require-hashes" in line for line in caught.value.details["log"])
    assert not list((tmp_path / "cache").iterdir())


def test_only_a_source_package_is_a_clear_error(own_index: Path, tmp_path: Path) -> None:
    (own_index / "demo-1.0.tar.gz").write_bytes(b"x")
    digest = wheelhouse.sha256(own_index / "demo-1.0.tar.gz")
    with pytest.raises(Refused, match=r"no wheel of demo==1\.0 for Python 3\.11 on linux x86_64 \(glibc 2\.36\)"):
        collect([Wanted("demo", f"demo==1.0 --hash=sha256:{digest}\n")], (3, 11), DEBIAN, tmp_path / "cache")


def test_an_index_that_does_not_answer_is_another_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DeployFailed, match="cannot be fetched from http://127") as caught:
        collect([Wanted("demo", f"demo==1.0 --hash=sha256:{'0' * 64}\n")], PYTHON, DEBIAN, tmp_path / "cache")
    assert "llmctl wheelhouse" in str(caught.value.hint)


def test_no_pip_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheelhouse, "find_spec", lambda name: None)
    with pytest.raises(Refused, match="has no pip") as caught:
        collect([Wanted("demo", f"demo==1.0 --hash=sha256:{'0' * 64}\n")], PYTHON, DEBIAN, tmp_path)
    assert caught.value.hint == "pip install 'llmctl-fleet[deploy]'"


def test_a_full_disk_is_told_from_pips_words() -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    assert isinstance(failure(said, [], PYTHON, DEBIAN, Path("/c")), NoSpace)


# ── what fits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_host_takes_the_lines_whose_markers_are_true_there() -> None:
    lock = (
        f"one==1.0 ; sys_platform == 'darwin' \\\n    --hash=sha256:{'1' * 64}\n"
        f"two==2.0 ; python_full_version < '3.11' \\\n    --hash=sha256:{'2' * 64} \\\n    --hash=sha256:{'3' * 64}\n"
        f"Three_x==3.0 \\\n    --hash=sha256:{'4' * 64}\n"
    )
    named = {need.pin for need in needs([Wanted("x", lock)], (3, 10, 4), DEBIAN)}
    assert named == {"two==2.0", "three-x==3.0"}
    mac = needs([Wanted("x", lock)], (3, 12), platforms.named("macos-arm64"))
    assert {need.pin for need in mac} == {"one==1.0", "three-x==3.0"} and mac[0].hashes == {"1" * 64}


def test_the_best_of_several_files_is_picked(tmp_path: Path) -> None:
    worse = make_wheel(tmp_path, "demo", "1.0", "py3-none-any")
    best = make_wheel(tmp_path, "demo", "1.0", "cp311-cp311-manylinux_2_28_x86_64", says="best")
    older = make_wheel(tmp_path, "demo", "1.0", FIT, says="older")
    make_wheel(tmp_path, "demo", "1.0", "cp311-cp311-manylinux_2_28_aarch64")
    need = Need("demo", "1.0", frozenset(map(wheelhouse.sha256, (worse, best, older))))
    assert pick([need], (3, 11), DEBIAN, tmp_path) == {need: best}
    assert pick([need], (3, 11), replace(DEBIAN, libc="glibc 2.17"), tmp_path) == {need: older}
    assert pick([need], (3, 12), DEBIAN, tmp_path) == {need: worse}


def test_a_wheel_for_another_machine_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    good = [make_wheel(tmp_path, "demo", "1.0"), make_wheel(tmp_path, "other", "1.0", FIT)]
    check(good, (3, 11), DEBIAN)
    arm = make_wheel(tmp_path, "fast", "2.0", "cp311-cp311-manylinux_2_28_aarch64")
    old = make_wheel(tmp_path, "fast", "2.0", "cp310-cp310-manylinux_2_28_x86_64")
    junk = tmp_path / "junk.whl"
    junk.write_bytes(b"")
    with pytest.raises(Refused, match=r"not for Python 3\.11 on linux x86_64") as caught:
        check([*good, arm, old, junk], (3, 11), DEBIAN)
    assert caught.value.details["log"] == [arm.name, old.name, junk.name] and caught.value.hint


def test_a_folder_that_was_carried_along_has_all_or_is_refused_by_name(tmp_path: Path) -> None:
    one, two = make_wheel(tmp_path, "one", "1.0"), make_wheel(tmp_path, "two", "1.0", FIT)
    three = make_wheel(tmp_path / "elsewhere", "three", "1.0")
    wanted = [Wanted("x", lock_of(one, two))]
    assert carried(wanted, (3, 11), DEBIAN, tmp_path) == [one, two]
    with pytest.raises(Refused, match=r"lacks 2 of 3 packages for Python 3\.12 on linux aarch64") as caught:
        carried([*wanted, Wanted("y", lock_of(three))], (3, 12), ARM, tmp_path)
    assert caught.value.details["log"] == [f"two==1.0: only {two.name}", "three==1.0: not there"]
    assert f"llmctl wheelhouse {tmp_path}" in str(caught.value.hint)


def test_filling_a_folder_copies_what_is_not_there(tmp_path: Path) -> None:
    one, two = make_wheel(tmp_path / "c", "one", "1.0"), make_wheel(tmp_path / "c", "two", "1.0")
    folder = tmp_path / "carried" / "along"
    assert fill(folder, [one]) == [folder / one.name]
    (folder / one.name).write_bytes(b"damaged")
    assert fill(folder, [one, two]) == [folder / one.name, folder / two.name]
    assert fill(folder, [one, two]) == [] and (folder / one.name).read_bytes() == one.read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be written"):
        fill(tmp_path / "file", [one])


# ── the real ones, and the verb ─────────────────────────────────────────────────────────────────────────────────────


def test_the_base_has_a_wheel_for_every_package_on_this_machine(house: Path) -> None:
    needed = needs([base()], PYTHON, facts_here())
    assert len(carried([base()], PYTHON, facts_here(), house)) == len(needed) > 20
    names = {need.name for need in needed}
    assert {"typer", "uvicorn", "h11", "huggingface-hub"} <= names and not {"fabric", "paramiko", "numpy"} & names


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    def call(*argv: object) -> tuple[int, dict[str, Any]]:
        code = main([*map(str, argv), "--json"])
        envelope = json.loads(capsys.readouterr().out)
        return code, {**envelope["data"], "errors": envelope["errors"]}

    return call


def test_the_verb_fills_a_folder_that_a_deploy_can_be_made_of(
    house: Path, home: Path, tmp_path: Path, run: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    (home / "cache").mkdir()
    (home / "cache" / "wheels").symlink_to(WHEELS)
    version, arch = ".".join(map(str, PYTHON[:2])), facts_here().arch
    argv = [
        "wheelhouse",
        tmp_path / "carry",
        "--python",
        version,
        "--platform",
        f"linux-{arch}",
        "--engine",
        "llamacpp",
    ]
    code, data = run(*argv)
    assert code == 0 and all(file["new"] for file in data["files"]) and data["engines"] == ["llamacpp"]
    names = sorted(path.name for path in (tmp_path / "carry").iterdir())
    assert names == sorted(file["name"] for file in data["files"])
    for package in ("uv-", "pip-", "xllamacpp-", "typer-"):
        assert any(name.startswith(package) for name in names)
    assert carried(
        [*locks.wanted(["llamacpp"], facts_here()), locks.tool("uv")], PYTHON, facts_here(), tmp_path / "carry"
    )
    assert not any(file["new"] for file in run(*argv)[1]["files"])


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--python", "3.9"], 1, "Python 3.9 is not one that llmctl runs on"),
        (["--python", "new"], 2, "'new' is not a version of Python"),
        (["--engine", "lamacpp"], 2, "no engine 'lamacpp'"),
        (["--platform", "windows"], 2, "windows"),
        (["--engine", "torch", "--cuda", "11.4"], 1, "runs CUDA 11.4 at most"),
    ],
)
def test_the_verb_refuses_what_it_cannot_fill(
    argv: list[str], code: int, said: str, home: Path, tmp_path: Path, run: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    got, data = run("wheelhouse", tmp_path / "carry", *argv)
    assert got == code and said in data["errors"][0]["message"] and data["errors"][0]["hint"]
    assert not (tmp_path / "carry").exists()


def test_a_lock_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no lock for 'vllm'"):
        locks.wanted(["vllm"], DEBIAN)
