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

    `broken` is a prompt that cannot be prefilled, `nan` one that generates NaN after three tokens; `fails` makes that
    many passes raise.
    """

    def __init__(self, *, says=None, parallel=4, context=512, chunk=16, broken="", nan=""):
        self.identity = Identity("toy", "toy", "toy", context, VOCAB, parallel)
        self.tokenizer = ToyTokenizer()
        self.prefill_chunk = chunk
        self.says = {tuple(k.encode()): list(v.encode() if isinstance(v, str) else v) for k, v in (says or {}).items()}
        self.broken, self.nan = tuple(broken.encode()), tuple(nan.encode())
        self.fails = 0
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
            self.fails -= 1
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


class ToyForward(ToyEngine):
    """The same with the optional methods: passes of several sequences, prefix reuse, rewinding."""

    mixes = True

    def __init__(self, **options):
        super().__init__(**options)
        self.ended: list[list[int]] = []
        self.rewound = 0

    def reuse(self, seq, prompt):
        assert self.sequences[seq] == []
        kept = max((shared(old, prompt[:-1]) for old in self.ended), default=0)
        self.sequences[seq] += prompt[:kept]
        return kept

    def forward(self, feed, every):
        assert feed
        assert every <= feed.keys()
        before = {seq: len(self.sequences[seq]) for seq in feed}
        self.work.append(("forward", sum(map(len, feed.values()))))
        if self.fails:
            self.fails -= 1
            raise LlmctlError("the device is gone")
        rows = []
        for seq, tokens in feed.items():
            assert len(tokens) > 0
            self.sequences[seq] += tokens
            history = self.sequences[seq]
            if self.broken and tuple(history[: len(self.broken)]) == self.broken:
                for other, length in before.items():
                    del self.sequences[other][length:]
                raise MemoryError("no room")
            ends = range(before[seq] + 1, len(history) + 1) if seq in every else [len(history)]
            rows += [self.logits(history[:end]) for end in ends]
        return ToyLogits(rows)

    def rewind(self, seq, length):
        assert 0 < length < len(self.sequences[seq])
        self.rewound += 1
        del self.sequences[seq][length:]

    def free(self, seq):
        self.ended.append(self.sequences[seq])
        super().free(seq)


class ToySeparate(ToyForward):
    """One whose prompts and running sequences are better computed apart."""

    mixes = False


def shared(a, b):
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
