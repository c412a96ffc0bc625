from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import paramiko
import pytest

from nestctl.errors import FailedError
from nestctl.lab.keys import ensure_keys, ensure_lab_keys, read_keys
from tests.builders import class_of


def test_keys_are_made_for_every_guest_and_closed_to_others(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path / "keys.json", ["l1", "l2"])
    assert set(keys.hosts) == {"l1", "l2"}
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert len({keys.client.public, *(pair.public for pair in keys.hosts.values())}) == 3


def test_a_private_key_belongs_to_its_public_key(tmp_path: Path) -> None:
    pair = ensure_keys(tmp_path / "keys.json", ["l1"]).hosts["l1"]
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))
    assert f"{key.get_name()} {key.get_base64()}" == pair.public


def test_keys_stay_the_same(tmp_path: Path) -> None:
    first = ensure_keys(tmp_path / "keys.json", ["l1"])
    before = (tmp_path / "keys.json").stat()
    again = ensure_keys(tmp_path / "keys.json", ["l1"])
    assert again.client.private == first.client.private
    assert again.hosts["l1"].private == first.hosts["l1"].private
    assert (tmp_path / "keys.json").stat().st_ino == before.st_ino


def test_a_new_guest_gets_a_key_and_the_others_keep_theirs(tmp_path: Path) -> None:
    first = ensure_keys(tmp_path / "keys.json", ["l1"])
    more = ensure_keys(tmp_path / "keys.json", ["l1", "l2"])
    assert more.hosts["l1"].private == first.hosts["l1"].private
    assert more.hosts["l2"].private == read_keys(tmp_path / "keys.json").hosts["l2"].private


def test_no_private_key_is_in_a_repr(tmp_path: Path) -> None:
    keys = ensure_keys(tmp_path / "keys.json", ["l1"])
    for shown in (repr(keys), repr(keys.client), str(keys.hosts), f"{keys.client!s}"):
        assert "PRIVATE KEY" not in shown


def test_a_students_key_opens_the_guests_of_that_student_and_the_labs_opens_all(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ensure_lab_keys(path, class_of("ann", "bob"))
    keys = read_keys(path)
    assert keys.clients_of("ann") == keys.clients_of("ann-vm") == (keys.client, keys.students["ann"])
    assert keys.clients_of("bob-vm") == (keys.client, keys.students["bob"])
    assert len({keys.client.public, keys.students["ann"].public, keys.students["bob"].public}) == 3
    more = ensure_lab_keys(path, class_of("ann", "bob", "eve"))
    assert more.students["ann"] == keys.students["ann"]
    assert more.clients_of("eve-vm") == (keys.client, more.students["eve"])


def test_keys_of_an_older_nestctl_have_no_students(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ensure_keys(path, ["l1"])
    document = json.loads(path.read_text())
    path.write_text(json.dumps({name: document[name] for name in ("client", "hosts")}))
    keys = read_keys(path)
    assert keys.clients_of("l1") == (keys.client,)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"client": {}, "hosts": {}}', '{"client": 1, "hosts": {}}', "[" * 20, "\x00"],
)
def test_a_damaged_file_is_said_with_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(FailedError, match="cannot be read") as raised:
        read_keys(path)
    assert "nestctl down" in raised.value.hint
    with pytest.raises(FailedError, match="cannot be read"):
        ensure_keys(path, ["l1"])
    assert path.read_text() == content


def test_hosts_that_are_no_table_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"client": {"private": "a", "public": "b"}, "hosts": []}')
    with pytest.raises(FailedError, match="cannot be read"):
        read_keys(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FailedError, match=r"keys\.json"):
        read_keys(tmp_path / "keys.json")
