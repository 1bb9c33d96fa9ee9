"""Which hosts a pattern means."""

from __future__ import annotations

import pytest

from llmctl.config import Config, Host
from llmctl.errors import UnknownName, UsageError
from llmctl.fleet.selection import select

HOSTS = (Host("gpu2", labels=("linux", "big")), Host("studio", labels=("apple",)), Host("gpu1", labels=("linux",)))
FLEET = Config(hosts={host.name: host for host in HOSTS})


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], ["gpu2", "studio", "gpu1"]),
        (["gpu1", "gpu2"], ["gpu2", "gpu1"]),
        (["gpu*"], ["gpu2", "gpu1"]),
        (["gpu[13]"], ["gpu1"]),
        (["?????o"], ["studio"]),
        (["@linux"], ["gpu2", "gpu1"]),
        (["gpu1", "@linux", "gpu?", "studio", "studio"], ["gpu2", "studio", "gpu1"]),
    ],
)
def test_hosts_come_once_and_in_the_order_of_the_file(patterns: list[str], names: list[str]) -> None:
    assert [host.name for host in select(FLEET, patterns)] == names


@pytest.mark.parametrize(
    ("pattern", "error", "hint"),
    [
        ("gpu3", UnknownName, "did you mean 'gpu2'?"),
        ("x", UnknownName, "hosts: gpu2, studio, gpu1"),
        ("", UnknownName, "hosts: gpu2, studio, gpu1"),
        ("GPU1*", UsageError, "hosts: gpu2, studio, gpu1"),
        ("@aple", UnknownName, "did you mean '@apple'?"),
        ("@", UnknownName, "labels: @apple, @big, @linux"),
        ("@gpu*", UnknownName, "labels: @apple, @big, @linux"),
        ("mac*", UsageError, "hosts: gpu2, studio, gpu1"),
    ],
)
def test_a_pattern_that_means_no_host_is_named_even_beside_a_good_one(pattern: str, error: type, hint: str) -> None:
    with pytest.raises(error) as raised:
        select(FLEET, ["studio", pattern])
    assert type(raised.value) is error
    assert raised.value.hint == hint


def test_labels_that_nobody_has() -> None:
    with pytest.raises(UnknownName, match="no label 'apple'") as raised:
        select(Config(), ["@apple"])
    assert raised.value.hint == "labels: none"
