"""Work that the tests' jobs do, each in a real job process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmctl.jobs.context import Context

KINDS = "sleep=tests.jobs.works:sleep"


def sleep(arguments: Mapping[str, Any], job: Context) -> Mapping[str, Any]:
    """Takes `seconds` and tells how far it is."""
    seconds = float(arguments.get("seconds", 0))
    job.note(f"sleeping {seconds}")
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        done = int(passed * 10**7)
        job.progress("sleep", done, int(seconds * 10**7), {"one.safetensors": (done // 2, int(seconds * 5 * 10**6))})
        time.sleep(0.02)
    print("slept", flush=True)
    return {"slept": seconds}
