"""What goes wrong on the way to a host, as errors that say what to type next."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

from llmctl.errors import AuthRejected, LlmctlError, LockedOut, NoSpace, TimedOut, TransportCut, Unreachable
from llmctl.fleet.ssh.settings import Login

FULL = ("No space left on device", "Disk quota exceeded", "File too large")
DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")


def of_tcp(error: OSError, login: Login, within: float) -> LlmctlError:
    """Why no connection to the address came about."""
    where = f"{login.address} port {login.port}"
    if isinstance(error, socket.gaierror):
        message = f"{login.name}: the address {login.address} is not known ({error.strerror})"
        return Unreachable(message, hint="correct its address in hosts.toml", host=login.name)
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(f"{login.name}: {where} refuses connections", hint=_try(login), host=login.name)
    if isinstance(error, TimeoutError):
        return Unreachable(f"{login.name}: {where} did not answer in {within:g} s", hint=_try(login), host=login.name)
    return Unreachable(f"{login.name}: {where}: {error.strerror or error}", hint=_try(login), host=login.name)


def of_login(error: BaseException, login: Login, greeted: bool) -> LlmctlError:
    """Why the ssh server at the address did not let us in; `greeted`: its host key was seen and trusted."""
    from paramiko.ssh_exception import AuthenticationException, IncompatiblePeer

    causes = [type(cause) for cause in _chain(error)]
    if isinstance(error, LlmctlError):
        return error
    slow = any(issubclass(cause, TimeoutError) for cause in causes) or "timeout" in str(error).lower()
    if isinstance(error, IncompatiblePeer):
        return Unreachable(f"{login.name}: {error}", hint=_try(login), host=login.name)
    if greeted and not slow:
        hung_up = not isinstance(error, AuthenticationException) and any(
            issubclass(cause, (EOFError, OSError)) for cause in causes
        )
        return _rejected(login, "the ssh server hung up during the login" if hung_up else "")
    if any(issubclass(cause, (EOFError, ConnectionError)) for cause in causes):
        return LockedOut(
            f"{login.name}: the ssh server at {login.address} hangs up before it says hello",
            hint=f"it may have too many logins at once (MaxStartups) or have banned this address; {_try(login)}",
            host=login.name,
        )
    return Unreachable(
        f"{login.name}: something takes connections at {login.address} port {login.port}, but no ssh server answers"
        + (" in time" if slow or str(error) == "No existing session" else f" ({str(error)[:200]})"),
        hint=_try(login),
        host=login.name,
    )


def cut(name: str, what: str) -> TransportCut:
    """The connection broke with `what` under way."""
    return TransportCut(
        f"the connection to {name} broke: {what} may or may not have been done there",
        hint=f"llmctl status --host {name}",
        host=name,
    )


def of_put(name: str, target: str, size: int, code: int, err: str) -> LlmctlError:
    """Why a file could not be written on the host; `err` ends with a line of `df -Pk`."""
    lines = err.strip().splitlines()
    told = "; ".join(lines[:-1]) or err.strip() or f"exit code {code}"
    if any(text in told for text in FULL):
        words = lines[-1].split()
        free = int(words[3]) * 1024 if len(words) > 4 and words[3].isdigit() else None
        return no_space(name, target, size, free)
    return LlmctlError(f"{target} cannot be written on {name}: {told}", host=name)


def no_space(name: str, path: str, needed: int, free: int | None) -> NoSpace:
    """A disk of the host is too small; bytes."""
    return NoSpace(
        f"the disk of {name} has no room for {path}",
        hint=f"make room on {name}, or: llmctl deploy --prune {name}",
        host=name,
        details={"path": path, "needed": needed, "free": free},
    )


def too_long(name: str, what: str, timeout: float) -> TimedOut:
    """A program did not end in `timeout` seconds, and was ended on the host."""
    return TimedOut(
        f"{what} did not end within {timeout:g} s on {name}, and was ended",
        hint=f"see what is there: llmctl status --host {name}",
        host=name,
    )


def of_get(name: str, source: str, code: int, err: str) -> LlmctlError:
    """Why a file could not be fetched from the host."""
    told = err.strip()[-300:] or f"exit code {code}"
    return LlmctlError(f"{source} cannot be fetched from {name}: {told}", host=name)


def noise(name: str, said: bytes) -> LlmctlError:
    """The login shell of the host prints something of its own before what it was asked for."""
    text = said[:200].decode(errors="replace")
    return LlmctlError(
        f"the login shell on {name} prints {text!r} where an answer was expected",
        hint=f"keep ~/.bashrc and the like on {name} silent for shells that are not interactive",
        host=name,
    )


def _rejected(login: Login, more: str) -> AuthRejected:
    defaults = [path for path in (Path.home() / ".ssh" / key for key in DEFAULT_KEYS) if path.is_file()]
    keys = [*login.identities, *(path for path in defaults if path not in login.identities)]
    locked = [path for path in keys if _locked(path)]
    offered = ", ".join(map(str, keys)) or "no key file"
    own = next(iter(login.identities), None)
    copy = ["ssh-copy-id", *(["-i", str(own)] if own else []), *(["-p", str(login.port)] if login.port != 22 else [])]
    hint = f"ssh-add {shlex.quote(str(locked[0]))}" if locked else shlex.join([*copy, f"{login.user}@{login.address}"])
    message = f"{login.name}: {login.where} takes none of our keys ({offered}{' and the agent' if login.agent else ''})"
    return AuthRejected(
        f"{message}: {more}" if more else message,
        hint=hint,
        host=login.name,
        details={"offered": [str(path) for path in keys], "locked": [str(path) for path in locked]},
    )


def _locked(path: Path) -> bool:
    """Whether a private key has a passphrase."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from paramiko import PKey
    from paramiko.ssh_exception import PasswordRequiredException, SSHException

    try:
        PKey.from_path(path)
    except (PasswordRequiredException, TypeError):  # cryptography's answer to a missing passphrase is a TypeError
        return True
    except (OSError, ValueError, SSHException, UnsupportedAlgorithm):
        return False
    return False


def _try(login: Login) -> str:
    port = f" -p {login.port}" if login.port != 22 else ""
    return f"try: ssh -v{port} {login.user}@{login.address}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__
