"""Every error that llmctl raises on purpose: a code, an exit code, and the next command to type.

    LlmctlError                 1   failed
    ├── UsageError              2   the command or its arguments are wrong
    │   ├── ConfigError         2   a configuration file is wrong (file, line, key)
    │   └── UnknownName         2   no such model, profile, host or port; lists the nearest
    ├── Refused                 1   llmctl will not do it (does not fit, foreign port, unsupported)
    │   ├── ConsentNeeded       1   a question that nobody could answer: with --yes it goes on
    │   ├── DoesNotFit          1   admission: the numbers are in `details`
    │   ├── NoSpace             1   the disk is too small; needed and free bytes are in `details`
    │   ├── Unsupported         1   this engine cannot run this model
    │   └── BadCheckpoint       1   a model's files are missing, truncated or malformed
    ├── HubError                1   the model hub said no; `code` says how (gated, no_repo, rate_limited, …)
    ├── Busy                    1   another operator or a swap holds the slot
    ├── LoadFailed              1   a model did not come up; `details["log"]` holds its last lines
    ├── ConversionFailed        1   a converter ended without a result; `details["log"]` holds its last lines
    ├── QualityFailed           1   a converted model lost more than its limit allows; the figures are in `details`
    ├── StateError              1   a state file cannot be trusted
    ├── HistoryError            1   the history cannot be read or written: full, damaged, locked, of a newer llmctl
    ├── NotifyFailed            1   somebody could not be told; the message names them, and no secret
    ├── NoPython                1   a host has no Python that llmctl can run on
    ├── NotDeployed             1   a host has no llmctl yet
    ├── VersionSkew             1   the llmctl of a host is not this one
    ├── DeployFailed            1   a step of a deploy failed; the host goes on with what it had
    ├── LostLease               1   another deploy took this host over: nothing was written any more
    ├── TimedOut                1   a program on a host took longer than it may, and was ended
    ├── Unreachable             4   nothing answers there
    │   ├── AuthRejected        4   the ssh server takes none of our keys
    │   ├── KeyUnknown          4   the host key was never trusted
    │   ├── KeyChanged          4   the host key is not the trusted one
    │   ├── LockedOut           4   the ssh server hangs up before it says hello, again and again
    │   └── TransportCut        4   the connection broke: what was under way there is unknown
    └── RequestError            1   a client's request is wrong (HTTP status in `status`)

Errors cross processes as `to_dict` / `from_dict`; one met far away reads the same here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class LlmctlError(Exception):
    """An expected failure: `code` for programs, `message` for people, `hint` is what to type next."""

    code = "failed"
    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        host: str | None = None,
        port: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.host = host
        self.port = port
        self.details = dict(details or {})

    def to_dict(self) -> dict[str, Any]:
        """The JSON shape used in envelopes, control answers and engine frames."""
        return {
            "code": self.code,
            "message": self.message,
            "host": self.host,
            "port": self.port,
            "hint": self.hint,
            "details": self.details,
        }


class UsageError(LlmctlError):
    """The command line is wrong."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """A configuration file is wrong; the message names file, line and key."""

    code = "config"


class UnknownName(UsageError):
    """A model, profile, host or port that does not exist."""

    code = "unknown_name"


class Refused(LlmctlError):
    """llmctl will not do this, and says why."""

    code = "refused"


class ConsentNeeded(Refused):
    """It would have asked, and there is nobody who could answer; `details["question"]` is the question."""

    code = "consent"


class DoesNotFit(Refused):
    """Admission said no; `details` holds needed, free, budget and reserved bytes."""

    code = "does_not_fit"


class NoSpace(Refused):
    """A disk has no room for it; `details` holds the needed and free bytes and the path."""

    code = "no_space"


class Unsupported(Refused):
    """No engine here runs this architecture, format or tokenizer."""

    code = "unsupported"


class BadCheckpoint(Refused):
    """A model's files are missing, truncated or malformed; the message names the file."""

    code = "bad_checkpoint"


class HubError(LlmctlError):
    """The model hub refused; `code` is gated, no_repo, no_revision, no_file, unauthorized, rate_limited, hub_down,
    hub_answer (what it sent makes no sense) or corrupt (its bytes do not have its hash)."""

    code = "hub"

    def __init__(self, message: str, *, code: str | None = None, **kw: Any) -> None:
        super().__init__(message, **kw)
        if code:
            self.code = code


class Busy(LlmctlError):
    """Someone else is changing this slot; `details["owner"]` names them."""

    code = "busy"


class LoadFailed(LlmctlError):
    """A model did not become ready; `details["log"]` holds the engine's last lines."""

    code = "load_failed"


class ConversionFailed(LlmctlError):
    """A converter ended without a result; `details["log"]` holds its last lines."""

    code = "conversion_failed"


class QualityFailed(LlmctlError):
    """A converted model lost more than its limit allows, or one that was swapped in answers worse; `details` tells."""

    code = "quality_failed"


class StateError(LlmctlError):
    """A state file is torn or from a newer llmctl; nothing was overwritten."""

    code = "state"


class HistoryError(LlmctlError):
    """The history cannot be read or written; everything else goes on without it."""

    code = "history"


class NotifyFailed(LlmctlError):
    """A message did not get to its target; it is kept, and tried again with the next one."""

    code = "notify_failed"


class NoPython(LlmctlError):
    """A host has no Python that llmctl can run on."""

    code = "no_python"


class NotDeployed(LlmctlError):
    """A host has no llmctl yet."""

    code = "not_deployed"


class VersionSkew(LlmctlError):
    """The llmctl of a host is not this one; `details` holds both versions."""

    code = "version_skew"


class DeployFailed(LlmctlError):
    """A step of a deploy failed; the host goes on with what it had. `details["log"]` holds the step's last lines."""

    code = "deploy_failed"


class LostLease(LlmctlError):
    """Another deploy took the host over; `details["owner"]` names it. Nothing was written after that."""

    code = "lost_lease"


class TimedOut(LlmctlError):
    """A program on a host took longer than it may, and was ended there."""

    code = "timed_out"


class Unreachable(LlmctlError):
    """Nothing answers at that host or port."""

    code = "unreachable"
    exit_code = 4


class AuthRejected(Unreachable):
    """The ssh server takes none of the keys that were offered; the hint names them."""

    code = "auth_rejected"


class KeyUnknown(Unreachable):
    """The host key was never trusted; `details["fingerprint"]` is what the host shows."""

    code = "key_unknown"


class KeyChanged(Unreachable):
    """The host key is not the trusted one; `details` holds both fingerprints."""

    code = "key_changed"


class LockedOut(Unreachable):
    """The ssh server hangs up before its banner (MaxStartups, fail2ban), after several tries."""

    code = "locked_out"


class TransportCut(Unreachable):
    """The connection broke while something was under way: whether it was done is not known."""

    code = "unknown"


class RequestError(LlmctlError):
    """A client's request cannot be served; `status` is the HTTP status, `param` the field at fault."""

    code = "invalid_request"

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None, **kw: Any
    ) -> None:
        super().__init__(message, **kw)
        self.status = status
        self.param = param
        if code:
            self.code = code

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "status": self.status, "param": self.param}


def _tree(cls: type[LlmctlError]) -> Iterable[type[LlmctlError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _tree(sub)


def from_dict(data: Mapping[str, Any]) -> LlmctlError:
    """Rebuild an error met in another process or on another host; an unknown code keeps its name."""
    message = str(data.get("message") or "failed without a message")
    common = {k: data.get(k) for k in ("hint", "host", "port", "details")}
    if "status" in data and data["status"] is not None:
        return RequestError(
            message, status=int(data["status"]), param=data.get("param"), code=str(data.get("code")), **common
        )
    for cls in _tree(LlmctlError):
        if cls.code == data.get("code") and cls is not RequestError:
            return cls(message, **common)
    error = LlmctlError(message, **common)
    error.code = str(data.get("code") or "failed")
    return error


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known spelling closest to `word`, or None when nothing is close."""
    import difflib

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
