"""hosts.toml and profiles: where they are found, what they mean, and how a mistake reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from llmctl import catalog, config, tables
from llmctl.config import Config, Host, ProfileSlot
from llmctl.domain import MediaPolicy
from llmctl.errors import ConfigError, UnknownName, UsageError
from llmctl.fleet.deploy.config import hosts_toml
from llmctl.slots.resolve import launch_of
from llmctl.slots.state import Launch

HOSTS = """\
default = "box"
[hosts.box]
memory_budget = "24GB"
ports = [8100, 8109]
models_dir = "models"
[hosts.studio]
transport = "ssh"
address = "studio.example"
"""


def folder(path: Path, hosts: str = HOSTS, profile: str | None = None) -> Path:
    (path / "hosts.toml").write_text(hosts)
    if profile is not None:
        (path / "profiles").mkdir()
        (path / "profiles" / "p.toml").write_text(profile)
    return path


def read_profile(path: Path) -> config.Profile:
    found = config.load(path)
    return config.profile(found, catalog.load(path), "p")


def test_hosts_are_read(tmp_path: Path) -> None:
    found = config.load(folder(tmp_path))
    box = found.host()
    assert (box.name, box.memory_budget, box.ports) == ("box", 24 * 10**9, (8100, 8109))
    assert box.models(Path("/state")) == tmp_path / "models"
    assert found.host("studio").transport == "ssh"


def test_where_images_may_come_from_reaches_the_slot_server(tmp_path: Path) -> None:
    keys = 'image_folder = "pictures"\nimage_urls = ["Images.example.org", "10.0.0.1:8080"]\n'
    box = config.load(folder(tmp_path, f"[hosts.box]\n{keys}")).host()
    launch = Launch.from_dict(json.loads(json.dumps(asdict(launch_of(box)))))
    assert launch.media == MediaPolicy(str(tmp_path / "pictures"), ("images.example.org", "10.0.0.1:8080"))
    assert launch_of(Host("plain")).media == MediaPolicy(None, ())
    assert config.load(folder(tmp_path, '[hosts.box]\nimage_urls = "*"\n')).host().image_urls == ("*",)


def test_a_deploy_tells_the_host_where_images_may_come_from(tmp_path: Path) -> None:
    far = '[hosts.far]\ntransport = "ssh"\naddress = "far.example"\nimage_folder = "~/p"\nimage_urls = ["a.example"]\n'
    text = hosts_toml(config.load(folder(tmp_path, far)).host("far"), "cpu", ["torch"], "none")
    there = config.load(folder(tmp_path, text)).host()
    assert (there.image_folder, there.image_urls) == (Path("~/p").expanduser(), ("a.example",))


def test_a_deploy_tells_the_host_to_keep_spares(tmp_path: Path) -> None:
    far = '[hosts.far]\ntransport = "ssh"\naddress = "far.example"\nspare = true\n'
    text = hosts_toml(config.load(folder(tmp_path, far)).host("far"), "cpu", ["torch"], "none")
    assert config.load(folder(tmp_path, text)).host().spare


def test_without_a_configuration_the_local_host_works() -> None:
    assert config.load(None) == Config()
    assert config.load(None).host() == Host("local")


def test_a_bare_port_means_the_default_the_only_or_the_only_local_host() -> None:
    one, two, far = Host("one"), Host("two"), Host("far", "ssh", "a")
    assert Config(hosts={"far": far}).host() is far
    assert Config(hosts={"far": far, "one": one}).host() is one
    assert Config(hosts={"far": far, "one": one}, default_host="far").host() is far
    with pytest.raises(UsageError, match="one, two"):
        Config(hosts={"one": one, "two": two}).host()
    with pytest.raises(UnknownName) as caught:
        Config(hosts={"one": one, "two": two}).host("tow")
    assert caught.value.hint == "did you mean 'two'?"


def test_the_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, by_variable, above = (tmp_path / name for name in ("asked", "variable", "above"))
    user = tmp_path / "user" / ".config" / "llmctl"
    for path in (asked, by_variable, above / "deep" / "er", user):
        path.mkdir(parents=True)
    for path in (asked, by_variable, above, user):
        (path / "hosts.toml").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("LLMCTL_CONFIG", str(by_variable))
    monkeypatch.chdir(above / "deep" / "er")
    assert config.find(asked) == asked
    assert config.find() == by_variable
    monkeypatch.delenv("LLMCTL_CONFIG")
    assert config.find() == above
    monkeypatch.chdir(tmp_path / "user")
    assert config.find() == user
    (user / "hosts.toml").unlink()
    assert config.find() is None
    with pytest.raises(UsageError) as caught:
        config.find(tmp_path)
    assert caught.value.hint == f"llmctl init {tmp_path}"


def test_a_profile_is_read(tmp_path: Path) -> None:
    text = 'description = "d"\n[[slots]]\nport = 8101\nmodel = "Qwen/Qwen2.5-0.5B-Instruct"\nidle_unload = "15m"\n'
    found = read_profile(folder(tmp_path, profile=text + '[[slots]]\nport = "auto"\nmodel = "gpt_oss_20b"\n'))
    assert found.slots == (
        ProfileSlot(8101, "qwen2.5-0.5b", idle_unload=900.0),
        ProfileSlot("auto", "gpt-oss-20b"),
    )


@pytest.mark.parametrize(
    ("text", "line", "says", "hint"),
    [
        ("[hosts.a\n", 1, "not TOML", None),
        ("[hosts.a]\nx = \n", 2, "not TOML", None),
        ('[hosts.a]\nbackend = "cpu"\nmemory_buget = "1GB"\n', 3, "memory_buget: unknown key", "'memory_budget'"),
        ('[host.a]\nbackend = "cpu"\n', 1, "unknown key", "'hosts'"),
        ("[hosts.a]\n# a comment\nbackend = 3\n", 3, "hosts.a.backend: must be a text, not 3", None),
        ('[hosts.a]\nbackend = "cdua"\n', 2, "not one of", "'cuda'"),
        ('[hosts.a]\ntransport = "ssh"\n', 1, "needs an address", None),
        ('[hosts.a]\nmemory_budget = "24 gigs"\n', 2, "'24 gigs' is not a number with", None),
        ("[hosts.a]\nmemory_budget = 0\n", 2, "more than 0", None),
        ("[hosts.a]\nports = [8100]\n", 2, "lowest, highest", None),
        ("[hosts.a]\nports = [8109, 8100]\n", 2, "lowest, highest", None),
        ("[hosts.a]\nports = [1, 70000]\n", 2, "lowest, highest", None),
        ("[hosts.a]\nlabels = [1]\n", 2, "list of texts", None),
        ("[hosts.a]\ngateway = 1\n", 2, "text", None),
        ('[hosts."-x"]\n', 1, "not a host name", None),
        ('[hosts.a]\nimage_urls = "a.example"\n', 2, "hosts.a.image_urls: must be a list of texts", None),
        ('[hosts.a]\nimage_urls = ["http://a"]\n', 2, "or a list of NAME or NAME:PORT, 'http://a' is none", None),
        ('[hosts.a]\nspare = "yes"\n', 2, "hosts.a.spare: must be true or false, not 'yes'", None),
        ("[hosts.a]\nimage_folder = 3\n", 2, "hosts.a.image_folder: must be a text, not 3", None),
        ("hosts = 3\n", 1, "must be a table", None),
        ('default = "lcal"\n[hosts.local]\n', 1, "no host 'lcal'", "'local'"),
    ],
)
def test_a_mistake_in_hosts_names_line_key_and_spelling(
    tmp_path: Path, text: str, line: int, says: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        config.load(folder(tmp_path, text))
    assert f"hosts.toml:{line}: " in caught.value.message
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("slots", "line", "says", "hint"),
    [
        ('[[slots]]\nport = 8101\nmodel = "qwen25-72b"\n', 3, "no model", "qwen2.5-72b"),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\nhost = "studo"\n', 4, "no host", "studio"),
        ('[[slots]]\nport = 81010\nmodel = "gpt-oss-20b"\n', 2, "port number", None),
        ('[[slots]]\nport = true\nmodel = "gpt-oss-20b"\n', 2, "port number", None),
        ('[[slots]]\nport = "any"\nmodel = "gpt-oss-20b"\n', 2, "port number", None),
        (
            '[[slots]]\nport = 1\nmodel = "gpt-oss-20b"\n[[slots]]\nmodel = "gpt-oss-20b"\n',
            4,
            "needs a port",
            None,
        ),
        ("[[slots]]\nport = 8101\n", 1, "needs a model", None),
        (2 * '[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\n', 5, "twice", None),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\nidle_unload = "soon"\n', 4, "is not a number with", None),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\ncontext = 0\n', 4, "1 or more", None),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\nengine = "lamacpp"\n', 4, "not one of", "'llamacpp'"),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\norder = "old"\n', 4, "not one of", None),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\nhandle = "Fast!"\n', 4, "not a handle name", None),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\ndraft = "gpt-os-20b"\n', 4, "draft: no model", "gpt-oss-20b"),
        (
            '[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\ncache_bits = 5\n',
            4,
            "cache_bits: must be 8 or 4, not 5",
            None,
        ),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\ncache_bytes = "2 gigs"\n', 4, "is not a number with", None),
        (
            '[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\nadapters = ["a", "a"]\n',
            4,
            "adapters: adapter a is there twice",
            None,
        ),
        (
            '[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\nadapters = {a = "b"}\n',
            4,
            "'b' must be an absolute path",
            None,
        ),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\nspread = ["studo"]\n', 4, "spread: no host 'studo'", "studio"),
        ('[[slot]]\nport = 8101\nmodel = "gpt-oss-20b"\n', 1, "unknown key", "'slots'"),
        ('[[slots]]\nport = "auto"\nmodel = "gpt-oss-20b"\non_demand = true\n', 2, "a port of its own", "8101"),
        (
            '[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\non_demand = true\nidle_unload = "5m"\n',
            5,
            "has keep_alive in its place",
            "keep_alive",
        ),
        ('[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\npinned = true\n', 4, "pinned: is of slots on demand", "true"),
        (
            '[[slots]]\nport = 8101\nmodel = "gpt-oss-20b"\nexclusive = "big"\n',
            4,
            "exclusive: is of slots on demand",
            "on_demand = true",
        ),
    ],
)
def test_a_mistake_in_a_profile_names_line_key_and_spelling(
    tmp_path: Path, slots: str, line: int, says: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_profile(folder(tmp_path, profile=slots))
    assert f"p.toml:{line}: " in caught.value.message
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize("name", ["../p", "p/../../x", "-p", "%2e", "P", "x" * 300, "p\n"])
def test_s5_unsafe_profile_names_are_refused(tmp_path: Path, name: str) -> None:
    found = config.load(folder(tmp_path, profile=""))
    with pytest.raises(UsageError):
        config.profile(found, catalog.load(), name)


def test_the_shipped_profiles_are_right() -> None:
    here = Path(__file__).parents[1]
    found = config.load(here)
    names = config.profile_names(found)
    assert {"demo", "ensemble", "big-guns"} <= set(names)
    ports = [slot.port for slot in config.profile(found, catalog.load(), "ensemble").slots]
    assert ports == [8100, 8101, 8102]
    for name in names:
        assert config.profile(found, catalog.load(), name).slots


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("0", 0)])
def test_durations(text: str, value: float) -> None:
    assert tables.seconds(text) == value


def test_lines_of_quoted_dotted_and_repeated_tables() -> None:
    text = '[a."x.y"]\nk = 1\n[[s]]\np = 1\n[s.t]\nq = 1\n[[s]]\nb.c = 1\n'
    assert tables.lines(text) == {
        ("a", "x.y"): 1,
        ("a", "x.y", "k"): 2,
        ("s", 0): 3,
        ("s", 0, "p"): 4,
        ("s", 0, "t"): 5,
        ("s", 0, "t", "q"): 6,
        ("s", 1): 7,
        ("s", 1, "b", "c"): 8,
    }
