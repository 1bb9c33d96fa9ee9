"""The checks of `llmctl smoke`, each of one running slot: what a client relies on, tried as a client."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from llmctl.checks import compare, drawing, memory
from llmctl.checks.slot_http import Said, SlotHttp
from llmctl.domain import IMAGE, TEXT, SlotSpec
from llmctl.processes import start_time
from llmctl.slots.verbs import SlotStatus

PASS, FAIL, SKIP = "pass", "fail", "skip"
AT_ONCE = 4
CANCEL_WITHIN = 1.0
"""Seconds after a hang-up in which the engine must have let go, or half of what the answer would still have taken."""
LONGEST = 4096
ASKED = "What colour is it?"
SAME = 1e-4
"""The largest difference between a text's numbers and the same text's."""


@dataclass(frozen=True)
class Verdict:
    """What one check found."""

    status: str
    why: str


@dataclass
class Subject:
    """A slot under test: what is desired of it, its API, its control socket's row, and what earlier checks heard."""

    spec: SlotSpec
    backend: str
    http: SlotHttp
    status: Callable[[], SlotStatus]
    heard: list[Said] = field(default_factory=list)

    @property
    def prompt(self) -> str:
        return self.spec.probe.prompt

    @property
    def most(self) -> int:
        return self.spec.probe.max_tokens

    def writes(self) -> bool:
        """Whether its model makes text; a model that sleeps is taken to."""
        return TEXT in self.http.modalities().get("output", (TEXT,))


def identity(slot: Subject) -> Verdict:
    """The slot says and answers as the model that is desired on disk, and its engine is a living process."""
    names, row = slot.http.models(), slot.status()
    said = names[0] if names else None
    if said != slot.spec.model:
        return Verdict(FAIL, f"{slot.spec.model} is desired, /v1/models says {said}")
    if slot.writes():
        slot.http.find_protocol(slot.prompt)
        answer = slot.http.whole(slot.prompt, 1)
        if answer.model != slot.spec.model:
            return Verdict(FAIL, f"{slot.spec.model} is desired, {answer.model} answered")
    pid = slot.status().pid or row.pid
    if pid is None or start_time(pid) is None:
        return Verdict(FAIL, "it has no living engine process")
    return Verdict(PASS, slot.spec.model)


def generation(slot: Subject) -> Verdict:
    """Two greedy answers to the probe: equal, finite, long or right enough, not one token over and over."""
    slot.heard = [slot.http.whole(slot.prompt, slot.most) for _ in range(2)]
    why = compare.insane(slot.spec.probe, *slot.heard)
    first = slot.heard[0]
    if why:
        return Verdict(FAIL, why)
    expected = f", with {slot.spec.probe.expect!r} in it" if slot.spec.probe.expect else ""
    return Verdict(PASS, f"twice {first.count} tokens{expected}, {first.count / first.seconds:.1f} tokens/s")


def stream(slot: Subject) -> Verdict:
    """The pieces of a stream are the text of the whole answer."""
    reference, found = slot.heard[0], slot.http.streamed(slot.prompt, slot.most)
    if why := compare.difference(reference, found.text):
        return Verdict(FAIL, f"the stream says {why}")
    if found.finish != reference.finish:
        return Verdict(FAIL, f"the stream ended by {found.finish!r}, the whole answer by {reference.finish!r}")
    return Verdict(PASS, f"{len(found.text)} characters")


def stop(slot: Subject) -> Verdict:
    """A stop string ends the answer before it, whole and streamed."""
    reference = slot.heard[0]
    string = compare.stop_string(reference.text)
    if string is None:
        return Verdict(SKIP, f"the answer {reference.text!r} is too short to stop it")
    expected = reference.text[: reference.text.find(string)]
    for ask in (slot.http.whole, slot.http.streamed):
        found = ask(slot.prompt, slot.most, stop=[string])
        if string in found.text:
            return Verdict(FAIL, f"it went on past the stop string {string!r}: {found.text!r}")
        if found.text != expected and (why := compare.difference(reference, found.text)):
            return Verdict(FAIL, f"stopped at {string!r} it says {why}")
        if found.text == expected and found.finish != "stop":
            return Verdict(FAIL, f"stopped at {string!r} it gives {found.finish!r} as the reason")
    return Verdict(PASS, f"at {string!r}")


def cancel(slot: Subject) -> Verdict:
    """Who hangs up in the middle of an answer frees the engine."""
    if busy := slot.status().active:
        return Verdict(SKIP, f"{busy} other requests run: what becomes of one cannot be seen")
    most = min(LONGEST, slot.spec.engine.context // 2)
    speed = slot.heard[0].count / slot.heard[0].seconds
    if most / speed < 2 * CANCEL_WITHIN:
        return Verdict(SKIP, f"its longest answer takes {most / speed:.1f} s: its end and a cancel look the same")
    hangs_up = slot.http.hung_up(slot.prompt, most, ignore_eos=True)
    next(hangs_up)
    if not slot.status().active:
        return Verdict(SKIP, "the answer was over before it could be cancelled")
    next(hangs_up, None)
    began, within = time.monotonic(), max(CANCEL_WITHIN, most / speed / 2)
    while slot.status().active:
        if time.monotonic() - began > within:
            return Verdict(FAIL, f"{within:.1f} s after the hang-up the engine still works on the answer")
        time.sleep(0.02)
    return Verdict(PASS, f"free {time.monotonic() - began:.2f} s after the hang-up")


def concurrency(slot: Subject) -> Verdict:
    """Requests at once are all answered, and as one alone is."""
    reference = slot.heard[0]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = [pool.submit(slot.http.whole, slot.prompt, slot.most) for _ in range(AT_ONCE)]
        texts = [one.result().text for one in said]
    for text in texts:
        if why := compare.difference(reference, text):
            return Verdict(FAIL, f"one of {AT_ONCE} at once says {why}")
    equal = sum(text == reference.text for text in texts)
    close = f"; {AT_ONCE - equal} part from it where the two likeliest tokens are within {compare.CLOSE}"
    return Verdict(PASS, f"{equal} of {AT_ONCE} as alone{close if equal < AT_ONCE else ''}")


def image(slot: Subject) -> Verdict:
    """Two pictures of one shape and different colours are told apart, where the model takes images."""
    if IMAGE not in slot.http.modalities().get("input", ()):
        return Verdict(SKIP, f"{slot.spec.model} takes no images")
    for colour in drawing.COLOURS:
        parts = [{"type": "image_url", "image_url": {"url": drawing.disc(colour)}}, {"type": "text", "text": ASKED}]
        said = slot.http.whole(ASKED, slot.most, messages=[{"role": "user", "content": parts}]).text
        if colour not in said.lower():
            return Verdict(FAIL, f"it says {said!r} of a {colour} disc, asked: {ASKED}")
    return Verdict(PASS, f"{' and '.join(drawing.COLOURS)} are told apart")


def numbers(slot: Subject) -> Verdict:
    """A model that makes no text gives finite numbers, and the same ones for the same text."""
    if slot.writes():
        return Verdict(SKIP, f"{slot.spec.model} makes text")
    first, again = slot.http.numbers(slot.prompt), slot.http.numbers(slot.prompt)
    if not all(map(math.isfinite, first)) or not any(first):
        return Verdict(FAIL, "its numbers are not finite, or all are zero")
    if any(abs(a - b) > SAME for a, b in zip(first, again, strict=True)):
        return Verdict(FAIL, "the same text gives other numbers")
    return Verdict(PASS, f"{len(first)} numbers, twice the same")


def memory_use(slot: Subject) -> Verdict:
    """The engine's memory is what was estimated for it."""
    try:
        expected = memory.expected(slot.spec, slot.backend)
    except memory.NotMeant as error:
        return Verdict(SKIP, str(error))
    fault = memory.fault(expected, held := slot.status().memory_bytes)
    return Verdict(FAIL if fault else PASS, fault or memory.told(expected, held))


Check = Callable[[Subject], Verdict]
CHECKS: dict[str, Check] = {
    "identity": identity,
    "generation": generation,
    "stream": stream,
    "stop": stop,
    "cancel": cancel,
    "concurrency": concurrency,
    "image": image,
    "numbers": numbers,
    "memory": memory_use,
}
WRITING = ("generation", "stream", "stop", "cancel", "concurrency", "image")
"""The checks of a model that makes text."""
HEARING = ("stream", "stop", "cancel", "concurrency")
"""The checks that compare with what `generation` heard."""
