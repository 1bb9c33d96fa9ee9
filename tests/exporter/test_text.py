"""Slots' pages on the exporter's: labels, what is no sample, and what a slot may not tell."""

from __future__ import annotations

import pytest

from llmctl.exporter import families as f
from llmctl.exporter.text import Page
from tests.exporter.ops import samples

GOOD = """\
# HELP llmctl_requests_total Requests answered.
# TYPE llmctl_requests_total counter
llmctl_requests_total{route="/v1/models",status="200"} 3.0
# HELP llmctl_ready Ready.
# TYPE llmctl_ready gauge
llmctl_ready 1.0
# TYPE llmctl_wait_seconds histogram
llmctl_wait_seconds_bucket{le="+Inf"} 2.0
llmctl_wait_seconds_sum 0.5
llmctl_wait_seconds_count 2.0
"""


def test_each_sample_gets_its_host_and_port() -> None:
    page = Page()
    assert page.take(GOOD, host="gpu1", port="8101") == 5 and page.take(GOOD, host="gpu2", port="8101") == 5
    found = samples(page.text())
    assert found['llmctl_requests_total{host="gpu1",port="8101",route="/v1/models",status="200"}'] == 3
    assert found['llmctl_ready{host="gpu2",port="8101"}'] == 1
    assert found['llmctl_wait_seconds_bucket{host="gpu1",port="8101",le="+Inf"}'] == 2
    assert len(found) == len(page) == 10
    lines = page.text().splitlines()
    assert sum(line.startswith("# TYPE llmctl_ready ") for line in lines) == 1
    at = [i for i, line in enumerate(lines) if line.startswith("llmctl_ready")]
    assert at[1] == at[0] + 1  # a family is one block


@pytest.mark.parametrize(
    "line",
    [
        "llmctl_ready",
        "llmctl_ready one",
        "llmctl_ready 1_0",
        "llmctl_ready 1.0 1700000000",
        'llmctl_ready{a="b} 1.0',
        'llmctl_ready{a="b"c="d"} 1.0',
        'llmctl_ready{a="\\x"} 1.0',
        'llmctl_ready{host="other"} 1.0',
        'llmctl_ready{a="b",port="1"} 1.0',
        "llmctl_ready_total 1.0",
        "llmctl_other 1.0",
        "# TYPE llmctl_ready gauge\r",
        "<html>",
    ],
)
def test_what_is_no_sample_of_its_family_is_left_out(line: str) -> None:
    page = Page()
    page.take(f"# TYPE llmctl_ready gauge\n{line}\n", host="gpu1", port="8101")
    assert len(page) == 0


@pytest.mark.parametrize(
    "page",
    [
        '# TYPE llmctl_host_up gauge\nllmctl_host_up{a="b"} 1.0\n',
        "# TYPE node_load1 gauge\nnode_load1 1.0\n",
        "# TYPE llmctl_slot_state counter\nllmctl_slot_state 1.0\n",
        "# TYPE llmctl_odd odd\nllmctl_odd 1.0\n",
        "llmctl_bare 1.0\n",
    ],
)
def test_a_slot_does_not_tell_what_is_not_its_own(page: str) -> None:
    found = Page()
    assert found.take(page, host="gpu1", port="8101") == 0 and found.text() == "\n"


def test_families_of_two_kinds_are_not_mixed() -> None:
    page = Page()
    page.take("# TYPE llmctl_x gauge\nllmctl_x 1\n", host="gpu1", port="1")
    assert page.take("# TYPE llmctl_x counter\nllmctl_x 1\n", host="gpu1", port="2") == 0


def test_no_series_is_there_twice() -> None:
    page = Page()
    page.take("# TYPE llmctl_x gauge\nllmctl_x 1\nllmctl_x 2\n", host="gpu1", port="1")
    page.add(f.HOST_UP, 1, "gpu1")
    page.add(f.HOST_UP, 0, "gpu1")
    assert samples(page.text()) == {'llmctl_x{host="gpu1",port="1"}': 1, 'llmctl_host_up{host="gpu1"}': 1}


def test_labels_are_escaped_and_none_is_left_out() -> None:
    page = Page()
    page.add(f.HOST_ERROR, 1, 'a"b\\c\nd', "odd")
    page.add(f.INCIDENTS_OPEN, 2, "gpu1", None)
    assert 'llmctl_host_error{host="a\\"b\\\\c\\nd",code="odd"} 1.0' in page.text()
    assert 'llmctl_incidents_open{host="gpu1"} 2.0' in page.text()
