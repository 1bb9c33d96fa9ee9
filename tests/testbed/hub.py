"""A model hub on loopback that misbehaves on demand: what huggingface-hub asks for, with faults and a log.

ROOT/org/name/ holds the files of org/name. Modelled from what the client of huggingface-hub 2.4 sends; no Xet.
`python -m tests.testbed.hub ROOT PORT` serves without faults, in a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PLAIN = (".json", ".md", ".txt", ".py", ".jinja")  # small text lies in git, the rest in LFS
CHUNK = 2**16
CODES = {"gated": (403, "GatedRepo"), "no_repo": (404, "RepoNotFound"), "unauthorized": (401, None)}


@dataclass
class Fault:
    """What goes wrong with files that match `path` (a glob; "" is the listing), `times` times (None: always).

    `kind`: cut (the connection ends after `after` bytes), slow (`seconds` a chunk), corrupt (the bit at byte `after`
    is flipped), short (the file ends at byte `after`), no_range, shift (a range comes from its second byte on), status
    (with `status` and `headers`), gated, no_repo, unauthorized, nonsense (an answer that is not a hub's).
    """

    kind: str
    path: str = "*"
    times: int | None = None
    after: int = 0
    seconds: float = 0.0
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    """One request: `sent` are the bytes of its body that went out, `weights` whether it came to the second host."""

    method: str
    path: str
    range: str | None
    token: str | None
    second: bool
    sent: int = 0


@dataclass(frozen=True)
class Meta:
    """A file as the hub lists it."""

    bytes: int
    etag: str
    lfs: bool


class Hub:
    """The running hub; `with Hub(root) as hub` ends it. With `redirect`, LFS files come from a second host and port."""

    def __init__(self, root: Path, port: int = 0, *, redirect: bool = False) -> None:
        self.root = root
        self.log: list[Seen] = []
        self.faults: list[Fault] = []
        self.extra: dict[str, tuple[str, ...]] = {}  # repo → names that are listed besides its files
        self.lies: dict[str, str] = {}  # path → a wrong hash to list
        self.tags: dict[str, str] = {}  # revision → commit
        self.licence = "apache-2.0"
        self.false_commit: str | None = None  # is listed instead of the right one
        self.gate: str | None = None  # the token that opens gated repositories
        self._meta: dict[tuple[Path, int, int], Meta] = {}
        self._lock = threading.Lock()
        self._servers = [_Server(self, port, second=False)]
        if redirect:
            self._servers.append(_Server(self, 0, second=True))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def second_url(self) -> str | None:
        """Where weights are sent to; another name than that of the hub, so that it is another origin."""
        return f"http://localhost:{self._servers[1].server_port}" if len(self._servers) > 1 else None

    def __enter__(self) -> Hub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def fault(self, kind: str, path: str = "*", **more: Any) -> Fault:
        """Misbehave from now on."""
        self.faults.append(Fault(kind, path, **more))
        return self.faults[-1]

    def heal(self) -> None:
        """No faults, an empty log."""
        self.faults.clear()
        self.log.clear()

    def sent(self, path: str = "*") -> int:
        """Bytes of files that match `path` which have gone out."""
        return sum(seen.sent for seen in self.log if "/resolve/" in seen.path and fnmatch(seen.path, f"*/{path}"))

    # ── what its handlers ask ───────────────────────────────────────────────────────────────────────────────────────

    def files(self, repo: str) -> dict[str, Path]:
        folder = self.root / repo
        return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def meta(self, path: Path) -> Meta:
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size)
        if key not in self._meta:
            lfs = path.suffix not in PLAIN
            digest = hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % stat.st_size)
            with open(path, "rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
            self._meta[key] = Meta(stat.st_size, digest.hexdigest(), lfs)
        return self._meta[key]

    def listed(self, repo: str) -> dict[str, Meta]:
        found = {name: self.meta(path) for name, path in self.files(repo).items()}
        found |= {name: Meta(3, "0" * 40, False) for name in self.extra.get(repo, ())}
        return {name: Meta(m.bytes, self.lies.get(name, m.etag), m.lfs) for name, m in found.items()}

    def commit(self, repo: str) -> str:
        """Changes with the files."""
        listed = sorted((name, meta.etag) for name, meta in self.listed(repo).items())
        return hashlib.sha1(json.dumps(listed).encode()).hexdigest()

    def known(self, repo: str, revision: str) -> bool:
        return revision in ("main", self.commit(repo), *self.tags, *self.tags.values())

    def take(self, kinds: tuple[str, ...], path: str) -> Fault | None:
        """The first fault of these kinds for `path`, counted."""
        with self._lock:
            for fault in self.faults:
                if fault.kind in kinds and fnmatch(path, fault.path) and fault.times != 0:
                    fault.times = fault.times and fault.times - 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: Hub, port: int, *, second: bool) -> None:
        self.hub, self.second = hub, second
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """The hub keeps a log of its own."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization")
        self.seen = Seen(self.command, path, self.headers.get("Range"), token, self.server.second)
        hub.log.append(self.seen)
        if match := re.match(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|(tree))/(.+?))?/?$", path):
            repo, tree, revision = match[1], match[2], match[3] or "main"
            if not self.refused(repo, revision, ""):
                self.tree(repo) if tree else self.info(repo)
        elif match := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path):
            repo, revision, name = match[1], match[2], match[3]
            if not self.refused(repo, revision, name):
                self.resolve(repo, name)
        elif path == "/api/models":
            self.search(parse_qs(urlsplit(self.path).query))
        else:
            self.json({"error": "not found"}, 404)

    def search(self, query: dict[str, list[str]]) -> None:
        """The repositories with all these words in their name and with these tags, in pages of two."""
        hub = self.server.hub
        if fault := hub.take(("status", "nonsense"), "search"):
            nonsense = fault.kind == "nonsense"
            return self.json({"hello": 1} if nonsense else {}, 200 if nonsense else fault.status, fault.headers)
        words, wanted = query.get("search", [""])[0].lower().split(), set(query.get("filter", []))
        start = int(query.get("cursor", ["0"])[-1])
        repos = sorted(f"{path.parent.name}/{path.name}" for path in hub.root.glob("*/*/"))
        found = [repo for repo in repos if all(w in repo.lower() for w in words) and wanted <= {*_tags(repo)}]
        page = [{"id": repo, "tags": _tags(repo), "downloads": 7, "gated": False} for repo in found[start : start + 2]]
        more = {"Link": f'<{hub.url}{self.path}&cursor={start + 2}>; rel="next"'} if found[start + 2 :] else {}
        return self.json(page, headers=more)

    def refused(self, repo: str, revision: str, name: str) -> bool:
        """Whether an error was sent."""
        hub = self.server.hub
        fault = hub.take(("status", "nonsense", *CODES), name)
        if fault and fault.kind in CODES and hub.gate and self.headers.get("Authorization") == f"Bearer {hub.gate}":
            fault = None
        if fault and fault.kind == "nonsense":
            self.json(["hello"])
        elif fault:
            status, code = CODES.get(fault.kind, (fault.status, None))
            headers = {"X-Error-Code": code} if code else {}
            if fault.kind == "unauthorized":
                headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self.json({"error": fault.kind}, status, {**headers, **fault.headers})
        elif not hub.files(repo):
            self.json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif not hub.known(repo, revision):
            self.json({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    def info(self, repo: str) -> None:
        hub = self.server.hub
        siblings: list[dict[str, Any]] = []
        for name, meta in hub.listed(repo).items():
            lfs = {"lfs": {"size": meta.bytes, "sha256": meta.etag, "pointerSize": 130}} if meta.lfs else {}
            siblings.append({"rfilename": name, "size": meta.bytes, "blobId": meta.etag[:40], **lfs})
        tags, sha = [f"license:{hub.licence}", *_tags(repo)[1:]], hub.false_commit or hub.commit(repo)
        self.json(
            {"_id": "1", "id": repo, "modelId": repo, "sha": sha, "private": False, "gated": False}
            | {"tags": tags, "downloads": 0, "likes": 0, "siblings": siblings, "usedStorage": 0}
        )

    def tree(self, repo: str) -> None:
        answer: list[dict[str, Any]] = []
        for name, meta in self.server.hub.listed(repo).items():
            lfs = {"lfs": {"oid": meta.etag, "size": meta.bytes, "pointerSize": 130}} if meta.lfs else {}
            answer.append({"type": "file", "oid": meta.etag[:40], "size": meta.bytes, "path": name, **lfs})
        self.json(answer)

    def resolve(self, repo: str, name: str) -> None:
        hub = self.server.hub
        path = hub.files(repo).get(name)
        if path is None:
            return self.json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        meta = hub.meta(path)
        headers = {"ETag": f'"{meta.etag}"', "X-Repo-Commit": hub.commit(repo), "Accept-Ranges": "bytes"}
        if meta.lfs:
            headers |= {"X-Linked-Etag": f'"{meta.etag}"', "X-Linked-Size": str(meta.bytes)}
        if meta.lfs and hub.second_url and not self.server.second:
            return self.json({}, 302, {**headers, "Location": hub.second_url + self.path})
        short = hub.take(("short",), name)
        size = short.after if short else meta.bytes
        start, stop, status = 0, size, 200
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and not hub.take(("no_range",), name):
            start, stop = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else size, size)
            if start >= size:
                return self.json({}, 416, {"Content-Range": f"bytes */{size}"})
            start += bool(hub.take(("shift",), name))
            status, headers = 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(stop - start)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.send_file(path, name, start, stop)
        return None

    def send_file(self, path: Path, name: str, start: int, stop: int) -> None:
        """The bytes from `start` to `stop`, as the faults want them."""
        hub = self.server.hub
        faults = {kind: hub.take((kind,), name) for kind in ("cut", "slow", "corrupt")} if hub.faults else {}
        cut, slow, corrupt = (faults.get(kind) for kind in ("cut", "slow", "corrupt"))
        self.wfile.flush()
        with open(path, "rb") as file, contextlib.suppress(ConnectionError):
            file.seek(start)
            if not any(faults.values()):
                self.connection.settimeout(None)
                while start < stop:
                    start += self.counted(min(stop - start, 2**20), file, start)
                return
            for at, chunk in _chunks(file, start, stop):
                if corrupt and at <= corrupt.after < at + len(chunk):
                    index = corrupt.after - at
                    chunk = chunk[:index] + bytes([chunk[index] ^ 1]) + chunk[index + 1 :]
                if cut and self.seen.sent + len(chunk) > cut.after:
                    chunk = chunk[: cut.after - self.seen.sent]
                self.seen.sent += len(chunk)  # before: the client may be done before this thread goes on
                self.connection.sendall(chunk)
                if cut and self.seen.sent >= cut.after:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if slow:
                    time.sleep(slow.seconds)

    def counted(self, size: int, file: Any, start: int) -> int:
        """Send up to `size` bytes, counted before the client can have them; how many went."""
        self.seen.sent += size
        sent = os.sendfile(self.connection.fileno(), file.fileno(), start, size)
        self.seen.sent -= size - sent
        return sent

    def json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tags(repo: str) -> list[str]:
    return ["license:apache-2.0", *(tag for tag in ("mlx", "gguf") if tag in repo.lower())]


def _chunks(file: Any, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    while start < stop:
        chunk = file.read(min(CHUNK, stop - start))
        yield start, chunk
        start += len(chunk)


def main(root: str, port: str) -> None:
    with Hub(Path(root), int(port)) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
