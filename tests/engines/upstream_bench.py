"""An upstream engine as tests use it: attached to a server or with one of its own, asked, and heard to the end."""

from __future__ import annotations

import queue
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmctl.domain import CallPiece, Chunk, Done, EngineSpec, Failure, GenerateRequest, Sampling, Started, Task
from llmctl.engines import upstream
from llmctl.errors import LlmctlError, from_dict
from llmctl.servers import Server

ODD = str(Path(__file__).with_name("odd_server.py"))
GREEDY = Sampling(temperature=0.0)
WITHIN = 60.0


def spec_of(
    server: Server, model: str = "odd", path: str = "", load_timeout: float = 30.0, **fields: Any
) -> EngineSpec:
    options = {"server": asdict(server), "load_timeout": load_timeout}
    return EngineSpec("upstream", model, path, "server", **{"context": 1024, "parallel": 8, **fields}, options=options)


def odd(*arguments: str, place: str = "{port}", **fields: Any) -> Server:
    """An odd_server that is started by its entry."""
    return Server(command=(sys.executable, ODD, place, "--id", "{id}", *arguments), kind="vllm", **fields)


@dataclass
class Heard:
    """All that came for one request."""

    events: list[Any] = field(default_factory=list)
    error: LlmctlError | None = None

    @property
    def chunks(self) -> list[Chunk]:
        return [event for event in self.events if isinstance(event, Chunk)]

    def text(self, index: int = 0) -> str:
        return "".join(chunk.text for chunk in self.chunks if chunk.index == index)

    @property
    def reasoning(self) -> str:
        return "".join(chunk.reasoning for chunk in self.chunks)

    @property
    def calls(self) -> list[CallPiece]:
        return [call for chunk in self.chunks for call in chunk.calls]

    @property
    def last(self) -> Chunk:
        return self.chunks[-1]

    def ends(self) -> dict[int, str]:
        return {chunk.index: chunk.finish for chunk in self.chunks if chunk.finish}


class Bench:
    """`bench("question", n=2)` is what came; RequestError of a refusal is raised."""

    def __init__(self, server: Server, **fields: Any) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()
        self.spec = spec_of(server, **fields)
        upstream.check(self.spec)
        self.engine = upstream.load(self.spec, lambda *_: None, self.queue.put)
        self.count = 0

    def begin(self, question: str, **fields: Any) -> str:
        self.count += 1
        given = {"messages": ({"role": "user", "content": question},), "sampling": GREEDY, **fields}
        self.engine.submit(GenerateRequest(id := f"r{self.count}", **given))
        return id

    def heard(self, id: str) -> Heard:
        """Until its end; another's events are not expected."""
        found = Heard()
        while True:
            event = self.queue.get(timeout=WITHIN)
            assert event.id == id, event
            found.events.append(event)
            if isinstance(event, Failure):
                found.error = from_dict(event.error)
                return found
            if isinstance(event, Chunk) and event.usage:
                return found

    def __call__(self, question: str, **fields: Any) -> Heard:
        heard = self.heard(self.begin(question, **fields))
        assert isinstance(heard.events[0], Started | Failure)
        return heard

    def task(self, verb: str, **arguments: Any) -> Any:
        """The value of a task; its error is raised."""
        self.engine.ask(Task("t", verb, arguments))
        event = self.queue.get(timeout=WITHIN)
        if isinstance(event, Failure):
            raise from_dict(event.error)
        assert isinstance(event, Done)
        return event.value

    def close(self) -> None:
        self.engine.close()
