"""LiteLLM's environment: locked, and never of a release that is known as bad."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmctl.environments.locks import entries, shipped
from llmctl.errors import Refused
from llmctl.gateway.litellm_env import BAD, check


def environment(folder: Path, version: str | None) -> Path:
    """The Python of a folder that looks like an environment with that LiteLLM."""
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    if version:
        about = packages / f"litellm-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: litellm\nVersion: {version}\n")
        (folder / "bin" / "litellm").touch(0o755)
    return folder / "bin" / "python"


def test_the_lock_names_one_good_release_with_the_hashes_of_all_its_files() -> None:
    lock = entries(shipped("litellm"))
    ours = [text for text in lock if text.startswith("litellm==")]
    assert len(ours) == 1 and not any(f"=={bad} " in ours[0] for bad in BAD)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", text) for text in lock) and len(lock) > 100


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8"])
def test_a_release_known_as_bad_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(Refused, match=f"LiteLLM {version} is known as bad") as caught:
        check(environment(tmp_path, version))
    assert str(tmp_path) in (caught.value.hint or "")


def test_others_are_taken_and_an_environment_without_one_is_told(tmp_path: Path) -> None:
    assert check(environment(tmp_path / "good", "1.106.2")) == "1.106.2"
    with pytest.raises(Refused, match="has no LiteLLM"):
        check(environment(tmp_path / "none", None))
    with pytest.raises(Refused, match="has no LiteLLM"):
        check(tmp_path / "nowhere" / "bin" / "python")
