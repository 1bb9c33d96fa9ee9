"""What a model says, cut into chunks in every way: for the properties of streams (hypothesis strategies)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from llmctl.domain import LENGTH, STOP, TOOLS, CallPiece, Chunk, Usage

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ID = "x"


@st.composite
def speech(draw: Any, index: int = 0) -> list[Chunk]:
    """One sequence: it thinks, talks, and calls tools, in small pieces; the last chunk says why it ended."""
    chunks = [Chunk(ID, index, reasoning=piece, tokens=1) for piece in draw(st.lists(TEXT, max_size=4))]
    chunks += [Chunk(ID, index, piece, 1) for piece in draw(st.lists(TEXT, max_size=4))]
    calls = draw(st.lists(st.lists(TEXT, max_size=4), max_size=3))
    for i, arguments in enumerate(calls):
        chunks.append(Chunk(ID, index, tokens=1, calls=(CallPiece(i, f"call_{index}_{i}", f"f{i}"),)))
        chunks += [Chunk(ID, index, tokens=1, calls=(CallPiece(i, arguments=piece),)) for piece in arguments]
    finish = TOOLS if calls else draw(st.sampled_from([STOP, LENGTH]))
    together = draw(st.lists(st.booleans(), min_size=len(chunks), max_size=len(chunks)))
    return [*_joined(chunks, together), Chunk(ID, index, finish=finish)]


def _joined(chunks: list[Chunk], together: list[bool]) -> list[Chunk]:
    """The chunks, some of them one with what came before."""
    found: list[Chunk] = []
    for chunk, join in zip(chunks, together, strict=True):
        if join and found and not (found[-1].calls and not chunk.calls):
            last = found[-1]
            found[-1] = replace(
                last,
                text=last.text + chunk.text,
                reasoning=last.reasoning + chunk.reasoning,
                calls=last.calls + chunk.calls,
                tokens=last.tokens + chunk.tokens,
            )
        else:
            found.append(chunk)
    return found


@st.composite
def batches(draw: Any, sequences: int = 1) -> list[list[Chunk]]:
    """An answer of so many sequences, their chunks in turns, in batches as a reader of any speed gets them."""
    waiting = [draw(speech(index)) for index in range(sequences)]
    chunks: list[Chunk] = []
    while any(waiting):
        queue = draw(st.sampled_from([one for one in waiting if one]))
        chunks.append(queue.pop(0))
    chunks[-1] = replace(chunks[-1], usage=Usage(3, sum(chunk.tokens for chunk in chunks), 1))
    cuts = sorted(draw(st.sets(st.integers(1, len(chunks)), max_size=6)) | {0, len(chunks)})
    return [chunks[a:b] for a, b in itertools.pairwise(cuts)]
