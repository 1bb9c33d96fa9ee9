"""hosts.toml with a host more or less: comments and everything else stay, and no edit breaks the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl import config, tables
from llmctl.errors import ConfigError, Refused, UsageError
from llmctl.fleet.hosts_file import added, uses, without

PATH = Path("/nowhere/hosts.toml")
SSH = {"transport": "ssh", "address": "10.0.0.5"}
FLEET = """\
# Our machines.
default = "studio"   # a bare port

[hosts.studio]       # on the shelf
transport = "ssh"
address = "studio.example"
labels = [
  "mac",             # both of them
]
# ports = [8100, 8139]

# The one in the cellar: do not touch before noon.
[hosts."gpu.1"]
transport = "ssh"
address = "gpu1.example"


[hosts.mini]
transport = "ssh"
address = "mini.example"
# the end
"""


def hosts(text: str) -> Any:
    return tables.read(PATH, text).data.get("hosts")


def test_a_host_comes_at_the_end_and_nothing_else_changes() -> None:
    values = {**SSH, "user": "me", "ssh_port": 2222, "labels": ["a", 'b"\\c']}
    text = added(PATH, FLEET, "new", values)
    assert text.startswith(FLEET)
    assert hosts(text) == {**hosts(FLEET), "new": values}
    assert text.endswith('ssh_port = 2222\nlabels = ["a", "b\\"\\\\c"]\n')
    assert '[hosts."a.b"]' in added(PATH, FLEET, "a.b", SSH)


def test_taking_it_out_gives_the_file_back() -> None:
    assert without(PATH, added(PATH, FLEET, "new", SSH), "new").rstrip("\n") == FLEET.rstrip("\n")


def test_this_machine_stays_a_host_where_it_was_one_unsaid(tmp_path: Path) -> None:
    text = added(PATH, "# none yet\n", "new", SSH)
    assert text.startswith("# none yet\n")
    assert list(config.load(tmp_path, text).hosts) == ["local", "new"]
    assert list(config.load(tmp_path, text).hosts) == list(config.load(tmp_path, added(PATH, "", "new", SSH)).hosts)


@pytest.mark.parametrize("name", ["studio", "gpu.1", "mini"])
def test_a_host_goes_with_its_own_lines_only(name: str) -> None:
    text = without(PATH, FLEET.replace('default = "studio"', "#"), name)
    assert list(hosts(text)) == [other for other in ("studio", "gpu.1", "mini") if other != name]
    for comment in ("# Our machines.", "# ports = [8100, 8139]", "# The one in the cellar", "# the end"):
        assert comment in text
    assert "\n\n\n\n" not in text


def test_the_last_host_can_go() -> None:
    assert hosts(without(PATH, '# mine\n[hosts.one]\ntransport = "local"\n', "one")) is None


@pytest.mark.parametrize(
    "text",
    [
        'hosts = { one = { transport = "local" }, two = { transport = "local" } }\n',
        '[hosts]\none = { transport = "local" }\ntwo = { transport = "local" }\n',
        'hosts.one.transport = "local"\nhosts.two.transport = "local"\n',
        '[hosts]\none.transport = "local"\ntwo.transport = "local"\n',
    ],
)
def test_what_is_written_otherwise_is_left_to_a_person(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not written as \[hosts.NAME\] tables") as raised:
        without(PATH, text, "one")
    assert raised.value.hint == "change it by hand"


def test_an_inline_table_takes_no_more_hosts() -> None:
    with pytest.raises(ConfigError, match="not written as"):
        added(PATH, 'hosts = { one = { transport = "local" } }\n', "two", SSH)


def test_a_name_that_is_there_is_refused() -> None:
    with pytest.raises(Refused, match="has a host studio") as raised:
        added(PATH, FLEET, "studio", SSH)
    assert "llmctl hosts rm studio" in str(raised.value.hint)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-o", "A", "a\nb", "a]b", "x" * 200, "$(id)"])
def test_s05_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a host name"):
        added(PATH, FLEET, name, SSH)


@given(st.text(max_size=40), st.lists(st.text(max_size=10), max_size=3))
def test_any_text_is_written_as_it_is_read(value: str, labels: list[str]) -> None:
    if any("\ud800" <= c <= "\udfff" for c in value + "".join(labels)):
        return  # no TOML file can hold them
    values = {**SSH, "user": value, "labels": labels}
    assert hosts(added(PATH, FLEET, "new", values))["new"] == values


def test_a_file_that_is_no_toml_is_not_touched() -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        added(PATH, "[hosts", "new", SSH)


def test_what_still_names_a_host_is_told(tmp_path: Path) -> None:
    (tmp_path / "hosts.toml").write_text(
        FLEET + '[hosts.behind]\ntransport = "ssh"\naddress = "b"\ngateway = "studio"\n'
    )
    (tmp_path / "profiles").mkdir()
    profile = tmp_path / "profiles" / "day.toml"
    profile.write_text('[[slots]]\nport = 8101\nmodel = "m"\nhost = "studio"\n')
    found = config.load(tmp_path)
    assert uses(found, "studio") == [f"default in {tmp_path}/hosts.toml", "the gateway of behind", str(profile)]
    assert uses(found, "mini") == []
