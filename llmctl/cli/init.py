"""`llmctl init` and `llmctl version`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmctl import __version__
from llmctl.envelope import Answer
from llmctl.errors import Refused

app = typer.Typer()

HOSTS = """\
# The machines that llmctl works on. A bare port means the default host.
default = "local"

[hosts.local]
transport = "local"
profiles = ["demo"]           # of profiles/: what `llmctl apply` puts here; none anywhere: all, on the default host
# backend = "auto"            # auto, cpu, cuda or metal
# engines = ["llamacpp"]      # default: those that the backend prefers
# memory_budget = "24GB"      # what models may take; default: the memory there is
# ports = [8100, 8139]        # the managed range; `auto` takes its lowest free port
# models_dir = "~/models"     # default: models in LLMCTL_HOME (~/.llmctl)
# bind = "127.0.0.1"          # any other address needs a key: llmctl keys show
# labels = ["desk"]           # --host @desk

# Hosts over ssh: llmctl hosts add, llmctl hosts trust, llmctl deploy
#
# [hosts.studio]
# transport = "ssh"
# address = "studio.example"  # or a Host of ~/.ssh/config, which is honoured
# user = "me"
# ssh_port = 22
# identity = "~/.ssh/id_ed25519"
# gateway = "jump.example"    # a jump host: another host's name, or [user@]address[:port]
# backend = "metal"
# service = "launchd"         # auto, none, systemd, systemd-system, launchd or launchd-system
# environment = "auto"        # auto, uv, mamba, micromamba, conda or venv
# engines = ["mlx", "llamacpp"]
# profiles = ["ensemble"]
# memory_budget = "260GB"
# labels = ["mac"]
#
# [hosts.mini]
# transport = "ssh"
# address = "mini.example"
# backend = "metal"
# service = "launchd"
# memory_budget = "48GB"
# labels = ["mac"]
#
# [hosts.workstation]
# transport = "ssh"
# address = "workstation.example"
# backend = "cuda"
# service = "systemd"
# profiles = ["big-guns"]
# labels = ["linux"]
"""

DEMO = """\
description = "Two tiny models, made by scripts/tiny-models"

[[slots]]
port = 8101                   # or "auto": the lowest free one
model = "tiny-qwen2"          # any spelling of `llmctl models list`
# engine = "auto"             # llamacpp, torch, mlx
# quantization = "q4_k_m"     # which artifact, where there are several
# context = 4096
# parallel = 4
# handle = "fast"             # another name that clients may send
# idle_unload = "15m"
# order = "auto"              # of a swap: new-first, old-first
# draft = "ngram"             # speculative decoding: "ngram" (the text itself), or a smaller model
# adapters = ["polite"]       # LoRA adapters in <models>/adapters, or {polite = "/path"}
# cache_bits = 8              # keys and values in 8 or 4 bits
# cache_bytes = "2GB"         # their most memory

[[slots]]
port = 8102
model = "tiny-llama"
"""


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Where; default: here.")] = Path(".")) -> Answer:
    """Write a commented hosts.toml and a first profile."""
    files = {folder / "hosts.toml": HOSTS, folder / "profiles" / "demo.toml": DEMO}
    for path in files:
        if path.exists():
            raise Refused(f"{path} is there already", hint="edit it, or name another folder")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Answer({"written": [str(path) for path in files]})


@app.command()
def version() -> Answer:
    """The version of llmctl."""
    return Answer({"version": __version__})
