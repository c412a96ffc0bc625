"""A class on real guests: run something in every machine, hand out keys for one student's machines, make them anew.

One lab goes through all of it, as booting is what takes time: ann has a guest inside her machine, bob has none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nestctl.errors import ExitCode
from nestctl.image.store import Image
from tests.nested.harness import Completed, Lab, run

LAB = """
name: class
ttl: 4h
guests:
  ann:
    memory_mib: 1152
    guests:
      ann-vm: {memory_mib: 512, disk_gib: 4, labels: {case: inner}}
  bob: {memory_mib: 512, disk_gib: 4}
"""

LET_IT_BE_OVER = """
from datetime import timedelta
from nestctl.lab.lifetime import extend_lab, now_utc
extend_lab("class", timedelta(hours=-5), connect=None, now=now_utc())
"""


@pytest.fixture
def class_(image: Image, state: Path) -> Iterator[Lab]:
    assert image.disk.exists()
    with Lab(directory=state.parent, name="class").removed_in_the_end() as lab:
        lab.write(LAB)
        yield lab


def test_a_class_is_run_handed_out_and_made_anew(class_: Lab) -> None:
    _run_fails_where_bob_is_not(class_)
    _hand_out(class_)
    before = _boot_id(class_, "ann")
    _make_the_inner_guest_anew(class_)
    assert _boot_id(class_, "ann") == before
    # What is gone is made, as by 'up'; and a lab that is up before a run is left up.
    ran = class_.nestctl("run", "lab.yaml", "--nodes", "bob", "--json", "--", "hostname").expect(0).json
    assert [(it["name"], it["stdout"]) for it in ran["guests"]] == [("bob", "bob\n")]
    assert _boot_id(class_, "ann") == before
    _end(class_)


def _end(lab: Lab) -> None:
    """Its guests are told that the time is nearly over; then it is, and they are stopped."""
    (told,) = lab.nestctl("expire", "--warn", "5h", "--json").expect(0).json["labs"]
    assert (told["lab"], told["due"], told["trouble"]) == ("class", "warn", "")
    run(sys.executable, "-c", LET_IT_BE_OVER, environment={"NESTCTL_STATE": str(lab.state)}).expect(0)
    (stopped,) = lab.nestctl("expire", "--json").expect(0).json["labs"]
    assert (stopped["due"], stopped["trouble"]) == ("stop", "")
    assert lab.processes() == []
    assert lab.nestctl("expire", "--json").expect(0).json["labs"][0]["due"] == "nothing"


def _run_fails_where_bob_is_not(lab: Lab) -> None:
    words = ("--events", "events", "run", "lab.yaml", "--keep-failed", "--nodes", "*", "--junit", "junit.xml")
    ran = lab.nestctl(*words, "--", "sh", "-c", "test $(hostname) = bob", timeout_s=1800).expect(ExitCode.NO)
    assert "Kept: ann." in ran.stderr
    assert "nestctl ssh class/ann-vm" in ran.stderr
    suite = ElementTree.parse(lab.directory / "junit.xml").getroot().find("testsuite")  # noqa: S314 - our own
    assert suite is not None
    cases = {case.get("name"): case.find("failure") is not None for case in suite.iter("testcase")}
    assert cases == {"ann": True, "ann-vm": True, "bob": False}
    events = [json.loads(line) for line in (lab.directory / "events").read_text().splitlines()]
    done = [(it["text"].split()[0], it["node"], it["level"]) for it in events if it["event"] == "done" and it["node"]]
    # Students boot at once, and whose machine is there first is not said; what is inside one comes after it.
    assert ("Running", "bob", 1) in done
    assert {(it["node"], it["error"]) for it in events if it["event"] == "failed" and it["node"]} == {
        (name, "It ended with exit code 1.") for name in ("ann", "ann-vm")
    }
    done.remove(("Running", "bob", 1))
    booted, (last,) = done[:-1], done[-1:]
    assert sorted(booted) == [("Booting", "ann", 1), ("Booting", "ann-vm", 2), ("Booting", "bob", 1)]
    assert booted.index(("Booting", "ann", 1)) < booted.index(("Booting", "ann-vm", 2))
    assert last == ("Removing", "bob", 1)
    # What passed is gone, with its files; what failed is there to be looked at.
    assert [line.split("guest=class-")[1].split(",")[0] for line in lab.processes()] == ["ann"]
    assert list(lab.kept.glob("bob.*")) == []
    assert lab.nestctl("exec", "ann-vm", "--", "hostname").expect(0).stdout == "ann-vm\n"


def _hand_out(lab: Lab) -> None:
    lab.nestctl("bundle", "lab.yaml", "--output", "out").expect(0)
    assert _ssh(lab, "ann", "ann-vm", "hostname").expect(0).stdout == "ann-vm\n"
    # With everything of ann's but the key.
    (lab.directory / "out/ann/key").rename(lab.directory / "out/ann/kept")
    (lab.directory / "out/ann/key").write_bytes((lab.directory / "out/bob/key").read_bytes())
    (lab.directory / "out/ann/key").chmod(0o600)
    assert "Permission denied" in _ssh(lab, "ann", "ann", "hostname").expect(255).stderr
    (lab.directory / "out/ann/kept").rename(lab.directory / "out/ann/key")


def _make_the_inner_guest_anew(lab: Lab) -> None:
    lab.nestctl("exec", "ann-vm", "--", "touch", "/root/mine").expect(0)
    before = _boot_id(lab, "ann-vm")
    lab.nestctl("reset", "class/ann-vm", timeout_s=1200).expect(0)
    assert _boot_id(lab, "ann-vm") != before
    lab.nestctl("exec", "ann-vm", "--", "test", "-e", "/root/mine").expect(1)
    # What was handed out stays right: the student's key, and the host key it is told by.
    assert _ssh(lab, "ann", "ann-vm", "hostname").expect(0).stdout == "ann-vm\n"


def _ssh(lab: Lab, student: str, *words: str) -> Completed:
    return run("ssh", "-F", "ssh_config", "-o", "BatchMode=yes", *words, cwd=lab.directory / "out" / student)


def _boot_id(lab: Lab, guest: str) -> str:
    return lab.nestctl("exec", guest, "--", "cat", "/proc/sys/kernel/random/boot_id").expect(0).stdout
