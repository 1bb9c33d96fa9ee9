"""Progress: what is written of it, how fast it says it goes, and that saying it is cheap."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from llmctl.jobs import report
from llmctl.jobs.report import Reporter, Speed
from llmctl.jobs.secrets import Secrets
from tests.conftest import eventually


def test_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.at(0.0, 0) is None
    assert speed.at(0.5, 500) is None  # too early to tell
    assert speed.at(1.0, 1000) == 1000
    for second in range(2, 21):
        speed.at(float(second), 1000 * second)
    for second in range(21, 32):
        last = speed.at(float(second), 20_000)
    assert last == 0  # a transfer that hangs has no speed, whatever it had
    assert len(speed.seen) <= report.WINDOW + 2
    assert speed.at(32.0, 10) is None  # it began again


def test_what_is_said_last_is_written(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    reporter = Reporter(path, lambda message: None)
    for done in range(20_000):
        reporter.progress("copy", done, 20_000, {"a": (done, 20_000)})
    reporter.progress("check")
    reporter.progress("check", 3, 7)
    reporter.close()
    event = report.read(path)
    assert event and (event["event"], event["stage"], event["done"], event["total"]) == ("stage", "check", 3, 7)
    assert event["eta"] is None and event["speed"] is None and event["parts"] == {}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_speed_gives_the_time_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SETTLED", 0.1)
    path = tmp_path / "progress.json"
    reporter = Reporter(path, lambda message: None)
    for done in range(1, 9):
        reporter.progress("copy", done * 10**6, 10**8)
        time.sleep(0.1)
    found = eventually(lambda: (event := report.read(path)) and event["eta"] and event)
    assert found["eta"] == pytest.approx((found["total"] - found["done"]) / found["speed"], abs=0.1)
    reporter.close()


def test_a_new_stage_has_a_speed_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SETTLED", 0.1)
    path = tmp_path / "progress.json"
    reporter = Reporter(path, lambda message: None)
    reporter.progress("copy", 1, 10**10)
    eventually(path.exists)
    reporter.progress("check", 10**9, 10**10)
    found = eventually(lambda: (event := report.read(path)) and event["speed"] is not None and event)
    assert (found["stage"], found["speed"], found["eta"]) == ("check", 0.0, None)
    reporter.close()


def test_parts_that_are_no_numbers_fail_where_they_are_said(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "progress.json", lambda message: None)
    with pytest.raises(ValueError):
        reporter.progress("copy", 1, 2, {"a": ("x", 2)})  # type: ignore[dict-item]
    reporter.close()


def test_a_progress_that_cannot_be_written_is_dropped(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "missing" / "progress.json", lambda message: None)
    reporter.progress("copy", 1, 2)
    time.sleep(2 * report.EVERY)
    assert reporter.thread.is_alive()
    (tmp_path / "missing").mkdir()
    eventually((tmp_path / "missing" / "progress.json").exists)
    reporter.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "x"}', '{"began": "x"}', '{"began": null}'])
def test_a_torn_progress_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.json").write_text(text)
    assert report.read(tmp_path / "progress.json") is None
    assert report.read(tmp_path / "none") is None


def test_s09_secrets_are_known_by_the_names_of_their_variables() -> None:
    environment = {
        "HF_TOKEN": "hf_abcdefgh",
        "MY_API_KEY": "hf_abcdefgh-longer",
        "X_SECRET": "short",
        "HOME": "/home/x",
    }
    secrets = Secrets(environment)
    assert secrets.hide("hf_abcdefgh-longer hf_abcdefgh short /home/x") == "*** *** short /home/x"
    assert json.loads(secrets.hide(json.dumps({"a": "hf_abcdefgh"}))) == {"a": "***"}
    assert Secrets(os.environ).hide("plain") == "plain"
