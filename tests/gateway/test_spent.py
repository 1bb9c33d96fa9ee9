"""What keys have used, over ends of the gateway of every kind."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path

import pytest

from llmctl import files
from llmctl.errors import StateError
from llmctl.gateway import spent
from llmctl.gateway.limits import DAY, Allowed
from llmctl.gateway.spent import Meters

ANYHOW = Allowed()
TODAY = datetime.date(2030, 1, 31)


def use(meters: Meters, name: str, tokens: int, allowed: Allowed = ANYHOW, today: datetime.date = TODAY) -> None:
    meter = meters.of(name)
    meter.enter(allowed, 1, 0.0, today)
    meter.leave(allowed, 1, tokens, 0.0, today)


def test_it_is_read_again_and_turns_with_the_month(tmp_path: Path) -> None:
    meters = Meters(tmp_path)
    use(meters, "ann", 70)
    use(meters, "ann", 30)
    use(meters, "bob", 5, Allowed(per=DAY))
    asyncio.run(meters.keep())
    again = Meters(tmp_path)
    assert again.of("ann").spent == 100 and again.of("carl").spent == 0
    use(again, "ann", 1, today=datetime.date(2030, 2, 1))
    assert again.of("ann").spent == 1
    rows = [spent.read(tmp_path)]
    assert spent.used(rows, "ann", Allowed(), TODAY) == 100 and spent.used(rows, "bob", Allowed(per=DAY), TODAY) == 5
    assert not spent.used(rows, "bob", Allowed(), TODAY) and not spent.used(rows, "carl", Allowed(), TODAY)
    assert (tmp_path / spent.NAME).stat().st_mode & 0o777 == 0o600


def test_it_is_written_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    monkeypatch.setattr(spent, "write_json", lambda path, rows: written.append(rows) or files.write_json(path, rows))
    meters = Meters(tmp_path)
    asyncio.run(meters.keep())
    use(meters, "ann", 1)
    for _ in range(3):
        asyncio.run(meters.keep())
    meters.close()
    assert written == [{"ann": {"period": "2030-01", "spent": 1}}]


def test_a_full_disk_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meters = Meters(tmp_path)
    use(meters, "ann", 1)
    with monkeypatch.context() as patch:
        patch.setattr(spent, "write_json", lambda path, rows: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            asyncio.run(meters.keep())
    meters.close()
    assert Meters(tmp_path).of("ann").spent == 1


@pytest.mark.parametrize(
    "data", ["{", "[]", '{"ann": 1}', '{"ann": {"spent": "x", "period": ""}}', '{"ann": {"spent": 1}}']
)
def test_a_file_that_makes_no_sense_is_told_and_kept_beside(tmp_path: Path, data: str) -> None:
    text = data if data == "{" else json.dumps({"version": files.VERSION, "data": json.loads(data)})
    (tmp_path / spent.NAME).write_text(text)
    with pytest.raises(StateError):
        spent.read(tmp_path)
    meters = Meters(tmp_path)
    assert meters.error and meters.of("ann").spent == 0
    use(meters, "ann", 1)
    meters.close()
    assert (tmp_path / "usage.bad").read_text() == text and Meters(tmp_path).of("ann").spent == 1
