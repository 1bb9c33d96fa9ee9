"""What the gateway counts, of real requests, in the words of a real Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmctl import keys
from llmctl.domain import SlotSpec
from llmctl.gateway import callers
from llmctl.gateway.limits import Allowed
from llmctl.slots.state import Launch
from tests.conftest import RunningSlot, eventually
from tests.exporter.prometheus import needs_prometheus, promtool
from tests.gateway.conftest import Start, handle

CANARY = "canary of a prompt"
PRICE = (2.0, 10.0)  # of a million tokens


@pytest.fixture
def page(
    slots: Callable[..., RunningSlot], script: Callable[..., SlotSpec], gateway: Start
) -> tuple[str, dict[str, Any]]:
    """/metrics after two keys asked in all ways, and what the answers themselves said that they cost."""
    slot = slots(script("alpha"))
    host_key = keys.show(slot.home)["client"]
    made = {
        name: callers.add(slot.home, name, allowed)
        for name, allowed in {"ann": Allowed(), "bob": Allowed(requests=3)}.items()
    }
    gate = gateway(handle("alpha", slot, price=PRICE), launch=Launch(require_key=True))
    url = f"http://127.0.0.1:{gate.port}"

    def ask(name: str, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
        body = {"model": "alpha", "messages": [{"role": "user", "content": CANARY}], **fields}
        if path != "/api/chat":
            body["max_tokens"] = 7
        headers = {"authorization": f"Bearer {made[name]}"}
        return httpx.post(url + path, json=body, headers=headers, timeout=60, trust_env=False)

    eventually(lambda: ask("ann", "/tokenize", model=CANARY).status_code == 404)  # the keys are known now
    whole = ask("ann").json()["usage"]
    assert ask("ann", stream=True).text.rstrip().endswith("data: [DONE]")
    assert ask("ann", "/v1/messages", stream=True).status_code == 200
    assert ask("ann", "/api/chat", stream=True, options={"num_predict": 7}).status_code == 200
    assert [ask("bob", stream=stream).status_code for stream in (False, True, False, False)] == [200, 200, 200, 429]
    for name in (CANARY, "x" * 100, "\x1b[31m"):
        assert ask("ann", model=name).status_code == 404
    text = httpx.get(f"{url}/metrics", headers={"x-api-key": host_key}, trust_env=False).text
    return text, whole


def series(text: str, name: str) -> dict[str, float]:
    """Labels → value."""
    return {found[1]: float(found[2]) for found in re.finditer(rf"^llmctl_gateway_{name}{{(.*)}} (\S+)$", text, re.M)}


@needs_prometheus
def test_tokens_and_cost_are_counted_by_key_whatever_the_protocol(page: tuple[str, dict[str, Any]]) -> None:
    text, whole = page
    checked = promtool("check", "metrics", stdin=text)
    assert checked.returncode == 0 and not checked.stderr, checked.stderr
    prompt, completion = whole["prompt_tokens"], whole["completion_tokens"]
    assert completion == 7
    tokens = series(text, "tokens_total")
    assert tokens == {
        'handle="alpha",key="ann",kind="prompt"': 4 * prompt, 'handle="alpha",key="ann",kind="completion"': 4 * 7,
        'handle="alpha",key="bob",kind="prompt"': 3 * prompt, 'handle="alpha",key="bob",kind="completion"': 3 * 7,
    }  # fmt: skip
    cost = series(text, "cost_total")
    each = (prompt * PRICE[0] + 7 * PRICE[1]) / 1e6
    assert cost == pytest.approx({'handle="alpha",key="ann"': 4 * each, 'handle="alpha",key="bob"': 3 * each})
    assert series(text, "requests_total") == {'handle="alpha",status="200"': 7}
    refused = series(text, "refused_total")
    assert refused['status="404"'] >= 4 and refused['status="429"'] == 1 and len(refused) <= 3
    assert series(text, "limited_total") == {'code="rate_limit_exceeded",key="bob"': 1}
    assert CANARY not in text and "x" * 20 not in text and "\x1b" not in text, "names that are none are no series"
    assert callers.PREFIX not in text and not re.search(r"[0-9a-f]{32}", text), "nor keys, nor their hashes"
