"""An engine process as the slot server holds it: spawn, frames, its streams, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmctl import paths
from llmctl.domain import Chunk, GenerateRequest, Identity, SlotSpec, Started, Task, build
from llmctl.environments import installed
from llmctl.errors import LlmctlError, LoadFailed, RequestError, from_dict
from llmctl.native import builds
from llmctl.processes import ProcessId, code, own_environment, tree_bytes
from llmctl.runner import frames
from llmctl.runner.engine_log import EngineLog
from llmctl.runner.streams import RequestStream

TERM_AFTER, KILL_AFTER = 3.0, 6.0
RATE_WINDOW = 10.0
PROFILE = 120.0  # a trace of a minute takes its time to be written
TURN = 150.0

OnProgress = Callable[[str, int, int], None]


class EngineProcess(asyncio.Protocol):
    """One worker process with one model. `ready` resolves to its identity, `gone` to why it ended; `runs` is the code
    and the Python that it was started with. `warmed`: it has no model yet, and could load one at once."""

    def __init__(self, spec: SlotSpec, child: Child, log: EngineLog, output: int, write_buffer: int) -> None:
        self.spec, self.child = spec, child
        self.write_buffer = write_buffer
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Identity] = loop.create_future()
        self.gone: asyncio.Future[str] = loop.create_future()
        self.streams: dict[str, RequestStream] = {}
        self.identity: Identity | None = None
        self.warmed = False
        self.reservation: str | None = None
        self.on_progress: OnProgress = lambda stage, done, total: None
        self.on_room: Callable[[], None] = lambda: None
        self.started_at = self.progressed_at = time.monotonic()
        self.load_seconds = 0.0
        self.runs: dict[str, str] = {}
        self._answers: dict[str, asyncio.Future[Mapping[str, Any]]] = {}  # by the kind of frame that is waited for
        self._transport: asyncio.Transport | None = None
        self._reader = frames.Reader()
        self.held: int | None = None  # tokens in its cache, at its last beat, where it tells
        self._steps: int | None = None
        self._dying = ""  # why it cannot go on, as it said itself or as who killed it did
        self._rate: list[tuple[float, int]] = []
        self._output = log.follow(output, str(child.pid))
        child.watch(self._exited)

    # ── its beginning ───────────────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    async def spawn(spec: SlotSpec, log: EngineLog, environment: Mapping[str, str], write_buffer: int) -> EngineProcess:
        """Start a worker for models like that of `spec`, whose next frame says what it is to do. Call from the main
        thread only.

        Unsupported when this release has no environment for it, LoadFailed when that one does not start.
        """
        python = python_of(spec)
        ours, theirs = socket.socketpair()
        output_read, output_write = os.pipe()
        argv = [python, "-m", "llmctl.runner.worker", str(theirs.fileno()), str(os.getpid())]
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output_write, stderr=output_write,
                pass_fds=(theirs.fileno(),), start_new_session=True, env=worker_environment(environment),
            )  # fmt: skip
        except OSError as error:
            ours.close()
            os.close(output_read)
            raise LoadFailed(f"cannot start {argv[0]}: {error}") from error
        finally:
            theirs.close()
            os.close(output_write)
        engine = EngineProcess(spec, Child(process.pid, process), log, output_read, write_buffer)
        engine.runs = {"code": code(), "python": argv[0]}
        await engine.connect(ours)
        return engine

    def warm_up(self) -> None:
        """Have it import its libraries and open its device, and wait."""
        self.send({"t": "warm", "engine": self.spec.engine.engine})

    def load(self, spec: SlotSpec) -> None:
        """Have it load the model of `spec`; `ready` tells when it has."""
        self.spec, self.started_at = spec, time.monotonic()
        self.send({"t": "spec", "spec": asdict(spec.engine)})

    @staticmethod
    async def adopt(state: Mapping[str, Any], log: EngineLog, write_buffer: int) -> EngineProcess:
        """The engine that the slot server had before it re-executed itself (`handover`)."""
        engine = EngineProcess(
            SlotSpec.from_dict(state["spec"]), Child(state["pid"], None), log, state["output"], write_buffer
        )
        engine._reader = frames.Reader(bytes.fromhex(state["rest"]))
        engine.identity = build(Identity, state["identity"])
        engine.ready.set_result(engine.identity)
        engine.reservation = state["reservation"]
        engine.load_seconds = state["load_seconds"]
        engine.runs = state.get("runs", {})
        await engine.connect(socket.socket(fileno=state["socket"]))
        return engine

    def handover(self) -> dict[str, Any]:
        """What `adopt` needs; the descriptors in it become inheritable. No stream may be open."""
        assert self._transport and self.identity and not self.streams
        self._transport.pause_reading()
        sock = os.dup(self._transport.get_extra_info("socket").fileno())
        for fd in (sock, self._output.fd):
            os.set_inheritable(fd, True)
        return {
            "spec": self.spec.to_dict(), "pid": self.child.pid, "output": self._output.fd, "socket": sock,
            "rest": self._reader.rest.hex(), "identity": asdict(self.identity), "reservation": self.reservation,
            "load_seconds": self.load_seconds, "runs": self.runs,
        }  # fmt: skip

    async def connect(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=sock)

    # ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            for head, _ in self._reader.feed(data):
                self._frame(head)
        except (ValueError, KeyError, TypeError) as error:
            self._output.log.line(str(self.child.pid), f"sent a frame that cannot be read: {error!r}")
            self.kill()

    def _frame(self, head: Mapping[str, Any]) -> None:
        kind = head["t"]
        if kind == "events":
            self.progressed_at = time.monotonic()
            made = 0
            for row in head["e"]:
                event = frames.unpack_event(row)
                if isinstance(event, Chunk):
                    made += event.tokens
                self._deliver(event)
            self._rate.append((self.progressed_at, made))
            if len(self._rate) > 512:
                self._forget_rate(self.progressed_at)
        elif kind == "beat":
            self.held = head.get("held")
            if head["steps"] is None or head["steps"] != self._steps:
                self._steps = head["steps"]
                self.progressed_at = time.monotonic()
        elif kind == "progress":
            self.on_progress(head["stage"], head["done"], head["total"])
        elif kind == "warm":
            self.warmed = True
        elif kind == "ready":
            self.identity = build(Identity, head["identity"])
            self.load_seconds = time.monotonic() - self.started_at
            self._settle(self.identity)
        elif kind == "failed":
            error = from_dict(head["error"])
            self._dying = error.message
            self._settle(error)
        elif (answer := self._answers.get(kind)) and not answer.done():
            answer.set_result(head)

    def _deliver(self, event: Any) -> None:
        stream = self.streams.get(event.id)
        if stream is None:
            return
        stream.push(event)
        done = event.usage if isinstance(event, Chunk) else not isinstance(event, Started)
        if done:
            self._forget(event.id)

    def _settle(self, outcome: Identity | LlmctlError) -> None:
        if self.ready.done():
            return
        if isinstance(outcome, Identity):
            self.ready.set_result(outcome)
        else:
            self.ready.set_exception(outcome)
            self.ready.exception()  # read here: nobody may be waiting any more

    def send(self, head: dict[str, Any], tail: bytes = b"") -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(frames.encode(head, tail))

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    def has_room(self) -> bool:
        """One more request can run at once."""
        return bool(self.identity) and not self.gone.done() and len(self.streams) < self.identity.parallel  # type: ignore[union-attr]

    def begin(self, request: GenerateRequest | Task) -> RequestStream:
        """Hand a request to the engine, and await `accepted()` on the stream; or a task, and await its `value()`."""
        if not self.streams:
            self.progressed_at = time.monotonic()
        stream = RequestStream(request.id, self.spec.model, cancel=self._cancel, limit=self.write_buffer)
        self.streams[request.id] = stream
        if isinstance(request, Task):
            self.send({"t": "task", "task": asdict(request)})
        else:
            head, tail = request.to_wire()
            self.send({"t": "generate", "request": head}, tail)
        return stream

    def _cancel(self, id: str) -> None:
        """Tell the engine; the request holds its place until the engine says that it has ended."""
        self.send({"t": "cancel", "id": id})

    def _forget(self, id: str) -> None:
        if self.streams.pop(id, None):
            self.on_room()

    def cut(self, error: LlmctlError) -> int:
        """End every open stream with `error`; how many there were that still had a reader."""
        open_streams = list(self.streams.values())
        self.streams.clear()
        for stream in open_streams:
            self._cancel(stream.id)
        live = [s for s in open_streams if not s.ended]
        for stream in live:
            stream.fail(error)
        return len(live)

    # ── signs of life ───────────────────────────────────────────────────────────────────────────────────────────────

    def silent_for(self) -> float:
        """Seconds since it last showed progress."""
        return time.monotonic() - self.progressed_at

    def tokens_per_second(self) -> float:
        """Over the last RATE_WINDOW seconds in which it ran."""
        now = time.monotonic()
        self._forget_rate(now)
        if not self._rate:
            return 0.0
        return round(sum(n for _, n in self._rate) / max(1.0, now - self._rate[0][0]), 1)

    def _forget_rate(self, now: float) -> None:
        self._rate = [(at, n) for at, n in self._rate if now - at <= RATE_WINDOW]

    def last_words(self) -> list[str]:
        """The last lines it printed."""
        return list(self._output.tail)

    def resident(self) -> int:
        """Bytes of memory that it and what it started hold now."""
        return tree_bytes(self.child.pid)

    async def turn(self, way: str) -> None:
        """Have it REST or WAKE, with no stream open; LlmctlError when it does not, or not within TURN seconds."""
        turned = await self._answer({"t": way}, "turned", TURN)
        if turned is None:
            why = f"the engine {self.gone.result()}" if self.gone.done() else f"not within {TURN:.0f} s"
            raise LoadFailed(f"{self.spec.model} did not {way}: {why}")
        if turned["error"]:
            raise from_dict(turned["error"])

    async def profile(self, to: Path | None) -> Mapping[str, Any]:
        """Start a profile of its work, or end it and write it to the file `to`; what it saw.

        LlmctlError when it cannot, or does not answer within PROFILE seconds.
        """
        found = await self._answer({"t": "profile", "to": str(to) if to else None}, "profiled", PROFILE)
        if found is None:
            raise LlmctlError(f"{self.spec.model} did not answer within {PROFILE:.0f} s", hint="llmctl status")
        if error := found.get("error"):
            raise from_dict(error)
        value: Mapping[str, Any] = found["value"]
        return value

    async def _answer(self, frame: dict[str, Any], kind: str, within: float) -> Mapping[str, Any] | None:
        """The frame of `kind` that answers this one; None when it ends, or does not come within so many seconds."""
        answer = self._answers[kind] = asyncio.get_running_loop().create_future()
        self.send(frame)
        await asyncio.wait((answer, self.gone), timeout=within, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None

    # ── its end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def stop(self) -> None:
        """Ask, then SIGTERM, then SIGKILL to its process group; returns when it is gone."""
        self.send({"t": "stop"})
        for number, after in ((signal.SIGTERM, TERM_AFTER), (signal.SIGKILL, KILL_AFTER - TERM_AFTER)):
            if await self._gone_within(after):
                return
            self.child.signal(number)
        await self.gone

    async def _gone_within(self, seconds: float) -> bool:
        done, _ = await asyncio.wait([self.gone], timeout=seconds)
        return bool(done)

    def kill(self, why: str = "") -> None:
        """SIGKILL to its process group; `why` is what is told of its end."""
        self._dying = self._dying or why
        self.child.signal(signal.SIGKILL)

    def _exited(self, status: int) -> None:
        self._output.drain()
        self._output.close()
        if self._transport:
            self._hear_out(self._transport.get_extra_info("socket").fileno())
            self._transport.abort()
        why = f"ended: {self._dying}" if self._dying else describe_end(status)
        said = f"ended while it answered: {self._dying}" if self._dying else f"{why} while it answered"
        error = RequestError(f"the engine {said}", status=500, code="engine_died")
        for stream in list(self.streams.values()):
            stream.fail(error)
        self.streams.clear()
        self._settle(LoadFailed(f"{self.spec.model}: the engine process {why} while loading"))
        if not self.gone.done():
            self.gone.set_result(why)

    def _hear_out(self, sock: int) -> None:
        """What it said last may not have been read yet."""
        with contextlib.suppress(OSError):
            while data := os.read(sock, 2**18):
                self.data_received(data)


class Child:
    """A child process by pid, whether this program image spawned it or the one before a re-exec."""

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None) -> None:
        self.pid, self._popen = pid, popen
        self.identity = ProcessId.of(pid)

    def watch(self, exited: Callable[[int], None]) -> None:
        """Call `exited(status)` once, on the event loop; status as in Popen.returncode."""
        loop = asyncio.get_running_loop()
        if hasattr(os, "pidfd_open"):
            fd = os.pidfd_open(self.pid)

            def ended() -> None:
                loop.remove_reader(fd)
                os.close(fd)
                self._end_group()
                exited(self._reap())

            loop.add_reader(fd, ended)
        else:  # macOS, never run by this project
            loop.run_in_executor(None, self._reap).add_done_callback(lambda f: exited(f.result()))

    def _end_group(self) -> None:
        """Kill what the ended process left in its group; before it is reaped, so that its pid is still its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _reap(self) -> int:
        if self._popen:
            return self._popen.wait()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def signal(self, number: int) -> None:
        self.identity.signal(number)


def python_of(spec: SlotSpec) -> str:
    """The interpreter that runs its engine; Unsupported when this release has none."""
    return spec.python or installed.python_for(spec.engine.engine, spec.pins)


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The backend's variables, with llmctl found by path, and the llama.cpp that was built for this CPU."""
    return own_environment({**environment, **builds.environment(paths.home()), "PYTHONUNBUFFERED": "1"})


def describe_end(status: int) -> str:
    """How a process ended, in words; a SIGKILL nobody here sent is most often the kernel out of memory."""
    if status < 0:
        name = signal.Signals(-status).name
        return f"was killed by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")
    return f"ended with exit status {status}"
