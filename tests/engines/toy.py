"""A StepEngine without a model: its logits are a hash of the sequence's whole history, so any mix-up shows."""

from __future__ import annotations

import zlib
from typing import ClassVar

import numpy as np

from llmctl.decoding.families import Speech
from llmctl.domain import Identity
from llmctl.errors import LlmctlError, RequestError

EOS = 256
VOCAB = 300


class ToyTokenizer:
    """One token a byte; ids over 255 are silent."""

    eos_ids = frozenset({EOS})
    vocab = VOCAB
    chats = False
    specials: ClassVar = {EOS: "<end>"}
    speech = Speech()
    fim = None

    def encode(self, text, *, special=False, bos=True):
        return list(text.encode())

    def decode(self, ids):
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id):
        return bytes([id]) if id < 256 else b""

    def chat(self, messages, **more):
        if messages[0]["role"] != "user":
            raise RequestError("the first role must be user", param="messages")
        return self.encode("".join(m["content"] for m in messages))


class ToyLogits:
    def __init__(self, rows):
        self.rows = rows

    def argmax(self):
        return [int(r.argmax()) for r in self.rows], [bool(np.isfinite(r.max())) for r in self.rows]

    def row(self, i):
        return self.rows[i]


class ToyEngine:
    """`says` maps a prompt to the tokens that follow it; other histories are answered by their hash.

    `broken` is a prompt that cannot be prefilled, `nan` one that generates NaN after three tokens; `fails` makes the
    next decode step raise.
    """

    def __init__(self, *, says=None, parallel=4, context=512, chunk=16, broken="", nan=""):
        self.identity = Identity("toy", "toy", "toy", context, VOCAB, parallel)
        self.tokenizer = ToyTokenizer()
        self.prefill_chunk = chunk
        self.says = {tuple(k.encode()): list(v.encode() if isinstance(v, str) else v) for k, v in (says or {}).items()}
        self.broken, self.nan = tuple(broken.encode()), tuple(nan.encode())
        self.fails = False
        self.sequences: dict[int, list[int]] = {}
        self.work: list[tuple[str, int]] = []  # ("prefill", tokens) and ("step", sequences)
        self.closed = False
        self._next = 0

    def open(self, *, adapter=None, seen=None):
        return self._new([])

    def prefill(self, seq, tokens):
        assert 0 < len(tokens) <= self.prefill_chunk
        self.work.append(("prefill", len(tokens)))
        self.sequences[seq] += tokens
        if self.broken and tuple(self.sequences[seq][: len(self.broken)]) == self.broken:
            raise MemoryError("no room")
        return ToyLogits([self.logits(self.sequences[seq])])

    def fork(self, seq):
        return self._new(list(self.sequences[seq]))

    def step(self, feed):
        self.work.append(("step", len(feed)))
        assert len(self.sequences) - len(feed) >= 0
        if self.fails:
            self.fails = False
            raise LlmctlError("the device is gone")
        for seq, token in feed.items():
            self.sequences[seq].append(token)
        return ToyLogits([self.logits(self.sequences[seq]) for seq in feed])

    def free(self, seq):
        del self.sequences[seq]

    def close(self):
        self.closed = True

    def logits(self, history):
        if self.nan and tuple(history[: len(self.nan)]) == self.nan and len(history) > len(self.nan) + 2:
            return np.full(VOCAB, np.nan, dtype=np.float32)
        for prompt, answer in self.says.items():
            said = history[len(prompt) :]
            if tuple(history[: len(prompt)]) == prompt and said == answer[: len(said)]:
                wanted = [*answer, EOS][len(said)]
                return np.where(np.arange(VOCAB) == wanted, 9.0, 0.0).astype(np.float32)
        seed = zlib.crc32(np.array(history, dtype=np.int32).tobytes())
        row = np.random.default_rng(seed).normal(size=VOCAB).astype(np.float32) * 2
        row[EOS:] -= 4
        return row

    def _new(self, history):
        self._next += 1
        self.sequences[self._next] = history
        return self._next
