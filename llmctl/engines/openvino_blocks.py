"""Which block of the key-value cache holds which tokens: sharing, copies before writing, and what ended sequences left.

Paged attention (2309.06180): a sequence's keys and values lie in blocks of equal size anywhere in one pool. Pure
bookkeeping: the tensors are `openvino_steps`' business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmctl.errors import LlmctlError

Key = tuple[int, tuple[int, ...]]
"""What a full block holds: the `node` of the block before it (0: none), and its own tokens."""


class CacheFull(LlmctlError):
    """The pool has no block left for a sequence."""

    code = "out_of_memory"


@dataclass(eq=False)
class Block:
    """The `index`-th block of the pool, in `users` sequences. `key` once it is full and can be found by it."""

    index: int
    users: int = 0
    key: Key | None = None


@dataclass(eq=False)
class Held:
    """A sequence: its tokens, their blocks, and for each full block the node that stands for all tokens up to it."""

    tokens: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)


class Pool:
    """`count` blocks of `size` tokens each."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._free = [Block(index) for index in reversed(range(count))]
        self._idle: OrderedDict[int, Block] = OrderedDict()  # without users, but their key can be found; oldest first
        self._known: dict[Key, tuple[int, Block]] = {}
        self._nodes = 0

    @property
    def available(self) -> int:
        """Blocks that a sequence could get now."""
        return len(self._free) + len(self._idle)

    def reuse(self, held: Held, prompt: Sequence[int]) -> int:
        """Give an empty sequence the known blocks that `prompt` begins with, never all of it; how many tokens."""
        while len(prompt) - len(held.tokens) > self.size:
            chunk = tuple(prompt[len(held.tokens) : len(held.tokens) + self.size])
            found = self._known.get((held.nodes[-1] if held.nodes else 0, chunk))
            if found is None:
                break
            node, block = found
            self._take(block)
            held.tokens.extend(chunk)
            held.blocks.append(block)
            held.nodes.append(node)
        return len(held.tokens)

    def extend(self, held: Held, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """Append tokens: (from, to) of each block that is to be copied before they are written.

        CacheFull, and nothing is changed, when there are not enough blocks.
        """
        length = len(held.tokens)
        last = held.blocks[length // self.size] if length % self.size else None
        shared = last is not None and (last.users > 1 or last.key is not None)
        wanted = -(-(length + len(tokens)) // self.size) - len(held.blocks) + shared
        if wanted > self.available:
            raise CacheFull(
                f"the cache of {self.count * self.size} tokens is full: out of memory for {len(tokens)} more",
                hint="ask for less at once, or load the model with a larger cache",
            )
        copies = []
        if last is not None and shared:
            held.blocks[-1] = self._new()
            copies.append((last.index, held.blocks[-1].index))
            self._release(last)
            wanted -= 1
        held.blocks.extend(self._new() for _ in range(wanted))
        held.tokens.extend(tokens)
        return copies

    def computed(self, held: Held) -> None:
        """Its tokens are in its blocks: those that became full can be found by other sequences from now on."""
        for at in range(len(held.nodes), len(held.tokens) // self.size):
            key = (held.nodes[-1] if held.nodes else 0, tuple(held.tokens[at * self.size : (at + 1) * self.size]))
            if key not in self._known:
                self._nodes += 1
                held.blocks[at].key = key
                self._known[key] = (self._nodes, held.blocks[at])
            held.nodes.append(self._known[key][0])

    def rewind(self, held: Held, length: int) -> None:
        """Keep the first `length` tokens."""
        keep = -(-length // self.size)
        for block in reversed(held.blocks[keep:]):
            self._release(block)
        del held.blocks[keep:], held.nodes[length // self.size :], held.tokens[length:]

    def fork(self, held: Held) -> Held:
        """A second sequence in the same blocks."""
        for block in held.blocks:
            self._take(block)
        return Held(list(held.tokens), list(held.blocks), list(held.nodes))

    def free(self, held: Held) -> None:
        """End a sequence. Its last blocks become idle first, so that its beginning is kept for longest."""
        self.rewind(held, 0)

    def _take(self, block: Block) -> None:
        block.users += 1
        self._idle.pop(block.index, None)

    def _release(self, block: Block) -> None:
        block.users -= 1
        if block.users == 0 and block.key is None:
            self._free.append(block)
        elif block.users == 0:
            self._idle[block.index] = block

    def _new(self) -> Block:
        if self._free:
            block = self._free.pop()
        else:
            _, block = self._idle.popitem(last=False)
            assert block.key is not None
            del self._known[block.key]
            block.key = None
        block.users = 1
        return block
