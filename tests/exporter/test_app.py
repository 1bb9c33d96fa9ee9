"""The exporter's application without a network: patience, pages that are shared, and what is not installed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmctl.checks.slot_http import METRICS, SlotHttp
from llmctl.exporter.asking import Asking
from llmctl.exporter.fleet import Exporter, Scraped
from llmctl.exporter.serve import make_app, patience
from llmctl.runner.auth import Auth

HEADER = b"x-prometheus-scrape-timeout-seconds"


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(b"10", 8), (b"5", 4.5), (b"0.6", 0.5), (b"-1", 8), (b"0", 8), (b"nan", 8), (b"inf", 8), (b"soon", 8), (None, 8)],
)
def test_a_scrape_takes_no_longer_than_prometheus_waits(said: bytes | None, seconds: float) -> None:
    assert patience({HEADER: said} if said else {}, 8.0) == seconds


class Slow(Exporter):
    """Its page is made when `go` is set."""

    def __init__(self) -> None:
        super().__init__(Asking([], lambda host: {}), lambda: ())
        self.go, self.pages = threading.Event(), 0

    def scrape(self, within: float) -> Scraped:
        self.pages += 1
        assert self.go.wait(60)
        return super().scrape(within)


def test_who_comes_while_a_page_is_made_gets_that_one() -> None:
    exporter = Slow()
    app = make_app(exporter, Auth("127.0.0.1", None), 8.0)
    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [(b"host", b"localhost")]}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("status"))

    async def scrapes() -> None:
        asking = [asyncio.ensure_future(app(scope, receive, send)) for _ in range(5)]
        await asyncio.sleep(0.05)
        exporter.go.set()
        await asyncio.gather(*asking)
        assert exporter.pages == 1 and sent.count(200) == 5
        await app(scope, receive, send)
        assert exporter.pages == 2, "the next one is made anew"

    asyncio.run(scrapes())


def test_a_page_without_end_is_read_to_a_bound() -> None:
    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 3 * METRICS)

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert len(SlotHttp("127.0.0.1", server.server_address[1], None, 30.0).metrics()) == METRICS
        server.shutdown()


def test_what_it_needs_and_is_not_installed_is_told(home: Path) -> None:
    (home / "hosts.toml").write_text('[hosts.here]\ntransport = "local"\n')
    words = ["--config-dir", str(home), "metrics", "serve"]
    code = f"import sys; sys.modules['uvicorn'] = None; from llmctl.__main__ import main; sys.exit(main({words}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "needs uvicorn" in done.stderr and "llmctl-fleet[server]" in done.stderr
