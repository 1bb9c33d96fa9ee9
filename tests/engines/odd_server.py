"""A server of OpenAI's dialect that does what the question says: right, late, wrong or not at all.

    python odd_server.py PORT|SOCKET [--id NAME] [--stubborn] [--starting SECONDS] [--brood FILE] [--exit STATUS]
        [--ballast BYTES]

Standard library only. What it was asked is told by GET /seen; --brood starts a process in a session of its own, whose
pid goes into FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = "A port on a host that holds at most one model."
WORDS = ["A", " port", " on a", " host", " that holds", " at most", " one", " model."]
USAGE = {"prompt_tokens": 7, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 3}}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zo'}}


class Server(ThreadingHTTPServer):
    """The server with what it has seen and is."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: Any, model: str = "odd", kind: Any = None) -> None:
        self.model, self.seen, self.gone = model, [], 0
        self.asleep = self.insomnia = False
        self.ready_at = 0.0
        self.address_family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, address: Any) -> None:
        self.gone += 1  # the client hung up

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None: ...
    def address_string(self) -> str:
        return "-"

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.whole(200 if time.monotonic() >= self.server.ready_at else 503, {})
        if self.path == "/v1/models":
            rows = [{"id": self.server.model, "max_model_len": 512}, {"id": "a-lora", "parent": self.server.model}]
            return self.whole(200, {"data": rows})
        if self.path == "/is_sleeping":
            return self.whole(200, {"is_sleeping": self.server.asleep})
        if self.path == "/seen":
            return self.whole(200, {"seen": self.server.seen, "gone": self.server.gone, "pid": os.getpid()})
        return self.whole(404, {})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, _, _ = self.path.partition("?")
        body = json.loads(data) if data else {}
        self.server.seen.append({"path": self.path, "body": body, "key": self.headers.get("authorization")})
        if self.server.insomnia and path == "/sleep":
            return self.whole(404, {})
        if path in ("/sleep", "/wake_up"):
            self.server.asleep = path == "/sleep"
            return self.whole(200, {})
        if self.server.asleep:
            return self.whole(500, {"error": {"message": "asleep"}})
        if path == "/tokenize":
            return self.whole(200, {"tokens": [1, 2, 3]})
        if path == "/v1/embeddings":
            rows = [{"index": i, "embedding": [float(i), 1.0]} for i in reversed(range(len(body["input"])))]
            return self.whole(200, {"data": rows, "usage": {"prompt_tokens": 4}})
        if path == "/v1/rerank":
            rows = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]
            return self.whole(200, {"results": rows, "usage": {"total_tokens": 6}})
        question = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        return self.behave(str(question), body)

    # ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def whole(
        self, status: int, said: Any, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self, kind: str = "text/event-stream") -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def raw(self, text: str | bytes) -> None:
        self.wfile.write(text.encode() if isinstance(text, str) else text)
        self.wfile.flush()

    def event(self, delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> None:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        for choice in choices:
            choice |= more.pop("choice", {})
        self.raw(f"data: {json.dumps({'choices': choices, **more})}\n\n")

    def text_event(self, text: str, body: dict[str, Any], finish: str | None = None) -> None:
        if "prompt" in body:
            self.raw(f"data: {json.dumps({'choices': [{'index': 0, 'text': text, 'finish_reason': finish}]})}\n\n")
        else:
            self.event({"content": text}, finish)

    def behave(self, question: str, body: dict[str, Any]) -> None:
        whole = {
            "500": (500, {"error": {"message": "boom\x1b[31m\r\nin the engine"}}),
            "429": (429, {"error": {"message": "slow down"}}),
            "401": (401, {"detail": "no key"}),
            "503": (503, {"error": {"message": "loading"}}),
            "400": (400, {"error": {"message": "top_p must be", "param": "top_p"}}),
            "too long": (400, {"message": "This model's maximum context length is 512 tokens. You asked for 600."}),
            "llama too long": (400, {"error": {"type": "exceed_context_size_error", "n_ctx": 512,
                                              "n_prompt_tokens": 600, "message": "request exceeds"}}),
            "html error": (502, b"<html>Bad Gateway</html>"),
            "not json": (200, b"hello"),
            "empty choices": (200, {"choices": []}),
            "no object": (200, [1]),
            "no choices": (200, {"id": "x"}),
            "json answer": (200, {"choices": [{"index": 0, "message": {"content": ANSWER}, "finish_reason": "stop"}],
                                  "usage": USAGE}),
        }  # fmt: skip
        if question in whole:
            status, said = whole[question]
            return self.whole(status, said, {"retry-after": "7"} if status == 429 else None)
        if question == "html":
            return self.whole(200, b"<html>hello</html>", kind="text/html")
        if question == "hang":
            time.sleep(60)
            return None
        if question == "hang up":
            self.close_connection = True
            return None
        if question == "slow headers":
            self.raw("HTTP/1.1 200 OK\r\n")
            for _ in range(400):
                self.raw("a: b\r\n")
                time.sleep(0.3)
            return None
        if question == "redirect":
            return self.whole(302, {}, {"location": "http://127.0.0.1:9/v1/chat/completions"})
        if question == "die at once":
            os.kill(os.getpid(), signal.SIGKILL)
        self.begin()
        return self.stream(question, body)

    def stream(self, question: str, body: dict[str, Any]) -> None:
        if question == "page in a stream":
            return self.raw("<html>\n</html>\n")
        if question == "broken event":
            return self.raw('data: {"choices": [{"ind\n\n')
        if question == "event of a list":
            return self.raw("data: [1]\n\n")
        if question == "another shape":
            return self.raw('data: {"choices": [{"index": 0, "delta": {"content": 5}}]}\n\n')
        if question == "calls of another shape":
            return self.raw('data: {"choices": [{"index": 0, "delta": {"tool_calls": [7]}}]}\n\n')
        if question == "choice of nobody":
            return self.raw('data: {"choices": [{"index": 9, "delta": {"content": "x"}}]}\n\n')
        if question == "nothing":
            return self.raw("data: [DONE]\n\n")
        if question == "error in a stream":
            self.text_event("A", body)
            return self.raw('data: {"error": {"message": "out of memory", "code": 500}}\n\n')
        if question == "long event":
            return self.raw(b"data: " + b"x" * (17 * 2**20))
        if question == "reason":
            self.event({"reasoning_content": "hm"})
            self.event({"reasoning": ", so"})
        if question == "call":
            self.event({"tool_calls": [CALL]})
            self.event({"tool_calls": [{"index": 0, "function": {"arguments": 'ne": 1}'}}]})
            self.event({"tool_calls": [{**CALL, "index": 1, "id": "c2", "function": {"name": "b", "arguments": {}}}]})
            self.event({}, "tool_calls")
            return self.raw("data: [DONE]\n\n")
        for at, word in enumerate(WORDS):
            if question == "die" and at == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            if question == "truncated" and at == 3:
                return None
            if question == "stall" and at == 3:
                time.sleep(60)
            if question == "drip":
                time.sleep(0.2)
            if question == "in pieces":
                data = f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': word}}]})}\r\n\r\n".encode()
                for i in range(len(data)):
                    self.raw(data[i : i + 1])
                continue
            self.text_event(word, body)
        if question == "for ever":
            for _ in range(2000):
                self.text_event(" more", body)
                time.sleep(0.05)
        self.text_event("", body, "stop")
        if question != "uncounted":
            self.event(usage=USAGE)
        self.raw(": a comment\n\ndata: [DONE]\n\n")
        return None


def started(**options: Any) -> Server:
    """One that runs in a thread of this process."""
    server = Server(("127.0.0.1", 0), **options)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    parser.add_argument("--id", default="odd")
    parser.add_argument("--stubborn", action="store_true")
    parser.add_argument("--starting", type=float, default=0.0)
    parser.add_argument("--brood")
    parser.add_argument("--exit", type=int)
    parser.add_argument("--ballast", type=int, default=0)
    args = parser.parse_args()
    if args.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if args.brood:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        with open(args.brood, "w") as file:
            file.write(str(child.pid))
    if args.exit is not None:
        print("odd_server: the weights are not there", flush=True)
        sys.exit(args.exit)
    ballast = b"\1" * args.ballast
    server = Server(("127.0.0.1", int(args.place)) if args.place.isdigit() else args.place, args.id)
    server.ready_at = time.monotonic() + args.starting
    print("secret in the environment:", os.environ.get("ODD_KEY") is not None, flush=True)
    server.serve_forever()
    del ballast


if __name__ == "__main__":
    main()
