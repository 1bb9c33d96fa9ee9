"""Who may see and change what: keys, sessions, tokens, and where a request comes from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route
from starlette.websockets import WebSocketDisconnect

from llmctl import keys
from llmctl.__main__ import main
from llmctl.web.app import Door
from llmctl.web.sessions import LASTS, MOST, Sessions
from tests.web.conftest import BASE, FORM, Site
from tests.web.fixed import web_of

VALUES = {"{host}": "gpu1", "{port:int}": "8101", "{verb}": "unload", "{name}": "page.css"}
STREAMS = ("/live", "/slots/gpu1/8101/live")
WRONG = [None, "", "lm-wrong", "Schlüssel", "x" * 300]


def routes(site: Site) -> Iterator[tuple[str, str]]:
    """Every route that there is, as (method, path); a new one cannot be forgotten."""
    for route in site.web.routes():
        assert isinstance(route, Route)
        path = re.sub(r"\{[^}]+\}", lambda found: VALUES[found[0]], route.path)
        yield from ((method, path) for method in sorted(route.methods or ()))


def ask(site: Site, method: str, path: str, **headers: str) -> Any:
    return site.visitor().request(
        method, path, headers={**FORM, **headers}, data={"key": "wrong"} if method == "POST" else None
    )


@pytest.mark.parametrize("key", WRONG)
def test_s1_every_route_asks_for_the_key(keyed: Site, key: str | None) -> None:
    sent: dict[str, Any] = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
    found = {(method, path): ask(keyed, method, path, **sent).status_code for method, path in routes(keyed)}
    assert len(found) > 15
    assert set(found.values()) == {401}, found
    assert ask(keyed, "GET", "/nowhere", **sent).status_code == 401


def test_s1_a_client_key_in_a_header_reads(keyed: Site) -> None:
    for header in ({"Authorization": f"Bearer {keyed.key('client')}"}, {"X-API-Key": keyed.key("admin")}):
        for method, path in routes(keyed):
            if method == "GET" and path not in STREAMS:
                assert ask(keyed, method, path, **header).status_code == 200, path


@pytest.mark.parametrize("key", WRONG)
def test_s1_signing_in_takes_the_key_alone(site: Site, key: str | None) -> None:
    site.key("admin")
    answer = site.post("/sign-in", **({} if key is None else {"key": key}))
    assert answer.status_code == 401 and "set-cookie" not in answer.headers


def test_s1_reading_on_loopback_needs_no_key_and_changing_does(site: Site) -> None:
    assert site.client.get("/slots/gpu1/8101").status_code == 200
    for verb in ("load", "swap", "unload", "restart"):
        assert site.post(f"/slots/gpu1/8101/{verb}", model="phi-4").status_code == 401
    site.sign_in("client")
    assert site.post("/slots/gpu1/8101/swap", model="phi-4").status_code == 401
    assert not site.verbs.asked
    site.sign_in("admin")
    assert site.post("/slots/gpu1/8101/swap", model="phi-4").status_code == 303


def test_the_forms_of_a_change_are_shown_to_the_admin_alone(site: Site) -> None:
    for role in ("", "client", "admin"):
        if role:
            site.sign_in(role)
        assert ('action="/slots/gpu1/8101/swap"' in site.client.get("/slots/gpu1/8101").text) is (role == "admin")


def test_a_page_on_all_addresses_refuses_to_start_without_a_key(home: Path, capsys: Any) -> None:
    assert main(["web", "--bind", "0.0.0.0", "--port", "1"]) == 1
    said = capsys.readouterr().err
    assert "the page on 0.0.0.0 needs a key" in said and "llmctl keys show" in said


def test_with_require_key_loopback_asks_too(home: Path) -> None:
    keys.show(home)
    site = Site(home, door=Door(require_key=True))
    answer = site.client.get("/")
    assert answer.status_code == 401 and 'name="key"' in answer.text and "gpu1" not in answer.text
    assert site.sign_in("client").headers["location"] == "/"
    assert "gpu1" in site.client.get("/").text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", ""])
def test_s2_a_foreign_name_in_the_host_header_is_refused(site: Site, host: str) -> None:
    for method, path in routes(site):
        assert ask(site, method, path, Host=host, Origin=f"http://{host}").status_code == 403, path


ELSEWHERE = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://localhost:8091"},
    {"Origin": ""},
    {"Origin": BASE, "Sec-Fetch-Site": "same-site"},
    {"Origin": BASE, "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("sent", ELSEWHERE)
def test_s3_changes_come_from_our_own_pages_alone(site: Site, sent: dict[str, str]) -> None:
    site.sign_in("admin")
    token = site.token()
    for method, path in routes(site):
        if method == "POST":
            data = {"token": token, "model": "phi-4", "key": site.key("admin")}
            answer = site.client.post(path, data=data, headers={"Accept": "text/html", "X-Token": token, **sent})
            assert answer.status_code == 403, path
    assert not site.verbs.asked and not site.verbs.model.asked


def test_s3_a_change_without_an_origin_is_refused(site: Site) -> None:
    site.sign_in("admin")
    answer = site.client.post("/slots/gpu1/8101/unload", data={"token": site.token()})
    assert answer.status_code == 403 and not site.verbs.asked


def test_s3_no_answer_allows_another_origin_to_read(site: Site) -> None:
    for method, path in routes(site):
        if path not in STREAMS:
            for origin in ("http://evil.example", "http://localhost:3000", "null"):
                answer = ask(site, method, path, Origin=origin)
                assert not [name for name in answer.headers if name.startswith("access-control")], path


@pytest.mark.parametrize("token", ["", "0" * 64, "é", "another's"])
def test_a_change_needs_the_token_of_its_own_visitor(site: Site, token: str) -> None:
    site.sign_in("admin")
    other = site.visitor()
    site.sign_in("admin", other)
    sent = site.token(other) if token == "another's" else token
    for method, path in routes(site):
        if method == "POST":
            data = {"token": sent, "model": "phi-4", "key": site.key("admin")}
            headers = {**FORM, "X-Token": sent.encode("latin-1", "replace")}
            json = {"messages": [{"role": "user", "content": "Who?"}]}
            body: dict[str, Any] = {"json": json} if path.endswith("/chat") else {"data": data}
            assert site.client.post(path, headers=headers, **body).status_code == 403, path
    assert not site.verbs.asked and not site.verbs.model.asked


def test_every_answer_says_what_a_browser_may_do(site: Site) -> None:
    asked = [ask(site, method, path) for method, path in routes(site) if path not in STREAMS]
    for answer in [*asked, ask(site, "GET", "/", Host="evil.example"), ask(site, "GET", "/nowhere")]:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"


def test_no_page_has_a_script_or_a_style_of_its_own(site: Site) -> None:
    site.sign_in("admin")
    for path in ("/", "/slots/gpu1/8101", "/history", "/sign-in"):
        text = site.client.get(path).text
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:|https?://", text), path


def test_the_cookie_cannot_be_read_by_scripts_nor_sent_from_elsewhere(site: Site) -> None:
    for answer in (site.client.get("/"), site.sign_in("admin")):
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("llmctl_8091=") and "HttpOnly" in cookie and "SameSite=Strict" in cookie


def test_signing_in_gives_a_new_session_and_signing_out_ends_it(site: Site) -> None:
    before = site.client.get("/").headers["set-cookie"]
    after = site.sign_in("admin").headers["set-cookie"]
    assert after.partition(";")[0] != before.partition(";")[0]
    stolen = dict(site.client.cookies)
    assert "Sign out" in site.client.get("/").text
    assert site.post("/sign-out").status_code == 303
    assert "Sign out" not in site.client.get("/").text
    other = site.visitor()
    other.cookies.update(stolen)
    assert "Sign out" not in other.get("/").text


def test_a_link_of_another_site_ends_no_session(site: Site) -> None:
    """A browser does not send our cookie with it."""
    answer = site.visitor().get("/", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200 and "set-cookie" not in answer.headers


def test_signing_in_leads_back(site: Site) -> None:
    assert 'href="/sign-in?next=/slots/gpu1/8101"' in site.client.get("/slots/gpu1/8101").text
    assert 'name="next" value="/slots/gpu1/8101"' in site.client.get("/sign-in?next=/slots/gpu1/8101").text


def test_new_keys_end_the_sessions_of_the_old_ones(site: Site) -> None:
    site.sign_in("admin")
    keys.rotate(site.home)
    assert "Sign out" not in site.client.get("/").text
    assert site.post("/slots/gpu1/8101/unload").status_code == 401


def test_a_session_ends_with_time_and_there_are_not_too_many(home: Path) -> None:
    keys.show(home)
    now = 0.0
    sessions = Sessions(home, 8091, clock=lambda: now)

    def role(id: str) -> str:
        return sessions.visitor({"headers": [(b"cookie", f"a=b; llmctl_8091={id}".encode())]}).role

    first = sessions.open("admin")
    now = LASTS - 1
    assert role(first.id) == "admin"
    now = LASTS + 1
    assert role(first.id) == ""
    opened = [sessions.open("client") for _ in range(MOST + 1)]
    assert role(opened[0].id) == "" and role(opened[1].id) == role(opened[-1].id) == "client"


@pytest.mark.parametrize(
    "next", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", "/a\r\nb"]
)
def test_signing_in_leads_to_our_own_pages_alone(site: Site, next: str) -> None:
    answer = site.post("/sign-in", key=site.key("client"), next=next)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    assert site.post("/sign-in", key=site.key("client"), next="/history").headers["location"] == "/history"


def test_a_websocket_is_refused(site: Site) -> None:
    with contextlib.suppress(WebSocketDisconnect), site.client.websocket_connect("/live"):
        pytest.fail("it was accepted")


def test_no_page_holds_a_key(site: Site) -> None:
    for role in ("client", "admin"):
        site.sign_in(role)
        for path in ("/", "/slots/gpu1/8101", "/history", "/sign-in"):
            text = site.client.get(path).text
            assert site.key("client") not in text and site.key("admin") not in text


def test_damaged_keys_let_nobody_in_and_reading_goes_on(site: Site) -> None:
    site.sign_in("admin")
    (site.home / "keys.json").write_text("{")
    assert site.client.get("/").status_code == 200
    assert site.post("/slots/gpu1/8101/unload").status_code == 401
    assert site.post("/sign-in", key="x").status_code in (401, 500)


def test_a_page_without_keys_says_how_they_are_made(home: Path) -> None:
    client = Site(home).post("/sign-in", key="x")
    assert client.status_code == 401 and "llmctl keys show" in client.text
    assert web_of(home)
