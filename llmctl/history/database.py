"""The SQLite file of history: opened, brought up to date, put aside when it is damaged; every failure is typed.

WAL: readers never wait for a writer, nor it for them; what a process wrote before it was killed stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import RLock
from typing import TypeVar
from urllib.parse import quote

from llmctl.errors import Busy, HistoryError
from llmctl.files import locked, private
from llmctl.history import schema

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
PATIENCE = 5.0
"""Seconds to wait for another process that writes."""
WAL_KEPT = 4 * 2**20
TORN_KEPT = 3
DAMAGED = ("malformed", "not a database")


class Database:
    """One open file, for any number of threads. `said` tells what had to be done to open it.

    Without `write` a file that does not exist is an empty one.
    """

    def __init__(self, path: Path, write: bool, patience: float = PATIENCE) -> None:
        self.path, self.write, self.patience, self.said = path, write, patience, ""
        self._lock, self._inode = RLock(), 0
        self._db: sqlite3.Connection | None = None
        self.read(lambda db: None)

    def close(self) -> None:
        with self._lock:
            db, self._db = self._db, None
            if db:
                with contextlib.suppress(sqlite3.Error):
                    db.close()

    def read(self, work: Work[T]) -> T:
        """What `work` finds."""
        return self._typed(lambda: work(self._open()))

    def change(self, work: Work[T]) -> T:
        """What `work` answers, done whole or not at all."""
        if not self.write:
            raise HistoryError(f"{self.path} was opened for reading")

        def whole() -> T:
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                found = work(db)
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
            return found

        return self._typed(whole)

    # ── opening ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = self._writer() if self.write else self._reader()
        return self._db

    def _writer(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(private(str(self.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC))
        self._inode = self.path.stat().st_ino
        with _closed_on_error(self._connect("mode=rw")) as db:
            try:
                schema.check(db)
            except schema.OlderSchema:
                schema.migrate(db)
            db.execute("PRAGMA journal_mode = WAL").fetchone()
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
            return db

    def _reader(self) -> sqlite3.Connection:
        if not self.path.exists():
            with _closed_on_error(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)) as db:
                schema.migrate(db)
                return db
        try:
            return self._checked("mode=ro")
        except schema.OlderSchema:
            Database(self.path, True, self.patience).close()
            return self._checked("mode=ro")
        except sqlite3.OperationalError as error:
            if _is(error, *DAMAGED, "locked") or self.path.with_name(f"{self.path.name}-wal").exists():
                raise
            return self._checked("immutable=1")  # in a folder that cannot be written, by anybody

    def _checked(self, mode: str) -> sqlite3.Connection:
        with _closed_on_error(self._connect(mode)) as db:
            schema.check(db)
            return db

    def _connect(self, mode: str) -> sqlite3.Connection:
        where = f"file:{quote(str(self.path))}?{mode}"
        db = sqlite3.connect(where, uri=True, timeout=self.patience, isolation_level=None, check_same_thread=False)
        db.text_factory = lambda text: text.decode(errors="replace")
        db.execute("PRAGMA cell_size_check = ON")
        return db

    # ── failures ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _typed(self, action: Callable[[], T]) -> T:
        """What `action` answers; once more with a new file when this one is damaged and may be put aside."""
        with self._lock:
            try:
                return action()
            except sqlite3.DatabaseError as error:
                if not self.write or not _is(error, *DAMAGED):
                    raise self._failure(error) from error
                self._put_aside(error)
            except (OSError, schema.NewerSchema, schema.ForeignFile) as error:
                raise self._failure(error) from error
            try:
                return action()
            except (sqlite3.Error, OSError) as error:
                raise self._failure(error) from error

    def _put_aside(self, error: sqlite3.Error) -> None:
        """Keep the damaged file under another name, unless another process has done so."""
        self.close()
        name = self.path.name
        to = f"{name}.torn-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
        try:
            with locked(self.path.with_name(f"{name}.lock"), wait=False, what=str(self.path)):
                if self.path.stat().st_ino != self._inode:
                    return
                for part in ("-shm", "-wal", ""):
                    if (old := self.path.with_name(name + part)).exists():
                        os.replace(old, self.path.with_name(to + part))
                self._forget_torn()
        except (OSError, Busy) as other:
            raise HistoryError(f"{self.path} is damaged ({error}) and cannot be put aside: {other}") from None
        self.said = f"{self.path} was damaged ({error}): it is kept as {to}, and a new one begun"

    def _forget_torn(self) -> None:
        torn = sorted(self.path.parent.glob(f"{self.path.name}.torn-*"))
        for old in [path for path in torn if path.name.rpartition("-")[2] not in ("wal", "shm")][:-TORN_KEPT]:
            for part in ("-shm", "-wal", ""):
                old.with_name(old.name + part).unlink(missing_ok=True)

    def _failure(self, error: Exception) -> HistoryError:
        path, text = self.path, str(error)
        if isinstance(error, schema.NewerSchema):
            message = f"was written by a newer llmctl (version {text}, this one reads {len(schema.STEPS)})"
            return HistoryError(f"{path} {message}; it was left as it is", hint="run the newer llmctl")
        if isinstance(error, schema.ForeignFile):
            return HistoryError(f"{path} is a database of something else", hint=f"mv {path} {path}.other")
        if isinstance(error, sqlite3.Error) and _is(error, *DAMAGED):
            hint = "llmctl history --sync keeps it aside and begins a new one"
            return HistoryError(f"{path} is damaged ({text})", hint=hint)
        if "locked" in text:
            what = f"has been written by another process for {self.patience:.0f} s"
            return HistoryError(f"{path} {what}", hint=f"try again; fuser {path} tells which")
        if "readonly" in text or isinstance(error, PermissionError) or getattr(error, "errno", 0) == errno.EROFS:
            return HistoryError(f"{path} cannot be written: it is read-only", hint=f"chmod u+w {path} {path.parent}")
        if "full" in text or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
            return HistoryError(f"the disk of {path} is full ({self._free()} free)", hint="free some")
        return HistoryError(f"{path} cannot be used: {text}", hint=f"ls -l {path}*; df {path.parent}")

    def _free(self) -> str:
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(self.path.parent).free / 1e6:.1f} MB"
        return "0 MB"


@contextlib.contextmanager
def _closed_on_error(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield db
    except BaseException:
        db.close()
        raise


def _is(error: Exception, *parts: str) -> bool:
    return any(part in str(error) for part in parts)
