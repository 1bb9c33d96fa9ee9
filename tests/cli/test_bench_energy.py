"""What a run used in joules, of counters and programs as they are on machines that tell it; no GPU was there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmctl.cli import bench_energy
from llmctl.errors import Unsupported


@pytest.fixture
def rapl(tmp_path: Path) -> Path:
    """A processor that tells its energy: the root of a /sys."""
    folder = tmp_path / "sys/class/powercap/intel-rapl:0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "energy_uj").write_text("4000000\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")
    return tmp_path


def test_processors_count_joules_also_over_the_end_of_their_counter(rapl: Path) -> None:
    counter = rapl / "sys/class/powercap/intel-rapl:0/energy_uj"
    meter = bench_energy.meter("cpu", rapl)
    assert not isinstance(meter, str)
    stop = meter()
    counter.write_text("6500000\n")
    assert stop() == pytest.approx(2.5)
    counter.write_text("1000000\n")
    assert stop() == pytest.approx(7.0)
    counter.unlink()
    with pytest.raises(Unsupported, match="could not be read any more"):
        stop()


def test_who_tells_nothing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "/sys/class/powercap" in str(bench_energy.meter("cpu", tmp_path))
    assert "nvidia-smi does not tell" in str(bench_energy.meter("cuda"))
    assert "root" in str(bench_energy.meter("metal"))


def test_gpus_are_asked_what_they_draw_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, 50, 300.00, 0x0000000000000000, 40'\necho '1, 50, 100.00, 0x0, 40'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(bench_energy, "EVERY", 0.05)
    meter = bench_energy.meter("cuda")
    assert not isinstance(meter, str)
    began = time.monotonic()
    stop = meter()
    time.sleep(1.0)
    used, most = stop(), 400 * (time.monotonic() - began)
    assert 0.3 * most < used <= most
