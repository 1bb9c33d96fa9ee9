"""Makes a verb work on the host that it means: here, there by the same words, or on several at once."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import typer

from llmctl.cli import options as o
from llmctl.cli import reach as reaching
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session
from llmctl.config import Host
from llmctl.envelope import Answer
from llmctl.errors import ConsentNeeded, LlmctlError, UsageError
from llmctl.fleet import call, fanout
from llmctl.fleet.call import Reply

Verb = Callable[..., Answer]
LONG = 7 * 86400.0


@dataclass(frozen=True)
class Way:
    """How a verb goes to other hosts.

    `port` is its parameter that names a slot, `rows` the key of its data that holds a list to be joined. With `single`
    it works on one host at a time. `reads`: it changes nothing, so that another version of llmctl may answer. `lines`:
    its answer is lines of text, followed as they come with --follow. `goes_on`: a job there outlives the connection.
    """

    port: str | None = None
    rows: str | None = None
    single: bool = False
    reads: bool = False
    lines: bool = False
    goes_on: bool = False


def on_hosts(
    port: str | None = None,
    *,
    rows: str | None = None,
    single: bool = False,
    reads: bool = False,
    lines: bool = False,
    goes_on: bool = False,
) -> Callable[[Verb], Verb]:
    """Give a command the option --host, and run it where that or its PORT says (see Way)."""
    way = Way(port, rows, single, reads, lines, goes_on)

    def decorate(verb: Verb) -> Verb:
        @functools.wraps(verb)
        def command(ctx: typer.Context, host: list[str] | None = None, **given: Any) -> Answer:
            return run(ctx, verb, way, given, host)

        signature = inspect.signature(verb, eval_str=True)
        option = inspect.Parameter("host", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=o.Hosts)
        parameters = [*signature.parameters.values(), option]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def run(
    ctx: typer.Context,
    verb: Verb,
    way: Way,
    given: Mapping[str, Any],
    patterns: Sequence[str] | None,
    *,
    ours: Collection[str] = (),
) -> Answer:
    """The answer of a command line on the hosts that it means; the options named in `ours` are not sent there."""
    session: Session = ctx.obj
    if way.lines and given["follow"] and session.json:
        raise UsageError("--follow shows lines as they come, and --json answers at the end", hint="leave one out")
    if given.get("spread"):
        given = {**given, "spread": reaching.members(session.config, given["spread"])}
    hosts, port = _meant(session, way, given, patterns)
    title = " ".join(ctx.command_path.split()[1:])
    if way.single or (way.lines and given["follow"]):
        reaching.one(hosts, title)
    if len(hosts) == 1 and hosts[0].transport == "local":
        return verb(_at(ctx, replace(session, chosen=hosts[0].name)), **_here(way, given, hosts[0], port))
    asked = {**given, way.port: port} if way.port else given
    words = words_of(ctx, asked, {"host", *ours})
    if way.lines and given["follow"]:
        return Answer(
            stream=_followed(session, hosts[0], words, words_of(ctx, {**asked, "lines": 0}, {"host", "follow"}))
        )

    def here(host: Host) -> reaching.Here:
        return lambda one: _drained(verb(_at(ctx, one), **_here(way, given, host, port)))

    with Reach(session) as reach:
        work = _Work(reach, way, words, here, port)
        replies = work.over(hosts, session.yes)
        if asking := [error for reply in replies for error in reply.errors if isinstance(error, ConsentNeeded)]:
            session.confirm(" ".join(_question(error) for error in asking))
            again = [host for host, reply in zip(hosts, replies, strict=True) if _asks(reply)]
            answered = dict(zip([host.name for host in again], work.over(again, True), strict=True))
            replies = [answered.get(host.name, reply) for host, reply in zip(hosts, replies, strict=True)]
    return _one(hosts[0], replies[0], way) if len(hosts) == 1 else merged(hosts, replies, way)


@dataclass(frozen=True)
class _Work:
    """One verb for many hosts."""

    reach: Reach
    way: Way
    words: Sequence[str]
    here: Callable[[Host], reaching.Here]
    port: str | None

    def over(self, hosts: Sequence[Host], yes: bool) -> list[Reply]:
        """A reply of each; an error of the way there is one too."""
        session = self.reach.session
        with session.progress() if len(hosts) == 1 else reaching.side_by_side(session) as on_event:

            def one(host: Host) -> Reply:
                show = on_event if len(hosts) == 1 else reaching.tagged(on_event, host.name)
                return self.reach.call(
                    host, self.words, self.here(host), yes=yes, on_event=show,
                    any_version=self.way.reads, timeout=LONG, check=self.check(host),
                )  # fmt: skip

            try:
                outcomes = fanout.over(hosts, one)
            except KeyboardInterrupt:
                if self.way.goes_on:
                    names = " ".join(f"--host {host.name}" for host in hosts)
                    on_event({"event": "note", "message": f"the job goes on there: llmctl jobs list {names}"})
                raise
        return [o.value if o.value else _failed(o.error) for o in outcomes if o.value or o.error]

    def check(self, host: Host) -> str:
        """What tells how it ended when the connection broke."""
        if self.port and self.port != "auto":
            return f"llmctl status {host.name}:{self.port}"
        return f"llmctl {'jobs list' if self.way.goes_on else 'status'} --host {host.name}"


def _meant(
    session: Session, way: Way, given: Mapping[str, Any], patterns: Sequence[str] | None
) -> tuple[list[Host], str | None]:
    if way.port:
        return reaching.slots_of(session, given[way.port], patterns)
    return reaching.select(session, patterns), None


def _here(way: Way, given: Mapping[str, Any], host: Host, port: str | None) -> Mapping[str, Any]:
    return {**given, way.port: f"{host.name}:{port}"} if way.port else given


def _at(ctx: typer.Context, session: Session) -> typer.Context:
    found = copy.copy(ctx)
    found.obj = session
    return found


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def words_of(ctx: typer.Context, given: Mapping[str, Any], without: Collection[str]) -> list[str]:
    """The command line that was typed, made anew: options as OPTION=VALUE, arguments behind a `--`."""
    options: list[str] = []
    data: list[str] = []
    for parameter in ctx.command.params:
        name = str(parameter.name)
        source = ctx.get_parameter_source(name)
        if name in without or name not in given or source is None or source.name != "COMMANDLINE":
            continue
        value = given[name]
        values = [_text(item) for item in (value if isinstance(value, list | tuple) else [value])]
        if parameter.param_type_name == "argument":
            data += values
        elif isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            options += [f"{max(parameter.opts, key=len)}={text}" for text in values]
    return [*ctx.command_path.split()[1:], *options, *(["--", *data] if data else [])]


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def merged(hosts: Sequence[Host], replies: Sequence[Reply], way: Way) -> Answer:
    """One answer of several: `data.hosts[]` is what each said; rows that a verb has are joined, with their host."""
    said, rows = [], []
    for host, reply in zip(hosts, replies, strict=True):
        data = dict(reply.data)
        if way.rows:
            rows += [{**row, "host": host.name} for row in data.pop(way.rows, ())]
        said.append({**data, "host": host.name, "exit_code": reply.exit_code})
    data = {way.rows: rows, "hosts": said} if way.rows else {"hosts": said}
    errors = tuple(error for reply in replies for error in reply.errors)
    code = exit_code([reply.exit_code for reply in replies])
    if way.lines:
        return Answer(
            {}, code, errors, _given([f"{s['host']}: {line}" for s in said for line in s.get("lines", ())], data)
        )
    return Answer(data, code, errors)


def exit_code(codes: Sequence[int]) -> int:
    """That of all of them, or 3."""
    return codes[0] if len(set(codes)) == 1 else 3


def _one(host: Host, reply: Reply, way: Way) -> Answer:
    data = dict(reply.data)
    if "detached" in data:
        data["detached"] = {**data["detached"], "host": host.name}
    if way.lines and not reply.errors:
        return Answer(stream=_given(data.get("lines", ()), data))
    return Answer(data if not reply.errors or reply.exit_code == 3 else {}, reply.exit_code, reply.errors)


def _given(lines: Sequence[str], data: Mapping[str, Any]) -> Generator[str, None, Mapping[str, Any]]:
    for line in lines:
        yield f"{line}\n"
    return data


def _followed(
    session: Session, host: Host, words: Sequence[str], first: Sequence[str]
) -> Generator[str, None, Mapping[str, Any]]:
    """Lines as they come from the host; `first` are the words without --follow, whose errors are known at once."""
    with Reach(session) as reach:
        reach.call(host, first, lambda _: Answer(), any_version=True, timeout=reaching.LOOK).value()
        stream = reach.transport(host).stream(call.argv(host.name, words, any_version=True, as_json=False))
        for line in stream:
            yield line.rstrip("\n") + "\n"
    return {}


def _drained(answer: Answer) -> Answer:
    from llmctl.envelope import drained

    return drained(answer)


def _failed(error: LlmctlError | None) -> Reply:
    assert error
    return Reply({}, error.exit_code, (error,), "")


def _asks(reply: Reply) -> bool:
    return any(isinstance(error, ConsentNeeded) for error in reply.errors)


def _question(error: ConsentNeeded) -> str:
    return f"{error.host}: {error.details.get('question') or error.message}"
