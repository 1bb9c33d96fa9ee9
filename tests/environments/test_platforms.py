"""What a host's Python takes: tags and markers from its facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from packaging import tags

from llmctl.environments import platforms
from llmctl.errors import Unsupported, UsageError
from tests.environments.conftest import PYTHON, facts_here

DEBIAN = platforms.named("linux-x86_64")


def test_the_tags_of_this_machine_are_those_that_its_python_tells() -> None:
    told = [str(tag) for tag in tags.sys_tags() if tag.interpreter.startswith(("cp", "py3"))]
    ours = sorted(platforms.ranks(facts_here(), PYTHON).items(), key=lambda item: item[1])
    assert [tag for tag, _ in ours] == list(dict.fromkeys(told))


@pytest.mark.parametrize(
    ("libc", "fits", "fits_not"),
    [
        ("glibc 2.17", "manylinux2014_x86_64", "manylinux_2_28_x86_64"),
        ("glibc 2.28", "manylinux_2_28_x86_64", "manylinux_2_31_x86_64"),
        ("musl 1.2", "musllinux_1_1_x86_64", "manylinux2014_x86_64"),
    ],
)
def test_a_c_library_takes_what_was_built_for_it_or_an_older_one(libc: str, fits: str, fits_not: str) -> None:
    known = platforms.platforms(replace(DEBIAN, libc=libc))
    assert fits in known and fits_not not in known


def test_a_mac_takes_its_own_and_older_systems() -> None:
    known = platforms.platforms(replace(platforms.named("macos-arm64"), os_version="15.3.1"))
    assert "macosx_15_0_arm64" in known and "macosx_11_0_arm64" in known and "macosx_11_0_universal2" in known
    assert "macosx_26_0_arm64" not in known and not [tag for tag in known if "x86_64" in tag]


@pytest.mark.parametrize("libc", ["", "uclibc 1.0", "glibc", "glibc 3.0", "musl x"])
def test_an_unknown_c_library_is_refused(libc: str) -> None:
    with pytest.raises(Unsupported, match="no packages for a Linux with") as caught:
        platforms.platforms(replace(DEBIAN, libc=libc))
    assert caught.value.hint


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 18), (3, 15, 0), (4, 0, 0)])
def test_a_python_that_llmctl_does_not_run_on_is_refused(version: tuple[int, ...]) -> None:
    for ask in (platforms.markers, platforms.ranks):
        with pytest.raises(Unsupported, match=f"Python {version[0]}.{version[1]} is not one"):
            ask(DEBIAN, version)


def test_a_version_is_read_as_it_is_typed() -> None:
    assert platforms.version_of("3.11") == (3, 11) and platforms.version_of("3.11.2") == (3, 11, 2)
    for text in ("3", "3.x", "", "3.11.", "three"):
        with pytest.raises(UsageError, match="is not a version of Python"):
            platforms.version_of(text)
    with pytest.raises(Unsupported):
        platforms.version_of("3.9")


def test_markers_are_those_of_the_host_not_of_this_machine() -> None:
    from packaging.markers import default_environment

    here, ours = default_environment(), platforms.markers(facts_here(), PYTHON)
    same = ("python_version", "sys_platform", "platform_machine", "os_name", "implementation_name", "platform_system")
    assert {key: here[key] for key in same} == {key: ours[key] for key in same}  # type: ignore[literal-required]
    assert set(here) == set(ours) and ours["python_full_version"] == ".".join(map(str, PYTHON))
    mac = platforms.markers(platforms.named("macos-arm64"), (3, 13, 1))
    assert (mac["sys_platform"], mac["platform_machine"], mac["python_full_version"]) == ("darwin", "arm64", "3.13.1")


def test_the_names_that_can_be_typed_are_those_that_are_known() -> None:
    from llmctl.cli.wheelhouse import Platform

    assert {platform.value for platform in Platform} == set(platforms.CARRIED)
