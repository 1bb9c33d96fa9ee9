"""Heat, throttling and power of a machine, as its kernel and its tools tell them (see fixtures/README.md)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmctl.health import apple, counters, nvidia, sysfs
from llmctl.health.seen import Sensor
from llmctl.health.sensors import sensors

FIXTURES = Path(__file__).parent / "fixtures"


def machine(tmp_path: Path, name: str) -> Path:
    """A folder that has the /sys of `name`."""
    for line in (FIXTURES / f"sys-{name}.txt").read_text().splitlines():
        where, _, what = line.partition(" ")
        put(tmp_path, where, what)
    return tmp_path


def put(root: Path, where: str, what: object) -> None:
    path = root / "sys" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{what}\n")


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is all of PATH besides the system's own."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "bin"


# ── /sys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chip_is_told_by_its_hottest_value_with_the_limit_of_its_maker(tmp_path: Path) -> None:
    assert sysfs.sensors(machine(tmp_path, "xeon")) == (
        Sensor("coretemp Package id 0", 71.0, 92.0),
        Sensor("coretemp Package id 1", 90.0, 92.0),
        Sensor("nvme Composite", 48.85, 81.85),
    )


def test_what_a_chip_does_not_mean_as_a_limit_is_none(tmp_path: Path) -> None:
    cpu, gpu = sysfs.sensors(machine(tmp_path, "epyc-amd-gpu"))
    assert cpu == Sensor("k10temp Tctl", 63.5, None)
    assert gpu == Sensor("amdgpu junction", 107.0, 110.0, watts=287.0)


def test_a_zone_has_the_point_at_which_it_is_slowed_down_and_says_when_it_is(tmp_path: Path) -> None:
    assert sysfs.sensors(machine(tmp_path, "arm-board")) == (
        Sensor("soc-thermal", 84.6, 85.0),
        Sensor("cpu-thermal", 52.121, 110.0),
        Sensor("thermal-cpufreq-0 0", throttled="slowed down to cool it, step 3 of 8"),
    )


@pytest.mark.parametrize("value", ["", "hot", "-274000", "0", "200000", "9" * 30])
def test_a_value_that_is_none_is_left_out(tmp_path: Path, value: str) -> None:
    put(tmp_path, "class/thermal/thermal_zone0/type", "soc")
    put(tmp_path, "class/thermal/thermal_zone0/temp", value)
    assert sysfs.sensors(tmp_path) == ()


def test_a_sleeping_device_answers_with_an_error_and_is_left_out(tmp_path: Path) -> None:
    root = machine(tmp_path, "epyc-amd-gpu")
    asleep = root / "sys/class/hwmon/hwmon0/temp1_input"
    asleep.unlink()
    asleep.mkdir()  # reading it is an OSError, as EAGAIN of a real one is
    assert sysfs.sensors(root)[0] == Sensor("k10temp Tccd1", 61.25, None)


def test_a_machine_without_any_has_none(tmp_path: Path, no_tools: Path) -> None:
    assert sensors(tmp_path, tmp_path) == ()
    assert not (tmp_path / counters.FILE).exists()


# ── two looks ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def xeon(tmp_path: Path) -> tuple[Path, Callable[[float], tuple[Sensor, ...]]]:
    root = machine(tmp_path, "xeon")
    return root, lambda at: counters.sensors(root, tmp_path / counters.FILE, lambda: at)


def test_the_first_look_tells_nothing_and_the_second_what_was_between(xeon) -> None:
    root, look = xeon
    assert look(1000.0) == ()
    put(root, "devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms", 9500)
    put(root, "class/powercap/intel-rapl:0/energy_uj", 260143000000 + 60 * 150 * 10**6)
    put(root, "class/powercap/intel-rapl:1/energy_uj", 1000000000 + 60 * 40 * 10**6)
    assert look(1060.0) == (
        Sensor("package-0", throttled="too hot for 9.0 of the last 60 s", watts=150.0),
        Sensor("package-1", watts=40.0),
    )
    assert [sensor.throttled for sensor in look(1120.0)] == [None, None]


def test_a_moment_of_throttling_in_a_long_time_is_not_told(xeon) -> None:
    root, look = xeon
    look(0.0)
    put(root, "devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms", 500 + 1000)
    assert all(sensor.throttled is None for sensor in look(60.0))


def test_a_counter_that_went_round_is_counted_on(xeon) -> None:
    root, look = xeon
    look(0.0)
    put(root, "class/powercap/intel-rapl:0/energy_uj", 5999671150)  # 8 kJ on, over its range of 262143.32885 J
    assert look(100.0)[0].watts == 80.0


def test_after_so_long_that_it_may_have_gone_round_twice_nothing_is_told(xeon) -> None:
    root, look = xeon
    look(0.0)
    put(root, "class/powercap/intel-rapl:0/energy_uj", 261143000000)
    assert look(3600.0) == ()


def test_another_boot_is_a_first_look(xeon, monkeypatch: pytest.MonkeyPatch) -> None:
    root, look = xeon
    monkeypatch.setattr(counters, "boot_id", lambda: "one")
    look(5000.0)
    monkeypatch.setattr(counters, "boot_id", lambda: "two")
    put(root, "devices/system/cpu/cpu0/thermal_throttle/package_throttle_total_time_ms", 99999999)
    assert look(5060.0) == ()


@pytest.mark.parametrize("kept", ["", "{}", '{"version": 1, "data": [1]}', '{"version": 1, "data": {"boot": 3}}'])
def test_what_is_kept_and_makes_no_sense_is_as_if_there_was_none(xeon, tmp_path: Path, kept: str) -> None:
    (tmp_path / counters.FILE).write_text(kept)
    assert xeon[1](5.0) == ()
    assert len(xeon[1](10.0)) == 2


def test_a_state_folder_that_cannot_be_written_is_no_error(xeon, tmp_path: Path) -> None:
    (tmp_path / counters.FILE).mkdir()
    assert xeon[1](5.0) == ()


def test_energy_is_that_of_all_packages_and_none_where_nobody_may_read_it(xeon, tmp_path: Path) -> None:
    before = counters.energy(xeon[0])
    assert before == pytest.approx(261143.0)
    put(xeon[0], "class/powercap/intel-rapl:0/energy_uj", 100 * 10**6)
    after = counters.energy(xeon[0])
    assert before and after and counters.spent(before, after, xeon[0]) == pytest.approx(2100.32885, abs=0.01)
    assert counters.energy(tmp_path / "elsewhere") is None


# ── nvidia-smi ──────────────────────────────────────────────────────────────────────────────────────────────────────


def said(kind: str, name: str) -> str:
    return next((FIXTURES / kind).glob(f"{name}.*")).read_text()


def test_gpus_by_the_new_names() -> None:
    assert nvidia.parse(said("nvidia", "h100-new-names")) == (
        Sensor("GPU 0", 34.0, 87.0, None, 71.45),
        Sensor("GPU 1", 67.0, 87.0, None, 698.12),  # it draws all it may, as it should
        Sensor("GPU 2", 86.0, 87.0, "too hot (the hardware slows it down)", 512.3),
        Sensor("GPU 3", 71.0, 87.0, "the power supply brakes it", 350.01),
    )


def test_gpus_by_the_old_names_with_what_they_do_not_know() -> None:
    assert nvidia.parse(said("nvidia", "rtx-old-names")) == (
        Sensor("GPU 0", 83.0, None, "too hot (the driver slows it down)", 348.71),
        Sensor("GPU 1", 41.0, None, None, None),
        Sensor("GPU 2", None, None, None, None),
    )
    assert nvidia.parse(said("nvidia", "grace-blackwell")) == (Sensor("GPU 0", 45.0, None, None, 13.21),)


def test_a_gpu_that_fell_off_its_bus_is_told_and_the_others_too() -> None:
    assert nvidia.parse(said("nvidia", "fallen-off")) == (
        Sensor("GPU 0000:65:00.0", dead="it does not answer: Unknown Error"),
        Sensor("GPU 0", 36.0, 87.0, None, 58.9),
        Sensor("GPU 2", dead="it answers ERR!"),
    )


@pytest.mark.parametrize(
    "text", ["", "\n", "No devices were found\n", "0, 1\n", "a, b, c, d, e\n", said("nvidia", "driver-dead")]
)
def test_other_answers_tell_of_no_gpu(text: str) -> None:
    assert nvidia.parse(text) == ()


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_an_older_nvidia_smi_is_asked_by_the_older_names(no_tools: Path) -> None:
    tool(
        no_tools,
        "nvidia-smi",
        f"""case $1 in
        *clocks_event_reasons*) cat {FIXTURES}/nvidia/unknown-field.txt; exit 2 ;;
        *clocks_throttle_reasons*) cat {FIXTURES}/nvidia/rtx-old-names.csv ;;
        esac""",
    )
    assert [sensor.name for sensor in nvidia.sensors()] == ["GPU 0", "GPU 1", "GPU 2"]


@pytest.mark.parametrize("script", ["exec sleep 600", "trap '' TERM; sleep 600 & wait; sleep 600"])
def test_a_hung_nvidia_smi_is_told_and_left_behind(
    no_tools: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(nvidia, "TIMEOUT", 1.0)
    tool(no_tools, "nvidia-smi", script)
    assert nvidia.sensors() == (Sensor("nvidia-smi", dead="the driver did not answer within 1 s"),)


def test_a_tool_whose_child_holds_its_output_open_does_not_hold_us(
    no_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "TIMEOUT", 1.0)
    child = no_tools / "child"
    tool(no_tools, "nvidia-smi", f"setsid sh -c 'echo $$ > {child}; exec sleep 30' & exit 0")
    began = os.times().elapsed
    assert nvidia.sensors()[0].name == "nvidia-smi"
    assert os.times().elapsed - began < 20  # it would be 30 s
    os.kill(int(child.read_text()), 9)


# ── macOS, never run ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("therm-nothing", None),
        ("therm-full-speed", None),
        ("therm-slowed", "its processor runs at 62 % of its speed"),
        ("therm-warning", "its thermal warning level is 5"),
    ],
)
def test_pmset(name: str, why: str | None) -> None:
    assert apple.pmset(said("apple", name)) == ((Sensor("Mac", throttled=why),) if why else ())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("powermetrics-m3", (Sensor("chip", watts=66.189),)),
        ("powermetrics-hot", (Sensor("chip", throttled="its thermal pressure is heavy", watts=31.002),)),
        ("powermetrics-intel", (Sensor("chip", 71.25, watts=17.84),)),
        ("powermetrics-not-root", ()),
    ],
)
def test_powermetrics(name: str, found: tuple[Sensor, ...]) -> None:
    assert apple.powermetrics(said("apple", name)) == found


def test_a_mac_is_asked_as_far_as_its_user_may(no_tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    tool(no_tools, "pmset", f"cat {FIXTURES}/apple/therm-slowed.txt")
    tool(no_tools, "powermetrics", f"cat {FIXTURES}/apple/powermetrics-m3.txt")
    assert apple.sensors() == ()  # whatever is called so there
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    assert [sensor.name for sensor in apple.sensors()] == ["Mac"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert [sensor.name for sensor in apple.sensors()] == ["Mac", "chip"]


def test_all_of_a_machine_together(tmp_path: Path, no_tools: Path) -> None:
    root = machine(tmp_path, "xeon")
    tool(no_tools, "nvidia-smi", f"cat {FIXTURES}/nvidia/h100-new-names.csv")
    names = [sensor.name for sensor in sensors(root, tmp_path)]
    assert names[:2] == ["coretemp Package id 0", "coretemp Package id 1"]
    assert names[-4:] == ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]
