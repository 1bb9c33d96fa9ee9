"""Continuous batching: makes an Engine of a StepEngine.

One `step` admits what waits (up to `parallel` sequences), computes at most one chunk of prompts and one token for
every running sequence, or as many as a draft got right; requests join and leave between two steps. This file schedules
and keeps requests apart; what one sequence's tokens become is `sequence`'s business.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Several
from dataclasses import replace
from functools import partial
from typing import Any

from llmctl.decoding.sampling import Sampler
from llmctl.decoding.structured import Masks
from llmctl.domain import (
    CANCELLED,
    LENGTH,
    TIME,
    Chunk,
    Emit,
    Failure,
    GenerateRequest,
    LogitsMask,
    Started,
    StepEngine,
    Task,
)
from llmctl.engines.drafts import Drafter, Drafts
from llmctl.engines.formats import mask_of, parser_of
from llmctl.engines.jobs import Job, Piece, Prefill, Running, as_error
from llmctl.engines.pace import Pace
from llmctl.engines.passes import Passes, Rows
from llmctl.engines.requests import budget, prompt_ids, validate
from llmctl.engines.sequence import Sequence
from llmctl.engines.tasks import Tasks
from llmctl.errors import RequestError


class BatchEngine:
    """The Engine over `engine`.

    `draft` proposes tokens that `engine` only has to check. `mask_for` makes the logits mask of each sequence of a
    request, given its prompt; None: what its format says.
    """

    def __init__(
        self,
        engine: StepEngine,
        emit: Emit,
        *,
        draft: Drafter | None = None,
        mask_for: Callable[[GenerateRequest, list[int]], LogitsMask | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps = 0  # grows while work is done: a watchdog's sign of life
        self.identity = engine.identity
        self._engine, self._emit, self._clock = engine, emit, clock
        self._masks = Masks(engine.tokenizer, engine.identity.vocab)
        self._mask_for = mask_for or partial(mask_of, self._masks, engine.tokenizer)
        self._passes, self._pace = Passes(engine), Pace()
        self._drafts = Drafts(draft if self._passes.rewinds else None)
        self._jobs: dict[str, Job] = {}
        self._preparing: list[Job] = []  # their masks are being made
        self._queue: deque[Job] = deque()
        self._prefills: list[Prefill] = []
        self._running: list[Running] = []
        self._tasks = Tasks(engine, emit)

    @property
    def held(self) -> int:
        """Tokens whose keys and values the sequences under way hold; a prefix that they share counts for each."""
        begun = sum(len(running.job.prompt) + running.sequence.made for running in self._running)
        return begun + sum(work.done for work in self._prefills)

    def submit(self, request: GenerateRequest) -> None:
        prompt, seen = self._prompt(request)
        validate(request, prompt, self.identity)
        sequences = [self._sequence(request, index, prompt) for index in range(request.n)]
        ready = prepared(sequences)
        handle = self._engine.open(adapter=request.adapter, seen=seen)
        job = Job(request, prompt, sequences, request.n, handle, seen)
        self._jobs[request.id] = job
        if ready:
            self._start(job)
        else:
            self._preparing.append(job)

    def ask(self, task: Task) -> None:
        self._tasks.ask(task)

    def cancel(self, id: str) -> None:
        if id in self._jobs:
            self._end(self._jobs[id], CANCELLED)
        else:
            self._tasks.cancel(id)

    def step(self) -> bool:
        self._expire()
        self._prepare()
        self._admit()
        asked = self._tasks.step()
        if not self._jobs:
            self.steps += asked
            return asked
        if len(self._preparing) == len(self._jobs) and not asked:
            time.sleep(0.001)
        self._compute()
        self.steps += 1
        return True

    def close(self) -> None:
        for job in list(self._jobs.values()):
            self._end(job, CANCELLED)
        self._tasks.close()
        self._masks.close()
        self._drafts.close()
        self._engine.close()

    # ── one step ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _expire(self) -> None:
        now = self._clock()
        for job in list(self._jobs.values()):
            if job.deadline is not None and now >= job.deadline:
                self._end(job, TIME)

    def _prepare(self) -> None:
        """Start what has its masks now; refuse what cannot have them."""
        for job in list(self._preparing):
            try:
                if prepared(job.waiting):
                    self._preparing.remove(job)
                    self._start(job)
            except Exception as error:
                self._fail(job, error)

    def _start(self, job: Job) -> None:
        self._queue.append(job)
        self._emit(Started(job.request.id, len(job.prompt)))

    def _admit(self) -> None:
        """Begin waiting sequences, first come first served, while there is room for them."""
        room = self.identity.parallel - len(self._running) - sum(len(p.sequences) for p in self._prefills)
        while self._queue and room > 0:
            job = self._queue[0]
            begun, job.waiting = job.waiting[:room], job.waiting[room:]
            room -= len(begun)
            if not job.waiting:
                self._queue.popleft()
            if job.deadline is None and job.request.time_cap is not None:
                job.deadline = self._clock() + job.request.time_cap
            self._prefills.append(Prefill(job, begun, job.handle))
            job.handle = None

    def _compute(self) -> None:
        """One chunk of prompts and one pass of the running sequences, in as few passes as the engine can make of it."""
        pieces = self._pieces()
        alone = [piece for piece in pieces if not self._passes.joins(piece)]
        for piece in alone:
            self._pass([piece], [])
        pieces = [piece for piece in pieces if piece not in alone]
        if not self._passes.mixes:
            self._pass(pieces, [])
            pieces = []
        self._pass(pieces, list(self._running))

    def _pieces(self) -> list[Piece]:
        """As many prompt tokens as the pace allows: as many whole prompts as these make, or a piece of the first.

        One that would only begin waits: engines compute pieces of like length best, and what it begins with may soon
        be there to be reused.
        """
        left = self._pace.most(self._engine.prefill_chunk, len(self._running), len(self._prefills))
        pieces: list[Piece] = []
        for work in list(self._prefills):
            job = work.job
            if pieces and len(job.prompt) - work.done > left:
                break
            try:
                if work.handle is None:
                    work.handle = self._engine.open(adapter=job.request.adapter, seen=job.seen)
                if work.done == 0 and job.seen is None:
                    work.done = 0 if job.request.fresh else self._passes.reuse(work.handle, job.prompt)
                    job.cached = work.done if job.cached is None else job.cached
            except Exception as error:  # whatever it is, it ends this request and no other
                self._fail(job, error)
                continue
            tokens = job.prompt[work.done :] if job.seen is not None else job.prompt[work.done : work.done + left]
            pieces.append(Piece(work, work.handle, tokens))
            left -= len(tokens)
        return pieces

    def _pass(self, pieces: Several[Piece], running: Several[Running]) -> None:
        """Compute, and take what each sequence gets from it.

        After an error each request is tried in a pass of its own, where that can be: it ends those that cause it.
        """
        if not pieces and not running:
            return
        proposed = self._drafts.propose(running)
        began = self._clock()
        try:
            rows = self._passes.compute(pieces, running, proposed)
        except Exception as error:
            jobs = dict.fromkeys([*(piece.work.job for piece in pieces), *(one.job for one in running)])
            for job in jobs:
                if len(jobs) == 1 or not self._passes.together:
                    self._fail(job, error)
                else:
                    self._pass([p for p in pieces if p.work.job is job], [r for r in running if r.job is job])
            return
        if pieces and pieces[0].work.job.seen is None:  # a picture takes the time of more than its tokens
            tokens = sum(len(piece.tokens) for piece in pieces) + len(running) + sum(map(len, proposed.values()))
            self._pace.saw(tokens, self._clock() - began)
        for row, piece in enumerate(pieces):
            piece.work.done += len(piece.tokens)
            if piece.work.done == len(piece.work.job.prompt) and piece.work in self._prefills:
                self._begin(piece.work, piece.handle, rows, row)
        row = len(pieces)
        for one in running:
            draft = proposed.get(one.handle, [])
            self._advance(one, draft, rows, row)
            row += 1 + len(draft)

    def _begin(self, work: Prefill, prompt: int, rows: Rows, row: int) -> None:
        """The prompt is computed: fork it for the other sequences, and choose each one's first token."""
        self._prefills.remove(work)
        begun: list[Running] = []
        try:
            for sequence in work.sequences:
                handle = self._engine.fork(prompt) if begun else prompt
                begun.append(Running(work.job, sequence, handle, self._drafts.history(work.job)))
                self._running.append(begun[-1])
                if work.job.request.echo:
                    self._emit(sequence.echo(work.job.prompt))
        except Exception as error:
            self._fail(work.job, error)
        for one in begun:
            self._choose(one, rows, row)

    def _advance(self, running: Running, draft: Several[int], rows: Rows, row: int) -> None:
        """The next tokens of a sequence: what it chooses, for as long as the draft says the same."""
        agreed = 0
        running.job.drafted += len(draft)
        while self._choose(running, rows, row + agreed, draft[agreed : agreed + 1]) and agreed < len(draft):
            if running.sequence.last != draft[agreed]:
                break
            agreed += 1
        if running not in self._running:
            return
        self._drafts.judge(running, len(draft), agreed)
        if agreed < len(draft):
            try:
                self._passes.rewind(running, len(running.job.prompt) + running.sequence.made - 1)
            except Exception as error:
                self._fail(running.job, error)

    def _choose(self, running: Running, rows: Rows, row: int, draft: Several[int] = ()) -> bool:
        """Choose, check and send the next token of a sequence from its row; whether it goes on. `draft` is what was
        proposed for it."""
        if running not in self._running:  # its request has failed
            return False
        try:
            if running.sequence.budget == 0:
                chunk: Chunk | None = running.sequence.end(LENGTH)
            else:
                choice = rows.choose(running.sequence.sampler, row)
                running.job.agreed += choice.token in draft
                chunk = running.sequence.accept(choice)
        except Exception as error:
            self._fail(running.job, error)
            return False
        if chunk is not None and chunk.finish is not None:
            self._finish(running, chunk)
            return False
        if running.history is not None:
            running.history.append(running.sequence.last)
        if chunk is not None:
            self._emit(chunk)
        return True

    # ── sequences and requests ──────────────────────────────────────────────────────────────────────────────────────

    def _prompt(self, request: GenerateRequest) -> tuple[list[int], Any]:
        """The prompt's tokens, and what the engine saw in the request's media."""
        takes = self.identity.inputs
        for one in request.media:
            if one.kind not in takes:
                raise RequestError(
                    f"{self.identity.model} takes {', '.join(takes)}, no {one.kind}",
                    param="messages", code="unsupported_content",
                )  # fmt: skip
        if request.media:
            ids, seen = self._engine.see(request)  # type: ignore[attr-defined]
            return list(ids), seen
        return prompt_ids(request, self._engine.tokenizer, self.identity), None

    def _sequence(self, request: GenerateRequest, index: int, prompt: list[int]) -> Sequence:
        sampler = Sampler(
            request.sampling,
            prompt,
            self.identity.vocab,
            index=index,
            logprobs=request.logprobs,
            mask=self._mask_for(request, prompt),
        )
        tokenizer = self._engine.tokenizer
        parser = parser_of(request, tokenizer, prompt)
        return Sequence(request, index, sampler, tokenizer, budget(request, prompt, self.identity), parser)

    def _finish(self, running: Running, chunk: Chunk) -> None:
        """A sequence has ended: give its memory back, then send its last chunk."""
        self._running.remove(running)
        self._free(running.handle)
        running.job.completion += running.sequence.made
        self._last(running.job, chunk)

    def _free(self, handle: int) -> None:
        self._drafts.forget(handle)
        self._engine.free(handle)

    def _last(self, job: Job, chunk: Chunk) -> None:
        """Send a sequence's last chunk; the request's last one carries the usage."""
        job.left -= 1
        if job.left == 0:
            del self._jobs[job.request.id]
            chunk = replace(chunk, usage=job.usage)
        self._emit(chunk)

    def _end(self, job: Job, finish: str) -> None:
        """End a request now, wherever it is."""
        unbegun = self._withdraw(job)
        for running in [r for r in self._running if r.job is job]:
            self._finish(running, running.sequence.end(finish))
        for sequence in unbegun:
            self._last(job, sequence.end(finish))

    def _fail(self, job: Job, error: Exception) -> None:
        """End a request with an error; the others go on."""
        self._withdraw(job)
        for running in [r for r in self._running if r.job is job]:
            self._running.remove(running)
            self._free(running.handle)
        if self._jobs.pop(job.request.id, None) is not None:
            self._emit(Failure(job.request.id, as_error(error).to_dict()))

    def _withdraw(self, job: Job) -> list[Sequence]:
        """Take a request out of the queue and the prefills; its sequences that had not begun."""
        unbegun, job.waiting = job.waiting, []
        if job in self._preparing:
            self._preparing.remove(job)
        if job in self._queue:
            self._queue.remove(job)
        handles = [job.handle]
        for work in [p for p in self._prefills if p.job is job]:
            self._prefills.remove(work)
            unbegun = work.sequences + unbegun
            handles.append(work.handle)
        job.handle = None
        for handle in handles:
            if handle is not None:
                self._engine.free(handle)
        return unbegun


def prepared(sequences: Iterable[Sequence]) -> bool:
    """Whether each can choose tokens; RequestError when one never can."""
    return all(sequence.sampler.ready() for sequence in sequences)
