"""What units say, compared as text; launchd's property lists in shape only, for want of a Mac."""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

import pytest

from llmctl import units
from llmctl.config import SERVICES
from llmctl.domain import Limits
from llmctl.errors import Refused
from llmctl.units.launchd import AGENTS, DAEMONS, parse_state
from llmctl.units.launchd_plist import plist
from llmctl.units.systemd_text import STOP_TIMEOUT, system_unit, user_unit

USER_UNIT = """\
# Made by llmctl, which overwrites it; settings of your own belong in a drop-in (systemctl edit).
[Unit]
Description=llmctl: the slot on port %i
StartLimitIntervalSec=120
StartLimitBurst=10

[Service]
Type=notify
ExecStart=/bin/sh -c "exec \\"$$0\\" \\"$$@\\" 2>>\\"$$3/slots/$$1/server.err\\"" \
/home/op/.llmctl/current/bin/slot-server %i --home /home/op/.llmctl
Restart=on-failure
RestartSec=1
TimeoutStartSec=90
TimeoutStopSec=660
KillMode=mixed
OOMPolicy=continue
LimitNOFILE=65536
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
KeyringMode=private

[Install]
WantedBy=default.target
"""
SYSTEM_LINES = """\
Wants=network-online.target
After=network-online.target
User=op
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ReadWritePaths=-/home/op -/srv/llm
PrivateTmp=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
RemoveIPC=yes
WantedBy=multi-user.target
"""
BREAKS_CUDA_OR_JITS = ("PrivateDevices", "MemoryDenyWriteExecute", "DeviceAllow", "DevicePolicy", "ProtectClock")

# launchd.plist(5): the keys that a slot's job has, and what they hold
KEYS: dict[str, Any] = {
    "Label": str, "ProgramArguments": [str], "WorkingDirectory": str, "EnvironmentVariables": {str: str},
    "StandardOutPath": str, "StandardErrorPath": str, "RunAtLoad": bool, "KeepAlive": {str: bool},
    "ThrottleInterval": int, "ExitTimeOut": int, "ProcessType": str, "AbandonProcessGroup": bool,
    "SoftResourceLimits": {str: int}, "Umask": int, "UserName": str,
}  # fmt: skip
PRINTED = """\
gui/501/llmctl.8101 = {
	active count = 1
	state = running

	runs = 3
	last exit code = 1
}
"""


def test_every_service_of_the_configuration_has_its_units() -> None:
    for service in SERVICES:
        found = units.get(service)
        assert all(
            callable(getattr(found, name)) for name in ("install", "start", "at_boot", "stop", "state", "remove")
        )


def test_the_user_unit() -> None:
    assert user_unit(Path("/home/op/.llmctl")) == USER_UNIT


def test_the_system_unit_is_the_user_unit_and_what_needs_more_rights() -> None:
    text = system_unit(Path("/srv/llm"), "op", Path("/home/op"))
    common = USER_UNIT.replace("/home/op/.llmctl", "/srv/llm").replace("WantedBy=default.target\n", "").splitlines()
    added = [line for line in text.splitlines() if line not in common]
    assert added == SYSTEM_LINES.splitlines()


def test_s11_no_setting_breaks_gpus_or_jits_and_stops_wait_longer_than_answers_take() -> None:
    text = system_unit(Path("/srv/llm"), "op", Path("/home/op"))
    assert not [key for key in BREAKS_CUDA_OR_JITS if f"\n{key}=" in text]
    assert Limits().request_time + Limits().drain < STOP_TIMEOUT


@pytest.mark.parametrize(
    ("home", "written"),
    [
        ("/home/a b", '--home "/home/a b"'),
        ("/home/100%", '--home "/home/100%%"'),
        ("/home/$HOME", "--home /home/$$HOME"),
        ("/home/\\x20'\"", '--home "/home/\\\\x20\'\\""'),
        ("/home/;rm", '--home "/home/;rm"'),
        ("/home/-oProxyCommand=$(id)`id`", "--home /home/-oProxyCommand=$$(id)`id`"),
    ],
)
def test_s07_a_folders_name_is_one_word_to_systemd(home: str, written: str) -> None:
    assert f"%i {written}\n" in user_unit(Path(home))


def test_s05_a_folder_that_no_unit_can_name_is_refused() -> None:
    with pytest.raises(Refused, match="control character"):
        user_unit(Path("/home/op\nExecStart=/bin/id"))


# ── launchd ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
    if isinstance(kind, dict):
        ((key, inner),) = kind.items()
        return isinstance(value, dict) and all(fits(k, key) and fits(v, inner) for k, v in value.items())
    return type(value) is kind


@pytest.mark.parametrize("user", [None, "op"])
def test_property_lists_have_launchds_keys_and_types(user: str | None) -> None:
    home = Path("/Users/a & b/.llmctl")
    job = plistlib.loads(plist(home, 8101, "llmctl.8101", user=user))
    assert [key for key, value in job.items() if key not in KEYS or not fits(value, KEYS[key])] == []
    assert job["ProgramArguments"] == [f"{home}/current/bin/slot-server", "8101", "--home", str(home)]
    assert (job["KeepAlive"], job["RunAtLoad"], job["Umask"]) == ({"SuccessfulExit": False}, True, 0o77)
    assert Limits().request_time < job["ExitTimeOut"] and job.get("UserName") == user
    assert not plistlib.loads(plist(home, 8101, "llmctl.8101", at_boot=False))["RunAtLoad"]


def test_launchctls_command_lines() -> None:
    home = Path("/nowhere/llm")
    label = AGENTS.label(home, 8101)
    assert label.startswith("llmctl-") and label.endswith(".8101") and AGENTS.label(home, 8101) != "llmctl.8101"
    domain = AGENTS.domain()
    assert domain.startswith("gui/") and DAEMONS.domain() == "system"
    assert AGENTS.bootstrap(home, 8101) == ["launchctl", "bootstrap", domain, str(AGENTS.path(home, 8101))]
    assert AGENTS.bootout(home, 8101) == ["launchctl", "bootout", f"{domain}/{label}"]
    assert AGENTS.kickstart(home, 8101) == ["launchctl", "kickstart", f"{domain}/{label}"]
    assert DAEMONS.show(home, 8101) == ["launchctl", "print", f"system/{DAEMONS.label(home, 8101)}"]
    assert str(DAEMONS.path(home, 8101)).startswith("/Library/LaunchDaemons/")


def test_what_launchctl_prints() -> None:
    assert parse_state(PRINTED, True) == units.UnitState(True, "active", 2)
    waits = PRINTED.replace("running", "waiting")
    assert parse_state(waits, True).active == units.FAILED
    assert parse_state(waits.replace("code = 1", "code = 0"), True).active == "inactive"
    assert parse_state("", False) == units.UnitState(False, "inactive", 0)
