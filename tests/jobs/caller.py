"""A verb of long work, as pull and convert are: `python -m tests.jobs.caller KIND ARGUMENTS [--json] [--detach]`."""

from __future__ import annotations

import json
import sys

from llmctl import envelope
from llmctl.__main__ import show
from llmctl.cli import work
from llmctl.cli.session import Session

if __name__ == "__main__":
    kind, arguments, *options = sys.argv[1:]
    session = Session(json="--json" in options)
    try:
        lane = "compute" if "--compute" in options else "network"
        answer = work.run(session, kind, json.loads(arguments), "of a caller", "--detach" in options, lane)
    except (Exception, KeyboardInterrupt) as error:
        answer = envelope.failure(error)
    if not session.json and not answer.errors and "detached" not in answer.data:
        print(json.dumps(answer.data))
        sys.exit(0)
    sys.exit(show(kind, answer, session.json))
