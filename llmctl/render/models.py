"""What `llmctl models` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from llmctl.render.text import Table, View, size


def _models(data: Mapping[str, Any]) -> Table:
    rows = []
    for model in data["models"]:
        kinds = [_kind(artifact) for artifact in model["artifacts"]]
        here = [_kind(artifact) for artifact in model["artifacts"] if artifact["path"]]
        at = (model["host"],) if "host" in model else ()
        rows.append((*at, model["id"], model["tier"] or "-", ", ".join(here) or "-", ", ".join(kinds)))
    first = ("HOST",) if any("host" in model for model in data["models"]) else ()
    return Table((*first, "MODEL", "TIER", "HERE", "ARTIFACTS"), rows)


def _kind(artifact: Mapping[str, Any]) -> str:
    return f"{artifact['format']} {artifact['quantization'] or ''}".strip()


FACTS = (
    "aliases", "tier", "parameters", "context", "max_output", "licence", "chat_template", "chat_template_args",
    "stop_ids", "tool_parser", "reasoning_parser", "load_timeout", "env", "allow_code",
)  # fmt: skip


def _model(data: Mapping[str, Any]) -> str:
    lines = [data["id"], *(f"  {key:<18}{_words(data[key])}" for key in FACTS if data[key])]
    probe = data["probe"]
    expected = f" → {probe['expect']}" if probe["expect"] else ""
    lines.append(f"  {'probe':<18}{probe['prompt']}{expected}")
    for artifact, source, local in zip(data["artifacts"], data["sources"], data["local"], strict=True):
        lines.append(f"{_kind(artifact)}: {artifact['path'] or 'not here'}")
        lines += _local(local) if local else _elsewhere(artifact, source)
    return "\n".join(lines)


def _elsewhere(artifact: Mapping[str, Any], source: str | None) -> list[str]:
    about = [size(artifact["bytes"])] if artifact["bytes"] else []
    return [f"  {' · '.join([*about, source or 'made by scripts/tiny-models'])}"]


def _local(local: Mapping[str, Any]) -> list[str]:
    """What an artifact of this host is, came from and lost."""
    revision = f" at {local['revision'][:12]}" if local["revision"] else ""
    facts = {
        "source": f"{local['source']}{revision}" if local["source"] else None,
        "licence": local["licence"],
        "size": f"{size(local['bytes'])} in {local['files']} files" if local["files"] else None,
        "files say": ", ".join(_words(f) for f in _said(local)) or None,
        "origin": _origin(local["origin"]),
        "quality": quality(local["quality"]) if local["quality"] else None,
        "problem": "; ".join(local["problems"]) or None,
    }
    return [f"  {key:<18}{fact}" for key, fact in facts.items() if fact]


def _said(local: Mapping[str, Any]) -> list[str]:
    found = [local["architecture"]] if local["architecture"] else []
    found += [f"{local['parameters']:,} parameters"] if local["parameters"] else []
    return found + ([f"{local['context']} tokens"] if local["context"] else [])


def _origin(origin: Mapping[str, Any]) -> str | None:
    """How and when it came; of a conversion the tools and parameters too."""
    if not origin:
        return None
    facts = {key: origin.get(key) for key in ("from", "parameters", "tools")}
    if isinstance(made_of := facts["from"], Mapping):
        facts["from"] = {key: made_of.get(key) for key in ("path", "dtype")}  # its hashes are for programs
    more = [f"{key} {_words(fact)}" for key, fact in facts.items() if fact]
    return " · ".join([f"{origin.get('by', '?')} at {origin.get('at', '?')}", *more])


def quality(report: Mapping[str, Any]) -> str:
    """A report of the quality gate in one line."""
    found = report["metrics"]
    verdict = "passed" if report["passed"] else f"failed: {report['why']}"
    if found["mean_kl"] is None:
        return verdict
    return (
        f"{verdict} · mean KL {found['mean_kl']:.4g} nats, top-1 {found['top1']:.2%}, "
        f"perplexity {found['source_perplexity']:.4g} → {found['target_perplexity']:.4g}"
    )


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items() if inner is not None)
    return ", ".join(map(_words, value)) if isinstance(value, (list, tuple)) else str(value)


def _fits(data: Mapping[str, Any]) -> str:
    return "\n\n".join(_fit(row) for row in data["fits"])


def _fit(row: Mapping[str, Any]) -> str:
    what = f"{row['host']}  {_kind(row)}  {row['engine'] or 'no engine'}"
    lines = [f"{what}: {_verdict(row)}"]
    if row["total"] is not None:
        parts = ((name, row[name]) for name in ("weights", "kv", "compute", "process"))
        bytes = " + ".join(f"{name} {size(value) if value is not None else '?'}" for name, value in parts)
        lines.append(f"  needs     {size(row['total'])} = {bytes}")
        lines.append(
            f"  room      free {size(row['free'])}, budget {size(row['budget'])}, reserved {size(row['reserved'])}"
        )
    if row["basis"] == "catalog":
        lines.append("  not here  an estimate by the catalog's figures")
    if row["why"]:
        lines.append(f"  why       {row['why']}")
    if row["why_not"]:
        lines.append("  why not   " + "\n            ".join(f"{name}: {why}" for name, why in row["why_not"].items()))
    return "\n".join(lines)


def _verdict(row: Mapping[str, Any]) -> str:
    if row["problem"]:
        return str(row["problem"])
    asked = f"{row['context']} tokens × {row['parallel']}: " if row["kv"] is not None else "its weights alone: "
    largest = row["largest_context"]
    if row["verdict"] == "fits":
        return f"{asked}fits" + (f", up to {largest} tokens × {row['parallel']} would" if largest else "")
    less = f", --context {largest} fits" if row["verdict"] == "less context" else ""
    return f"{asked}does not fit, short by {size(row['short'])}{less}"


def _removed(data: Mapping[str, Any]) -> str:
    verb = "removed" if data["removed"] else "would remove"
    lines = [f"{verb} {path}" for path in (*data["folders"], *data["blobs"])]
    reasons = Counter(data["kept"].values())
    lines += [f"{count} linked file{'s' * (count > 1)} kept: {why}" for why, count in reasons.items()]
    return "\n".join([*lines, f"{'freed' if data['removed'] else 'would free'} {size(data['bytes'])}"])


def _cleared(data: Mapping[str, Any]) -> str:
    if not data["leftovers"]:
        return "nothing to remove"
    lines = []
    for one in data["leftovers"]:
        verb = "removed" if one["gone"] else "would remove" if not data["removed"] else "left"
        if one["kind"] == "quarantine" and not one["gone"]:
            verb = "in quarantine (--quarantine removes it)"
        lines.append(f"{verb} {one['kind']} {one['path']}, {size(one['bytes'])}")
    return "\n".join([*lines, f"{'freed' if data['removed'] else 'would free'} {size(data['bytes'])}"])


def _imported(data: Mapping[str, Any]) -> str:
    what = f"{data['model']} ({_kind(data)}), {size(data['bytes'])} in {data['files']} files"
    where = f" · {data['source']} at {str(data['revision'])[:12]}" if data["source"] else ""
    if data["already"]:
        return f"{what} is there already, unchanged: {data['path']}{where}"
    return f"imported {what} as links: {data['path']}{where}"


VIEWS: dict[str, View] = {
    "models gc": _cleared,
    "models import": _imported,
    "models rm": _removed,
    "models fit": _fits,
    "models list": _models,
    "models show": _model,
}
