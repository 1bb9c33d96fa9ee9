"""Each refusal of the hub is one typed error with the next command to type; the token goes to the hub only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from llmctl.errors import HubError, LlmctlError, Unreachable, UsageError
from llmctl.models import hub as hubs
from llmctl.models.hub import RepoFile
from llmctl.models.hub_errors import Patience
from tests.models.making import make_folder
from tests.testbed.hub import Hub

TOKEN = "hf_planted_secret_0123456789"


@pytest.fixture
def repo(hub: Hub) -> Path:
    return make_folder(hub.root / "org" / "model")


def client(hub: Hub, notes: list[str] | None = None) -> hubs.Hub:
    return hubs.Hub(hub.url, Patience(first=0.01, note=(notes if notes is not None else []).append))


def caught(hub: Hub, repo: str = "org/model", revision: str | None = None) -> LlmctlError:
    with pytest.raises(LlmctlError) as found:
        client(hub).listing(repo, revision)
    assert found.value.hint
    return found.value


def test_a_listing_has_sizes_hashes_commit_and_licence(hub: Hub, repo: Path) -> None:
    found = client(hub).listing("org/model", None)
    assert found.commit == hub.commit("org/model") and found.licence == "apache-2.0"
    weights = found.file("model.safetensors")
    assert weights and weights.bytes == (repo / "model.safetensors").stat().st_size and len(weights.etag) == 64
    config = found.file("config.json")
    assert config and len(config.etag) == 40


def test_ranges_of_a_file_are_read_even_from_a_hub_that_ignores_them(hub: Hub, repo: Path) -> None:
    found = client(hub).listing("org/model", "main")
    file = found.file("model.safetensors")
    assert file
    expected = (repo / "model.safetensors").read_bytes()
    assert client(hub).read("org/model", found.commit, file, 7, 1000) == expected[7:1000]
    hub.fault("no_range")
    assert client(hub).read("org/model", found.commit, file, 7, 1000) == expected[7:1000]


@pytest.mark.parametrize(
    ("kind", "code", "hint"),
    [
        ("gated", "gated", "/org/model, then `hf auth login`"),
        ("no_repo", "no_repo", "hf auth login"),
        ("unauthorized", "unauthorized", "hf auth login"),
        ("nonsense", "hub_answer", "HF_ENDPOINT"),
    ],
)
def test_a_refusal_is_one_error_with_the_next_command(hub: Hub, repo: Path, kind: str, code: str, hint: str) -> None:
    hub.fault(kind)
    error = caught(hub)
    assert error.code == code and hint in str(error.hint) and "org/model" in error.message
    assert len(hub.log) == 1  # a refusal is not asked for again


def test_a_gated_repository_opens_with_the_token(hub: Hub, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fault("gated")
    hub.gate = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert client(hub).listing("org/model", None).files


def test_a_repository_or_revision_that_is_not_there(hub: Hub, repo: Path) -> None:
    assert caught(hub, "org/other").code == "no_repo"
    error = caught(hub, revision="v9")
    assert error.code == "no_revision" and "org/model at v9" in error.message


def test_a_rate_limit_is_waited_for_when_it_is_short(hub: Hub, repo: Path) -> None:
    hub.fault("status", status=429, headers={"Retry-After": "1"}, times=1)
    began = time.monotonic()
    assert client(hub).listing("org/model", None).files
    assert time.monotonic() - began >= 1


def test_a_rate_limit_in_the_headers_of_the_draft_is_understood(hub: Hub, repo: Path) -> None:
    hub.fault("status", status=429, headers={"RateLimit": '"api";r=0;t=1'}, times=1)
    began = time.monotonic()
    assert client(hub).listing("org/model", None).files
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("as_date", [False, True])
def test_a_long_rate_limit_is_an_error_that_names_the_time(hub: Hub, repo: Path, as_date: bool) -> None:
    after = formatdate(time.time() + 600, usegmt=True) if as_date else "600"
    hub.fault("status", status=429, headers={"Retry-After": after})
    error = caught(hub)
    assert error.code == "rate_limited" and 500 < error.details["retry_after"] <= 600
    assert "can be asked for again in" in error.message and str(error.hint).startswith("sleep ")


def test_a_hub_that_fails_is_asked_again_a_bounded_number_of_times(hub: Hub, repo: Path) -> None:
    hub.fault("status", status=503, times=2)
    assert client(hub).listing("org/model", None).files
    hub.heal()
    hub.fault("status", status=503)
    assert caught(hub).code == "hub_down"
    assert len(hub.log) == Patience().tries


def test_a_hub_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9 does not answer") as found:
        hubs.Hub("http://user:password@127.0.0.1:9", Patience(first=0.01)).listing("org/model", None)
    assert "HF_ENDPOINT" in str(found.value.hint) and "password" not in found.value.message


@pytest.mark.parametrize("endpoint", ["nonsense", "https://", "ftp://127.0.0.1", "http://[::1"])
def test_an_endpoint_that_is_no_address_is_named(endpoint: str) -> None:
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        hubs.Hub(endpoint, Patience(first=0.01)).listing("org/model", None)


def test_offline_mode_asks_nobody(hub: Hub, repo: Path) -> None:
    code = (
        "from llmctl.models.hub import Hub\nfrom llmctl.errors import Unreachable\nimport sys\n"
        "try: Hub(sys.argv[1]).listing('org/model', None)\n"
        "except Unreachable as error: print(error.message, '|', error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, hub.url], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert (
        done.stdout == "org/model is needed from the hub, and HF_HUB_OFFLINE forbids to ask it | unset HF_HUB_OFFLINE\n"
    )
    assert not hub.log


def test_s09_the_token_does_not_follow_a_redirect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    make_folder(tmp_path / "hub" / "org" / "model")
    with Hub(tmp_path / "hub", redirect=True) as running:
        found = client(running).listing("org/model", None)
        file = found.file("model.safetensors")
        assert file
        client(running).read("org/model", found.commit, file, 0, file.bytes)
        assert {seen.token for seen in running.log if not seen.second} == {f"Bearer {TOKEN}"}
        assert [seen.token for seen in running.log if seen.second] == [None]


def test_s09_a_token_that_no_header_may_have_is_not_shown(hub: Hub, repo: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_plantéd_secret")
    error = caught(hub)
    assert isinstance(error, UsageError) and "HF_TOKEN" in error.message
    assert "secret" not in f"{error.message} {error.hint} {error.__cause__!r}"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../b", "a\0b", "a\\b", "x" * 300, "a//b", ".", "a\nb", "\x1b[2J", "a/./b"]
)
def test_s05_a_file_name_of_the_hub_that_leaves_the_folder_is_refused(hub: Hub, repo: Path, name: str) -> None:
    hub.extra["org/model"] = (name,)
    error = caught(hub)
    assert error.code == "hub_answer" and "no name on this disk" in error.message
    assert "\x1b" not in error.message and "\0" not in error.message


def test_a_hash_that_is_no_hash_is_refused(hub: Hub, repo: Path) -> None:
    hub.lies["model.safetensors"] = "../../evil"
    assert caught(hub).code == "hub_answer"


@pytest.mark.parametrize("commit", ["../../evil", "main", "A" * 40, ""])
def test_s05_a_commit_that_is_none_is_refused(hub: Hub, repo: Path, commit: str) -> None:
    hub.false_commit = commit or "a" * 41
    assert caught(hub).code == "hub_answer"


def test_another_commit_than_the_one_asked_for_is_refused(hub: Hub, repo: Path) -> None:
    asked = hub.commit("org/model")
    hub.false_commit = "b" * 40
    assert caught(hub, revision=asked).code == "hub_answer"


def test_a_licence_that_is_no_word_is_not_shown(hub: Hub, repo: Path) -> None:
    hub.licence = "\x1b[2Jfree\n"
    assert client(hub).listing("org/model", None).licence is None


def test_a_hub_that_sends_another_part_is_refused(hub: Hub, repo: Path) -> None:
    found = client(hub).listing("org/model", None)
    file = found.file("model.safetensors")
    assert file
    hub.fault("shift", "model.safetensors")
    with pytest.raises(HubError, match="another part"):
        client(hub).read("org/model", found.commit, file, 100, 200)


@pytest.mark.parametrize(
    "name",
    ["x", "../x", "a/b/c", "org/..", "org/a..b", "org/.x", "org/-x", "org/a--b", "org/a\0", "org/a\n", "org/%2e%2e",
     "-rf/x", "org/" + "x" * 300, "https://hub/x", "org/a b", "org/x.", ""],
)  # fmt: skip
def test_s05_repository_names(name: str) -> None:
    with pytest.raises(UsageError):
        hubs.check_repo(name)


@pytest.mark.parametrize("name", ["../x", "a/../b", "-x", "/x", "x" * 300, "a\0", "a\n", "%2e", "a b", ""])
def test_s05_revisions(name: str) -> None:
    with pytest.raises(UsageError):
        hubs.check_revision(name)


def test_names_that_the_hub_has_are_taken() -> None:
    for repo in ("Qwen/Qwen2.5-0.5B-Instruct", "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF", "a/b", "01-ai/Yi_6B"):
        assert hubs.check_repo(repo) == repo
    for revision in ("main", "refs/pr/12", "v1.0", "a" * 40, "gptq-4bit_32g"):
        assert hubs.check_revision(revision) == revision


def test_a_file_shorter_than_listed_is_an_error(hub: Hub, repo: Path) -> None:
    found = client(hub).listing("org/model", None)
    hub.fault("short", "model.safetensors", after=100)
    with pytest.raises(HubError, match="shorter"):
        client(hub).read("org/model", found.commit, RepoFile("model.safetensors", 38_000, "a" * 64), 0, 1000)
