"""An engine that answers tasks, and what it answered."""

from llmctl.domain import Done, EngineSpec, Failure, Task
from llmctl.engines import adapter
from llmctl.errors import from_dict


def loaded(engine, path, emit, **fields):
    """The engine of a checkpoint or a GGUF file; `fields` are of its spec."""
    fields = {"device": "cpu", "threads": 1, **fields}
    spec = EngineSpec(engine, "m", str(path), "gguf" if engine == "llamacpp" else "safetensors", **fields)
    found = adapter(engine)
    found.check(spec)
    return found.load(spec, lambda *_: None, emit)


class Asked:
    """The engine of a checkpoint or a GGUF file; called with a verb and arguments it gives the value of the Done."""

    def __init__(self, path, **fields):
        engine = "llamacpp" if path.suffix == ".gguf" else "torch"
        self.events = []
        self.engine = loaded(engine, path, self.events.append, **{"context": 4096, **fields})

    def __call__(self, verb, **arguments):
        """The value of the Done; the error of a Failure is raised."""
        self.events.clear()
        self.engine.ask(Task("t", verb, arguments))
        while self.engine.step():
            pass
        (event,) = self.events
        if isinstance(event, Failure):
            raise from_dict(event.error)
        assert isinstance(event, Done)
        return event.value
