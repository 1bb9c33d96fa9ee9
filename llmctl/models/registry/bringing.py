"""What an import makes of a registry: artifacts of the catalog's models, slots of a profile. It writes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmctl.catalog import TEMPLATE_ARGUMENTS, Artifact, Catalog, Model, normal
from llmctl.config import ProfileSlot
from llmctl.errors import LlmctlError, UnknownName
from llmctl.models.checkpoint import Checkpoint, inspect
from llmctl.models.registry import naming
from llmctl.models.registry.reading import Reading
from llmctl.models.registry.shape import Entry, Finding, Target

ENGINE = {"mlx": "mlx", "gguf": "llamacpp"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Brought:
    """Everything of a registry that llmctl has a place for.

    `artifacts` are by slug, each with its model's id; `good` are the last-known-good models by port.
    """

    models: Mapping[str, Model]
    artifacts: Mapping[str, tuple[str, Artifact]]
    slots: tuple[ProfileSlot, ...]
    good: Mapping[int, ProfileSlot]
    findings: tuple[Finding, ...]


def bring(reading: Reading, catalog: Catalog) -> Brought:
    """The registry's models as entries and artifacts of `catalog`; paths are looked at, nothing is loaded."""
    bringer = _Bringer(reading, catalog)
    for entry in reading.registry.models.values():
        bringer.entry(entry)
    lanes = reading.registry.lanes.values()
    slots = [bringer.slot(lane.port, "desired_target", lane.desired_target) for lane in lanes]
    good = {lane.port: bringer.slot(lane.port, "last_known_good_target", lane.last_known_good_target) for lane in lanes}
    return Brought(
        bringer.models, bringer.artifacts, tuple(slot for slot in slots if slot),
        {port: slot for port, slot in good.items() if slot}, tuple(bringer.findings),
    )  # fmt: skip


class _Bringer:
    def __init__(self, reading: Reading, catalog: Catalog) -> None:
        self.reading, self.catalog = reading, catalog
        self.ids = {normal(id): id for id in catalog.models}
        self.models: dict[str, Model] = {}
        self.artifacts: dict[str, tuple[str, Artifact]] = {}
        self.longest: dict[str, int] = {}  # the context by the files themselves, by slug
        self.findings: list[Finding] = []

    def entry(self, entry: Entry) -> None:
        model = self.model(entry)
        artifact = self.artifact(entry, model)
        for slug, (id, other) in self.artifacts.items():
            if id == model.id and other.folder == artifact.folder:
                what = f"is {model.id} as {artifact.folder.replace('-', ' ', 1)}, and so is {slug!r}"
                self.note(entry, None, what, "take one of the two out", refused=True)
        if model.allow_code and artifact.source and artifact.format != "gguf" and not artifact.revision:
            artifact = replace(artifact, source=None)  # what may run code has a pinned source or none
        self.models[model.id] = model
        self.artifacts[entry.slug] = (model.id, artifact)

    def model(self, entry: Entry) -> Model:
        """The catalog's model that the entry is, or a new one."""
        for name in (entry.repo_id, entry.slug, entry.model_id):
            try:
                if name:
                    return self.catalog.resolve(name)
            except UnknownName as error:
                if "may be" in error.message:
                    self.note(entry, None, error.message, "give one of them another alias", refused=True)
        id = naming.model_id(entry.repo_id or entry.model_id)
        if made := self.models.get(self.ids.setdefault(normal(id), id)):
            return made
        return self.catalog.models.get(self.ids[normal(id)]) or Model(id)

    def artifact(self, entry: Entry, model: Model) -> Artifact:
        path, found = self.files(entry, model)
        repo = entry.repo_id if entry.repo_id and _REPO.fullmatch(entry.repo_id) else None
        format = found.format if found else entry.format
        same = [
            a for a in model.artifacts if repo and a.source and a.source.split(":")[0] == repo and a.format == format
        ]
        file = path.name if path and path.suffix == ".gguf" else None
        said = naming.quantization(file or entry.repo_id or "") or naming.quantization(entry.model_id)
        revision = next((part for part in reversed(path.parts) if _COMMIT.fullmatch(part)), None) if path else None
        return Artifact(
            format=format,
            quantization=same[0].quantization if same else said or (found.quantization if found else None),
            source=f"{repo}:{file}" if repo and file else repo,
            path=path,
            bytes=found.weights_bytes if found else same[0].bytes if same else None,
            revision=revision or (same[0].revision if same else None),
            names=self.names(entry, model),
            context=_other(entry.context_length, model.context),
            max_output=_other(entry.max_output_tokens, model.max_output),
            chat_template=self.template(entry),
            chat_template_args=self.arguments(entry),
            tool_parser=_other(entry.tool_call_parser, model.tool_parser),
            reasoning_parser=_other(entry.reasoning_parser, model.reasoning_parser),
            load_timeout=entry.startup_timeout_seconds,
        )

    def files(self, entry: Entry, model: Model) -> tuple[Path | None, Checkpoint | None]:
        """Where the entry's files lie, and what they are; a finding names the pull where they are not whole."""
        assert entry.cache_path
        path = _snapshot(Path(entry.cache_path).expanduser())
        try:
            if not path.is_absolute():
                raise LlmctlError(f"{path}: not a whole path")
            found = inspect(path)
        except (LlmctlError, OSError) as error:
            why = error.message if isinstance(error, LlmctlError) else f"{path}: {error.strerror}"
            self.note(entry, "cache_path", why, f"llmctl pull {model.id}")
            return None, None
        self.longest[entry.slug] = found.context
        if found.format != entry.format:
            self.note(entry, "format", f"the files are {found.format}, not {entry.format}", "the files count")
        if found.needs_code and not model.allow_code:
            what = f"its files would run code of their author: {', '.join(found.needs_code)}"
            self.note(entry, "cache_path", what, f'if you trust it: allow_code = true in [models."{model.id}"]')
        return path, found

    def names(self, entry: Entry, model: Model) -> tuple[str, ...]:
        """The slug, and the other spellings that the catalog does not know by it."""
        names = {normal(entry.slug): entry.slug}
        for key in ("model_id", "served_model_name"):
            name = getattr(entry, key)
            if name and self.ids.get(normal(name), model.id) != model.id:
                self.note(entry, key, f"{name!r} is the id of another model, and is left out", "llmctl models list")
            elif name and normal(name) != normal(model.id):
                names.setdefault(normal(name), name)
        if (owner := self.ids.get(normal(entry.slug), model.id)) != model.id:
            self.note(entry, None, f"the slug is the id of another model, {owner}", "rename it", refused=True)
        return tuple(names.values())

    def template(self, entry: Entry) -> str | None:
        text = entry.chat_template
        if text is None or not ("/" in text or "{" in text or "\n" in text or text.endswith(".jinja")):
            return text
        if "{" in text or "\n" in text:
            self.note(entry, "chat_template", "a template in the file itself is not brought over", _KEEP_TEMPLATE)
            return None
        path = Path(text).expanduser()
        if not path.is_absolute() or not path.is_file():
            self.note(entry, "chat_template", f"there is no file {text}", _KEEP_TEMPLATE)
            return None
        return str(path)

    def arguments(self, entry: Entry) -> dict[str, Any]:
        kept = {}
        for key, value in entry.chat_template_args.items():
            if _has_null(value) or key in TEMPLATE_ARGUMENTS or not key.isidentifier():
                what = f"{key[:100]!r} is left out: it is null, or no variable that an entry may set"
                self.note(entry, "chat_template_args", what, None)
            else:
                kept[key] = value
        return kept

    def slot(self, port: int, key: str, target: Target | None) -> ProfileSlot | None:
        if target is None:
            return None
        slug = target.target_slug
        lanes = self.reading.registry.version > 1
        path = ["lanes", str(port), key] if lanes else ["models", slug, "port"]
        if slug not in self.artifacts:
            hint = f"slugs: {', '.join(sorted(self.artifacts)[:20]) or 'none'}"
            self.findings.append(self.reading.finding(path, f"there is no model {slug!r}", hint))
            return None
        id, artifact = self.artifacts[slug]
        asked = self.reading.registry.models[slug].context_length
        longest = self.longest.get(slug, 0)
        return ProfileSlot(
            port=port, model=id, engine=ENGINE.get(artifact.format, "auto"), quantization=artifact.quantization,
            context=min(asked, longest) if asked and longest else asked, handle=slug,
        )  # fmt: skip

    def note(self, entry: Entry, key: str | None, message: str, hint: str | None, *, refused: bool = False) -> None:
        path = ["models", entry.slug, *([key] if key else [])]
        self.findings.append(self.reading.finding(path, message, hint, refused=refused))


_KEEP_TEMPLATE = "save it as a .jinja file, and name that as chat_template of the artifact in models.toml"


def _other(said: Any, usual: Any) -> Any:
    """What is said when it is not what the model has anyway."""
    return None if said == usual else said


def _snapshot(path: Path) -> Path:
    """`path`, or the snapshot that is current where it is a repository's folder in the cache of the hub."""
    snapshots = path / "snapshots"
    if not snapshots.is_dir():
        return path
    try:
        return snapshots / (path / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        found = sorted(snapshots.iterdir())
        return found[0] if len(found) == 1 else path


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_null, value.values()))
    return any(map(_has_null, value)) if isinstance(value, list) else value is None
