"""What is checked on all hosts before a model is spread over them: each refusal, and what it tells to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmctl import __version__
from tests.spread.conftest import Fleet
from tests.testbed.sshd import SshHost

pytestmark = [pytest.mark.root, pytest.mark.models]
LOAD = ("load", "h1:8109", "tiny-llama", "--engine", "torch", "--dry-run")


def refused(fleet: Fleet, *words: str) -> tuple[str, str, str]:
    """Code, message and hint of the only error; nothing runs."""
    error = fleet.fails(*(words or (*LOAD, "--spread", "h1,h2")))
    assert not (fleet.h1.home / ".llmctl" / "slots" / "8109").exists()
    return error["code"], error["message"], error["hint"] or ""


@contextmanager
def written(path: Path, text: str) -> Iterator[None]:
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


def test_each_host_is_told_its_path_and_its_share(fleet: Fleet, tiny_models: dict[str, Path]) -> None:
    plan = fleet.says(*LOAD, "--spread", "h1", "--spread", "h2")
    assert [member["host"] for member in plan["spread"]] == ["h1", "h2"]
    assert {member["path"] for member in plan["spread"]} == {str(tiny_models["tiny-llama"])}
    assert {member["needed"] for member in plan["spread"]} == {plan["needed_bytes"]}


def test_s08_a_host_key_that_the_first_host_does_not_know_is_not_taken(fleet: Fleet) -> None:
    with written(fleet.apart.folder / "known_hosts", fleet.h1.known()):
        code, message, hint = refused(fleet)
    assert code == "key_unknown" and "h2" in message
    assert hint == f"on h1, look at its key and accept it once: ssh -p {fleet.h2.port} root@10.79.0.2 exit"


def test_a_first_host_without_a_key_is_told_how_to_bring_one(fleet: Fleet) -> None:
    with written(fleet.h2.folder / "authorized_keys", ""):
        # the operator sits on h1: only what h1 asks of h2 fails
        code, message, hint = refused(fleet)
    assert code == "auth_rejected" and "none of its keys" in message
    assert hint == f"on h1: ssh-copy-id -p {fleet.h2.port} root@10.79.0.2"


def test_hosts_of_different_versions_do_not_compute_together(fleet: Fleet) -> None:
    program = program_of(fleet.h2)
    other = program.read_text().replace("-m llmctl", f'-c "{OTHER}"')
    with written(program, other):
        code, message, hint = refused(fleet)
    assert code == "version_skew" and __version__ in message and hint == "llmctl deploy h2"


def test_a_host_without_llmctl_is_to_be_deployed_first(fleet: Fleet) -> None:
    program = program_of(fleet.h2)
    program.chmod(0o644)
    try:
        code, _, hint = refused(fleet)
    finally:
        program.chmod(0o755)
    assert (code, hint) == ("not_deployed", "llmctl deploy h2")


def test_every_host_must_have_the_same_files(fleet: Fleet, tiny_models: dict[str, Path]) -> None:
    models = fleet.h2.home / ".llmctl" / "config" / "models.toml"
    with written(models, models.read_text().replace(str(tiny_models["tiny-llama"]), str(tiny_models["tiny-mistral"]))):
        code, message, _ = refused(fleet)
    assert code == "refused" and "is not what h1 has" in message


def test_f14_a_share_that_does_not_fit_on_another_host_is_refused_with_the_numbers(fleet: Fleet) -> None:
    hosts = fleet.h2.home / ".llmctl" / "config" / "hosts.toml"
    with written(hosts, hosts.read_text() + 'memory_budget = "100MB"\n'):
        error = fleet.fails(*LOAD, "--spread", "h1,h2")
    assert error["code"] == "does_not_fit"
    assert error["message"].startswith("h2: needs ") and "budget 0.10 GB" in error["message"]


OTHER = "import llmctl, sys; llmctl.__version__ = '9.9.9'; from llmctl.__main__ import main; sys.exit(main())"


def program_of(host: SshHost) -> Path:
    return host.home / ".llmctl" / "bin" / "llmctl"
