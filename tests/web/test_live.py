"""Pages that stay up to date, over real sockets: what is sent when, to how many, and that it ends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest

from llmctl import keys
from llmctl.web import live
from llmctl.web.app import Door
from tests.conftest import eventually, free_port
from tests.web.conftest import Site
from tests.web.fixed import Fleet, Script, Verbs, host, slot, web_of
from tests.web.serving import Served, events, hang_up

SLOT = "/slots/gpu1/8101"


class Page:
    def __init__(self, served: Served, watch: Fleet, verbs: Verbs) -> None:
        self.served, self.watch, self.verbs, self.web = served, watch, verbs, served.web


@pytest.fixture
def page(home: Path) -> Iterator[Page]:
    watch, verbs = Fleet(), Verbs()
    with Served(web_of(home, watch=watch, verbs=verbs), free_port()) as served:
        yield Page(served, watch, verbs)


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_a_page_gets_all_at_first_and_then_what_changes(page: Page) -> None:
    answer = page.served.open("/live")
    assert answer.getheader("Content-Type", "").startswith("text/event-stream")
    told = events(answer)
    kind, parts = next(told)
    assert kind == "parts" and set(parts) == {"summary", "host-gpu1", "host-mac", "host-attic"}
    page.watch.now(host("mac", [slot(8101, "phi-4", "ready")]))
    kind, parts = next(told)
    assert set(parts) == {"summary", "host-mac"} and "phi-4" in parts["host-mac"]


def test_while_nothing_changes_a_sign_of_life_comes(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT", 0.2)
    answer = page.served.open("/live")
    told = events(answer)
    assert next(told)[0] == "parts"
    assert next(told) == ("", "here")


def test_a_reader_who_goes_gives_his_place_back_and_the_last_one_ends_the_watching(page: Page) -> None:
    answers = [page.served.open("/live") for _ in range(3)]
    for answer in answers:
        next(events(answer))
    assert page.web.hub.readers.taken == 3
    for answer in answers:
        hang_up(answer)
    eventually(lambda: page.web.hub.readers.taken == 0)
    eventually(lambda: page.web.hub._task and page.web.hub._task.done())


def test_there_are_so_many_readers_and_no_more(page: Page) -> None:
    page.web.hub.readers.most = 2
    answers = [page.served.open("/live") for _ in range(2)]
    refused = page.served.open("/live")
    assert refused.status == 503 and refused.getheader("Retry-After") == "10"
    assert b"2 pages are open" in refused.read()
    hang_up(answers[0])
    eventually(lambda: page.web.hub.readers.taken == 1)
    again = page.served.open("/live")
    assert again.status == 200


def test_a_log_is_followed_and_let_go(page: Page) -> None:
    answer = page.served.open(f"{SLOT}/live")
    told = events(answer)
    assert next(told)[0] == "from"
    lines: list[str] = []
    for kind, data in told:
        lines += data if kind == "log" else []
        if len(lines) == 3:
            break
    assert lines[-1] == "2027-01-15T09:00:02 engine: line \\x1b[31m2"
    hang_up(answer)
    eventually(lambda: page.verbs.logs[0].over.is_set())
    eventually(lambda: page.web.hub.followers.taken == 0 and not threads("web log"))


def test_s1_a_stream_ends_with_the_key_that_opened_it(home: Path, make_site: Callable[..., Site]) -> None:
    keys.show(home)
    site = make_site(door=Door(require_key=True))
    with Served(site.web, free_port()) as served:
        told = events(served.open("/live", Authorization=f"Bearer {site.key('client')}"))
        assert next(told)[0] == "parts"
        keys.rotate(site.home)
        site.watch.now(host("mac", [slot(8101, "phi-4", "ready")]))
        assert list(told) == []


def test_logs_are_followed_by_so_many_and_no_more(page: Page) -> None:
    page.web.hub.followers.most = 1
    page.served.open(f"{SLOT}/live")
    refused = page.served.open(f"{SLOT}/live")
    assert refused.status == 503 and len(page.verbs.logs) == 1


def test_a_log_that_ends_with_an_error_says_it(page: Page) -> None:
    page.verbs.follow = lambda host, port, most: _Broken()  # type: ignore[method-assign,assignment]
    answer = page.served.open(f"{SLOT}/live")
    assert next(data for kind, data in events(answer) if kind == "log") == ["llmctl: gpu1 is gone"]


class _Broken:
    def lines(self) -> Iterator[str]:
        from llmctl.errors import Unreachable

        raise Unreachable("gpu1 is gone")

    def cut(self) -> None:
        pass


def test_the_server_ends_though_streams_are_open(home: Path) -> None:
    watch, verbs = Fleet(), Verbs(model=Script(go=threading.Event()))
    with Served(web_of(home, watch=watch, verbs=verbs), free_port()) as served:
        told = events(served.open("/live"))
        next(told)
        log = events(served.open(f"{SLOT}/live"))
        next(log)
    assert list(told) == []
    eventually(lambda: verbs.logs[0].over.is_set())


# ── chat ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(served: Served, site: Site) -> HTTPResponse:
    client = site.visitor()
    token, cookies = site.token(client), "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    headers = {"Origin": f"http://127.0.0.1:{served.port}", "X-Token": token, "Cookie": cookies}
    body = json.dumps({"messages": [{"role": "user", "content": "Who?"}]})
    return served.open(f"{SLOT}/chat", "POST", body, **{**headers, "Content-Type": "application/json"})


def test_an_answer_that_nobody_reads_any_more_ends_at_the_slot(make_site: Callable[..., Site]) -> None:
    verbs = Verbs(model=Script(go=threading.Event()))
    site = make_site(verbs=verbs)
    with Served(site.web, free_port()) as served:
        answer = asked(served, site)
        told = events(answer)
        assert [next(told) for _ in range(3)][-1] == ("text", "alpha.")
        assert site.web.changes.chats.taken == 1
        hang_up(answer)
        assert verbs.model.ended.wait(30)
        eventually(lambda: verbs.cuts == 1)  # the thread that asks may see the end before the slot is cut
        eventually(lambda: site.web.changes.chats.taken == 0 and not threads("web chat"))


def test_there_are_so_many_conversations_and_no_more(make_site: Callable[..., Site]) -> None:
    verbs = Verbs(model=Script(go=threading.Event()))
    site = make_site(verbs=verbs)
    site.web.changes.chats.most = 1
    with Served(site.web, free_port()) as served:
        answer = asked(served, site)
        assert asked(served, site).status == 503
        hang_up(answer)
        eventually(lambda: site.web.changes.chats.taken == 0)
        assert verbs.model.go
        assert asked(served, site).status == 200


def test_a_stream_ends_though_it_is_cancelled_just_when_something_comes() -> None:
    """`asyncio.wait_for` of Python 3.11 forgets the cancellation then."""

    async def run() -> bool:
        event = asyncio.Event()

        async def wait() -> None:
            await live.within(event.wait(), 60.0)

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        event.set()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled()

    assert asyncio.run(run())


def test_a_log_that_is_faster_than_its_reader_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOG_WAITING", 5)
    lines = live.Lines(_Many(), lambda: None)
    eventually(lambda: not threads("web log"))
    assert lines.take() == ["line 45", "line 46", "line 47", "line 48", "line 49"]


class _Many:
    def lines(self) -> Iterator[str]:
        yield from (f"line {number}\n" for number in range(50))

    def cut(self) -> None:
        pass
