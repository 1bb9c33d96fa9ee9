"""Who may import whom (design.md): each import statement of the package is looked up in one table."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "llmctl"

CORE = {
    "domain", "errors", "paths", "tables", "files", "processes", "logs", "strict_json", "catalog", "catalog_file",
    "config", "servers", "server_file", "sdist", "spread", "testing", "events",
}  # fmt: skip
MAY_IMPORT = {
    "domain": set(),
    "errors": set(),
    "paths": {"errors"},
    "tables": {"errors"},
    "files": {"errors"},
    "processes": set(),
    "events": {"errors", "files", "paths"},
    "sdist": {"errors"},
    "spread": {"errors"},
    "strict_json": set(),
    "testing": {"domain", "errors", "tables"},
    "logs": set(),
    "catalog": {"catalog_file", "domain", "errors", "paths", "servers"},
    "catalog_file": {"catalog", "domain", "errors", "paths", "server_file", "tables"},
    "servers": {"domain"},
    "server_file": {"domain", "servers", "tables"},
    "config": CORE,
    "envelope": {"errors"},
    "keys": CORE,
    "hf_token": CORE,
    "clients": {"clients", *CORE},
    "profiles": {"models.store", *CORE},
    "jobs": {"jobs", "hf_token", "environments", "envelope", *CORE},
    "backends": {"backends", *CORE},
    "decoding": {"decoding", "domain", "errors"},
    "engines.upstream_keeper": {"jobs.tree"},
    "engines.openvino": {"engines", "backends", "models.gguf_header", "domain", "errors"},
    "engines.openvino_check": {"models.gguf_header", "errors"},
    "engines.openvino_form": {"engines", "paths", "domain", "errors"},
    "engines": {"engines", "decoding", "backends", "servers", "spread", "domain", "errors"},
    "models.convert.processes": {"models", "engines", *CORE},
    "models": {"models", "hf_token", "jobs", "environments", "backends", *CORE},
    "environments": {"environments", "fleet.facts", *CORE},
    "native": {"native", "jobs", "environments", *CORE},
    "native.probe": {"native", "engines.llamacpp_library"},
    "units": {"units", "slots.state", *CORE},
    "host": {"host", "environments", "native", "units", "slots.control", "slots.state", "health.schedule", *CORE},
    "fleet": {"fleet", "profiles", "environments", "native", "models.choice", "models.manifest", "progress", *CORE},
    "checks": {"checks", "clients", "keys", "slots", "models", "backends", "environments.installed", *CORE},
    "slots": {"slots", "keys", "profiles", "models", "backends", "units", "environments", *CORE},
    "runner": {"runner", "slots", "decoding", "backends", "environments", "native", "units", "keys", *CORE},
    "runner.server": {"gateway.kinds", "runner", "slots", "backends", "environments", "keys", *CORE},  # either server
    "runner.worker": {"runner.frames", "runner.read_ahead", "engines", "techniques", "domain", "errors"},
    "runner.rank": {"engines", "spread", "domain", "errors"},
    "runner.read_ahead": {"backends", "domain", "errors"},
    "runner.frames": {"domain", "errors"},
    "gateway.litellm_process": {"gateway", "engines.upstream_keeper", "runner", *CORE},
    "gateway": {"gateway", "environments", "runner", "slots", "fleet", "profiles", "models.registry", "keys", *CORE},
    "history": {"history", *CORE},
    "quality": {"quality", "clients", *CORE},
    "health": {
        "health",
        "history",
        "keys",
        "checks.slot_http",
        "slots",
        "units",
        "backends",
        "host",
        "environments",
        "render.text",
        *CORE,
    },
    "watch": {"watch", "slots", "backends", "keys", "history", "health", *CORE},
    "exporter": {
        "exporter",
        "health.verdict",
        "watch",
        "history",
        "slots.state",
        "checks.slot_http",
        "runner.auth",
        "runner.exchange",
        "runner.link",
        "runner.listener",
        "keys",
        *CORE,
    },
    "web": {"web", "watch", "history", "clients", "render", "runner.auth", "runner.listener", "keys", *CORE},
    "top": {"top", "watch", "render", "progress", *CORE},
    "doctor": {
        "doctor",
        "gateway",
        "fleet.facts",
        "fleet.ssh",
        "host",
        "environments",
        "native",
        "units",
        "slots",
        "backends",
        "keys",
        "checks.public",
        "health",
        "history",
        "render.text",
        *CORE,
    },
    "render": {"render", "envelope", *CORE},
    "progress": {"render"},
    "cli": {
        "cli",
        "render",
        "progress",
        "envelope",
        "clients",
        "keys",
        "hf_token",
        "profiles",
        "jobs",
        "slots",
        "models",
        "backends",
        "fleet",
        "checks",
        "environments",
        "native",
        "units",
        "history",
        "health",
        "doctor",
        "watch",
        "exporter",
        "web",
        "top",
        "quality",
        "gateway",
        *CORE,
    },
    "__main__": {"cli", "render", "envelope", "errors"},
}


def within(module: str, layers: set[str] | dict[str, set[str]]) -> str | None:
    """The longest of `layers` that `module` is or lies in."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in layers), None)


def imports(path: Path) -> Iterator[str]:
    """All modules that a file imports, anywhere in it, with their full names."""
    modules = {str(p.relative_to(PACKAGE.parent).with_suffix("")).replace("/", ".") for p in PACKAGE.rglob("*.py")}
    modules |= {name.removesuffix(".__init__") for name in modules}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else str(node.module) for name in full)


def test_every_import_keeps_to_the_layers() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        layer = within(name, MAY_IMPORT)
        assert layer or name == "__init__", f"llmctl/{path.name} has no layer: add it to MAY_IMPORT"
        for module in imports(path):
            inner = module.removeprefix("llmctl.")
            if layer and inner != module and not within(inner, MAY_IMPORT[layer]):
                wrong.append(f"{name} imports {inner}")
    assert not wrong


def test_domain_and_errors_need_the_standard_library_only() -> None:
    for name in ("domain", "errors"):
        roots = {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py")}
        assert roots <= set(sys.stdlib_module_names)
