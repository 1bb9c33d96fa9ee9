"""What the pages of `llmctl web` ask of hosts: the verbs of a slot, its log, and a way to talk to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmctl.cli import chat_partner
from llmctl.cli import reach as reaching
from llmctl.cli.session import Session, Target
from llmctl.cli.slot_acts import SlotActs
from llmctl.clients.openai import OpenAI
from llmctl.envelope import Answer
from llmctl.keys import is_loopback
from llmctl.web.verbs import Talking


class WebActs(SlotActs):
    """What pages ask beside the verbs of a slot (llmctl.web.verbs.Verbs)."""

    def known(self) -> list[str]:
        return list(self.reach.session.catalog.models)

    def last_lines(self, host: str, port: int, most: int) -> list[str]:
        """The end of a slot's log."""

        def here(session: Session) -> Answer:
            from llmctl.slots import verbs

            return Answer({"lines": [line.rstrip("\n") for line in verbs.log_lines(session.home, port, lines=most)]})

        words = ["logs", f"--lines={most}", "--", str(port)]
        reply = self.reach.call(self._host(host), words, here, any_version=True, timeout=reaching.LOOK)
        return [str(line) for line in reply.value()["lines"]]

    def talk(self, host: str, port: int, keyed: bool) -> Talking:
        """A client of the slot; `cut` hangs up on it."""
        place, dialed = chat_partner.place_of(self.reach, Target(self._host(host), port)), list[socket.socket]()

        def dial() -> socket.socket:
            dialed.append(place.dial())
            return dialed[-1]

        asked = replace(place, dial=dial, find_key=place.find_key if keyed else None)
        return Talking(OpenAI(asked), _hang_up(dialed))

    def open_to_all(self, host: str) -> bool:
        """Slots of this machine on loopback: whoever is on it can ask them without a key of ours."""
        found = self._host(host)
        return found.transport == "local" and is_loopback(found.bind)


def _hang_up(dialed: Sequence[socket.socket]) -> Callable[[], None]:
    def cut() -> None:
        for sock in dialed:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    return cut
