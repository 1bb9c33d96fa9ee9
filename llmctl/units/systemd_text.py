"""The text of a slot's systemd unit.

Main points: the slot server says itself when it serves and when it stops (Type=notify); a stop asks it, waits longer
than the longest answer may take, and then ends every process of the unit (KillMode=mixed); an engine that the kernel
ends for want of memory does not end the slot server (OOMPolicy=continue); errors go to a file by the user's own hand,
since systemd would open it as root.
"""

from __future__ import annotations

from pathlib import Path

from llmctl.domain import Limits
from llmctl.errors import Refused
from llmctl.units import START_TIMEOUT, program

STOP_TIMEOUT = Limits().request_time + Limits().drain + 30
WITH_ERRORS = 'exec "$0" "$@" 2>>"$3/slots/$1/server.err"'

# What CUDA and just-in-time compilers need stays allowed: devices, memory that is written and then run, their caches.
# There is no ProtectClock: it closes all devices but the clock. No call that sets it is in @system-service anyway.
_UNIT = """\
# Made by llmctl, which overwrites it; settings of your own belong in a drop-in (systemctl edit).
[Unit]
Description=llmctl: the slot on port %i
{after}StartLimitIntervalSec=120
StartLimitBurst=10

[Service]
Type=notify
ExecStart=/bin/sh -c {with_errors} {program} %i --home {home}
{user}Restart=on-failure
RestartSec=1
TimeoutStartSec={start_timeout:.0f}
TimeoutStopSec={stop_timeout:.0f}
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
{hardening}
[Install]
WantedBy={target}
"""
_AFTER = """\
Wants=network-online.target
After=network-online.target
"""
# These need rights that only the system's manager has.
_HARDENING = """\
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ReadWritePaths={writable}
PrivateTmp=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
RemoveIPC=yes
"""


def user_unit(home: Path) -> str:
    """The template unit of the slots in `home`, for the manager of the user who has them."""
    return _unit(home, "default.target")


def system_unit(home: Path, user: str, user_home: Path) -> str:
    """The template unit of the slots in `home`, for the system's manager; it runs as `user`."""
    writable = " ".join(quoted(f"-{path}") for path in dict.fromkeys([user_home, home]))
    hardening = _HARDENING.format(writable=writable)
    return _unit(home, "multi-user.target", after=_AFTER, user=f"User={user}\n", hardening=hardening)


def _unit(home: Path, target: str, after: str = "", user: str = "", hardening: str = "") -> str:
    return _UNIT.format(
        home=word(str(home)), program=word(str(program(home))), with_errors=word(WITH_ERRORS), target=target,
        after=after, user=user, hardening=hardening, start_timeout=START_TIMEOUT, stop_timeout=STOP_TIMEOUT,
    )  # fmt: skip


def word(text: str) -> str:
    """One word of a command line."""
    return quoted(text).replace("$", "$$")


def quoted(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise Refused(f"{text!r} has a control character in it, and a unit cannot name it", hint="set LLMCTL_HOME")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    plain = escaped == text and not set(text) & set(" ';")
    return text if plain else f'"{escaped}"'
