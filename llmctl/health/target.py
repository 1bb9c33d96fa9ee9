"""Who is told of a change: a command, a webhook, or whatever apprise knows; and where its secret lies.

A secret is never written down in health.toml: that names an environment variable, or a file that is its owner's alone.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from llmctl import paths
from llmctl.errors import NotifyFailed, UnknownName, UsageError, nearest
from llmctl.tables import Table, blame

COMMAND, WEBHOOK, APPRISE = "command", "webhook", "apprise"
ALL = "all"
WAYS = ("command", "webhook", "webhook_env", "webhook_file", "apprise_env", "apprise_file")
TIMEOUT = 10.0
_EXAMPLES = "command:/path/to/program, https://…, webhook:VARIABLE or apprise:VARIABLE"


@dataclass(frozen=True)
class Secret:
    """Where a secret lies: in the environment variable `env`, or in `file`."""

    env: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"${self.env}" if self.env else self.file

    def read(self, environment: Mapping[str, str] = os.environ) -> str:
        """The secret itself; NotifyFailed when there is none, or when others may read its file."""
        return _from_file(Path(self.file).expanduser()) if self.file else _from_variable(self.env, environment)


@dataclass(frozen=True)
class Target:
    """Where messages go: `argv` of a command, or `url`, in plain words (never in a repr) or as a secret.

    `token` goes to a webhook as a bearer token. `timeout` is seconds for all of one delivery.
    """

    name: str
    kind: str
    argv: tuple[str, ...] = ()
    address: str = field(default="", repr=False)
    url: Secret | None = None
    token: Secret | None = None
    timeout: float = TIMEOUT


def from_table(table: Table) -> Target:
    """One [[notify]] of health.toml."""
    table.only("name", "timeout", *WAYS, "token_env", "token_file")
    ways = [key for key in WAYS if key in table.data]
    if len(ways) != 1:
        said = f"has {' and '.join(ways)}" if ways else "names none"
        raise table.mistake(None, f"must have one way to tell, and {said}", f"one of {', '.join(WAYS)}")
    (way,) = ways
    kind = way.split("_")[0]
    if kind != WEBHOOK and (tokens := [key for key in table.data if key.startswith("token")]):
        raise table.mistake(tokens[0], "is for a webhook alone")
    argv = table.texts(way) if kind == COMMAND else ()
    if kind == COMMAND and not (argv and argv[0]):
        raise table.mistake(way, 'must be a program and its arguments, like ["/usr/local/bin/page", "--now"]')
    address = _address(table, way) if way == WEBHOOK else ""
    name = _given(table) or _name(kind, argv, address, _secret(table, kind))
    return Target(
        name, kind, argv, address, _secret(table, kind), _secret(table, "token"), table.seconds("timeout") or TIMEOUT
    )


def _given(table: Table) -> str | None:
    name: str | None = table.text("name")
    if name == ALL:
        raise table.mistake("name", f"{ALL!r} means all of them", "give it another")
    try:
        return None if name is None else paths.check_name(name, "target")
    except UsageError as error:
        raise blame(table, "name", error) from None


def parse_target(text: str) -> Target:
    """What was typed: `command:PROGRAM ARGUMENTS`, an address, `webhook:VARIABLE` or `apprise:VARIABLE`."""
    kind, _, rest = text.partition(":")
    if kind in ("http", "https"):
        try:
            return Target(_name(WEBHOOK, (), checked(text), None), WEBHOOK, address=text)
        except ValueError as error:
            raise UsageError(f"{host_of(text)}: {error}", hint=_EXAMPLES) from None
    if kind == COMMAND:
        try:
            argv = tuple(shlex.split(rest))
        except ValueError as error:
            raise UsageError(f"{rest[:140]!r} is no command line: {error}", hint=_EXAMPLES) from None
        if argv and argv[0]:
            return Target(_name(COMMAND, argv, "", None), COMMAND, argv)
    if kind in (WEBHOOK, APPRISE):
        if rest.isidentifier() and rest.isascii():
            secret = Secret(env=rest)
            return Target(_name(kind, (), "", secret), kind, url=secret)
        raise UsageError(
            f"--notify {kind}: takes the name of an environment variable that holds the address", hint=_EXAMPLES
        )
    # The text may hold a secret (tgram://TOKEN/…): no more of it is shown than what stands before the colon.
    raise UsageError(f"nobody can be told by {kind[:40]!r}", hint=_EXAMPLES)


def choose(texts: Sequence[str], known: Sequence[Target]) -> tuple[Target, ...]:
    """The targets that --notify means, each once: a name of health.toml, `all` of them, or what parse_target takes."""
    found: dict[str, Target] = {}
    names = {target.name: target for target in known}
    for text in texts:
        if text == ALL and not known:
            raise UsageError("health.toml names nobody to tell", hint=f"write a [[notify]] there, or type {_EXAMPLES}")
        if text != ALL and text not in names and ":" not in text:
            close = nearest(text, names)
            raise UnknownName(
                f"health.toml has no [[notify]] called {text[:140]!r}",
                hint=f"did you mean {close!r}?" if close else f"known: {', '.join(names) or 'none'}; or {_EXAMPLES}",
            )
        meant = known if text == ALL else [names[text] if text in names else parse_target(text)]
        found.update({target.name: target for target in meant})
    return tuple(found.values())


def host_of(url: str) -> str:
    """What of an address may be shown: a webhook's path is often its secret."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or '?'}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "the address"


def checked(url: str, secret: bool = False) -> str:
    """`url` when it can be posted to, with a password only where it is kept secret; ValueError says why not, without
    it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is no http:// or https:// address")
    if not secret and (parts.username or parts.password):
        raise ValueError("has a password in it; keep the whole address in a variable")
    _ = parts.port
    return url


def _address(table: Table, key: str) -> str:
    try:
        return checked(table.text(key))
    except ValueError as error:
        raise table.mistake(key, str(error), 'webhook_env = "VARIABLE" keeps an address that is secret') from None


def _secret(table: Table, kind: str) -> Secret | None:
    env, file = table.text(f"{kind}_env"), table.text(f"{kind}_file")
    if env and file:
        raise table.mistake(f"{kind}_file", f"{kind}_env is there already")
    if env is not None and not (env.isidentifier() and env.isascii()):
        raise table.mistake(f"{kind}_env", "must be the name of an environment variable, not what it holds")
    if file is not None and not file:
        raise table.mistake(f"{kind}_file", "must name a file")
    path = str((table.path.parent / Path(file).expanduser()).absolute()) if file else ""
    return Secret(env or "", path) if env or file else None


def _name(kind: str, argv: Sequence[str], address: str, secret: Secret | None) -> str:
    """A name for who has none: it tells two apart, and shows no secret."""
    if argv:
        mark = hashlib.sha256("\0".join(argv).encode()).hexdigest()[:6]
        return f"{Path(argv[0]).name}-{mark}" if len(argv) > 1 else Path(argv[0]).name
    if secret:
        return f"{kind}:{secret}"
    return f"{host_of(address)}-{hashlib.sha256(address.encode()).hexdigest()[:6]}"


def _from_variable(name: str, environment: Mapping[str, str]) -> str:
    if found := environment.get(name, "").strip():
        return found
    raise NotifyFailed(
        f"the environment variable {name} is not set",
        hint=f"export {name}=…; a cron job knows no variables of your shell: name a file there (…_file in health.toml)",
    )


def _from_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise NotifyFailed(f"{path} holds a secret, and others may read it", hint=f"chmod 600 {path}")
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise NotifyFailed(f"{path} cannot be read: {why}", hint=f"ls -l {path}") from None
    if not found:
        raise NotifyFailed(f"{path} is empty", hint="write the address, or the token, into it")
    return found
