"""What is kept of a job: `<home>/jobs/<id>/job.json`, with its progress and its log beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmctl.errors import LlmctlError, StateError, UnknownName, UsageError
from llmctl.files import locked, read_json, write_json
from llmctl.processes import ProcessId

QUEUED, RUNNING, DONE, FAILED, CANCELLED, LOST = "queued", "running", "done", "failed", "cancelled", "lost"
LIVE = (QUEUED, RUNNING)
LANES = ("network", "compute")
_ID = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Job:
    """One piece of long work. Times are epoch seconds; `error` is LlmctlError.to_dict()."""

    id: int
    kind: str
    title: str
    arguments: Mapping[str, Any]
    lane: str
    owner: str
    created: float
    token: str
    """Marks, in their environment, all processes of the job."""
    grace: float
    """Seconds that the work has to clean up when it is cancelled."""
    state: str = QUEUED
    process: ProcessId | None = None
    starts: int = 0
    started: float | None = None
    ended: float | None = None
    cancelled_by: str | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def alive(self) -> bool:
        """Its process runs."""
        return self.process is not None and self.process.alive()

    @property
    def again(self) -> str:
        """The command line that runs the same work again."""
        return f"llmctl {self.kind} {self.title}"


class Jobs:
    """The jobs of one host. Whoever changes a job.json holds `lock`."""

    def __init__(self, home: Path) -> None:
        self.home, self.path = home, home / "jobs"
        self.over: dict[int, Job] = {}  # an ended job does not change any more

    def lock(self) -> AbstractContextManager[int]:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return locked(self.path / "lock", what="the queue of jobs")

    def folder(self, id: int) -> Path:
        return self.path / str(id)

    def log(self, id: int) -> Path:
        return self.folder(id) / "log"

    def ids(self) -> list[int]:
        """Those of all jobs, in their order."""
        if not self.path.is_dir():
            return []
        return sorted(int(path.name) for path in self.path.iterdir() if _ID.fullmatch(path.name))

    def all(self) -> tuple[list[Job], list[tuple[int, LlmctlError]]]:
        """All jobs in the order of their ids, and those whose file cannot be trusted."""
        found: list[Job] = []
        torn: list[tuple[int, LlmctlError]] = []
        for id in self.ids():
            try:
                found.append(self.over.get(id) or self.read(id))
            except LlmctlError as error:
                torn.append((id, error))
        self.over = {job.id: job for job in found if not job.live}
        return found, torn

    def read(self, id: int) -> Job:
        """UnknownName when there is none, StateError when its file cannot be trusted."""
        path = self.folder(id) / "job.json"
        try:
            data = read_json(path)
        except StateError as error:
            raise StateError(error.message, hint=f"see {path.parent}; rm -r {path.parent} forgets the job") from None
        if data is None:
            raise UnknownName(f"there is no job {id}", hint="llmctl jobs list --all")
        try:
            process = data["process"] and ProcessId(**data["process"])
            return Job(**{**data, "id": id, "process": process})
        except (TypeError, KeyError) as error:
            raise StateError(
                f"{path} is not the state of a job: {error}", hint=f"rm -r {path.parent} forgets the job"
            ) from None

    def write(self, job: Job, folder: Path | None = None) -> Job:
        write_json((folder or self.folder(job.id)) / "job.json", asdict(job))
        return job


def number(text: str) -> int:
    """The id that was typed; UsageError when it is none."""
    if not _ID.fullmatch(text):
        raise UsageError(f"{text[:40]!r} is not the id of a job", hint="llmctl jobs list")
    return int(text)
