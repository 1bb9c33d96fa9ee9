"""The operator's own programs around a deploy: `hooks/{pre-connect,pre-deploy,post-deploy}` beside hosts.toml.

They are told what goes on by LLMCTL_HOST, LLMCTL_HOSTS, LLMCTL_VERSION, LLMCTL_RELEASE, LLMCTL_MESSAGE and, after it,
LLMCTL_STATUS. What they print is shown on stderr.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from llmctl.errors import DeployFailed

PRE_CONNECT, PRE_DEPLOY, POST_DEPLOY = "pre-connect", "pre-deploy", "post-deploy"
TIMEOUT = 600.0
LAST_LINES = 15


def run(folder: Path | None, name: str, told: Mapping[str, str]) -> list[str] | None:
    """Run a hook; its lines, None when there is no such hook. DeployFailed when it fails or cannot be run."""
    path = folder / "hooks" / name if folder else None
    if path is None or not path.exists():
        return None
    if not os.access(path, os.X_OK):
        raise DeployFailed(f"the hook {path} is not executable", hint=f"chmod +x {path}")
    environment = {**os.environ, **{f"LLMCTL_{key.upper()}": value for key, value in told.items()}}
    try:
        done = subprocess.run(
            [path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            cwd=folder, timeout=TIMEOUT, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DeployFailed(f"the hook {name} did not end within {TIMEOUT:.0f} s", hint=f"look at {path}") from None
    except OSError as error:
        raise DeployFailed(f"the hook {path} cannot be run: {error.strerror}", hint="has it a #! line?") from None
    lines = done.stdout.splitlines()
    if done.returncode:
        raise DeployFailed(
            f"the hook {name} ended with {done.returncode}",
            hint=f"look at {path}",
            details={"log": lines[-LAST_LINES:]},
        )
    return lines
