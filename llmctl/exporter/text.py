"""Prometheus' text format: slots' own pages taken up with two labels more, and written as one page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmctl.exporter.families import FAMILIES, SLOT_STATE, Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "llmctl_"
KINDS = {
    "counter": ("",), "gauge": ("",), "untyped": ("",), "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
}  # fmt: skip
"""What the names of a family's samples end in, by its kind."""
OURS = {family.name for family in FAMILIES} - {SLOT_STATE.name}

_ABOUT = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) ?(.*)")
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{((?:{_LABEL},)*(?:{_LABEL})?),?\}})? (\S+)")
_PLACE = re.compile(r'(?:^|,)(?:host|port)="')


@dataclass
class _Told:
    kind: str
    meaning: str
    samples: list[str] = field(default_factory=list)


class Page:
    """Families with their samples, in the order in which they came; no series twice."""

    def __init__(self) -> None:
        self._families = {family.name: _Told(family.kind, escaped(family.meaning)) for family in FAMILIES}
        self._series: set[str] = set()

    def add(self, family: Family, value: float, *labels: object) -> None:
        """One sample of ours; `labels` in the family's order. One that is None or empty is left out."""
        told = self._families[family.name]
        named = {name: str(label) for name, label in zip(family.labels, labels, strict=True) if label is not None}
        self._put(told, family.name, labelled(named), repr(float(value)))

    def take(self, text: str, **place: str) -> int:
        """The samples of a slot's page, with the labels of its `place`; how many there were.

        What is no sample, or not a slot's to tell, is left out: one page cannot spoil the others.
        """
        told: _Told | None = None
        name, meaning, count = "", "", 0
        for line in text.splitlines():
            if about := _ABOUT.fullmatch(line):
                what, said, rest = about.groups()
                if what == "HELP":
                    name, meaning, told = said, rest, None
                else:
                    told = self._theirs(said, rest, meaning if said == name else "")
                    name = said
            elif told and (sample := _SAMPLE.fullmatch(line)):
                full, labels, value = sample.groups()
                suffix = full.removeprefix(name)
                if suffix in KINDS[told.kind] and _number(value):
                    count += self._relabelled(told, full, labels or "", value, place)
        return count

    def _theirs(self, name: str, kind: str, meaning: str) -> _Told | None:
        if kind not in KINDS or not name.startswith(PREFIX) or name in OURS:
            return None
        told = self._families.setdefault(name, _Told(kind, meaning))
        return told if told.kind == kind else None

    def _relabelled(self, told: _Told, name: str, labels: str, value: str, place: Mapping[str, str]) -> bool:
        if _PLACE.search(labels):
            return False
        return self._put(told, name, ",".join(filter(None, (labelled(place), labels.rstrip(",")))), value)

    def _put(self, told: _Told, name: str, labels: str, value: str) -> bool:
        series = f"{name}{{{labels}}}" if labels else name
        if series in self._series:
            return False
        self._series.add(series)
        told.samples.append(f"{series} {value}")
        return True

    def __len__(self) -> int:
        return len(self._series)

    def text(self) -> str:
        """All of it; families without samples are left out."""
        lines: list[str] = []
        for name, told in self._families.items():
            if told.samples:
                lines += [f"# HELP {name} {told.meaning}", f"# TYPE {name} {told.kind}", *told.samples]
        return "\n".join(lines) + "\n"


def labelled(labels: Mapping[str, str]) -> str:
    """Labels as they stand between the braces."""
    return ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items() if value)


def escaped(text: str) -> str:
    """A meaning on one line."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(value: str) -> str:
    return escaped(value).replace('"', r"\"")


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
