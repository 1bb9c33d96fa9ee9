"""What becomes of the script's answer: recorded machines, hostile answers, clocks, and the cache."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmctl.config import Host
from llmctl.errors import LlmctlError, Unsupported
from llmctl.fleet.facts import Accelerator, Facts, Python
from llmctl.fleet.facts import cache as facts_cache
from llmctl.fleet.facts.gathering import MOST, WIDEST, Clock, parse
from tests.fleet.recorded import NAMES, THEN, facts_of, printed

MIB = 2**20


def test_debian_as_it_was_recorded() -> None:
    facts = facts_of("debian-12")
    assert (facts.os, facts.os_version, facts.arch) == ("linux", "Debian GNU/Linux 12 (bookworm)", "x86_64")
    assert (facts.libc, facts.distro, facts.chip) == ("glibc 2.36", ("debian",), "Intel(R) Xeon(R) Processor")
    assert (facts.cores, facts.memory, facts.disk_free) == (2, 24684084 * 1024, 64098940 * 1024)
    assert (facts.user, facts.uid, facts.home, facts.sudo, facts.index) == ("root", 0, "/home/me", True, True)
    assert facts.pythons == (Python("/usr/bin/python3.11", (3, 11, 2)),)
    assert facts.boot == "fab1d2a4-6b99-4aaf-a123-1d6a26118bd7"
    assert (facts.services, facts.accelerators, facts.notes, facts.version) == (("none",), (), (), None)


def test_eight_h100_with_everything_that_a_deploy_can_meet() -> None:
    facts = facts_of("ubuntu-h100")
    gpu = Accelerator("NVIDIA H100 80GB HBM3", 81559 * MIB, "550.54.14", "12.4", "9.0")
    assert facts.accelerators == (gpu,) * 8
    assert facts.services == ("systemd", "systemd-system", "none")
    assert (facts.systemd, facts.linger) == ("249.11-0ubuntu3.12", True)
    assert facts.tools == (("uv", "/home/me/.local/bin/uv"), ("conda", "/opt/conda/bin/conda"))
    assert (facts.release, facts.version) == ("0.4.0-1a2b3c4d", "0.4.0")
    assert (facts.notes, facts.distro) == ((), ("ubuntu", "debian"))


def test_a_4090_beside_the_processors_own_graphics() -> None:
    facts = facts_of("ubuntu-4090")
    assert facts.accelerators == (Accelerator("NVIDIA GeForce RTX 4090", 24564 * MIB, "580.65.06", "13.0", "8.9"),)
    assert facts.notes == ("an AMD GPU is there, and llmctl has no backend for it",)


def test_a_driver_that_is_not_loaded_is_a_note() -> None:
    facts = facts_of("ubuntu-driver-not-loaded")
    assert facts.accelerators == ()
    assert facts.notes[0].startswith("nvidia-smi: NVIDIA-SMI has failed because it couldn't communicate")


def test_a_gpu_without_nvidia_smi_is_a_note() -> None:
    assert facts_of("ubuntu-no-driver").notes == ("an NVIDIA GPU is there without its driver (no nvidia-smi)",)


def test_mig_instances_stand_for_their_gpu() -> None:
    facts = facts_of("ubuntu-mig")
    assert [(gpu.name, gpu.memory) for gpu in facts.accelerators] == [
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20 * 10**9),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5 * 10**9),
        ("NVIDIA A100-SXM4-40GB", 40960 * MIB),
    ]
    assert {gpu.compute for gpu in facts.accelerators} == {"8.0"}
    assert facts.notes == ("NVIDIA A100-SXM4-40GB is in MIG mode and has no instance: nvidia-smi mig -cgi … -C",)


def test_a_host_with_an_amd_gpu_and_no_user_manager() -> None:
    facts = facts_of("ubuntu-amd-gpu")
    assert facts.accelerators == ()
    assert facts.services == ("none",)  # the system's systemd is nothing to a user without sudo
    assert facts.notes == (
        "an AMD GPU is there, and llmctl has no backend for it",
        "systemd runs, and has no manager for this user (systemctl --user does not answer)",
    )


def test_arm_names_its_chip_in_its_own_ways() -> None:
    grace, raspberry = facts_of("ubuntu-grace"), facts_of("raspberry")
    assert (grace.arch, grace.chip) == ("aarch64", "Neoverse-V2")
    assert (raspberry.arch, raspberry.chip) == ("aarch64", "Raspberry Pi 5 Model B Rev 1.0")


def test_alpine_has_musl() -> None:
    facts = facts_of("alpine")
    assert (facts.libc, facts.services, facts.distro) == ("musl 1.2", ("none",), ("alpine",))


def test_what_is_no_released_cpython_is_no_python() -> None:
    assert facts_of("rhel-old-python").pythons == (Python("/usr/bin/python3.6", (3, 6, 8)),)
    assert facts_of("no-python").pythons == ()


def test_busybox_alone_still_tells_what_it_has() -> None:
    facts = facts_of("busybox")
    assert (facts.os, facts.arch, facts.home, facts.cores) == ("linux", "x86_64", "/root", 2)
    assert (facts.memory, facts.disk_free, facts.libc, facts.chip, facts.pythons) == (0, 0, "", "x86_64", ())


def test_a_mac_studio_asked_through_rosetta() -> None:
    """Never recorded on a Mac by this project."""
    facts = facts_of("mac-studio-m3-ultra")
    assert (facts.os, facts.os_version, facts.arch, facts.libc) == ("darwin", "macOS 15.5", "arm64", "")
    assert (facts.chip, facts.cores, facts.memory) == ("Apple M3 Ultra", 32, 512 * 2**30)
    assert facts.accelerators == (Accelerator("Apple M3 Ultra", 512 * 2**30, "Metal 3", cores=80),)
    assert (facts.disk_free, facts.home) == (1500000000 * 1024, "/Users/me")
    assert facts.services == ("launchd", "none")
    assert facts.boot == "{ sec = 1763900000, usec = 123456 } Sun Nov 23 12:53:20 2025"
    assert facts.notes == ()


def test_an_intel_mac_whose_screen_nobody_has() -> None:
    """Never recorded on a Mac by this project."""
    facts = facts_of("macbook-intel")
    assert (facts.arch, facts.services) == ("x86_64", ("launchd", "launchd-system", "none"))
    assert [(gpu.name, gpu.memory) for gpu in facts.accelerators] == [
        ("Intel UHD Graphics 630", 1536 * MIB),
        ("AMD Radeon Pro 5500M", 8 * 2**30),
    ]
    assert facts.notes == ("nobody is logged in at the Mac: a launchd agent starts at the next login",)


@pytest.mark.parametrize("name", NAMES)
def test_facts_survive_json(name: str) -> None:
    facts = facts_of(name)
    assert Facts.from_dict(json.loads(json.dumps({**facts.to_dict(), "of_a_newer_version": 1}))) == facts


# ── hostile answers ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_banner_before_and_noise_between_change_nothing() -> None:
    noise = "Welcome!\n@ everyone: reboot at 5\nuser@host\n\x1b[2J** maintenance **\n"
    lines = printed("ubuntu-h100").splitlines(keepends=True)
    noisy = noise + "".join(line + "-bash: warning: setlocale\n" for line in lines) + noise
    assert parse(noisy, THEN) == facts_of("ubuntu-h100")


def test_escapes_and_control_characters_do_not_get_into_facts() -> None:
    chip = "\x1b[31mEvil\x1b[0m\x1b]0;title\x07 \x00C\x07P\x9bU\u202e"
    facts = parse(printed("debian-12").replace("Intel(R) Xeon(R) Processor", chip), THEN)
    assert facts.chip == "Evil CPU"


def test_a_huge_answer_is_cut() -> None:
    text = printed("debian-12")
    assert len(parse(text.replace("Xeon", "X" * 10**5), THEN).chip) <= WIDEST
    with pytest.raises(LlmctlError, match="did not tell its facts"):
        parse("x" * MOST + "\n" + text, THEN)


def test_numbers_that_are_none_count_nothing() -> None:
    text = printed("ubuntu-h100")
    for number in ("2113525400", "800000000", "224", "81559", "uid 1000"):
        text = text.replace(number, number.rstrip("0123456789") + "9" * 250)
    facts = parse(text, THEN)
    assert (facts.memory, facts.disk_free, facts.cores, facts.uid) == (0, 0, 0, -1)
    assert facts.accelerators[0].memory == 0


@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_needed_but_the_frame(name: str) -> None:
    """Without any one of its lines an answer parses, or is refused in one way."""
    lines = printed(name).splitlines()
    for at, line in enumerate(lines):
        without = "\n".join(lines[:at] + lines[at + 1 :])
        if line.startswith(("@system ", "@home ", "@end")):
            with pytest.raises(LlmctlError, match="did not tell its facts"):
                parse(without, THEN)
        else:
            parse(without, THEN)
            parse("\n".join([*lines[:at], line.partition(" ")[0], *lines[at + 1 :]]), THEN)


@pytest.mark.parametrize("text", ["", "@end", "@system\n@end", "@system Linux\n@home /\n@end", "@system Linux x\n@end"])
def test_an_answer_without_its_frame_is_no_facts(text: str) -> None:
    with pytest.raises(LlmctlError, match="did not tell its facts") as raised:
        parse(text, THEN)
    assert raised.value.hint


def test_a_system_that_llmctl_does_not_know() -> None:
    with pytest.raises(Unsupported, match="it runs FreeBSD") as raised:
        parse("@system FreeBSD amd64\n@home /home/me\n@end", THEN)
    assert raised.value.hint == "llmctl runs on Linux and on macOS"


# ── clocks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("there", "skew"),
    [(1000, 0.0), (999, -0.5), (1002, 0.0), (1003, 0.0), (1004, 1.0), (1063, 60.0), (940, -59.5), (0, -999.5)],
)
def test_a_clock_is_only_off_by_what_the_asking_cannot_explain(there: float, skew: float) -> None:
    assert Clock(1000.5, 1003.0).skew(there) == skew


def test_f13_a_clock_a_day_off_is_told_and_changes_no_other_fact() -> None:
    early = parse(printed("debian-12"), Clock(1795268164 - 86400, 1795268164 - 86399))
    exact = parse(printed("debian-12"), Clock(1795268164.0, 1795268165.0))
    assert (early.skew, exact.skew) == (86399.0, 0.0)
    assert replace(early, skew=0.0) == exact


# ── the cache ───────────────────────────────────────────────────────────────────────────────────────────────────────

STUDIO = Host("studio", "ssh", address="10.0.0.5", user="me")


def test_the_cache_gives_back_what_was_seen_with_its_age(tmp_path: Path) -> None:
    before = time.time()
    facts = facts_of("mac-studio-m3-ultra")
    assert facts_cache.read(tmp_path, STUDIO) is None
    facts_cache.write(tmp_path, STUDIO, facts)
    seen = facts_cache.read(tmp_path, STUDIO)
    assert seen and seen.facts == facts
    assert before <= seen.at <= time.time()
    assert (seen.age(seen.at + 60), seen.age(seen.at - 86400)) == (60.0, 0.0)
    assert oct((tmp_path / "fleet" / "studio.json").stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize(
    "moved", [{"address": "10.0.0.6"}, {"user": "you"}, {"ssh_port": 2222}, {"gateway": "door"}, {"transport": "local"}]
)
def test_what_was_seen_at_another_address_is_not_this_host(tmp_path: Path, moved: dict[str, str]) -> None:
    facts_cache.write(tmp_path, STUDIO, facts_of("debian-12"))
    assert facts_cache.read(tmp_path, replace(STUDIO, labels=("mac",)))
    assert facts_cache.read(tmp_path, replace(STUDIO, **moved)) is None  # type: ignore[arg-type]


PLACE = '"at": 1, "place": ["ssh", "10.0.0.5", "me", null, null]'
DAMAGED = [
    "",
    "{",
    "[]",
    '{"version": 99, "data": {}}',
    '{"version": 1, "data": []}',
    '{"version": 1, "data": {%s}}'.replace("%s", PLACE),
    '{"version": 1, "data": {%s, "facts": {"os": "linux", "pythons": [{"path": 1}]}}}'.replace("%s", PLACE),
    '{"version": 1, "data": {%s, "facts": {"os": "linux"}}}'.replace("%s", PLACE),
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_cache_that_cannot_be_read_is_a_host_never_seen(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fleet" / "studio.json"
    path.parent.mkdir()
    path.write_text(text)
    assert facts_cache.read(tmp_path, STUDIO) is None
    facts_cache.write(tmp_path, STUDIO, facts_of("debian-12"))
    assert facts_cache.read(tmp_path, STUDIO)


def test_a_deploy_changes_the_release_that_was_seen_and_not_its_age(tmp_path: Path) -> None:
    facts_cache.released(tmp_path, STUDIO, "1.0-aa")
    assert facts_cache.read(tmp_path, STUDIO) is None
    seen = facts_cache.write(tmp_path, STUDIO, facts_of("ubuntu-h100"))
    facts_cache.released(tmp_path, STUDIO, "1.0-aa")
    assert facts_cache.read(tmp_path, STUDIO) == replace(seen, facts=replace(seen.facts, release="1.0-aa"))
    facts_cache.released(tmp_path, STUDIO, "")
    assert facts_cache.read(tmp_path, STUDIO).facts.version is None  # type: ignore[union-attr]


def test_a_forgotten_host_leaves_no_file(tmp_path: Path) -> None:
    for _ in range(2):
        facts_cache.write(tmp_path, STUDIO, facts_of("debian-12"))
    facts_cache.forget(tmp_path, STUDIO)
    assert os.listdir(tmp_path / "fleet") == []
