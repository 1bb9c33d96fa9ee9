"""What tests of the hub share: a hub on loopback, a place to pull to, and a Context that can stop the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmctl.jobs.context import Silent
from llmctl.models import pull
from llmctl.models.wanted import Wanted
from tests.testbed.hub import Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without repositories; they are folders under `hub.root`."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with Hub(tmp_path / "hub") as running:
        yield running


@dataclass
class Place:
    """A host's folders to pull to."""

    hub: Hub
    root: Path
    job: Silent = field(default_factory=Silent)

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def cache(self) -> Path:
        return self.root / "hf" / "hub"

    def wanted(self, source: str = "org/model", format: str = "safetensors", **more: Any) -> Wanted:
        name = source.partition(":")[0].rpartition("/")[2].lower()
        place = {"models_dir": str(self.models), "cache": str(self.cache), "endpoint": self.hub.url, "backend": "cpu"}
        return Wanted(**{"model": name, "source": source, "format": format, **place, **more})

    def pull(self, source: str = "org/model", format: str = "safetensors", **more: Any) -> Mapping[str, Any]:
        return pull.run(self.wanted(source, format, **more).to_dict(), self.job)

    def blobs(self) -> list[Path]:
        """What lies in the cache, finished or not."""
        return sorted(self.cache.glob("models--*/blobs/*"))

    def partials(self) -> list[Path]:
        return [path for path in self.blobs() if path.name.endswith(".incomplete")]


@pytest.fixture
def place(hub: Hub, tmp_path: Path) -> Place:
    return Place(hub, tmp_path)


@pytest.fixture
def make_place(tmp_path: Path) -> Callable[[Hub, str], Place]:
    """make_place(hub, name) → a host of its own."""
    return lambda hub, name: Place(hub, tmp_path / name)
