"""Tasks: what an engine answers without generating text, long ones in pieces between which others get their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, Protocol

from llmctl.domain import DETOKENIZE, EMBED, TOKENIZE, Done, Emit, Failure, GenerateRequest, Identity, Task, Tokenizer
from llmctl.engines.jobs import as_error
from llmctl.engines.requests import LONGEST_TOKEN, in_vocabulary, too_long
from llmctl.engines.tokenizer import strings
from llmctl.errors import RequestError

POOLED = "pooled"
"""The capability of a model that generates, and embeds only where the request says how to pool."""

Work = Generator[None, None, Mapping[str, Any]]
"""A task under way: each `next` does one piece of it, its return value is that of the Done."""


class Answering(Protocol):
    """What answers tasks: a StepEngine, or a model that generates nothing.

    embed, rerank and decide(**arguments) are there as `identity.capabilities` says; each returns its value, or Work.
    """

    @property
    def identity(self) -> Identity: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def close(self) -> None: ...


class Tasks:
    """The tasks of one engine that are under way; a piece of each in turn, so that a short one passes a long one."""

    def __init__(self, engine: Answering, emit: Emit) -> None:
        self._engine, self._emit = engine, emit
        self._works: deque[tuple[str, Work]] = deque()

    def ask(self, task: Task) -> None:
        """Answer it now, or begin it; RequestError for what this model cannot, by the verb's name."""
        value = answer(task, self._engine)
        if isinstance(value, Mapping):
            self._emit(Done(task.id, value))
        else:
            self._works.append((task.id, value))

    def step(self) -> bool:
        """One piece of the task whose turn it is; False when there is none."""
        if not self._works:
            return False
        id, work = self._works.popleft()
        try:
            next(work)
        except StopIteration as end:
            self._emit(Done(id, end.value))
        except Exception as error:  # whatever it is, it ends this task and nothing else
            self._emit(Failure(id, as_error(error).to_dict()))
        else:
            self._works.append((id, work))
        return True

    def cancel(self, id: str) -> None:
        """End a task that is under way; unknown ones are ignored."""
        for one in [work for work in self._works if work[0] == id]:
            self._works.remove(one)
            one[1].close()
            gone = RequestError("the task was cancelled", status=499, code="cancelled")
            self._emit(Failure(id, gone.to_dict()))

    def close(self) -> None:
        for id, _ in list(self._works):
            self.cancel(id)


class TaskEngine:
    """The Engine over a model that generates no text."""

    def __init__(self, model: Answering, emit: Emit) -> None:
        self.steps = 0
        self.identity = model.identity
        self._model, self._tasks = model, Tasks(model, emit)

    def submit(self, request: GenerateRequest) -> None:
        can = " and ".join(self.identity.capabilities)
        raise RequestError(f"{self.identity.model} generates no text: it can {can}", code="unsupported_task")

    def ask(self, task: Task) -> None:
        self._tasks.ask(task)

    def cancel(self, id: str) -> None:
        self._tasks.cancel(id)

    def step(self) -> bool:
        done = self._tasks.step()
        self.steps += done
        return done

    def close(self) -> None:
        self._tasks.close()
        self._model.close()


def answer(task: Task, engine: Answering) -> Mapping[str, Any] | Work:
    """The value of the task's Done, or the work that leads there."""
    given = task.arguments
    if task.verb == TOKENIZE:
        return {"ids": _ids(given, engine)}
    if task.verb == DETOKENIZE:
        in_vocabulary(given["ids"], "tokens", engine.identity)
        return {"text": engine.tokenizer.decode(given["ids"])}
    _able(task, engine.identity)
    value: Mapping[str, Any] | Work = getattr(engine, task.verb)(**given)
    return value


def _able(task: Task, model: Identity) -> None:
    """RequestError when this model does not answer such a task."""
    if task.verb in model.capabilities:
        return
    if task.verb == EMBED and POOLED in model.capabilities:
        if task.arguments.get("pooling"):
            return
        raise RequestError(
            f"{model.model} generates text; it embeds only when the request says how: pooling mean or last",
            param="pooling", code="unsupported_task",
        )  # fmt: skip
    raise RequestError(f"{model.model} on {model.engine} cannot {task.verb}", code="unsupported_task")


def _ids(given: Mapping[str, Any], engine: Answering) -> list[int]:
    chat = "messages" in given
    fits(strings(given["messages" if chat else "text"]), "messages" if chat else "prompt", engine)
    if chat:
        return engine.tokenizer.chat(given["messages"], tools=given.get("tools") or ())
    return engine.tokenizer.encode(given["text"], special=given.get("special", True), bos=given.get("bos", True))


def fits(texts: Iterable[str], param: str, engine: Answering) -> None:
    """RequestError for what is no text, and for so much that tokenizing it would hold up everyone else."""
    characters, context = 0, engine.identity.context
    for text in texts:
        characters += len(text)
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a lone surrogate
            raise RequestError(f"this is no text that can be tokenized: {error}", param=param) from error
    if characters > LONGEST_TOKEN * context:
        raise too_long(f"the text has at least {characters // LONGEST_TOKEN} tokens; the context is {context}", param)


def checked(ids: Sequence[int], param: str, engine: Answering) -> list[int]:
    """The tokens of one input; RequestError unless there are some, in the vocabulary, no more than the context."""
    model = engine.identity
    if not ids:
        raise RequestError("an input is empty", param=param)
    in_vocabulary(ids, param, model)
    if len(ids) > model.context:
        raise too_long(f"an input has {len(ids)} tokens; the context is {model.context}", param)
    return list(ids)
