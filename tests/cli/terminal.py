"""A terminal with llmctl in it: what is typed goes in, what is shown comes out."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import DEADLINE, REPO

# The first terminal that the leader of a session opens becomes its own, and Ctrl-C a signal.
START = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); from llmctl.__main__ import main; sys.exit(main())"
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """One `llmctl ARGV` on a terminal of its own; `shown` is all that it printed."""

    def __init__(self, argv: list[str], folder: Path, **environment: str) -> None:
        self._fd, far = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(REPO), "TERM": "xterm", "INPUTRC": "/dev/null", **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *argv], stdin=far, stdout=far, stderr=far, cwd=folder, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(far)
        self.shown = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait(self, text: str, within: float = DEADLINE) -> str:
        """What is shown up to and with `text`, from where the last wait ended."""
        end = time.monotonic() + within
        while (at := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < end and self._read(), f"no {text!r} in {self.shown[self._seen :]!r}"
        before, self._seen = self._seen, at + len(text)
        return self.shown[before : self._seen]

    def say(self, line: str, prompt: str = ">>> ") -> str:
        """Type a line; what is shown below it, up to the next prompt."""
        self.type(line + "\n")
        self.wait("\n")
        return self.wait(prompt).removesuffix(prompt)

    def end(self) -> int:
        """Read to its end; its exit code."""
        while self._read():
            pass
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)

    def _read(self) -> bool:
        """Take what is there, waiting a little; False when nothing will come any more."""
        if not select.select([self._fd], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False
        # What readline says to the terminal about itself is not part of the text.
        self.shown += re.sub(r"\x1b\[\?2004[hl]\r?", "", data.decode(errors="replace")).replace("\r\n", "\n")
        return bool(data)
