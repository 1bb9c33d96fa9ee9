"""What the pages show, of a fleet and of its past, also of one that wants to do harm."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from llmctl.clients.talk import Piece
from llmctl.errors import Refused, Unreachable
from llmctl.history import NAME
from llmctl.history.store import Check, History
from tests.conftest import eventually
from tests.top.scenes import gateway
from tests.web.conftest import BASE, FORM, Site
from tests.web.fixed import Script, Verbs, host, slot

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}\x1b[31m\r\nSet-Cookie: a=b\u202e"
SLOT = "/slots/gpu1/8101"


def past(home: Path, hostile: str = "") -> None:
    """A day in which the slot was down for a while."""
    now = time.time()
    with History.open(home / NAME) as history:
        for at in range(24):
            down = at in (10, 11)
            speed = (None, None) if down else (0.2 + at / 1000, 80.0 + at)
            said = ("down", f"no answer {hostile}") if down else ("ok", "")
            history.checked(
                [Check("gpu1", 8101, now - (24 - at) * 3600, *said, "qwen2.5-7b", *speed, at % 5, 5 * 10**9)]
            )
        history.close_incident(history.open_incident("gpu1", 8101, now - 14 * 3600, "down", "it hung"), now - 12 * 3600)
        history.open_incident("gpu1", 8102, now - 600, "down", f"crash loop {hostile}")
        history.note("gpu1", "swap", port=8101, model="qwen2.5-7b", outcome="ok", what=f"by someone {hostile}")


def test_the_fleet_at_a_glance(site: Site) -> None:
    past(site.home)
    text = site.client.get("/").text
    for shown in (
        "gpu1",
        "mac",
        "attic",
        "qwen2.5-7b",
        "83.4",
        "crash-loop",
        "58.2 GB",
        "2.0 TB",
        "health ok",
        "crash loop",
    ):
        assert shown in text, shown
    assert "nothing was heard of it for 42 s" in text and "llmctl status --host attic" in text
    assert 'class="bad"><dt>open incidents</dt><dd>1</dd>' in text
    assert "weights 45 %" in text


def test_a_slot_with_its_past(site: Site) -> None:
    past(site.home)
    text = site.client.get(SLOT).text
    for shown in ("qwen2.5-7b", "chat, code", "first token p95", "<b>91.", "by someone", "health runs"):
        assert shown in text, shown
    for title in ("first token", "tokens/s", "queue", "memory"):
        assert f'aria-label="{title}: 2' in text, title
    assert text.count('<path class="line"') >= 4 and '<rect class="down"' in text


def test_a_gateway_has_its_slots_and_no_verb_of_models(site: Site) -> None:
    site.watch.now(*gateway().hosts.values())
    (row,) = (part for part in site.client.get("/").text.split("<li>") if "/slots/box/8090" in part)
    assert "3 handles, 2 active, 1 of 3 slots rest" in row
    site.sign_in("admin")
    text = site.client.get("/slots/box/8090").text
    assert ">rests</span> <span>no answer within 4 s<" in text
    for shown in ("gpu1:8101", "on demand", "late", "Yes, restart box:8090"):
        assert shown in text, shown
    assert not [verb for verb in ("swap", "load", "unload") if f'action="/slots/box/8090/{verb}"' in text]
    assert 'action="/slots/box/8101/swap"' in site.client.get("/slots/box/8101").text


def test_history_can_be_narrowed(site: Site) -> None:
    past(site.home)
    everything = site.client.get("/history").text
    assert "it hung" in everything and "by someone" in everything and "crash loop" in everything
    swaps = site.client.get("/history?kind=swap&host=gpu1&span=1d").text
    assert "by someone" in swaps and "<b>incident</b>" not in swaps
    assert "by someone" not in site.client.get("/history?host=mac").text
    assert site.client.get("/history?kind='&host=<b>&span=x").status_code == 200


def test_without_a_history_pages_are_whole(site: Site) -> None:
    for path in ("/", SLOT, "/history"):
        assert site.client.get(path).status_code == 200
    assert not (site.home / NAME).exists()


def test_a_damaged_history_is_said_and_nothing_else_fails(site: Site) -> None:
    (site.home / NAME).write_bytes(b"no database at all" * 100)
    for path in ("/", SLOT, "/history"):
        answer = site.client.get(path)
        assert answer.status_code == 200 and NAME in answer.text, path


@pytest.mark.parametrize(
    "path", ["/slots/gpu9/8101", "/slots/gpu1/9999", "/slots/gpu1/8101/x/y", "/x", "/static/../app.py"]
)
def test_what_is_not_there_is_a_page_that_says_so(site: Site, path: str) -> None:
    answer = site.client.get(path)
    assert answer.status_code == 404 and 'href="/"' in answer.text and "Traceback" not in answer.text


def test_s10_what_hosts_say_is_text_and_no_more(site: Site) -> None:
    past(site.home, HOSTILE)
    events = [{"id": "x", "at": time.time(), "kind": HOSTILE, "what": HOSTILE}]
    replicas = [{"where": HOSTILE, "model": HOSTILE, "handles": [HOSTILE], "resting": True, "why": HOSTILE}]
    said = {"why": HOSTILE, "engine": HOSTILE, "handles": [HOSTILE], "operation": HOSTILE, "replicas": replicas}
    bad = slot(8101, HOSTILE, HOSTILE, **said)
    site.watch.now(host("gpu1", [bad], events=events))
    site.verbs.work = lambda on_event: (_ for _ in ()).throw(Refused(HOSTILE, hint=HOSTILE))
    site.sign_in("admin")
    site.post(f"{SLOT}/swap", model=HOSTILE)
    pages = [site.client.get(path).text for path in ("/", SLOT, "/history")]
    parts = json.dumps([site.web.pages.fleet_parts(), site.web.pages.slot_parts("gpu1", 8101, _admin(site))])
    for text in [*pages, parts]:
        assert "<img" not in text and "{{7*7}}" in text
        assert not [char for char in text if char in "\x1b\r\u202e"]
    assert "&lt;img" in pages[1] and "\\x1b[31m" in pages[1]
    assert not any(
        "set-cookie: a=b" in f"{name}: {value}".lower() for name, value in site.client.get(SLOT).headers.items()
    )


def _admin(site: Site):  # type: ignore[no-untyped-def]
    return site.web.changes.sessions.open("admin")


def test_s10_a_log_line_is_text(site: Site) -> None:
    answer = site.client.get(f"{SLOT}/log")
    assert answer.headers["content-type"].startswith("text/plain") and "\x1b" not in answer.text
    assert "engine: line \\x1b[31m2" in answer.text


# ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["load", "swap", "unload", "restart"])
def test_a_verb_of_the_page_is_the_one_of_the_command_line(site: Site, verb: str) -> None:
    site.sign_in("admin")
    answer = site.post(f"{SLOT}/{verb}", model=" phi-4 ")
    assert answer.status_code == 303 and answer.headers["location"] == f"{SLOT}#act"
    eventually(lambda: ", after " in site.client.get(SLOT).text)
    assert site.verbs.asked == [(verb, "gpu1", 8101, "phi-4" if verb in ("load", "swap") else None)]


def test_a_change_that_fails_says_why_and_what_to_type(site: Site) -> None:
    def fails(on_event: object) -> dict[str, str]:
        raise Refused("it does not fit: 20 GB are needed", hint="llmctl models fit phi-4")

    site.verbs.work = fails
    site.sign_in("admin")
    site.post(f"{SLOT}/swap", model="phi-4")
    eventually(lambda: "failed" in site.client.get(SLOT).text)
    text = site.client.get(SLOT).text
    assert "20 GB are needed" in text and "llmctl models fit phi-4" in text


def test_one_change_of_a_slot_at_a_time(site: Site) -> None:
    go = threading.Event()
    site.verbs.work = lambda on_event: {"model": "phi-4", "state": "ready"} if go.wait(30) else {}
    site.sign_in("admin")
    try:
        assert site.post(f"{SLOT}/swap", model="phi-4").status_code == 303
        assert "is under way: it begins" in site.client.get(SLOT).text
        second = site.post(f"{SLOT}/unload")
        assert second.status_code == 409 and "under way" in second.text
        assert site.post("/slots/gpu1/8102/restart").status_code == 303
    finally:
        go.set()
    eventually(lambda: "is ready, after" in site.client.get(SLOT).text)


BAD_FORMS = [
    ({"data": {"model": ""}}, 400),
    ({"data": {}}, 400),
    ({"content": b"\xff\xfe", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400),
    ({"content": b"&a=b" * 50, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400),
    ({"content": b"a=" + b"b" * 70_000, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 413),
    ({"json": {"model": "phi-4"}}, 415),
    ({"files": {"model": b"phi-4"}}, 415),
]


@pytest.mark.parametrize(("sent", "status"), BAD_FORMS)
def test_a_form_that_makes_no_sense_changes_nothing(site: Site, sent: dict, status: int) -> None:  # type: ignore[type-arg]
    site.sign_in("admin")
    if "data" in sent:
        sent = {"data": {**sent["data"], "token": site.token()}}
    headers = {**FORM, **sent.pop("headers", {})}
    assert site.client.post(f"{SLOT}/swap", headers=headers, **sent).status_code == status
    assert not site.verbs.asked


def test_a_verb_that_there_is_none_of_is_refused(site: Site) -> None:
    site.sign_in("admin")
    assert site.post(f"{SLOT}/delete").status_code == 404
    assert site.post("/slots/gpu9/8101/unload").status_code == 404
    assert not site.verbs.asked


# ── chat ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def told(text: str) -> list[tuple[str, object]]:
    events = [part.split("\n") for part in text.split("\n\n") if part.startswith("event")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in events]


def test_a_question_is_answered_piece_by_piece(site: Site) -> None:
    answer = site.chat("Who?")
    assert answer.headers["content-type"].startswith("text/event-stream")
    end = {"model": "alpha", "finish": "stop", "seconds": 0.1, "tokens": 3}
    assert told(answer.text) == [("thought", "Hm."), ("text", "I am "), ("text", "alpha."), ("end", end)]
    assert site.verbs.model.asked == [[{"role": "user", "content": "Who?"}]]


def test_a_page_gives_nobody_more_than_he_has(site: Site) -> None:
    """Without a key the slots of this machine are asked without one, and those of other hosts not at all."""
    site.chat("Who?")
    assert site.verbs.keyed == [False]
    site.verbs.open = False
    assert site.chat("Who?").status_code == 401
    assert "Sign in</a> to talk" in site.client.get(SLOT).text
    site.sign_in("client")
    assert site.chat("Who?").status_code == 200
    assert site.verbs.keyed == [False, True]


def test_an_answer_that_fails_says_why(make_site) -> None:  # type: ignore[no-untyped-def]
    site = make_site(verbs=Verbs(model=Script((Piece("I"),), Unreachable("the slot is gone", hint="llmctl status"))))
    assert told(site.chat("Who?").text) == [
        ("text", "I"),
        ("failed", {"error": "the slot is gone", "hint": "llmctl status"}),
    ]


BAD_CHATS = [b"", b"{", b"[]", b"[" * 100_000, b"{}", b'{"messages": []}', b'{"messages": [{"role": "user"}]}',
             b'{"messages": [{"role": "tool", "content": "x"}]}', b'{"messages": [{"role": "user", "content": 1}]}',
             json.dumps({"messages": [{"role": "user", "content": "x"}] * 401}).encode()]  # fmt: skip


@pytest.mark.parametrize("body", BAD_CHATS)
def test_a_conversation_that_makes_no_sense_reaches_no_model(site: Site, body: bytes) -> None:
    headers = {"Origin": BASE, "X-Token": site.token(), "Content-Type": "application/json", "Accept": "*/*"}
    answer = site.client.post(f"{SLOT}/chat", content=body, headers=headers)
    assert answer.status_code == 400 and not site.verbs.model.asked


def test_a_conversation_has_a_size(site: Site) -> None:
    assert site.chat("x" * 600_000).status_code == 413
    assert not site.verbs.model.asked


def test_a_bug_of_ours_is_a_page_without_what_was_sent(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.watch.snapshot = lambda: 1 / 0  # type: ignore[method-assign]
    answer = site.chat("canary-5417")
    assert answer.status_code == 500 and "Traceback" not in answer.text
    assert "ZeroDivisionError" in caplog.text and "canary" not in caplog.text
