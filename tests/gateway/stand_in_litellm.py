"""In LiteLLM's place for the tests of what supervises it: its arguments, its routes, and uvicorn below as it has it.

The real one is run by scripts/nightly-gateway. Beside the configuration a file `dies` ends it at its start,
with 3, and `enough` ends answers at /slow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
import yaml

parser = argparse.ArgumentParser()
for option in ("--config", "--host", "--port", "--telemetry"):
    parser.add_argument(option, required=True)
told = parser.parse_args()
config = yaml.safe_load(Path(told.config).read_text())
if Path(told.config).with_name("dies").exists():
    print("a configuration that it does not take", flush=True)
    sys.exit(3)
print(f"stand-in {os.getpid()} with {len(config['model_list'])} models", flush=True)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    status, body = 200, {"pid": os.getpid(), "data": [{"id": row["model_name"]} for row in config["model_list"]]}
    key = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
    if scope["path"] == "/health/readiness":
        body = {"status": "healthy"}
    elif key != os.environ["LITELLM_MASTER_KEY"]:
        status, body = 401, {"error": "no key"}
    elif scope["path"] == "/environment":
        body = {"names": sorted(os.environ), "home": os.environ["HOME"], "folder": os.getcwd()}
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    if scope["path"] == "/slow":
        while not Path(told.config).with_name("enough").exists():
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


uvicorn.run(app, host=told.host, port=int(told.port), log_level="error")
