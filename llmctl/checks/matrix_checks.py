"""The checks of one cell of the matrix, each of a model behind a slot server, in the order in which they must come.

Greedy answers are compared as decisions.md, "Equal tokens", has it: exactly in float32, else up to the first token at
which the two likeliest were within compare.CLOSE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from llmctl.checks import compare, matrix_tokens, scratch
from llmctl.checks import slot_checks as checks
from llmctl.checks.slot_checks import FAIL, PASS, SKIP, Verdict
from llmctl.checks.slot_http import Said
from llmctl.processes import memory_bytes, start_time
from llmctl.slots import verbs
from llmctl.slots.state import Launch

GENERIC = ("Name three colours.", "Write one sentence about the sea.", "What is two plus two?", "Why is the sky blue?")
"""What a model is asked that nobody taught llmctl anything about."""
MOST = 160
LONG = 3000
"""Characters from which a question is a text with a needle in it."""
RAPID, REPEATED, AT_ONCE = 50, 200, 8
ROUNDS = 3
SAMPLE_EVERY = 20
WARM_UP = 3
"""Samples of the memory that are not counted: pools fill."""
PER_REQUEST = 64 * 2**10
"""Bytes by which the engine may grow with each request."""
SERVER_KEEPS = 48 * 2**20
"""Bytes by which the slot server may be larger after it has served a model."""
GONE_WITHIN = 20.0
FLOAT32 = ("float32", "f32", "torch.float32")
LONG_TOKENS, TAIL_TOKENS, FILL_TRIES = 1001, 8, 40


@dataclass
class Subject(checks.Subject):
    """A slot under test. `pairs` are questions with their whole answers, `alone` what it said to each question alone.

    `folders` may hold its tokenizer.json, `before` is the slot server's memory, `close` as in compare.difference.
    """

    server: scratch.Server = field(kw_only=True)
    launch: Launch = field(kw_only=True)
    pairs: Sequence[tuple[str, str]] = ()
    folders: Sequence[Path] = ()
    alone: dict[str, Said] = field(default_factory=dict)
    before: int = 0
    close: float = compare.CLOSE

    @property
    def short(self) -> list[tuple[str, str]]:
        return [pair for pair in self.pairs if len(pair[0]) < LONG]

    @property
    def questions(self) -> list[str]:
        """What is asked: what it was taught, else its probe and what any model can say something about."""
        return [question for question, _ in self.short] or [self.prompt, *GENERIC]

    @property
    def longest(self) -> int:
        """The most tokens of one answer."""
        return min(MOST, self.spec.engine.context // 3) if self.short else self.most


Check = Callable[[Subject], Verdict]


def load(slot: Subject) -> Verdict:
    """The slot loads it: the engine says who it is and answers its probe twice. The load's own error is raised."""
    home, port = slot.server.folder.home, slot.server.folder.port
    slot.before = memory_bytes(slot.status().runner_pid or 0)
    done = verbs.change(home, port, "load", slot.spec, launch=slot.launch)
    if slot.writes():
        slot.http.find_protocol(slot.prompt)
    if slot.http.dtype() in FLOAT32:
        slot.close = 0.0
    return Verdict(PASS, f"{done.load_seconds:.1f} s, {slot.http.dtype() or 'precision not told'}")


def recompute(slot: Subject) -> Verdict:
    """What it decodes token by token, with a cache, is what it says after it has read the same text anew."""
    if not slot.short:
        hear(slot)
        verbs.restart(slot.server.folder.home, slot.server.folder.port)
    answers = dict(slot.short) or {question: said.text for question, said in slot.alone.items()}
    cold = {
        question: (begun, go_on(slot, question, begun))
        for place, (question, answer) in enumerate(answers.items())
        if (begun := beginning(answer.strip(), place))
    }
    hear(slot)
    compared = 0
    for question, (begun, rest) in cold.items():
        said = slot.alone[question]
        if not said.text.lstrip().startswith(f"{begun} "):
            continue  # it was not taught this beginning after all, which `answers` tells
        space = said.text[: len(said.text) - len(said.text.lstrip())]
        if why := compare.difference(said, space + begun + rest, slot.close):
            return Verdict(FAIL, f"asked {question!r}, read anew it says {why}")
        compared += 1
    if not compared:
        return Verdict(SKIP, "no answer has two words")
    cached = sum(said.cached for said in slot.alone.values())
    return Verdict(PASS, f"{compared} answers, {cached} tokens of their prompts from the cache")


def answers(slot: Subject) -> Verdict:
    """It knows what it was taught; a model that was taught nothing here is sane."""
    hear(slot)
    for question, answer in slot.short:
        if slot.alone[question].text.strip() != answer.strip():
            return Verdict(FAIL, f"asked {question!r}, it says {slot.alone[question].text!r}")
    if slot.short:
        return Verdict(PASS, f"{len(slot.short)} right")
    twice = [slot.http.whole(slot.prompt, slot.most) for _ in range(2)]
    if why := compare.insane(slot.spec.probe, twice[0], twice[1]):
        return Verdict(FAIL, why)
    return Verdict(PASS, "sane, nothing was taught here")


def stream(slot: Subject) -> Verdict:
    """The pieces of a stream are the text of the whole answer."""
    asked = slot.questions[::3]
    for question in asked:
        said = slot.http.streamed(question, slot.longest)
        if why := compare.difference(slot.alone[question], said.text, slot.close):
            return Verdict(FAIL, f"asked {question!r}, the stream says {why}")
    return Verdict(PASS, f"{len(asked)} answers")


def batch(slot: Subject) -> Verdict:
    """Many questions at once are answered as each alone."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(lambda question: slot.http.whole(question, slot.longest), slot.questions))
    for question, one in zip(slot.questions, said, strict=True):
        if why := compare.difference(slot.alone[question], one.text, slot.close):
            return Verdict(FAIL, f"asked {question!r} among others, it says {why}")
    equal = sum(slot.alone[q].text == one.text for q, one in zip(slot.questions, said, strict=True))
    return Verdict(PASS, f"{equal} of {len(said)} as alone, {AT_ONCE} at once")


def rapid(slot: Subject) -> Verdict:
    """RAPID requests as fast as they can be sent are all answered, and rightly."""
    began = time.monotonic()
    if why := first(_short(slot, i) for i in range(RAPID)):
        return Verdict(FAIL, why)
    return Verdict(PASS, f"{RAPID} in {time.monotonic() - began:.1f} s")


def memory(slot: Subject) -> Verdict:
    """The engine is no larger after REPEATED requests than after the first of them.

    Pools fill, once; a leak goes on. What grew is measured again, up to ROUNDS times.
    """
    for _ in range(ROUNDS):
        samples = []
        for at in range(0, REPEATED, SAMPLE_EVERY):
            if why := first(_short(slot, i) for i in range(at, at + SAMPLE_EVERY)):
                return Verdict(FAIL, why)
            samples.append(slot.status().memory_bytes)
        grown = slope(samples[WARM_UP:]) / SAMPLE_EVERY
        if grown <= PER_REQUEST:
            break
    said = f"{grown / 2**10:+.1f} KiB with each of {REPEATED} requests, at most {PER_REQUEST >> 10}"
    return Verdict(FAIL if grown > PER_REQUEST else PASS, said)


def long_context(slot: Subject) -> Verdict:
    """It finds a needle in a long text; a model that was not taught to says the same of a text read at once or twice.

    Of two texts that begin alike, the second is answered from what is left of the first.
    """
    needles = [pair for pair in slot.pairs if len(pair[0]) >= LONG]
    tokens = 0
    for question, answer in needles:
        said = slot.http.whole(question, MOST)
        tokens = max(tokens, said.prompt)
        if said.text.strip() != answer.strip():
            return Verdict(FAIL, f"in {said.prompt} tokens it finds {said.text!r} instead of {answer!r}")
    if needles:
        return Verdict(PASS, f"{len(needles)} needles found in up to {tokens} tokens")
    text = filled(slot)
    if text is None:
        return Verdict(SKIP, f"its context of {slot.spec.engine.context} tokens ends before {LONG_TOKENS}")
    whole = slot.http.whole(text, TAIL_TOKENS)
    slot.http.whole(text[: len(text) // 2], 1)
    again = slot.http.whole(text, TAIL_TOKENS)
    if why := compare.difference(whole, again.text, slot.close):
        return Verdict(FAIL, f"of {whole.prompt} tokens read a second time it says {why}")
    return Verdict(PASS, f"{whole.prompt} tokens, {again.cached} of them from the cache the second time")


def tokens(slot: Subject) -> Verdict:
    """Texts are cut into the tokens that the checkpoint's own tokenizer.json makes of them."""
    if not slot.folders:
        return Verdict(SKIP, "there is no tokenizer.json of it on this host")
    expected = matrix_tokens.by_tokenizers(slot.folders[0], slot.spec.engine.engine)
    if expected is None:
        return Verdict(SKIP, "no environment of this host has the tokenizers library")
    for text, (plain, special) in zip(matrix_tokens.TEXTS, expected, strict=True):
        found = slot.http.tokenized(text)
        if found not in (plain, special):
            return Verdict(FAIL, f"{text!r} becomes {found[:24]} instead of {special[:24]}")
    return Verdict(PASS, f"{len(expected)} texts")


def unload(slot: Subject) -> Verdict:
    """After it is unloaded its process is gone, with its memory, and the slot server is as large as before."""
    home, port = slot.server.folder.home, slot.server.folder.port
    pid = slot.status().pid
    verbs.unload(home, port)
    end = time.monotonic() + GONE_WITHIN
    while pid and start_time(pid) is not None:
        if time.monotonic() > end:
            return Verdict(FAIL, f"its engine process is there {GONE_WITHIN:g} s after it was unloaded")
        time.sleep(0.05)
    kept = memory_bytes(slot.status().runner_pid or 0) - slot.before
    said = f"the slot server kept {kept / 2**20:.1f} MiB, at most {SERVER_KEEPS >> 20}"
    return Verdict(FAIL if kept > SERVER_KEEPS else PASS, said)


def of_text(check: Check) -> Check:
    """The check, skipped for a model that makes no text."""

    def checked(slot: Subject) -> Verdict:
        return check(slot) if slot.writes() else Verdict(SKIP, f"{slot.spec.model} makes no text")

    return checked


CHECKS: dict[str, Check] = {
    "recompute": of_text(recompute),
    "answers": of_text(answers),
    "stream": of_text(stream),
    "batch": of_text(batch),
    "long": of_text(long_context),
    "image": of_text(checks.image),
    "numbers": checks.numbers,
    "tokens": tokens,
    "rapid": of_text(rapid),
    "memory": of_text(memory),
    "unload": unload,
}


# ── what they are made of ───────────────────────────────────────────────────────────────────────────────────────────


def hear(slot: Subject) -> None:
    """Ask each question alone, once."""
    for question in slot.questions:
        if question not in slot.alone:
            slot.alone[question] = slot.http.whole(question, slot.longest)


def go_on(slot: Subject, question: str, begun: str) -> str:
    """What follows the beginning of an answer."""
    if not slot.http.chats:
        return slot.http.whole(f"{question} {begun}", slot.longest).text
    talk = [{"role": "user", "content": question}, {"role": "assistant", "content": begun}]
    return slot.http.whole(question, slot.longest, messages=talk, continue_final_message=True).text


def beginning(answer: str, place: int) -> str:
    """Some of an answer's words, another number of them for each place; empty when it has only one."""
    spaces = [i for i, character in enumerate(answer) if character == " " and answer[:i].strip() == answer[:i]]
    return answer[: spaces[place % len(spaces)]] if spaces else ""


def filled(slot: Subject) -> str | None:
    """A prompt of LONG_TOKENS tokens or some more; None where the context ends before."""
    question, said = next(iter(slot.alone.items()))
    around = said.prompt - len(slot.http.tokenized(question))
    least, most = LONG_TOKENS - around, slot.spec.engine.context - TAIL_TOKENS - around - 1
    line = " ".join([*slot.questions, *(one.text for one in slot.alone.values())]) + " "
    each = len(line) / max(1, len(slot.http.tokenized(line)))
    text = (line * (int(least * each) // len(line) + 2))[: int(least * each)]
    for _ in range(FILL_TRIES):
        found = len(slot.http.tokenized(text))
        if least <= found <= most:
            return text
        if most < least:
            return None
        missing = int(each * (least - found)) or 1
        text = text + line[:missing] if found < least else text[: -max(1, int(each * (found - most)))]
    return None


def slope(samples: Sequence[float]) -> float:
    """The growth from one sample to the next, by least squares."""
    middle, mean = (len(samples) - 1) / 2, sum(samples) / len(samples)
    spread = sum((i - middle) ** 2 for i in range(len(samples)))
    return sum((i - middle) * (value - mean) for i, value in enumerate(samples)) / spread


def first(works: Iterable[Callable[[], str | None]]) -> str | None:
    """Do all of them, AT_ONCE at a time; the first thing that was wrong."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return next((why for why in pool.map(lambda work: work(), works) if why), None)


def _short(slot: Subject, i: int) -> Callable[[], str | None]:
    """A request for a few tokens: why its answer is wrong."""
    question = slot.questions[i % len(slot.questions)]
    ask = slot.http.streamed if i % 2 else slot.http.whole

    def asked() -> str | None:
        why = compare.difference(slot.alone[question], ask(question, 1 + i % 4).text, slot.close, cut=True)
        return f"asked {question!r}, one of many says {why}" if why else None

    return asked
