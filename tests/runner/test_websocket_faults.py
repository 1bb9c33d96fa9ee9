"""WebSockets that go wrong: A49 to A52, L5, slow readers, half-open ones, drains and swaps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from llmctl.domain import Limits, SlotSpec
from llmctl.runner import edge, intake, websocket_edge
from llmctl.runner.listener import Listener, bind
from llmctl.slots import control
from llmctl.slots.state import Launch
from tests.clients import chat, get
from tests.conftest import RunningSlot, eventually, free_port
from tests.gateway.conftest import gateway, served
from tests.runner.fake_slot import FakeService, FakeSlot, connect, raw, read_response, serve
from tests.runner.sockets import (
    CHAT,
    LLMWS,
    Client,
    answer,
    frame,
    question,
    raw_websocket,
    request,
    websocket,
)

__all__ = ["gateway", "served"]
Script = Callable[..., SlotSpec]
Slots = Callable[..., RunningSlot]
TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
WORDS = "Hello wörld 😀!"
BOTH = pytest.mark.parametrize("path", [CHAT, LLMWS])


@pytest.fixture
def slot() -> Iterator[FakeSlot]:
    with serve() as slot:
        yield slot


def talk(client: Client, path: str) -> str:
    """One good turn."""
    if path == CHAT:
        client.say(question())
        return answer(client.hear_until("[DONE]"))
    client.say({"prompt": {"user": "hi"}})
    *events, done = client.hear_until("done", "error")
    assert done["type"] == "done", done
    return "".join(event["data"] for event in events if event["type"] == "token")


def wrong(client: Client, path: str) -> str:
    """The message of an error, which on CHAT ends its turn."""
    if path == CHAT:
        error, done = client.hear(), client.hear()
        assert done == "[DONE]"
        return str(error["error"]["message"])
    error = client.hear()
    assert error["type"] == "error"
    return str(error["message"])


# ── A49: what is no JSON ────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("", "is empty"), ("{", "not JSON"), ("[]", "must be a JSON object"), ('"x"', "must be a JSON object"),
        ('{"a": NaN}', "not JSON"), ("[" * 200_000, "nest"), ('{"a": 1, "a": 2}', "twice"), (b"{}", "only text"),
        (b"\xff\xfe", "only text"), ('{"type": "inference", "messages": "\\ud800"}', ""),
    ],
)  # fmt: skip
def test_a49_a_message_that_is_no_json_is_an_error_and_the_talk_goes_on(
    slot: FakeSlot, path: str, message: str | bytes, says: str
) -> None:
    with websocket(slot.port, path) as client:
        client.say(message)
        assert says in wrong(client, path)
        assert talk(client, path) == WORDS


@BOTH
def test_a49_text_that_is_no_utf_8_closes_with_1007(slot: FakeSlot, path: str) -> None:
    with raw_websocket(slot.port, path) as sock:
        sock.sendall(frame(TEXT, b"\xff\xfe"))
        assert close_code(sock) == 1007
    with websocket(slot.port, path) as client:
        assert talk(client, path) == WORDS


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x05hello", frame(3, b""), frame(CONT, b"x"), frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"),
        frame(PING, b"x", fin=False), frame(CLOSE, b"\x03"), b"\xc1\x80\0\0\0\0",
    ],
    ids=["no mask", "opcode 3", "continuation of nothing", "text in text", "part of a ping", "half a code", "RSV1"],
)  # fmt: skip
def test_a49_frames_that_break_the_protocol_close_with_1002(slot: FakeSlot, data: bytes) -> None:
    with raw_websocket(slot.port) as sock:
        sock.sendall(data)
        assert close_code(sock) == 1002


def close_code(sock: socket.socket, data: bytes = b"") -> int:
    """The code of the close frame with which the server ends, after whatever else it sent, and then hangs up.

    `data` came with the answer that opened the socket.
    """
    while piece := sock.recv(65536):
        data += piece
    while data:
        size, head = data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        if data[0] == 0x80 | CLOSE:
            return int.from_bytes(data[head : head + 2], "big")
        data = data[head + size :]
    raise AssertionError("no close frame")


# ── A50: what is too large ──────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a50_a_frame_of_20_mb_closes_with_1009(slot: FakeSlot, path: str) -> None:
    with websocket(slot.port, path) as client:
        with contextlib.suppress(OSError):
            client.say("x" * 20 * 2**20)
        assert client.closed()[0] == 1009
    with websocket(slot.port, path) as client:
        client.say(json.dumps({"type": "nonsense", "x": "y" * 15 * 2**20}))
        wrong(client, path)
        assert talk(client, path) == WORDS
    eventually(lambda: not held(slot))


def test_a50_many_frames_of_one_message_are_bounded_together(slot: FakeSlot) -> None:
    with raw_websocket(slot.port) as sock:
        sock.sendall(frame(TEXT, b"x" * 2**20, fin=False))
        with contextlib.suppress(OSError):
            for _ in range(20):
                sock.sendall(frame(CONT, b"x" * 2**20, fin=False))
        assert close_code(sock) == 1009
    eventually(lambda: not held(slot))


def test_a50_a_message_in_tiny_frames_is_refused(slot: FakeSlot) -> None:
    with raw_websocket(slot.port) as sock:
        sock.sendall(frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * (intake.PIECES + 1))
        assert close_code(sock) == 1009
    with raw_websocket(slot.port) as sock:  # as many that are worth it are none
        sock.sendall(frame(TEXT, b"[", fin=False) + frame(CONT, b"1," * 10, fin=False) * (intake.PIECES + 1))
        sock.sendall(frame(CONT, b"1]"))
        assert b"must be a JSON object" in sock.recv(65536)


def test_a50_messages_that_wait_are_bounded_together() -> None:
    with serve(FakeService(Limits(bodies_bytes=3 * 2**20))) as slot, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(raw_websocket(slot.port)) for _ in range(4)]
        for sock in socks:
            sock.sendall(frame(TEXT, b"x" * 2**21)[:-1])
        codes = [code for sock in socks if (code := code_soon(sock))]
        assert codes and set(codes) == {1013}
        stack.close()
        eventually(lambda: not held(slot))
        with websocket(slot.port) as client:
            assert talk(client, CHAT) == WORDS


def code_soon(sock: socket.socket) -> int | None:
    """The code of a close frame; None when none comes."""
    sock.settimeout(1.0)
    try:
        return close_code(sock)
    except TimeoutError:
        return None


def held(slot: FakeSlot) -> int:
    """The bytes that the slot counts as waiting for an answer."""
    return int(slot.bodies.bytes)


def test_what_a_turn_holds_is_counted_until_its_answer_ends() -> None:
    with serve(FakeService(pause=0.3)) as slot, websocket(slot.port) as client:
        body = json.dumps(question("x" * 100_000))
        client.say(body)
        client.hear()
        assert held(slot) >= len(body)
        for _ in range(50):
            client.socket.ping()
        client.hear_until("[DONE]")
        eventually(lambda: not held(slot))


# ── A51: two requests at once ───────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a51_a_second_request_is_refused_and_the_first_goes_on(path: str) -> None:
    with serve(FakeService(pause=0.2)) as slot, websocket(slot.port, path) as client:
        ask = question() if path == CHAT else {"prompt": "hi"}
        client.say(ask)
        first = client.hear()
        client.say(ask)
        events = [first, *client.hear_until("[DONE]", "done")]
        errors = [event for event in events[:-1] if "error" in event or event.get("type") == "error"]
        assert len(errors) == 1 and "one at a time" in json.dumps(errors)
        good = [event for event in events if event not in errors]
        text = answer(good) if path == CHAT else "".join(e.get("data", "") for e in good)
        assert text == WORDS and len(slot.service.seen) == 1
        assert talk(client, path) == WORDS


# ── A52: the engine fails ───────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a52_an_engine_that_fails_in_an_answer_is_one_error_one_end_and_a_close(path: str) -> None:
    with serve(FakeService(fail_at=2)) as slot, websocket(slot.port, path) as client:
        client.say(question() if path == CHAT else {"prompt": "hi"})
        events = client.hear_until("[DONE]", "error")
        errors = [e for e in events if e != "[DONE]" and ("error" in e or e.get("type") == "error")]
        assert len(errors) == 1 and "engine died" in json.dumps(errors)
        assert client.closed() == (1011, "the engine failed")
        assert not slot.service.active


def test_a52_an_engine_that_dies_under_a_real_slot(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", step=0.02, length=900))
    with websocket(slot.port) as chat, websocket(slot.port, LLMWS) as llmws:
        begin(chat, llmws)
        os.kill(slot.engine_pid() or 0, signal.SIGKILL)
        *_, error, done = chat.hear_until("[DONE]")
        assert "engine" in error["error"]["message"] and done == "[DONE]"
        assert "engine" in llmws.hear_until("error", "done")[-1]["message"]
        assert chat.closed()[0] == llmws.closed()[0] == 1011
    eventually(lambda: slot.state() == "ready")
    with websocket(slot.port) as client:
        client.say(question(max_tokens=3))
        assert answer(client.hear_until("[DONE]"))
    assert "Traceback" not in slot.log()


@BOTH
@pytest.mark.parametrize("status", [429, 503, 400])
def test_an_error_before_the_answer_ends_the_turn_only(path: str, status: int) -> None:
    from llmctl.errors import RequestError

    with serve(FakeService(refusal=RequestError("not now", status=status, code="x"))) as slot:
        with websocket(slot.port, path) as client:
            client.say(question() if path == CHAT else {"prompt": "hi"})
            assert "not now" in wrong(client, path)
            slot.service.refusal = None
            assert talk(client, path) == WORDS
        found = get(slot.port, "/metrics")[2]
        assert f'llmctl_requests_total{{route="{path}",status="{status}"}} 1.0' in found
        assert f'llmctl_requests_total{{route="{path}",status="200"}} 1.0' in found


@BOTH
def test_a_bug_of_ours_closes_with_1011_and_tells_nothing(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with serve(FakeService(fail_at=1, failure=ValueError("secret"))) as slot, websocket(slot.port, path) as client:
        client.say(question("canary") if path == CHAT else {"prompt": "canary"})
        assert client.closed() == (1011, "internal error")
        eventually(lambda: "ValueError in a handler" in caplog.text)
        assert "secret" not in caplog.text and "canary" not in caplog.text


# ── clients that leave, stop reading or never speak ─────────────────────────────────────────────────────────────────


@BOTH
def test_who_leaves_in_an_answer_cancels_it(path: str) -> None:
    with serve(FakeService(words=["x"] * 1000, pause=0.05)) as slot:
        with websocket(slot.port, path) as client:
            client.say(question() if path == CHAT else {"prompt": "hi"})
            client.hear()
            assert slot.service.active == 1
            client.socket.socket.shutdown(socket.SHUT_RDWR)
        eventually(lambda: slot.service.active == 0 and not slot.server.server_state.connections)
        found = get(slot.port, "/metrics")[2]
        assert f'llmctl_requests_total{{route="{path}",status="499"}} 1.0' in found


@BOTH
def test_who_leaves_before_the_engine_takes_it_is_forgotten(path: str) -> None:
    with serve(FakeService(accept_after=600.0)) as slot:
        with websocket(slot.port, path) as client:
            client.say(question() if path == CHAT else {"prompt": "hi"})
            eventually(lambda: slot.service.waiting == 1)
        eventually(lambda: slot.service.waiting == 0)


def test_a_reader_that_stops_is_dropped_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "bound_kernel_buffers", lambda *args: None)  # by us, not by the kernel
    limits = Limits(read_stall=1.0, write_buffer=2**20)
    with serve(FakeService(limits, ["x" * 1000] * 20_000)) as slot, raw_websocket(slot.port) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(frame(TEXT, json.dumps(question()).encode()))
        with websocket(slot.port) as client:
            client.say(question())
            assert len(client.hear_until("[DONE]")) > 20_000
        eventually(lambda: slot.service.active == 0 and not slot.server.server_state.connections)


def test_pings_without_end_from_who_reads_no_pong_end_the_connection() -> None:
    with serve(FakeService(Limits(read_stall=600.0, write_buffer=2**18))) as slot, raw_websocket(slot.port) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(None)
        pings = frame(PING, b"x" * 125) * 1000
        with pytest.raises(OSError):
            for _ in range(1000):
                lazy.sendall(pings)
        eventually(lambda: not slot.server.server_state.connections)


def test_no_message_is_read_before_the_application_took_the_one_before() -> None:
    async def busy(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()

    async def run() -> int:
        listener = Listener(bind("127.0.0.1", port := free_port()), busy, Limits())
        await listener.accept()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(CHAT))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(TEXT, b"x" * 2**20) * 64)
        await asyncio.sleep(1.0)
        waiting = listener.config.http_protocol_class.bodies.bytes
        writer.transport.abort()
        while listener.state.connections:
            await asyncio.sleep(0.01)
        await listener.drain(0.0)
        listener.sock.close()
        return int(waiting)

    assert 2**20 <= asyncio.run(run()) < 4 * 2**20


def test_pings_are_answered_and_hold_nothing(slot: FakeSlot) -> None:
    with websocket(slot.port) as client:
        for _ in range(100):
            assert client.socket.ping().wait(10)
        assert not held(slot)
        assert talk(client, CHAT) == WORDS


def test_a_client_that_answers_no_ping_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_edge, "PING", 0.3)
    with serve() as slot, websocket(slot.port) as alive, raw_websocket(slot.port) as dead:
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while len(data) < 20 and (piece := dead.recv(1000)):
                data += piece
        assert data == b"\x89\x00"  # one ping
        time.sleep(1.0)  # more than two pings
        assert talk(alive, CHAT) == WORDS


def test_a_client_that_never_answers_a_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_edge, "CLOSE_WAIT", 0.3)
    with serve() as slot, raw_websocket(slot.port) as sock:
        sock.sendall(frame(3, b""))
        eventually(lambda: not slot.server.server_state.connections)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (request(CHAT, "Sec-WebSocket-Version: 12"), "Sec-WebSocket-Version"),
        (request(CHAT, "Sec-WebSocket-Version: -"), "Sec-WebSocket-Version"),
        (request(CHAT, "Sec-WebSocket-Key: -"), "Sec-WebSocket-Key"),
        (request(CHAT, "Sec-WebSocket-Key: abc"), "Sec-WebSocket-Key"),
        (request(CHAT, method="POST"), "must be GET"),
        (request(CHAT, "Content-Length: 5") + b"hello", "has a body"),
        (request(CHAT, "Transfer-Encoding: chunked") + b"0\r\n\r\n", "has a body"),
    ],
)
def test_a_broken_handshake_is_a_400(slot: FakeSlot, data: bytes, says: str) -> None:
    response = raw(slot.port, data)
    assert response.status == 400 and response.closed
    error = response.json()["error"]
    assert error["code"] == "invalid_handshake" and says in error["message"]


def test_no_extension_and_no_subprotocol_is_taken(slot: FakeSlot) -> None:
    with websocket(slot.port, compression="deflate", subprotocols=["chat"]) as client:
        assert client.socket.subprotocol is None and not client.socket.protocol.extensions
        assert talk(client, CHAT) == WORDS


def test_a_route_without_a_websocket_is_a_404(slot: FakeSlot) -> None:
    for path in ("/nope", "/v1/completions", "/health", "/ws/"):
        with pytest.raises(InvalidStatus) as caught, websocket(slot.port, path):
            pass
        response = caught.value.response
        assert response.status_code == 404 and json.loads(response.body)["error"]["code"] == "not_found"


def test_a_connection_that_served_http_may_become_a_websocket(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + request(CHAT))
        data = b""
        while b"101 Switching" not in data:
            data += sock.recv(65536)
        sock.sendall(frame(TEXT, json.dumps(question()).encode()))
        while b"[DONE]" not in data:
            data += sock.recv(65536)
        assert data.startswith(b"HTTP/1.1 200 ")


# ── many at once ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_l05_1000_idle_websockets_and_200_half_open_requests(served: Slots, script: Script) -> None:
    slot = served(script("alpha"))
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(slot.port)) for _ in range(1000)]
        for sock in idle:
            sock.sendall(request(CHAT))
        for sock in idle:
            assert b"101 Switching" in sock.recv(1000)
        for _ in range(200):
            stack.enter_context(connect(slot.port)).sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
        for _ in range(5):
            began = time.monotonic()
            assert get(slot.port, "/health", timeout=10)[0] == 200
            assert time.monotonic() - began < 5
        assert chat(slot.port, max_tokens=3)[0] == 200
        with websocket(slot.port) as client:
            client.say(question(max_tokens=3))
            assert answer(client.hear_until("[DONE]"))
        assert slot.status().active == 0


def test_websockets_are_among_the_connections_that_are_counted() -> None:
    with serve(FakeService(Limits(connections=3))) as slot, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(websocket(slot.port))
        with pytest.raises(InvalidStatus) as caught, websocket(slot.port):
            pass
        assert caught.value.response.status_code == 503


# ── swaps and drains ────────────────────────────────────────────────────────────────────────────────────────────────


def test_websockets_change_engines_between_turns_and_notice_nothing(slots: Slots, script: Script) -> None:
    models = [script(name, answers={"hi": f"I am {name}."}) for name in ("alpha", "beta")]
    slot = slots(models[0])
    with websocket(slot.port) as chat, websocket(slot.port, LLMWS) as llmws:
        for turn in range(3):
            assert talk(chat, CHAT) == talk(llmws, LLMWS) == f"I am {('alpha', 'beta')[turn % 2]}."
            slot.change("swap", models[(turn + 1) % 2])


def test_a_swap_lets_the_answers_of_websockets_finish(slots: Slots, script: Script) -> None:
    slot = slots(script("alpha", step=0.05, answers={"hi": "x" * 200}))
    with websocket(slot.port) as chat, websocket(slot.port, LLMWS) as llmws:
        begin(chat, llmws)
        swap = threading.Thread(target=slot.change, args=("swap", script("beta")))
        swap.start()
        finish(chat, llmws, "x" * 200)
        swap.join(60)
    assert slot.status().model == "beta"


def begin(chat: Client, llmws: Client) -> None:
    """A turn of each protocol."""
    chat.say(question())
    llmws.say({"prompt": "hi"})
    assert chat.hear()["choices"][0]["delta"]["role"] == "assistant" and llmws.hear()["type"] == "start"


def finish(chat: Client, llmws: Client, text: str) -> None:
    """Both turns bring the whole answer."""
    assert answer(chat.hear_until("[DONE]")) == text
    *events, done = llmws.hear_until("done", "error")
    assert "".join(event["data"] for event in events) == text and done["type"] == "done"


@pytest.mark.parametrize("verb", ["reexec", "stop"])
def test_a_drain_finishes_the_answers_of_websockets_and_closes_all_with_1012(
    slots: Slots, script: Script, verb: str
) -> None:
    slot = slots(script("alpha", step=0.05, answers={"hi": "x" * 320}), Launch(limits=Limits(drain=30.0)))
    engine = slot.engine_pid()
    with contextlib.ExitStack() as stack:
        chat, llmws, *idle = [stack.enter_context(websocket(slot.port, path)) for path in (CHAT, LLMWS) * 2]
        begin(chat, llmws)
        ending = threading.Thread(target=control.call, args=(slot.folder.control, verb), kwargs={"timeout": 60})
        ending.start()
        assert [client.closed() for client in idle] == [(1012, "the server restarts")] * 2
        finish(chat, llmws, "x" * 320)
        assert chat.closed() == llmws.closed() == (1012, "the server restarts")
        ending.join(60)
    if verb == "reexec":
        eventually(lambda: slot.engine_pid() == engine and slot.state() == "ready")
        with websocket(slot.port) as client:
            assert talk(client, CHAT) == "x" * 320
    assert "Traceback" not in slot.log()


def test_a_websocket_that_opens_in_a_drain_is_told_to_come_again(slot: FakeSlot) -> None:
    with connect(slot.port) as sock:
        slot.drain.draining = True
        sock.sendall(request(CHAT))
        opened = read_response(sock)
        assert opened.status == 101
        assert close_code(sock, opened.body) == 1012
