"""`swap --require-quality`: the new model stays when its quality run is good, else the one before comes back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmctl.cli import quality_kept, quality_places
from llmctl.cli import reach as reaching
from llmctl.cli.host_undo import undone
from llmctl.cli.quality import PATIENCE
from llmctl.cli.reach import Reach
from llmctl.cli.session import Session, Target
from llmctl.envelope import Answer
from llmctl.errors import LlmctlError, QualityFailed, UnknownName, UsageError
from llmctl.history import NAME
from llmctl.history.store import History
from llmctl.quality import prompts
from llmctl.quality.prompts import Prompt
from llmctl.render import quality_matrix
from llmctl.slots import verbs


def swapped(session: Session, port: str, patterns: Sequence[str] | None, do: Callable[[], Answer]) -> Answer:
    """What `do`, which swaps, answered, with the quality run as `quality`. QualityFailed: it was taken back."""
    hosts, number = reaching.slots_of(session, port, patterns)
    if number == "auto":
        raise UsageError(f"{port[:140]!r} is not a port", hint="type 8101 or HOST:8101")
    target = Target(reaching.one(hosts, "swap --require-quality"), int(number))
    meant = prompts.select(prompts.load(prompts.of_operator(session.config.dir)), ())
    History.open(session.home / NAME).close()  # one that cannot be used is told before the swap
    with Reach(session) as reach:
        before = _row(reach, target)
        answer = do()
        if answer.exit_code:
            return answer
        new, previous, details = answer.data["model"], answer.data["previous"], {}
        try:
            run, unkept = _measured(reach, target, meant, [previous, *before["handles"]] if previous else [])
            if run["good"]:
                return Answer({**answer.data, "quality": run}, 3 if unkept else 0, (unkept,) if unkept else ())
            why = f"{new} fails {', '.join([*run['faults'], *run['regressed']])}"
            details = {"quality": run, "log": quality_matrix.told(run)}
        except LlmctlError as error:
            why = f"{new} could not be asked: {error.message}"
        except BaseException:  # Ctrl-C, say: what nobody has judged does not stay
            with contextlib.suppress(LlmctlError):
                _taken_back(reach, target, new, previous)
            raise
        then, hint = _taken_back(reach, target, new, previous)
        raise QualityFailed(f"{why}; {then}", hint=hint, port=target.port, details=details)


def _row(reach: Reach, target: Target) -> Mapping[str, Any]:
    """The slot's line of status; empty for one that never was."""
    try:
        return reaching.rows(reach, target.host, [str(target.port)])[0][0]
    except UnknownName:
        return {}


def _measured(
    reach: Reach, target: Target, meant: Sequence[Prompt], besides: Sequence[str]
) -> tuple[dict[str, Any], LlmctlError | None]:  # fmt: skip
    """The judged run, held against the baselines of the slot, of the model before and of its handles."""
    session = reach.session
    with session.progress(plain=True) as on_event:

        def tell(message: str) -> None:
            on_event({"event": "note", "message": message})

        found = quality_kept.measure(quality_places.of_slot(reach, target), meant, PATIENCE, tell, until_fault=True)
        run, unkept = quality_kept.judge(session, found, besides=besides)
        if run["good"]:
            tell(quality_matrix.told(run)[0])
    return run, unkept


def _taken_back(reach: Reach, target: Target, new: str, previous: str | None) -> tuple[str, str]:
    """Bring the model before back, or leave the slot empty as it was; what became of it, and what to type."""
    port, look = target.port, f"llmctl status {target.host.name}:{target.port}"

    def here(session: Session) -> Answer:
        if previous:
            return undone(session, port)
        return Answer(asdict(verbs.unload(session.home, port)))

    if _row(reach, target).get("model") != new:
        return "somebody changed the slot meanwhile, and nothing was taken back", look
    words = ["host", "undo", str(port)] if previous else ["unload", "--", str(port)]
    try:
        reach.call(target.host, words, here, check=look).value()
    except LlmctlError as error:
        return f"and it could not be taken back: {error.message}", look
    back = f"{previous} serves again" if previous else "the slot is empty again"
    return back, "llmctl swap without --require-quality keeps it"
