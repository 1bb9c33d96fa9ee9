"""An engine that answers tasks, and what it answered."""

from llmctl.domain import Done, EngineSpec, Failure, Task
from llmctl.engines import adapter
from llmctl.errors import from_dict


class Asked:
    """The engine of a checkpoint or a GGUF file; called with a verb and arguments it gives the value of the Done."""

    def __init__(self, path, **fields):
        engine, format = ("llamacpp", "gguf") if path.suffix == ".gguf" else ("torch", "safetensors")
        spec = {"context": 4096, "device": "cpu", "threads": 1, **fields}
        self.spec = EngineSpec(engine, "m", str(path), format, **spec)
        self.events = []
        found = adapter(engine)
        found.check(self.spec)
        self.engine = found.load(self.spec, lambda *_: None, self.events.append)

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
