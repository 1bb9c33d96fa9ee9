"""The files of docs/monitoring, by promtool; and that rules, dashboard and docs/metrics.md know the code's metrics."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from llmctl.exporter.families import FAMILIES
from llmctl.gateway.counts import Counts
from llmctl.runner.metrics import Metrics
from tests.conftest import REPO
from tests.exporter.prometheus import DASHBOARD, MONITORING, expressions, needs_prometheus, promtool

RULES, TESTS = "llmctl.rules.yml", "llmctl.rules.test.yml"
ENDS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


Rows = list[tuple[str, str, tuple[str, ...], str]]


def slot_rows() -> Rows:
    return rows_of(Metrics().registry)


def gateway_rows() -> Rows:
    return rows_of(Counts().registry)


def rows_of(registry: CollectorRegistry) -> Rows:
    """Name, kind, labels and meaning of all that is counted there."""
    found = []
    for metric in registry._collector_to_names:
        described = metric.describe()[0]  # type: ignore[attr-defined]
        name = described.name + ("_total" if described.type == "counter" else "")
        found.append((name, described.type, metric._labelnames, described.documentation))  # type: ignore[attr-defined]
    return found


def known() -> set[str]:
    """The names of all samples there can be."""
    names = {family.name for family in FAMILIES}
    for name, kind, _, _ in [*slot_rows(), *gateway_rows()]:
        names |= {name.removesuffix("_total") + end for end in ENDS[kind]}
    return names


def used(text: str) -> set[str]:
    return set(re.findall(r"\bllmctl_[a-z0-9_]+", text))


# ── rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@needs_prometheus
@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-slots.yml"])
def test_the_scrape_configurations_are_good(name: str) -> None:
    checked = promtool("check", "config", name, cwd=MONITORING)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
def test_the_alerts_go_off_when_they_should_and_not_before() -> None:
    tested = promtool("test", "rules", TESTS, cwd=MONITORING)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_prometheus
@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("for: 2m", "for: 0m"),
        ("unless on (host, port)", "unless on (nothing)"),
        ("> 0.05 *", "> 0.005 *"),
        ('route!~"/metrics|/health|/ready"', 'route!~"/metrics|/health"'),
        ("> 0.8 * llmctl_queue_limit", "> 0.9 * llmctl_queue_limit"),
        ("llmctl_wedged == 1", "llmctl_wedged == 2"),
        ("llmctl_gateway_up == 0", "llmctl_gateway_up == 1"),
        ("llmctl_gateway_handle_replicas == 0", "llmctl_gateway_handle_replicas < 2"),
    ],
)
def test_a_rule_that_was_broken_does_not_pass_its_test(tmp_path: Path, rule: str, broken: str) -> None:
    text = (MONITORING / RULES).read_text()
    assert rule in text
    (tmp_path / RULES).write_text(text.replace(rule, broken))
    shutil.copy(MONITORING / TESTS, tmp_path)
    assert promtool("test", "rules", TESTS, cwd=tmp_path).returncode == 1


def test_every_alert_is_tested_both_ways_and_says_what_to_type() -> None:
    rules, tests = (MONITORING / RULES).read_text(), (MONITORING / TESTS).read_text()
    for part in rules.split("- alert: ")[1:]:
        name = part.split()[0]
        assert f"alertname: {name}\n        exp_alerts:" in tests, f"{name} never goes off in a test"
        quiet = f"alertname: {name}}}" in tests or name == "LlmctlHealthDown"
        assert quiet, f"{name} is never quiet in a test"
        assert "          fix: " in part and "severity: " in part, name


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rules_and_their_tests_use_metrics_that_exist() -> None:
    for name in (RULES, TESTS):
        assert used((MONITORING / name).read_text()) <= known()


def test_the_dashboard_uses_metrics_that_exist_and_no_source_of_its_own() -> None:
    assert used(" ".join(expressions().values())) <= known()
    queries = [
        variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"
    ]
    assert used(" ".join(queries)) <= known() and len(queries) == 2
    places = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    sources = [panel["datasource"]["uid"] for panel in places]
    sources += [target["datasource"]["uid"] for panel in places for target in panel["targets"]]
    assert set(sources) == {"${datasource}"} and len(places) > 20
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@needs_prometheus
def test_every_expression_of_the_dashboard_can_be_parsed(tmp_path: Path) -> None:
    rules = "".join(
        f"      - record: panel:expression:{number}\n        expr: |\n          {expression}\n"
        for number, expression in enumerate(expressions().values())
    )
    (tmp_path / "rules.yml").write_text(f"groups:\n  - name: dashboard\n    rules:\n{rules}")
    checked = promtool("check", "rules", tmp_path / "rules.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_panel_has_a_place_of_its_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_the_page_of_the_docs_has_exactly_the_metrics_of_the_code() -> None:
    text = (REPO / "docs" / "metrics.md").read_text()
    ours = [(one.name, one.kind, one.labels, one.meaning) for one in FAMILIES]
    for heading, rows in (("Of a slot", slot_rows()), ("Of the gateway", gateway_rows()), ("Of the fleet", ours)):
        part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        table = [line for line in part.splitlines() if line.startswith("| `")]
        wanted = [
            f"| `{name}` | {kind} | {' '.join(f'`{label}`' for label in labels)} | {meaning} |".replace("|  |", "| |")
            for name, kind, labels, meaning in rows
        ]
        assert table == wanted, "\n".join(wanted)


def test_names_keep_to_the_conventions_of_prometheus() -> None:
    ours = [(one.name, one.kind, one.labels, "") for one in FAMILIES]
    for name, kind, labels, _ in [*slot_rows(), *gateway_rows(), *ours]:
        assert re.fullmatch(r"llmctl_[a-z][a-z0-9_]*", name)
        assert name.endswith("_total") == (kind == "counter")
        assert kind != "histogram" or name.endswith("_seconds")
        assert not re.search(r"_(ms|millis|minutes|mb|gb|percent)\b", name)
        assert all(re.fullmatch(r"[a-z]+", label) for label in labels)
