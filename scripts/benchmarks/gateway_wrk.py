"""wrk, which asks as fast as it is answered."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from scripts.benchmarks.gateway_paced import KEY, PATH


def asked(script: Path, port: int, body: str, seconds: float, connections: int) -> int:
    """How many requests were answered in that time; RuntimeError where one was not, or with an error."""
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {KEY}"\nwrk.body = [==[{body}]==]\n'
    )
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script)]
    url = f"http://127.0.0.1:{port}{PATH}"
    said = subprocess.run([*argv, url], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"(\d+) requests in", said)
    if not found or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(said)
    return int(found[1])
