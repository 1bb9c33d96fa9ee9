"""scripts/locks --check: a lock that does not agree with pyproject.toml and constraints.txt is noticed, offline."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

LOCKS = "llmctl/environments/locks"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the check reads, in a place of its own."""
    for name in ("scripts/locks", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    shutil.copytree(REPO / LOCKS, tmp_path / LOCKS)
    return tmp_path


def check(tree: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "scripts/locks", "--check"], cwd=tree, capture_output=True, text=True)
    return done.returncode, done.stderr


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert re.search(old, text, re.M), old
    path.write_text(re.sub(old, new, text, count=1, flags=re.M))


def test_the_locks_agree(tree: Path) -> None:
    assert check(tree) == (0, "")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("constraints.txt", r"^rich==.*", "rich==1.0", "base.txt: has rich"),
        ("constraints.txt", r"^torch==.*", "torch==2.99.0", "torch-builds.txt: has no torch==2.99.0+cpu"),
        ("pyproject.toml", r'"h11", ', '"h11", "leftpad", ', "base.txt: is not for"),
        ("pyproject.toml", r'"rich"', '"rich>99"', "base.txt: has no rich>99"),
        (f"{LOCKS}/llamacpp.txt", r"^jinja2==\S+", "jinja2==3.1.5", "llamacpp.txt: has jinja2 3.1.5"),
        (f"{LOCKS}/base.txt", r"^h11==.*\n(    .*\n)+", "", "base.txt: has no h11"),
        (f"{LOCKS}/base.txt", r"^(h11==\S+).*\n(    .*\n)+", r"\1\n", "base.txt: has a package without a hash"),
        (f"{LOCKS}/litellm.txt", r"^litellm==\S+", "litellm==1.82.8", "litellm.txt: has no litellm[proxy]==1.106.2"),
    ],
)
def test_what_does_not_agree_is_named(file: str, old: str, new: str, said: str, tree: Path) -> None:
    edit(tree / file, old, new)
    code, shown = check(tree)
    assert code == 1 and said in shown and shown.endswith("hint: scripts/locks\n")


def test_a_missing_lock_is_named(tree: Path) -> None:
    (tree / LOCKS / "mlx.txt").unlink()
    assert check(tree) == (1, "error: mlx.txt: is missing\nhint: scripts/locks\n")
