"""Guests that stand for many: what they are written out to, and where a mistake in them is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nestctl.errors import LabFileError
from nestctl.lab.expand import MOST_EXPANDED
from nestctl.lab.parse import parse_lab, read_lab
from nestctl.lab.roster import read_roster
from nestctl.model.lab import Lab, walk_guests

KEY = "ssh-ed25519 AAAA a@b"


def parse(text: str, **rosters: str) -> Lab:
    """Parse a lab file in the working directory, with rosters beside it."""
    for name, content in rosters.items():
        Path(f"{name}.csv").write_text(content)
    return parse_lab(text, "lab.yaml", directory=Path())


def refuse(text: str, **rosters: str) -> str:
    with pytest.raises(LabFileError) as raised:
        parse(text, **rosters)
    return raised.value.message


def names(lab: Lab) -> list[str]:
    return [name for name, _ in walk_guests(lab.guests)]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_counted_guest_is_numbered_and_so_are_those_inside() -> None:
    lab = parse("name: d\nguests: {n: {count: 2, memory_mib: 2048, guests: {v: {count: 2, memory_mib: 512}}}}\n")
    assert names(lab) == ["n-1", "v-1-1", "v-1-2", "n-2", "v-2-1", "v-2-2"]


def test_one_of_a_kind_is_numbered_too() -> None:
    assert names(parse("name: d\nguests: {n: {count: 1}}\n")) == ["n-1"]


def test_a_guest_for_each_row_with_the_rows_values_in_names_and_seeds() -> None:
    text = """
name: d
guests:
  "{{ row.login }}":
    for_each: class.csv
    memory_mib: 2048
    seed:
      users: [{name: "{{ row.login }}", ssh_keys: ["{{ row.key }}"]}]
      files: [{path: "/home/{{ row.login }}/no", content: "{{ number }}"}]
      commands: ["echo {{ row['login'] | upper }}"]
    guests:
      "{{ row.login }}-vm": {count: 2, memory_mib: 512, seed: {commands: ["echo {{ row.login }} {{ number }}"]}}
"""
    lab = parse(text, **{"class": f"login,key\nada,{KEY}\n\nalan , {KEY}\n"})
    assert names(lab) == ["ada", "ada-vm-1", "ada-vm-2", "alan", "alan-vm-1", "alan-vm-2"]
    alan = lab.guests["alan"]
    assert alan.seed.users[0].name == "alan"
    assert alan.seed.users[0].ssh_keys == (KEY,)
    assert alan.seed.files[0].path == "/home/alan/no"
    assert alan.seed.files[0].content == "2"
    assert alan.seed.commands == ("echo ALAN",)
    assert alan.guests["alan-vm-2"].seed.commands == ("echo alan 2",)


def test_a_roster_may_be_yaml_and_its_values_stay_as_they_are_written() -> None:
    Path("r.yaml").write_text("- {login: a, no: 007}\n- {login: b, no: 0x1f}\n")
    lab = parse('name: d\nguests: {"{{ row.login }}-{{ row.no }}": {for_each: r.yaml}}\n')
    assert names(lab) == ["a-007", "b-0x1f"]


def test_a_column_may_be_called_like_something_of_pythons() -> None:
    lab = parse('name: d\nguests: {"{{ row.items }}": {for_each: r.csv}}\n', r="items,values\na,1\n")
    assert names(lab) == ["a"]


def test_without_count_or_for_each_braces_are_braces() -> None:
    lab = parse("name: d\nguests: {a: {seed: {commands: ['echo {{ row.x }} {% if %}']}}}\n")
    assert lab.guests["a"].seed.commands == ("echo {{ row.x }} {% if %}",)


def test_what_is_written_out_can_be_kept_and_read_again() -> None:
    lab = parse(
        'name: d\nguests: {"{{ row.x }}": {for_each: r.csv, seed: {commands: ["{{ row.y }}"]}}}\n', r="x,y\na,{{ 1 }}\n"
    )
    assert lab.guests["a"].seed.commands == ("{{ 1 }}",)
    kept = yaml.safe_dump(lab.model_dump(mode="json", exclude_defaults=True))
    assert parse_lab(kept, "kept") == lab


def test_the_nearest_default_counts_and_a_guests_own_word_most() -> None:
    text = """
name: d
defaults: {cpus: 2, disk_gib: 5, memory_mib: 600}
guests:
  a:
    memory_mib: 4096
    defaults: {cpus: 3}
    guests:
      b: {memory_mib: 2048, guests: {c: {}}}
      d: {cpus: 1}
"""
    guests = dict(walk_guests(parse(text).guests))
    assert [guests[name].cpus for name in "abcd"] == [2, 3, 3, 1]
    assert {guests[name].disk_gib for name in "abcd"} == {5}
    assert guests["c"].memory_mib == guests["d"].memory_mib == 600


def test_a_default_can_be_taken_back_to_what_it_is_without() -> None:
    lab = parse("name: d\ndefaults: {nesting: false, cpus: 4}\nguests: {a: {nesting: null, cpus: 1}, b: {}}\n")
    assert (lab.guests["a"].nesting, lab.guests["a"].cpus) == (None, 1)
    assert (lab.guests["b"].nesting, lab.guests["b"].cpus) == (False, 4)


def test_labels_and_seeds_add_up() -> None:
    text = """
name: d
defaults: {labels: {x: "1", y: "1"}, seed: {commands: [first]}}
guests: {a: {labels: {y: "2"}, seed: {commands: [second], users: [{name: u}]}}}
"""
    guest = parse(text).guests["a"]
    assert guest.labels == {"x": "1", "y": "2"}
    assert guest.seed.commands == ("first", "second")
    assert [user.name for user in guest.seed.users] == ["u"]


WRONG = {
    "a column that is not there": (
        'name: d\nguests:\n  "{{ row.nme }}":\n    for_each: r.csv\n',
        "lab.yaml:3: (r.csv:2) 'guests.{{ row.nme }}' cannot be filled: the row has no attribute 'nme'.",
    ),
    "a column that is not there, in a seed": (
        'name: d\nguests:\n  "{{ row.x }}":\n    for_each: r.csv\n    seed:\n      commands:\n      - "{{ row.z }}"\n',
        "lab.yaml:7: (r.csv:2) 'guests.{{ row.x }}.seed.commands.0' cannot be filled:",
    ),
    "a value that is no name": (
        'name: d\nguests:\n  "{{ row.y }}":\n    for_each: r.csv\n',
        "lab.yaml:3: (r.csv:2) 'guests.{{ row.y }}' is no name: use up to 24",
    ),
    "a user that is none": (
        'name: d\nguests:\n  "{{ row.x }}":\n    for_each: r.csv\n    seed: {users: [{name: "{{ row.y }}"}]}\n',
        "lab.yaml:5: (r.csv:2) 'guests.{{ row.x }}.seed.users.0.name' is wrong: 'B B' is no account's name",
    ),
    "one name for two rows": (
        "name: d\nguests:\n  same:\n    for_each: r.csv\n",
        "lab.yaml:3: (r.csv:3) 'guests.same' gives the name 'same' a second time; put something of the row",
    ),
    "a counted name that is there": (
        "name: d\nguests:\n  a-1: {}\n  a:\n    count: 1\n",
        "lab.yaml:4: 'guests.a' gives the name 'a-1' a second time",
    ),
    "an expression that is none": (
        'name: d\nguests:\n  "{{ row. }}":\n    for_each: r.csv\n',
        "lab.yaml:3: (r.csv:2) 'guests.{{ row. }}' cannot be filled:",
    ),
    "a way out of the sandbox": (
        'name: d\nguests:\n  "{{ row.__class__.__mro__ }}":\n    for_each: r.csv\n',
        "__mro__ }}' cannot be filled: access to attribute '__class__' of the row is unsafe.",
    ),
    "braces in a name without a roster": (
        'name: d\nguests:\n  "{{ row.x }}": {}\n',
        "lab.yaml:3: 'guests.{{ row.x }}' is no name",
    ),
    "both ways at once": (
        "name: d\nguests:\n  a: {count: 2, for_each: r.csv}\n",
        "lab.yaml:3: 'guests.a' is wrong: it has 'count' and 'for_each': give one of them.",
    ),
    "a default that is wrong": (
        "name: d\ndefaults:\n  cpus: 0\nguests: {a: {}}\n",
        "lab.yaml:3: 'defaults.cpus' is wrong:",
    ),
    "a default that cannot be": (
        "name: d\ndefaults:\n  nesting: false\nguests:\n  a: {memory_mib: 4096, guests: {b: {}}}\n",
        "lab.yaml:5: 'guests.a' is wrong: it has guests, and 'nesting: false'",
    ),
    "an unknown key of defaults": (
        "name: d\ndefaults: {cpu: 1}\nguests: {a: {}}\n",
        "lab.yaml:2: 'defaults.cpu' is an unknown key. Did you mean 'cpus'?",
    ),
    "an unknown key of a file": (
        "name: d\nguests:\n  a: {seed: {files: [{pth: /x, content: x}]}}\n",
        "'guests.a.seed.files.0.pth' is an unknown key. Did you mean 'path'?",
    ),
    "a seed's mode as a number": (
        "name: d\nguests:\n  a: {seed: {files: [{path: /x, content: x, mode: 0644}]}}\n",
        "'guests.a.seed.files.0.mode' is wrong: it should be a text (it is 420)",
    ),
    "a file outside of the root": (
        "name: d\nguests:\n  a: {seed: {files: [{path: /x/../../y, content: x}]}}\n",
        "'guests.a.seed.files.0.path' is wrong: '/x/../../y' is no path",
    ),
    "a seed of the defaults, in the guest that has it": (
        "name: d\ndefaults:\n  seed:\n    users:\n    - name: Root\nguests:\n  a: {}\n",
        "lab.yaml:5: 'defaults.seed.users.0.name' is wrong: 'Root' is no account's name",
    ),
    "two words in one": (
        "name: d\nguests:\n  a:\n    kernel_args: [a b]\n",
        "lab.yaml:4: 'guests.a.kernel_args.0' is no word of a kernel's command line",
    ),
    "a label with a line break": (
        'name: d\nguests:\n  a:\n    labels: {x: "1\\n2"}\n',
        "lab.yaml:4: 'guests.a.labels.x' is no label",
    ),
    "a roster that is not there": (
        "name: d\nguests:\n  a:\n    for_each: none.csv\n",
        "lab.yaml:4: The roster 'none.csv' cannot be read: No such file or directory.",
    ),
    "a roster of another kind": (
        "name: d\nguests:\n  a:\n    for_each: lab.txt\n",
        "lab.yaml:4: The roster 'lab.txt' ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_said_with_file_line_key_and_row(case: str) -> None:
    text, expected = WRONG[case]
    message = refuse(text, r="x,y\na,B B\nc,d\n")
    assert expected in message
    assert not message.endswith("..")


def test_a_lab_that_grows_out_of_hand_is_refused() -> None:
    text = "name: d\nguests: {a: {count: 5000, memory_mib: 65536, guests: {b: {count: 200, memory_mib: 256}}}}\n"
    assert f"makes more than {MOST_EXPANDED} guests" in refuse(text)


def test_what_guests_are_given_does_not_count_as_guests() -> None:
    settings = "cpus: 1, memory_mib: 256, disk_gib: 2, labels: {a: b}, nesting: false, kernel_args: [quiet]"
    lab = parse(f"name: demo\nguests: {{a: {{count: 4000, {settings}, image: built, profile: kvm}}}}\n")
    assert len(lab.guests) == 4000


def test_a_lab_without_a_directory_has_no_rosters() -> None:
    with pytest.raises(LabFileError, match="needs a lab file that is in a directory"):
        parse_lab("name: d\nguests: {a: {for_each: r.csv}}\n", "text")


ROSTERS = {
    "a short row": ("r.csv", "a,b\n1\n", "r.csv:2: the row has 1 values for 2 columns."),
    "no row": ("r.csv", "a,b\n\n", "The roster 'r.csv' has no row."),
    "a column twice": ("r.csv", "a,a\n1,2\n", "r.csv:1: the column 'a' is there twice."),
    "a column that cannot be named": ("r.csv", "a b\n1\n", "r.csv:1: 'a b' is no name of a column"),
    "an open quote": ("r.csv", 'a\n"1\n', "this is not CSV:"),
    "bytes that are no text": ("r.csv", "a\n\udcff\n", "The roster 'r.csv' cannot be read:"),
    "no list": ("r.yaml", "a: 1\n", "r.yaml: a roster is a list of mappings."),
    "a row that is a word": ("r.yaml", "- a\n", "r.yaml:1: a row is a mapping"),
    "a list in a row": ("r.yaml", "- a: 1\n- a: [1]\n", "r.yaml:2: a row is a mapping"),
    "no YAML": ("r.yaml", "- {a\n", "r.yaml: this is not YAML:"),
    "nothing": ("r.yaml", "", "r.yaml: a roster is a list of mappings."),
    "too many rows": ("r.csv", "a\n" + "1\n" * 5001, "has 5001 rows, and at most 5000 are taken."),
}


@pytest.mark.parametrize("case", ROSTERS)
def test_a_wrong_roster_is_named_with_its_line_and_the_labs(case: str) -> None:
    name, content, expected = ROSTERS[case]
    Path(name).write_text(content, errors="surrogateescape")
    message = refuse(f'name: d\nguests:\n  "{{{{ row.a }}}}":\n    for_each: {name}\n')
    assert not message.endswith("..")
    assert message.startswith("lab.yaml:4: ")
    assert expected in message


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_are_separated_as_the_spreadsheet_did(separator: str) -> None:
    rows = [("login", "name"), ("ada", '"Lovelace, Ada; Countess"'), ("alan", "Turing")]
    Path("r.csv").write_text("\ufeff\r\n" + "".join(f"{separator.join(row)}\r\n" for row in rows))
    assert [row.values for row in read_roster(Path("r.csv"))] == [
        {"login": "ada", "name": "Lovelace, Ada; Countess"},
        {"login": "alan", "name": "Turing"},
    ]


def test_rosters_are_looked_for_beside_the_lab_file() -> None:
    Path("labs").mkdir()
    Path("labs/r.csv").write_text("\ufeffx\na\n")
    Path("labs/lab.yaml").write_text('name: d\nguests: {"{{ row.x }}": {for_each: r.csv}}\n')
    assert names(read_lab(Path("labs/lab.yaml"))) == ["a"]


TENANTS = """
name: isp
networks:
  "{{ row.tenant }}": {for_each: t.csv, dns: 9.9.9.9}
guests:
  "{{ row.tenant }}-hv": {for_each: t.csv, network: "{{ row.tenant }}"}
"""


def test_a_network_for_each_row_and_the_guest_that_is_on_it() -> None:
    lab = parse(TENANTS, t="tenant\nblue\ngreen\n")
    assert {name: it.dns for name, it in lab.networks.items()} == {"blue": "9.9.9.9", "green": "9.9.9.9"}
    assert {name: it.network for name, it in lab.guests.items()} == {"blue-hv": "blue", "green-hv": "green"}


def test_a_network_given_twice_by_rows_is_refused() -> None:
    said = refuse('name: d\nnetworks:\n  "x{{ 1 }}": {for_each: t.csv}\nguests: {a: {}}\n', t="a\n1\n2\n")
    assert said.startswith("lab.yaml:3: (t.csv:3) ")
    assert "gives the name 'x1' a second time" in said


def test_a_network_that_no_row_makes_is_refused() -> None:
    text = TENANTS.replace('network: "{{ row.tenant }}"', 'network: "{{ row.tenant }}-net"')
    assert "is on the network 'blue-net'; 'networks' has blue" in refuse(text, t="tenant\nblue\n")
