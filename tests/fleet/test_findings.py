"""What `hosts check` finds in facts: each finding is there when it should be, and only then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmctl import __version__
from llmctl.config import Host
from llmctl.fleet.facts.findings import MOST_SKEW, findings
from tests.fleet.recorded import facts_of

HOST = Host("it", "ssh", address="it")
GOOD = replace(facts_of("ubuntu-h100"), release=f"{__version__}-1a2b3c4d")


def test_a_host_that_is_as_it_should_be_has_none() -> None:
    assert findings(HOST, GOOD) == []


@pytest.mark.parametrize(
    ("host", "facts", "what", "why", "hint"),
    [
        ({}, {"skew": 60.0}, "clock", "60 s ahead of this machine", "timedatectl"),
        ({}, {"skew": -86400.0}, "clock", "86400 s behind this machine", "timedatectl"),
        ({}, {"disk_free": 4 * 10**9}, "disk", "4.0 GB free", "--prune"),
        ({}, {"release": "0.0.1-1a2b3c4d"}, "llmctl", f"0.0.1 is there, and this is {__version__}", "llmctl deploy it"),
        ({}, {"pythons": ()}, "python", "there is no Python 3.10", "uv python install"),
        ({}, {"linger": False}, "service", "me has no linger", "loginctl enable-linger me"),
        ({"service": "launchd"}, {}, "service", "linux has no launchd", 'service = "none"'),
        ({"backend": "metal"}, {}, "backend", "no Mac", 'backend = "auto"'),
        ({"engines": ("mlx",)}, {}, "engine", "does not run on cuda", "engines = ["),
    ],
)
def test_one_thing_wrong_is_one_finding(
    host: dict[str, Any], facts: dict[str, Any], what: str, why: str, hint: str
) -> None:
    (found,) = findings(replace(HOST, **host), replace(GOOD, **facts))
    assert (found.what, found.bad) == (what, True)
    assert why in found.why
    assert hint in str(found.hint)


@pytest.mark.parametrize(
    ("host", "facts", "what", "why"),
    [
        ({}, {"release": "", "linger": False}, "llmctl", "not deployed yet"),
        ({}, {"services": ("none",)}, "service", "nothing that works there starts slots again"),
        ({}, {"notes": ("an AMD GPU is there",)}, "host", "an AMD GPU is there"),
    ],
)
def test_what_is_only_told_is_not_bad(host: dict[str, Any], facts: dict[str, Any], what: str, why: str) -> None:
    (found,) = findings(replace(HOST, **host), replace(GOOD, **facts))
    assert (found.what, found.bad) == (what, False)
    assert why in found.why


@pytest.mark.parametrize(
    ("host", "facts"),
    [
        ({}, {"skew": MOST_SKEW}),
        ({}, {"skew": -MOST_SKEW}),
        ({"service": "none"}, {"services": ("none",)}),
        ({"service": "none"}, {"linger": False}),
        ({"transport": "local"}, {"release": ""}),
    ],
)
def test_what_is_meant_is_no_finding(host: dict[str, Any], facts: dict[str, Any]) -> None:
    assert findings(replace(HOST, **host), replace(GOOD, **facts)) == []


def test_the_bad_ones_come_first_and_nothing_is_told_twice() -> None:
    dead = replace(facts_of("ubuntu-driver-not-loaded"), disk_free=0, skew=9.0)
    found = findings(replace(HOST, backend="cuda"), dead)
    assert [finding.bad for finding in found] == [True, True, True, False]
    assert [finding.what for finding in found] == ["backend", "clock", "disk", "llmctl"]
