"""Lab files, right and wrong: what is wrong is said with its file, line, key and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nestctl.errors import ExitCode, LabFileError, UsageError
from nestctl.lab.parse import parse_lab, read_lab
from nestctl.model.lab import Lab
from nestctl.paths import resource

MINIMAL = "name: demo\nguests: {l1: {}}\n"

ALIASES = "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 10))

WRONG_FILES = {
    "unknown key in the lab, with a suggestion": (
        "name: demo\nguets: {l1: {}}\n",
        "lab.yaml:2: 'guets' is an unknown key. Did you mean 'guests'?",
    ),
    "unknown key in a guest, with a suggestion": (
        "name: demo\nguests:\n  l1:\n    cpus: 1\n    memory: 1024\n",
        "lab.yaml:5: 'guests.l1.memory' is an unknown key. Did you mean 'memory_mib'?",
    ),
    "unknown key that is like no other": (
        "name: demo\nguests:\n  l1:\n    colour: red\n",
        "lab.yaml:4: 'guests.l1.colour' is an unknown key. Known there: cpus, memory_mib, disk_gib, ",
    ),
    "unknown key two levels down": (
        "name: demo\nguests:\n  l1:\n    memory_mib: 2048\n    guests:\n      l2:\n        cpu: 1\n",
        "lab.yaml:7: 'guests.l1.guests.l2.cpu' is an unknown key. Did you mean 'cpus'?",
    ),
    "text for a number": (
        "name: demo\nguests:\n  l1:\n    cpus: two\n",
        "lab.yaml:4: 'guests.l1.cpus' is wrong: it should be a whole number (it is 'two').",
    ),
    "number in quotes": (
        'name: demo\nguests:\n  l1:\n    cpus: "2"\n',
        "lab.yaml:4: 'guests.l1.cpus' is wrong: it should be a whole number (it is '2').",
    ),
    "number for a name": ("name: 7\nguests: {l1: {}}\n", "lab.yaml:1: 'name' is wrong: it should be a text (it is 7)"),
    "no guest": ("name: demo\nguests: {}\n", "lab.yaml:2: 'guests' is wrong: it should not be empty (it is {})."),
    "too little": (
        "name: demo\nguests: {l1: {memory_mib: 1}}\n",
        "lab.yaml:2: 'guests.l1.memory_mib' is wrong: it should be at least 256 (it is 1).",
    ),
    "too much": (
        "name: demo\nguests: {l1: {cpus: 999}}\n",
        "lab.yaml:2: 'guests.l1.cpus' is wrong: it should be at most 255 (it is 999).",
    ),
    "list for guests": (
        "name: demo\nguests: [l1]\n",
        "lab.yaml:2: 'guests' is wrong: it should be a mapping of names to guests (it is ['l1']).",
    ),
    "nothing for a guest": (
        "name: demo\nguests:\n  l1:\n",
        "lab.yaml:3: 'guests.l1' is wrong: it should be a mapping of settings (it is None).",
    ),
    "missing name": ("guests: {l1: {}}\n", "lab.yaml:1: 'name' is missing."),
    "missing guests": ("name: demo\n", "lab.yaml:1: 'guests' is missing."),
    "no guests": ("name: demo\nguests: {}\n", "lab.yaml:2: 'guests' is wrong:"),
    "a key given twice": (
        "name: demo\nguests:\n  l1:\n    cpus: 1\n    cpus: 2\n",
        "lab.yaml:5: 'guests.l1.cpus' is given a second time (first in line 4).",
    ),
    "a guest given twice": (
        "name: demo\nguests:\n  l1: {}\n  l1: {}\n",
        "lab.yaml:4: 'guests.l1' is given a second time (first in line 3).",
    ),
    "a network that is not there": (
        "name: demo\nguests:\n  a: {network: blue}\n",
        "lab.yaml:1: 'the lab' is wrong: the guest 'a' is on the network 'blue'; 'networks' has none.",
    ),
    "a network for a guest inside": (
        "name: demo\nnetworks: {n: {}}\nguests:\n  a:\n    memory_mib: 2048\n    guests:\n      b: {network: n}\n",
        "lab.yaml:4: 'guests.a' is wrong: 'b' inside it has a 'network'",
    ),
    "a name server that is none": (
        "name: demo\nnetworks:\n  n:\n    dns: one.example\nguests: {a: {}}\n",
        "lab.yaml:4: 'networks.n.dns' is wrong: 'one.example' is no IPv4 address.",
    ),
    "a subnet that is none": (
        "name: demo\nnetworks:\n  n:\n    allow: [10.0.0.1/8]\nguests: {a: {}}\n",
        "'10.0.0.1/8' is no IPv4 address or subnet",
    ),
    "an unknown key of a network": (
        "name: demo\nnetworks:\n  n: {forwards: nat}\nguests: {a: {}}\n",
        "'networks.n.forwards' is an unknown key. Did you mean 'forward'?",
    ),
    "an unknown limit": (
        "name: demo\nguests:\n  a:\n    quota: {cpu_share: 5}\n",
        "'guests.a.quota.cpu_share' is an unknown key. Did you mean 'cpu_shares'?",
    ),
    "a limit of network throughput without a network": (
        "name: demo\nguests:\n  a:\n    quota: {network_in_mbit_s: 5}\n",
        "QEMU's user-mode network knows none: give it a 'network'.",
    ),
    "a memory limit that ends the guest": (
        "name: demo\nguests:\n  a:\n    quota: {memory_limit_mib: 1100}\n",
        "lab.yaml:3: 'guests.a' is wrong: its quota's memory_limit_mib of 1100 would end it",
    ),
    "a CPU feature that is a matter of nesting": (
        "name: demo\nguests:\n  a:\n    cpu_features_off: [svm]\n",
        "'guests.a.cpu_features_off.0' is wrong: 'svm' is what 'nesting' gives and takes away.",
    ),
    "a CPU model that is none": (
        "name: demo\nguests:\n  a:\n    cpu_model: <x/>\n",
        "lab.yaml:4: 'guests.a.cpu_model' is no CPU model's name",
    ),
    "a risk that is none": (
        "name: demo\naccepted_risks: [everything]\nguests: {a: {}}\n",
        "lab.yaml:2: 'accepted_risks.0' is no finding about safety, such as safety.smt",
    ),
    "no YAML": ("name: demo\nguests: {l1: {}\n", "this is not YAML:"),
    "a tab as indentation": ("name: demo\nguests:\n\tl1: {}\n", "lab.yaml:3: this is not YAML:"),
    "a control character": ("name: \x07\n", "this is not YAML:"),
    "two documents": (MINIMAL + "---\n" + MINIMAL, "this is not YAML:"),
    "nothing": ("", "lab.yaml: the file is empty."),
    "only a comment": ("# nothing yet\n", "lab.yaml: the file is empty."),
    "null": ("null\n", "lab.yaml:1: 'the lab' is wrong:"),
    "a list on top": (
        "- demo\n",
        "lab.yaml:1: 'the lab' is wrong: it should be a mapping of settings (it is ['demo']).",
    ),
    "a list of labels": (
        "name: demo\nguests: {a: {labels: [x]}}\n",
        "lab.yaml:2: 'guests.a.labels' is wrong: it should be a mapping of names to texts (it is ['x']).",
    ),
    "a word for a list": (
        "name: demo\nguests: {a: {kernel_args: quiet}}\n",
        "lab.yaml:2: 'guests.a.kernel_args' is wrong: it should be a list (it is 'quiet').",
    ),
    "a word for a truth": (
        "name: demo\nguests: {a: {nesting: maybe}}\n",
        "lab.yaml:2: 'guests.a.nesting' is wrong: it should be true or false (it is 'maybe').",
    ),
    "a word on top": ("demo\n", "lab.yaml:1: 'the lab' is wrong:"),
    "a number as a guest's name": ("name: demo\nguests:\n  1: {}\n", "lab.yaml:3: 'guests.1' is wrong:"),
    "a number as a key": ("name: demo\nguests: {l1: {}}\n5: x\n", "lab.yaml:3: '5' "),
    "a list as a key": ("name: demo\nguests: {l1: {}}\n[1, 2]: x\n", "lab.yaml:3: "),
    "upper case": ("name: Demo\nguests: {l1: {}}\n", "lab.yaml:1: 'name' is no name: use up to 24 lower-case"),
    "an underscore": ("name: demo\nguests:\n  l_1: {}\n", "lab.yaml:3: 'guests.l_1' is no name"),
    "a digit first": ("name: demo\nguests:\n  1l: {}\n", "lab.yaml:3: 'guests.1l' is no name"),
    "a dash last": ("name: demo-\nguests: {l1: {}}\n", "lab.yaml:1: 'name' is no name"),
    "a path as a name": ("name: ../x\nguests: {l1: {}}\n", "lab.yaml:1: 'name' is no name"),
    "a line break in a name": ('name: "a\\n"\nguests: {l1: {}}\n', "lab.yaml:1: 'name' is no name"),
    "25 characters": (f"name: {'a' * 25}\nguests: {{l1: {{}}}}\n", "lab.yaml:1: 'name' is no name"),
    "no CPU": ("name: demo\nguests:\n  l1: {cpus: 0}\n", "lab.yaml:3: 'guests.l1.cpus' is wrong:"),
    "less than no CPU": ("name: demo\nguests:\n  l1: {cpus: -1}\n", "lab.yaml:3: 'guests.l1.cpus' is wrong:"),
    "half a CPU": ("name: demo\nguests:\n  l1: {cpus: 1.5}\n", "lab.yaml:3: 'guests.l1.cpus' is wrong:"),
    "a truth for a number": ("name: demo\nguests:\n  l1: {cpus: yes}\n", "lab.yaml:3: 'guests.l1.cpus' is wrong:"),
    "a huge number": (
        f"name: demo\nguests:\n  l1: {{memory_mib: 1{'0' * 90}}}\n",
        "lab.yaml:3: 'guests.l1.memory_mib' is wrong:",
    ),
    "not a number": ("name: demo\nguests:\n  l1: {disk_gib: .nan}\n", "lab.yaml:3: 'guests.l1.disk_gib' is wrong:"),
    "guests that are larger than what they are in": (
        "name: demo\nguests:\n  l1:\n    memory_mib: 1024\n    guests:\n      l2: {memory_mib: 1024}\n",
        "lab.yaml:3: 'guests.l1' is wrong: its guests need 1024 MiB and it needs 512 MiB itself",
    ),
    "guests in a guest that is not to nest": (
        "name: demo\nguests:\n  l1:\n    memory_mib: 2048\n    nesting: no\n    guests: {l2: {memory_mib: 512}}\n",
        "lab.yaml:3: 'guests.l1' is wrong: it has guests, and 'nesting: false' keeps it from running any.",
    ),
    "one name on two levels": (
        "name: demo\nguests:\n  l1:\n    memory_mib: 2048\n    guests:\n      l1: {memory_mib: 512}\n",
        "two guests are called 'l1'; a guest's name is unique in the whole lab",
    ),
    "a tag that would run code": ("name: !!python/object/apply:os.getcwd []\nguests: {l1: {}}\n", "this is not YAML:"),
    "a file for a value": ("name: !include /etc/hostname\nguests: {l1: {}}\n", "this is not YAML:"),
    "a date for a name": ("name: 2020-02-30\nguests: {l1: {}}\n", "a value in it cannot be read"),
    "a value that is not what its tag says": ("name: !!bool x\nguests: {l1: {}}\n", "a value in it cannot be read"),
    "a number of five thousand digits": (
        f"name: demo\nguests: {{l1: {{cpus: {'1' * 5000}}}}}\n",
        "a value in it cannot be read",
    ),
    "an anchor that contains itself": ("name: demo\nguests: &x\n  l1: *x\n", "nested too deeply"),
    "merge keys": ("name: demo\nguests:\n  l1: {<<: {colour: red}}\n", "colour"),
    "a bomb of aliases": (f"x0: &x0 [lol]\n{ALIASES}\n", "more than 100000 keys"),
    "a thousand levels": ("name: demo\nguests: " + "{l1: {guests: " * 1000 + "{}" + "}}" * 1000, "nested too deeply"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_named_with_its_line_and_key(case: str) -> None:
    text, expected = WRONG_FILES[case]
    with pytest.raises(LabFileError) as raised:
        parse_lab(text, "lab.yaml")
    assert expected in raised.value.message
    assert raised.value.message.startswith("lab.yaml")
    assert raised.value.exit_code == ExitCode.USAGE


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(LabFileError) as raised:
        parse_lab("name: Demo\nguests:\n  l1:\n    cpus: 0\n    colour: red\n", "lab.yaml")
    assert [line.split(":")[1] for line in raised.value.message.splitlines()] == ["1", "4", "5"]


def test_a_long_value_is_shown_short() -> None:
    with pytest.raises(LabFileError) as raised:
        parse_lab(f"name: {'A' * 5000}\nguests: {{l1: {{}}}}\n", "lab.yaml")
    assert len(raised.value.message) < 300


def test_a_minimal_file_gets_defaults() -> None:
    guest = parse_lab(MINIMAL, "lab.yaml").guests["l1"]
    assert (guest.cpus, guest.memory_mib, guest.disk_gib, guest.guests) == (1, 1024, 8, {})


def test_the_file_that_init_writes_is_right() -> None:
    lab = parse_lab(resource("templates", "labs/single.yaml").read_text(), "lab.yaml")
    assert lab.name == "demo"
    assert list(lab.guests["l1"].guests) == ["l2"]


def test_anchors_that_are_used_plainly_are_fine() -> None:
    lab = parse_lab("name: demo\nguests: {a: &small {cpus: 3}, b: *small}\n", "lab.yaml")
    assert lab.guests["b"].cpus == 3


def test_a_lab_survives_being_dumped_and_parsed() -> None:
    lab = parse_lab(resource("templates", "labs/single.yaml").read_text(), "lab.yaml")
    assert parse_lab(yaml.safe_dump(lab.model_dump(mode="json")), "copy") == lab


def test_a_missing_file_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no lab file") as raised:
        read_lab(tmp_path / "lab.yaml")
    assert "nestctl init" in raised.value.hint


def test_a_directory_is_no_lab_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: Is a directory\.$"):
        read_lab(tmp_path)


def test_bytes_that_are_no_text_are_no_lab_file(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UsageError, match="cannot be read"):
        read_lab(path)


def test_a_lab_cannot_be_changed() -> None:
    lab = parse_lab(MINIMAL, "lab.yaml")
    with pytest.raises(ValueError, match="frozen"):
        lab.name = "other"
    assert isinstance(lab, Lab)
