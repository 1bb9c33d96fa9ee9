"""An exporter of real hosts, scraped by hand and by a real Prometheus."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl import keys
from llmctl.__main__ import main
from tests.conftest import eventually, free_port
from tests.exporter.ops import Ops, get, samples
from tests.exporter.prometheus import MONITORING, expressions, needs_prometheus, promtool, running
from tests.testbed.sshd import needs_sshd

pytestmark = [needs_sshd, pytest.mark.slow]


def pid_of(ops: Ops, host: str) -> int:
    """The slot server of a host."""
    home = ops.home if host == "here" else ops.hosts[host].home / ".llmctl"
    port = str(ops.ports[host][0])
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().decode(errors="replace").split("\0")
        if "llmctl.runner.server" in words and port in words and str(home) in words:
            return int(path.parent.name)
    raise AssertionError(f"no slot server on {host}")


def sessions(ops: Ops, host: str) -> list[int]:
    """The processes of a host's sshd that hold connections."""
    process = ops.hosts[host].process
    assert process
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children, "the exporter keeps no connection"
    return [int(child) for child in children]


def took(sock: socket.socket, port: int) -> bool:
    """Bind it, once the port is free."""
    with contextlib.suppress(OSError):
        sock.bind(("127.0.0.1", port))
        return True
    return False


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes that a test stops go on after it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def stop(pids: list[int], stopped: list[int]) -> None:
    stopped += pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_has_every_host_and_slot(ops: Ops, url: str) -> None:
    status, text = get(url)
    found = samples(text)
    assert status == 200
    assert {name: found[f'llmctl_host_up{{host="{name}"}}'] for name in ("gpu1", "gpu2", "here", "dead")} == {
        "gpu1": 1, "gpu2": 1, "here": 1, "dead": 0,
    }  # fmt: skip
    assert found['llmctl_host_error{host="dead",code="unreachable"}'] == 1
    for name in ("gpu1", "gpu2", "here"):
        place = f'host="{name}",port="{ops.ports[name][0]}"'
        assert found[f"llmctl_slot_up{{{place}}}"] == 1 == found[f'llmctl_slot_state{{{place},state="ready"}}']
        assert found[f"llmctl_generated_tokens_total{{{place}}}"] >= 8
        assert found[f"llmctl_engine_resident_bytes{{{place}}}"] > 2**20
        assert found[f'llmctl_host_memory_free_bytes{{host="{name}"}}'] > 0
    port = ops.ports["gpu1"][0]
    assert found[f'llmctl_health_verdict{{host="gpu1",port="{port}",verdict="ok"}}'] == 1
    assert found['llmctl_incidents_open{host="gpu2"}'] == 1
    assert '"gone"' not in text, "a host that history knows and hosts.toml does not"


def test_the_page_has_the_gateway_which_is_no_slot(ops: Ops, url: str) -> None:
    found = samples(get(url)[1])
    place = f'host="here",port="{ops.gateway}"'
    assert found[f"llmctl_gateway_up{{{place}}}"] == 1
    assert found[f'llmctl_gateway_requests_total{{{place},handle="alpha",status="200"}}'] == 1
    assert found[f'llmctl_gateway_tokens_total{{{place},handle="alpha",key="",kind="completion"}}'] >= 8
    assert found[f'llmctl_gateway_handle_replicas{{{place},handle="alpha"}}'] == 2
    assert not [series for series in found if series.startswith("llmctl_slot_") and place in series]


def test_s10_the_model_is_a_label_of_one_metric_and_no_prompt_is_there(ops: Ops, url: str) -> None:
    text = get(url)[1]
    named = [line for line in text.splitlines() if '"alpha"' in line and ',handle="alpha"' not in line]
    assert {line.split("{")[0] for line in named} == {"llmctl_slot_info"}
    assert "CANARY" not in text


def test_the_number_of_series_stays(url: str) -> None:
    before = set(samples(get(url)[1]))
    get(url + "?x=1")
    assert set(samples(get(url)[1])) == before


def test_a_slot_that_hangs_is_not_up_and_the_others_are(ops: Ops, url: str, stopped: list[int]) -> None:
    stop([pid_of(ops, "gpu2")], stopped)
    found = samples(get(url)[1])
    assert found[f'llmctl_slot_up{{host="gpu2",port="{ops.ports["gpu2"][0]}"}}'] == 0
    assert found['llmctl_host_up{host="gpu2"}'] == 1
    assert found[f'llmctl_slot_up{{host="gpu1",port="{ops.ports["gpu1"][0]}"}}'] == 1
    assert not any("llmctl_ready" in series and "gpu2" in series for series in found)


def test_a_slot_whose_server_was_killed_is_down(ops: Ops, url: str) -> None:
    place = f'host="gpu2",port="{ops.ports["gpu2"][0]}"'
    os.kill(pid_of(ops, "gpu2"), signal.SIGKILL)
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        eventually(lambda: took(foreign, ops.ports["gpu2"][0]))
        foreign.listen()
        found = samples(get(url)[1])
        foreign.setblocking(False)
        with pytest.raises(BlockingIOError):  # who has taken the port is not asked, nor shown a key
            foreign.accept()
    assert found[f"llmctl_slot_up{{{place}}}"] == 0 and found[f'llmctl_slot_state{{{place},state="down"}}'] == 1
    assert ops.llmctl("restart", ops.slot("gpu2")).returncode == 0
    assert samples(get(url)[1])[f"llmctl_slot_up{{{place}}}"] == 1


def test_f9_a_host_that_hangs_holds_up_nobody_and_comes_back(ops: Ops, url: str, stopped: list[int]) -> None:
    get(url)
    stop(sessions(ops, "gpu1"), stopped)
    found = samples(get(url, X_Prometheus_Scrape_Timeout_Seconds="4")[1])
    assert found['llmctl_host_up{host="gpu1"}'] == 0 and found['llmctl_host_up{host="gpu2"}'] == 1
    assert found['llmctl_host_error{host="gpu1",code="timed_out"}'] == 1
    assert not any("gpu1" in series and "llmctl_slot_" in series for series in found)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: samples(get(url)[1])['llmctl_host_up{host="gpu1"}'] == 1)


# ── who may read it ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/metrics", "GET", {"Host": "localhost:1"}, 200),
        ("/metrics", "HEAD", {}, 200),
        ("/metrics", "GET", {"Host": "evil.example"}, 403),
        ("/metrics", "POST", {}, 405),
        ("/metrics", "GET", {"X_Prometheus_Scrape_Timeout_Seconds": "soon"}, 200),
        ("/", "GET", {}, 404),
        ("/metrics/../etc", "GET", {}, 404),
    ],
)  # fmt: skip
def test_s2_what_is_answered_to_whom(url: str, path: str, method: str, headers: dict[str, str], status: int) -> None:
    assert get(url.removesuffix("/metrics") + path, method, **headers)[0] == status


def test_s3_a_page_of_another_origin_is_refused(url: str) -> None:
    assert get(url, Origin="http://evil.example")[0] == 403


def test_a_websocket_finds_nothing_there(url: str) -> None:
    port = int(url.split(":")[2].split("/")[0])
    key = base64.b64encode(bytes(16)).decode()
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(
            f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        assert b" 404 " in sock.recv(4096).splitlines()[0]


def test_s1_every_address_but_loopback_asks_for_a_key(ops: Ops) -> None:
    refused = ops.llmctl("metrics", "serve", "--bind", "0.0.0.0", "--port", free_port())
    assert refused.returncode == 1 and "llmctl keys show" in refused.stderr
    assert "the exporter on 0.0.0.0 needs a key" in refused.stderr
    made = keys.show(ops.home)
    try:
        url = ops.export("--bind", "0.0.0.0")
        for key in ("", "wrong", made["client"] + "x", "\xe9"):
            assert get(url, Authorization=f"Bearer {key}")[0] == 401
        for key in made.values():
            assert get(url, Authorization=f"Bearer {key}")[0] == 200
    finally:
        (ops.home / "keys.json").unlink()


# ── bad input, and the file for node_exporter ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("serve", "--port", "0"), 2, "0 is not in the range"),
        (("serve", "--bind", "nowhere.invalid"), 1, "needs a key"),
        (("serve", "--bind", "127.0.0.1", "--deadline", "soon"), 2, "not a number with a unit"),
        (("serve", "--deadline", "0.1"), 2, "too short"),
        (("textfile", "{tmp}/llmctl.txt"), 2, ".prom"),
        (("textfile", "{tmp}/none/llmctl.prom"), 2, "no folder"),
        (("textfile", "{tmp}/folder.prom"), 1, "cannot be written"),
    ],
)
def test_bad_input_says_what_to_type(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    words: tuple[str, ...], code: int, said: str,
) -> None:  # fmt: skip
    (home / "hosts.toml").write_text('[hosts.here]\ntransport = "local"\n')
    monkeypatch.setenv("LLMCTL_CONFIG", str(home))
    (tmp_path / "folder.prom").mkdir()
    assert main(["metrics", *(word.format(tmp=tmp_path) for word in words)]) == code
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.prom"]


def test_a_port_that_is_taken_is_told(ops: Ops, url: str) -> None:
    done = ops.llmctl("metrics", "serve", "--port", url.split(":")[2].split("/")[0])
    assert done.returncode == 1 and "cannot be taken" in done.stderr


def test_the_file_for_node_exporter(ops: Ops, tmp_path: Path) -> None:
    file = tmp_path / "llmctl.prom"
    done = ops.llmctl("metrics", "textfile", file)
    assert done.returncode == 3 and "of 3 of 4 hosts" in done.stdout and "dead: " in done.stdout
    assert samples(file.read_text())['llmctl_host_up{host="gpu1"}'] == 1
    assert stat.S_IMODE(file.stat().st_mode) & 0o044, "node_exporter is another user"
    assert list(tmp_path.iterdir()) == [file]


# ── Prometheus ──────────────────────────────────────────────────────────────────────────────────────────────────────


@needs_prometheus
def test_promtool_takes_the_page(url: str) -> None:
    checked = promtool("check", "metrics", stdin=get(url)[1])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
def test_a_real_prometheus_scrapes_exporter_and_slot(ops: Ops, url: str, tmp_path: Path) -> None:
    """Every question of the dashboard has an answer, and an alert is on its way for the host that is down."""
    fleet, slots = ((MONITORING / name).read_text() for name in ("prometheus.yml", "prometheus-slots.yml"))
    jobs = slots.split("scrape_configs:\n")[1].replace("127.0.0.1:8101", f"127.0.0.1:{ops.ports['here'][0]}")
    config = (
        fleet.replace("127.0.0.1:9191", url.split("/")[2]) + jobs[: jobs.index('      - targets: ["127.0.0.1:8102')]
    )
    config = re.sub("scrape_interval: .*", "scrape_interval: 3s\n  evaluation_interval: 1s", config)
    config = config.replace("scrape_timeout: 10s", "scrape_timeout: 3s")
    with running(tmp_path, config) as prometheus:
        twice = 'count(count_over_time(llmctl_slot_info{job="llmctl-fleet"}[1m]) > 1)'
        eventually(lambda: prometheus.value(twice) == 3)
        assert prometheus.value('up{job="llmctl-fleet"}') == 1 == prometheus.value('up{job="llmctl-slots"}')
        assert prometheus.value('llmctl_ready{job="llmctl-slots", host="gpu1", port="8101"}') == 1
        assert len(prometheus.ask('llmctl_slot_info{job="llmctl-fleet", model="alpha"}')) == 2
        answers = {title: prometheus.ask(expression) for title, expression in expressions().items()}
        assert [title for title, series in answers.items() if not series] == []
        eventually(lambda: prometheus.ask('ALERTS{alertname="LlmctlHostUnreachable", host="dead"}'))
        assert not prometheus.ask('ALERTS{alertname="LlmctlSlotDown"}')
