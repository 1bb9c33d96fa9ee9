"""One model over several hosts: each computes its share of every layer, this one chooses the tokens.

The engine of the slot is the first of them. It starts the others, makes each call of the engine protocol on all, and
alone looks at the logits; the collectives of the engine's own library keep them in step (1909.08053).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, Protocol, cast

from llmctl.domain import DECIDE, EMBED, NGRAM, RERANK, Emit, Engine, EngineSpec, Logits, Progress, StepEngine
from llmctl.engines import adapter
from llmctl.engines.batch import BatchEngine
from llmctl.engines.drafts import Ngrams
from llmctl.engines.spread_calls import COMPUTE, KEEP
from llmctl.engines.spread_crew import Crew
from llmctl.engines.spread_place import Held, Place
from llmctl.engines.tasks import POOLED
from llmctl.errors import Unsupported
from llmctl.spread import Member, of

GROUPS = ("torch", "mlx")
"""The engines that have a `<engine>_spread`."""
OF_ONE = (EMBED, RERANK, DECIDE, POOLED)
"""What only an engine on one host answers."""


class Group(Protocol):
    """An engine's own distributed mode."""

    def check(self, spec: EngineSpec) -> None:
        """Unsupported when the model cannot be cut into len(spec.spread) shares."""

    def settled(self, spec: EngineSpec) -> EngineSpec:
        """What one host decides for all of them."""

    def join(self, rank: int, places: Sequence[Place], held: Held) -> None:
        """Become one of a group, of which `held` is this one's place. LoadFailed when it does not come about."""


def group(engine: str) -> Group:
    """The distributed mode of an engine; Unsupported when it has none."""
    if engine not in GROUPS:
        raise Unsupported(f"the {engine} engine runs on one host", hint=f"engines that spread: {', '.join(GROUPS)}")
    return cast(Group, import_module(f"llmctl.engines.{engine}_spread"))


def check(spec: EngineSpec) -> None:
    """Unsupported, by name, before any weights are read; `slots.spread` has refused what needs no library to tell."""
    whole = group(spec.engine)
    adapter(spec.engine).check(spec)
    whole.check(spec)


def load(spec: EngineSpec, progress: Progress, emit: Emit) -> Engine:
    """Load this host's share, have the others load theirs, and batch over all of them."""
    spec, members = group(spec.engine).settled(spec), of(spec.spread)
    crew = Crew(spec, members, partial(words, spec, members), emit)
    held = Held(members[0].address)
    places = [held.place, *crew.places()]
    crew.join(places)
    steps = load_share(spec, 0, places, held, progress)
    crew.ready()
    return BatchEngine(SpreadSteps(steps, crew), emit, draft=Ngrams() if spec.draft == NGRAM else None)


def load_share(
    spec: EngineSpec, rank: int, places: Sequence[Place], held: Held, progress: Progress
) -> StepEngine:  # fmt: skip
    """The share of one host, which can compute as soon as all have theirs."""
    group(spec.engine).join(rank, places, held)
    found: StepEngine = import_module(f"llmctl.engines.{spec.engine}").load_steps(spec, progress)
    return found


def words(spec: EngineSpec, members: Sequence[Member], number: int) -> list[str]:
    """What llmctl is asked on another host: to become a rank of this model."""
    slot = f"{members[0].host}:{os.environ.get('LLMCTL_PORT', '0')}"
    needed = members[number].needed
    return ["host", "rank", f"--engine={spec.engine}", f"--model={spec.model}", f"--slot={slot}", f"--needed={needed}"]


class SpreadSteps:
    """The StepEngine over the shares of all hosts. It has what `own`, this host's share, has of the optional calls."""

    def __init__(self, own: StepEngine, crew: Crew) -> None:
        known = tuple(word for word in own.identity.capabilities if word not in OF_ONE)
        self.identity = replace(own.identity, capabilities=known)
        self.tokenizer, self.prefill_chunk = own.tokenizer, own.prefill_chunk
        self.mixes: bool = getattr(own, "mixes", True)
        self._own, self._crew = own, crew

    def open(self, *, adapter: str | None = None, seen: Any = None) -> int:
        handle = self._own.open(adapter=adapter)
        self._crew.tell("open", (adapter,), handle)
        self._crew.ended()
        return handle

    def prefill(self, seq: int, tokens: Sequence[int]) -> Logits:
        return cast(Logits, self._compute("prefill", seq, tokens))

    def step(self, feed: Mapping[int, int]) -> Logits:
        return cast(Logits, self._compute("step", feed))

    def fork(self, seq: int) -> int:
        return cast(int, self._keep("fork", seq))

    def free(self, seq: int) -> None:
        self._keep("free", seq)

    def close(self) -> None:
        self._crew.close()
        self._own.close()

    def __getattr__(self, name: str) -> Any:
        if name in (*COMPUTE, *KEEP) and hasattr(self._own, name):
            return partial(self._compute if name in COMPUTE else self._keep, name)
        raise AttributeError(name)

    def _compute(self, name: str, *args: Any) -> Any:
        """All compute, at the same time."""
        self._crew.tell(name, args)
        try:
            result = getattr(self._own, name)(*args)
        except Exception as error:
            self._crew.ended(error)
            raise
        self._crew.ended()
        return result

    def _keep(self, name: str, *args: Any) -> Any:
        """This host first: what it cannot do the others are not asked for."""
        result = getattr(self._own, name)(*args)
        self._crew.tell(name, args, result)
        self._crew.ended()
        return result
