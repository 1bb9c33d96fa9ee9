"""The model hub over huggingface-hub: what a repository holds, and bytes of its files (errors: `hub_errors`).

All that the hub sends is untrusted: names, hashes and sizes are checked before they are used (`listing`), and no
message repeats what a request carried.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from llmctl import hf_token
from llmctl.errors import HubError, LlmctlError, UsageError
from llmctl.models import hub_errors
from llmctl.models.hub_errors import Patience

T = TypeVar("T")
REPO = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
ETAG = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]{0,199}", re.ASCII)
LICENCE = re.compile(r"license:([\w.+-]{1,80})", re.ASCII)
NAME_LIMIT, PATH_LIMIT = 200, 400  # characters: the cache's and the file system's bounds are 255 and 4096
SIZE_LIMIT = 2**44  # 17 TB
FILES_LIMIT = 100_000
PIECE = 16 * 2**30  # a content delivery network answers up to 50 GB at once; larger files are asked for in pieces
NOTED = 5.0  # seconds; shorter waits are not worth a line


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository. `etag` is its hash and its name in the cache: LFS's sha256, else git's sha1."""

    path: str
    bytes: int
    etag: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Listing:
    """A repository at one commit. `mlx`: it calls itself a repository of MLX weights."""

    repo: str
    commit: str
    files: tuple[RepoFile, ...]
    licence: str | None = None
    mlx: bool = False

    def file(self, path: str) -> RepoFile | None:
        return next((file for file in self.files if file.path == path), None)


@dataclass(frozen=True)
class Hub:
    """The hub at `endpoint`, seen with this host's token (HF_TOKEN, what `hf auth login` keeps, or llmctl.hf_token)."""

    endpoint: str
    patience: Patience = Patience()

    def listing(self, repo: str, revision: str | None) -> Listing:
        """All files of `repo` at `revision` (None: its main branch), with sizes and hashes."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=hf_token.fallback())
        about = f"{repo} at {revision}" if revision else repo
        info = self.patiently(
            about, lambda: api.model_info(repo, revision=revision, files_metadata=True, timeout=timeout())
        )
        found = _listing(repo, info)
        if revision and COMMIT.fullmatch(revision) and found.commit != revision:
            raise _nonsense(f"{about}: the hub answers with {found.commit}")
        return found

    def commit(self, repo: str, revision: str | None) -> str:
        """The commit that `revision` is now."""
        if revision and COMMIT.fullmatch(revision):
            return revision
        return self.listing(repo, revision).commit

    def read(self, repo: str, commit: str, file: RepoFile, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, or the end, of a file."""
        stop = min(stop, file.bytes)
        if stop <= start:
            return b""

        def read() -> bytes:
            with self.open(repo, commit, file.path, start, stop) as (at, chunks):
                got = bytearray()
                for chunk in chunks:
                    got += chunk
                    if len(got) >= stop - at:  # a hub that ignores ranges sends it all
                        break
            return bytes(got[start - at : stop - at])

        got = self.patiently(f"{repo}/{file.path}", read)
        if len(got) != stop - start:
            raise _nonsense(f"{repo}/{file.path} is shorter than the hub says")
        return got

    @contextlib.contextmanager
    def open(self, repo: str, commit: str, path: str, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes from `start` on, and where they really begin: 0 when the hub ignores ranges."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        # A compressed answer could not be resumed by a range. The session drops the token on another host.
        headers = build_hf_headers(token=hf_token.fallback())
        headers |= {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        url = hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint)
        with get_session().stream("GET", url, headers=headers, timeout=timeout()) as response:
            hf_raise_for_status(response)
            found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            at = int(found[1]) if found and response.status_code == 206 else 0
            if at not in (0, start):
                raise _nonsense(f"{repo}/{path}: the hub sent another part of the file")
            yield at, response.iter_bytes()

    def patiently(self, about: str, ask: Callable[[], T]) -> T:
        """`ask()`, again after what passes by itself; an LlmctlError when it does not."""
        attempt = 0
        while True:
            try:
                return ask()
            except LlmctlError:
                raise
            except Exception as error:
                attempt += 1
                self.pause(about, error, attempt)

    def pause(self, about: str, error: Exception, attempt: int) -> None:
        """Wait until another try makes sense; raises an LlmctlError when none does."""
        seconds = hub_errors.setback(about, error, attempt, self.endpoint, self.patience)
        if seconds >= NOTED:
            self.patience.note(f"the hub asks to wait {seconds:.0f} s for {about}")
        self.patience.stop.wait(seconds)


def check_repo(repo: str) -> str:
    """`repo` when it is `org/name` as the hub allows it, else UsageError."""
    parts = repo.split("/")
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo or any(part[-1] in "-." for part in parts):
        raise UsageError(f"{repo[:140]!r} is not a repository of the hub", hint="type org/name, or org/name:file.gguf")
    return repo


def check_revision(revision: str) -> str:
    """`revision` when it can be a branch, tag or commit, else UsageError."""
    if not REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise UsageError(f"{revision[:140]!r} is not a revision", hint="type a branch, a tag or a commit")
    return revision


def check_path(path: str) -> str:
    """`path` when it is a plain relative one, else HubError: the hub's names become names on this disk."""
    parts = path.split("/")
    odd = not path.isprintable() or "\\" in path or len(path) > PATH_LIMIT
    if odd or any(part in ("", ".", "..") or len(part) > NAME_LIMIT for part in parts):
        raise HubError(
            f"the repository has a file named {path[:140]!r}, which is no name on this disk: nothing was fetched",
            code="hub_answer",
            hint="pull the model from another repository",
        )
    return path


def timeout() -> float:
    """Seconds without a byte before a connection counts as lost (HF_HUB_DOWNLOAD_TIMEOUT)."""
    from huggingface_hub import constants

    seconds: float = constants.HF_HUB_DOWNLOAD_TIMEOUT
    return seconds


def _listing(repo: str, info: Any) -> Listing:
    """The hub's answer, checked."""
    siblings = info.siblings or []
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha) or len(siblings) > FILES_LIMIT:
        raise _nonsense(f"{repo}: the hub's answer names no commit")
    files = []
    for sibling in siblings:
        path = check_path(str(sibling.rfilename))
        etag = str(sibling.lfs.sha256 if sibling.lfs else sibling.blob_id)
        size = sibling.lfs.size if sibling.lfs else sibling.size
        if not ETAG.fullmatch(etag) or type(size) is not int or not 0 <= size < SIZE_LIMIT:
            raise _nonsense(f"{repo}/{path}: the hub gives no usable size and hash")
        files.append(RepoFile(path, size, etag))
    tags = [str(tag) for tag in info.tags or ()]
    licence = next((match[1] for tag in tags if (match := LICENCE.fullmatch(tag))), None)
    return Listing(repo, info.sha, tuple(files), licence, "mlx" in tags or info.library_name == "mlx")


def _nonsense(message: str) -> HubError:
    return HubError(message, code="hub_answer", hint="check HF_ENDPOINT, or pull again later")
