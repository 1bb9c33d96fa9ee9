"""The command that mends what is told in words only: by what it says, on the system that it is on. Pure."""

from __future__ import annotations

import re

from llmctl.config import Host
from llmctl.fleet.facts import Facts

GPU = re.compile(r"nvidia|GPU", re.IGNORECASE)
DRIVERS = {
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt install nvidia-driver",
    "fedora": "sudo dnf install akmod-nvidia",
    "rhel": "sudo dnf install nvidia-driver",
    "suse": "sudo zypper install nvidia-driver-G06",
    "arch": "sudo pacman -S nvidia",
}
COMPILERS = {
    "debian": "sudo apt install build-essential",
    "fedora": "sudo dnf install gcc-c++",
    "rhel": "sudo dnf install gcc-c++",
    "suse": "sudo zypper install gcc-c++",
    "alpine": "sudo apk add build-base",
    "arch": "sudo pacman -S base-devel",
}


def of_gpu(why: str) -> bool:
    """Whether a note of the facts is about a GPU."""
    return bool(GPU.search(why))


def of(why: str, host: Host, facts: Facts) -> str:
    """What to type about a finding that says nothing itself."""
    entry = f"[hosts.{host.name}] of hosts.toml"
    if "without its driver" in why:
        return (
            f"{there(host)}{_by_distro(DRIVERS, facts, 'sudo apt install nvidia-driver')} && {there(host)}sudo reboot"
        )
    if "driver" in why and GPU.search(why):
        return f"{there(host)}sudo dkms autoinstall && {there(host)}sudo modprobe nvidia"
    if "MIG mode" in why:
        return f"{there(host)}sudo nvidia-smi mig -cgi 0 -C"
    if GPU.search(why):
        return f'backend = "cpu" in {entry}'
    if "manager for this user" in why:
        return f'{there(host)}sudo apt install dbus-user-session; or service = "systemd-system" in {entry}'
    if "launchd agent" in why:
        return f'service = "launchd-system" in {entry} && llmctl deploy {host.name}'
    if "after a reboot" in why:
        return f'service = "none" in {entry}, if that is meant'
    return f"llmctl hosts show {host.name}"


def there(host: Host) -> str:
    """What goes before a command that is typed on the host itself."""
    if host.transport == "local":
        return ""
    user, port = f"{host.user}@" if host.user else "", f"-p {host.ssh_port} " if host.ssh_port else ""
    return f"ssh {port}{user}{host.address} "


def compiler(facts: Facts) -> str:
    return _by_distro(COMPILERS, facts, "sudo apt install build-essential")


def _by_distro(known: dict[str, str], facts: Facts, otherwise: str) -> str:
    return next((known[name] for name in facts.distro if name in known), otherwise)
