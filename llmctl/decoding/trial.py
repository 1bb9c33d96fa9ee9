"""A grammar is tried in a process of its own first: hostile ones crash llguidance, or keep it busy for minutes.

    python -m llmctl.decoding.trial        lines of JSON on stdin: a grammar; on stdout: null, or what is wrong with it

The child computes the masks of a short answer on a vocabulary of bytes and on a small stack, within limits of time and
memory. What passes is compiled again by the engine, where it then is harmless.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
from typing import Any

BUDGET = 0.8
"""Seconds of CPU time for one grammar."""
PATIENCE = 10.0
"""Seconds on the clock: many times the budget, for hosts whose cores are busy."""
SPECIAL = re.compile(r"<\[\d+\]>")
"""A special token by its id, which the trial's vocabulary has one of."""
STEPS = 24
STACK = 2**20
MEMORY = 2**30
LIMITS: dict[str, Any] = {
    "max_grammar_size": 10_000,
    "max_lexer_states": 50_000,
    "step_max_items": 20_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
"""llguidance's own, for the trial and the engine."""


class Trial:
    """The process, started when first needed and again after a grammar was its end. Used by one thread."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def verdict(self, grammar: str) -> str | None:
        """What is wrong with a grammar, as JSON text of one line; None when it is harmless."""
        grammar = SPECIAL.sub("<[257]>", grammar)
        child = self._child or self._start()
        assert child.stdin and child.stdout
        try:
            child.stdin.write(grammar + "\n")
            child.stdin.flush()
            answered, _, _ = select.select([child.stdout], [], [], PATIENCE)
            line = child.stdout.readline() if answered else ""
        except OSError:
            line = ""
        if line:
            answer: str | None = json.loads(line)
            return answer
        self.close()
        self._start()  # for the next one
        return "it is too complex"

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _start(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "llmctl.decoding.trial"]
        self._child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        return self._child


class Bytes:
    """A vocabulary of bytes, one end and another special token, as llguidance takes it."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256
    tokens = [bytes([byte]) for byte in range(256)] + [b"", b""]
    special_token_ids = (256, 257)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def main() -> None:
    """Answer until stdin ends."""
    import resource
    import signal

    import llguidance

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tokens: Any = Bytes()
    vocabulary = llguidance.LLTokenizer(tokens)
    threading.stack_size(STACK)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, BUDGET)  # its signal ends the process
        thread = threading.Thread(target=answer, args=(vocabulary, line))
        thread.start()
        thread.join()
        signal.setitimer(signal.ITIMER_PROF, 0)


def answer(vocabulary: Any, grammar: str) -> None:
    """What is wrong with a grammar, on stdout; whatever it breaks here is the end of the process."""
    try:
        print(json.dumps(wrong(vocabulary, grammar)), flush=True)
    except BaseException:
        os._exit(1)


def wrong(vocabulary: Any, grammar: str) -> str | None:
    """Compile a grammar and walk some steps along a way that it allows; what went wrong."""
    import random

    import llguidance

    chance = random.Random(0)
    matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0, limits=llguidance.LLParserLimits(**LIMITS))
    for _ in range(STEPS):
        if matcher.is_error() or matcher.is_stopped():
            break
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte // 8] >> byte % 8 & 1]
        if not allowed or matcher.is_error():
            break
        matcher.consume_token(chance.choice(allowed))
    return summary(matcher.get_error()) if matcher.is_error() else None


def summary(message: str) -> str:
    """The first line of an error of llguidance's, and what it says at the end of a picture of the place."""
    lines = message.strip().splitlines() or ["it is wrong"]
    if lines[0].startswith("NoExtension"):
        return "nothing can match it"
    last = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    return " ".join(filter(None, [lines[0], last]))[:300]


if __name__ == "__main__":
    main()
