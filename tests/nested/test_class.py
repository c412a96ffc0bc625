"""A class on real guests: run something in every machine, hand out keys for one student's machines, make them anew.

One lab goes through all of it, as booting is what takes time: three students of a roster, each with a guest inside, as
the template has them, and a teacher's machine whose network is open: what a student's cannot reach, that one does.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
  "{{ row.login }}":
    for_each: class.csv
    forward: none
    memory_mib: 1024
    guests:
      "{{ row.login }}-vm": {memory_mib: 384, disk_gib: 4, labels: {case: inner}}
  teacher: {memory_mib: 512, disk_gib: 4}
"""
STUDENTS = ("ann", "bob", "carl")

LET_IT_BE_OVER = """
from datetime import timedelta
from nestctl.lab.lifetime import extend_lab, now_utc
extend_lab("class", timedelta(hours=-5), connect=None, now=now_utc())
"""

# Run in a guest: connect to ports of an address, all at once, and say what answers.
CONNECT = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def hear(port):
    try:
        with socket.create_connection((sys.argv[1], port), timeout=10) as connection:
            return connection.recv(4).decode()
    except OSError:
        return ""
ports = json.loads(sys.argv[2])
with ThreadPoolExecutor() as pool:
    print(json.dumps(dict(zip(ports, pool.map(hear, ports.values())))))
"""


@pytest.fixture
def class_(image: Image, state: Path) -> Iterator[Lab]:
    assert image.disk.exists()
    with Lab(directory=state.parent, name="class").removed_in_the_end() as lab:
        lab.write(LAB)
        (lab.directory / "class.csv").write_text("login\n" + "".join(f"{name}\n" for name in STUDENTS))
        yield lab


def test_a_class_is_run_handed_out_and_made_anew(class_: Lab) -> None:
    _run_fails_but_at_the_teachers(class_)
    _hand_out(class_)
    before = _boot_ids(class_)
    assert sorted(before) == ["ann", "bob", "bob-vm", "carl", "carl-vm"]
    _make_the_inner_guest_anew(class_)
    # What is gone is made, as by 'up'; and a lab that is up before a run is left up.
    ran = class_.nestctl("run", "lab.yaml", "--nodes", "teacher", "--json", "--", "hostname").expect(0).json
    assert [(it["name"], it["stdout"]) for it in ran["guests"]] == [("teacher", "teacher\n")]
    assert _boot_ids(class_) == before
    _nobody_elses_machine_is_reached(class_)
    _end(class_)


def _nobody_elses_machine_is_reached(lab: Lab) -> None:
    """From root's shell in a student's machine, and inside: others' SSH ports, and what this machine's loopback has."""
    guests = {it["name"]: it for it in lab.nestctl("status", "--json").expect(0).json["guests"]}
    with _listening() as port:
        ports = json.dumps({"loopback": port, **{name: guests[name]["ssh_port"] for name in ("bob", "carl")}})

        def hear(guest: str) -> dict[str, str]:
            # QEMU's user-mode network has its gateway at .2, and has the loopback of this machine there.
            gateway = guests[guest.removesuffix("-vm")]["address"].rpartition(".")[0] + ".2"
            said = lab.nestctl("exec", guest, "--", "python3", "-c", CONNECT, gateway, ports).expect(0)
            return dict(said.json)

        tried = ("teacher", "ann", "ann-vm")
        with ThreadPoolExecutor(len(tried)) as pool:
            heard = dict(zip(tried, pool.map(hear, tried), strict=True))
    nothing = {"loopback": "", "bob": "", "carl": ""}
    assert heard == {"teacher": {"loopback": "here", "bob": "SSH-", "carl": "SSH-"}, "ann": nothing, "ann-vm": nothing}


@contextmanager
def _listening() -> Iterator[int]:
    """Answer on a port of this machine's loopback."""

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"here")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            # Closing it would leave the thread waiting (accept(2)).
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _end(lab: Lab) -> None:
    """Its guests are told that the time is nearly over; then it is, and they are stopped."""
    (told,) = lab.nestctl("expire", "--warn", "5h", "--json").expect(0).json["labs"]
    assert (told["lab"], told["due"], told["trouble"]) == ("class", "warn", "")
    run(sys.executable, "-c", LET_IT_BE_OVER, environment={"NESTCTL_STATE": str(lab.state)}).expect(0)
    (stopped,) = lab.nestctl("expire", "--json").expect(0).json["labs"]
    assert (stopped["due"], stopped["trouble"]) == ("stop", "")
    assert lab.processes() == []
    assert lab.nestctl("expire", "--json").expect(0).json["labs"][0]["due"] == "nothing"


def _run_fails_but_at_the_teachers(lab: Lab) -> None:
    words = ("--events", "events", "run", "lab.yaml", "--keep-failed", "--nodes", "*", "--junit", "junit.xml")
    ran = lab.nestctl(*words, "--", "sh", "-c", "test $(hostname) = teacher", timeout_s=1800).expect(ExitCode.NO)
    assert "Kept: ann, bob, carl." in ran.stderr
    assert "nestctl ssh class/ann-vm" in ran.stderr
    students = [name for student in STUDENTS for name in (student, f"{student}-vm")]
    suite = ElementTree.parse(lab.directory / "junit.xml").getroot().find("testsuite")  # noqa: S314 - our own
    assert suite is not None
    cases = {case.get("name"): case.find("failure") is not None for case in suite.iter("testcase")}
    assert cases == {**dict.fromkeys(students, True), "teacher": False}
    events = [json.loads(line) for line in (lab.directory / "events").read_text().splitlines()]
    done = [(it["text"].split()[0], it["node"], it["level"]) for it in events if it["event"] == "done" and it["node"]]
    # Machines boot at once, and whose is there first is not said; what is inside one comes after it.
    assert ("Running", "teacher", 1) in done
    assert {(it["node"], it["error"]) for it in events if it["event"] == "failed" and it["node"]} == {
        (name, "It ended with exit code 1.") for name in students
    }
    done.remove(("Running", "teacher", 1))
    booted, (last,) = done[:-1], done[-1:]
    outer, inner = ([("Booting", f"{name}{end}", level) for name in STUDENTS] for end, level in (("", 1), ("-vm", 2)))
    assert sorted(booted) == sorted([*outer, *inner, ("Booting", "teacher", 1)])
    assert all(booted.index(around) < booted.index(within) for around, within in zip(outer, inner, strict=True))
    assert last == ("Removing", "teacher", 1)
    # What passed is gone, with its files; what failed is there to be looked at.
    assert sorted(line.split("guest=class-")[1].split(",")[0] for line in lab.processes()) == [*STUDENTS]
    assert list(lab.kept.glob("teacher.*")) == []
    said = lab.nestctl("exec", "--json", "class/*-vm", "--", "hostname").expect(0).json["guests"]
    assert [it["stdout"] for it in said] == [f"{name}-vm\n" for name in STUDENTS]


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


def _boot_ids(lab: Lab) -> dict[str, str]:
    """Of all students' machines that nothing is done to."""
    said = lab.nestctl("exec", "--json", "class/[abc]*", "--", "cat", "/proc/sys/kernel/random/boot_id").expect(0).json
    return {it["name"]: it["stdout"] for it in said["guests"] if it["name"] != "ann-vm"}
