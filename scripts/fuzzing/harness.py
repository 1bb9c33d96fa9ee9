"""Runs one target under Atheris, in the fuzzers' environment: harness.py TARGET [libFuzzer's arguments]."""

from __future__ import annotations

import sys

import atheris

from scripts.fuzzing.targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    with atheris.instrument_imports(include=["llmctl", "PIL"]):
        check = target.prepare()
    atheris.Setup(sys.argv, lambda data: check(atheris.FuzzedDataProvider(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
