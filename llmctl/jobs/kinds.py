"""Which work there is, by kind. A job.json names a kind of this table, never code."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from llmctl.environments import installed
from llmctl.errors import Refused
from llmctl.jobs.context import Work

KINDS = {
    "pull": "llmctl.models.pull:run",
    "convert": "llmctl.models.convert:run",
    "native": "llmctl.native.build:run",
}
CONVERTS = ("convert",)
"""Kinds whose work, and every process that it starts, runs in the environment of the converters."""

TESTS = "LLMCTL_TEST_JOBS"
"""More kinds, for tests: `kind=module:function,…`. Who sets our environment chooses our code anyway (PYTHONPATH)."""


def check(kind: str) -> str:
    """Where the work of `kind` is; Refused for a kind that is not in the table."""
    known = {**KINDS, **dict(item.split("=", 1) for item in os.environ.get(TESTS, "").split(",") if item)}
    if kind not in known:
        raise Refused(f"there is no work of the kind {kind[:40]!r}", hint=f"known are {', '.join(known)}")
    return known[kind]


def python(kind: str) -> str:
    """The interpreter for the work of `kind`; Unsupported when this release has no environment for it."""
    return installed.python_for("convert") if kind in CONVERTS else sys.executable


def load(kind: str) -> Work:
    """The function that does the work; imports its module."""
    module, _, function = check(kind).partition(":")
    work: Work = getattr(import_module(module), function)
    return work
