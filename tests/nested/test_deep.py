"""Three levels for real: the lab of `nestctl init --template deep`. KVM runs the third inside KVM inside the first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from nestctl.agent.exits import FEWEST_EXITS
from nestctl.image.store import Image
from tests.nested.harness import Lab, give_one_cpu


@pytest.fixture
def deep(image: Image, state: Path) -> Iterator[Lab]:
    assert image.disk.exists()
    with Lab(directory=state.parent, name="deep").removed_in_the_end() as lab:
        lab.nestctl("init", "--template", "deep").expect(0)
        give_one_cpu(state.parent / "lab.yaml")
        yield lab


def test_a_guest_runs_under_kvm_at_the_third_level_and_is_measured(deep: Lab, tmp_path: Path) -> None:
    deep.nestctl("up", timeout_s=1800).expect(0)
    outer = deep.nestctl("status", "--json").expect(0).json["guests"][0]
    (middle,) = outer["guests"]
    (inner,) = middle["guests"]
    assert [(it["name"], it["level"], it["state"]) for it in (outer, middle, inner)] == [
        ("l1", 1, "running"),
        ("l2", 2, "running"),
        ("l3", 3, "running"),
    ]
    assert [(it["domain_type"], it["accelerator"]) for it in (middle, inner)] == [("kvm", "kvm")] * 2
    # By its own word, through both of the others, with OpenSSH; and what runs it is a process of l2's, not of l1's.
    assert deep.nestctl("ssh", "l3", "--", "systemd-detect-virt").expect(0).stdout == "kvm\n"
    running = "pgrep -fc 'qemu-system.* guest=deep-l3'"
    assert deep.nestctl("ssh", "l2", running).expect(0).stdout == "1\n"
    assert deep.nestctl("ssh", "l1", running).expect(1).stdout == "0\n"
    # No level's subnet is another's.
    assert len({it["address"].rpartition(".")[0] for it in (middle, inner)}) == 2
    assert "nothing to do" in deep.nestctl("plan").expect(0).stdout
    _expect_a_measured_l3(deep, tmp_path)


def _expect_a_measured_l3(deep: Lab, directory: Path) -> None:
    """Both families: its KVM counts the exits of a micro-guest inside it, and l2's those of itself."""
    words = ("--quick", "--rounds=1", "--workload=syscall", "--workload=hypercall_exit", "--output", str(directory))
    results = deep.nestctl("bench", *words, "--json").expect(0).json
    assert [(level["name"], level["above"]) for level in results["levels"]] == [
        ("L0", None),
        ("l1", "L0"),
        ("l2", "l1"),
        ("l3", "l2"),
    ]
    assert [level["is_emulated"] for level in results["levels"][1:]] == [results["levels"][1]["is_emulated"]] * 3
    assert [call["failure"] for call in results["calls"]] == [""] * 5
    first, again = sorted((it for it in results["calls"] if it["level"] == "l3"), key=lambda it: bool(it["is_control"]))
    assert (first["is_control"], again["is_control"]) == (False, True)
    for call in (first, again):
        syscall, hypercall = call["outcomes"]
        assert (syscall["not_measured"], hypercall["not_measured"]) == ("", "")
        assert len(syscall["samples"]) == len(hypercall["samples"]) == 2
        assert all(not it["void"] and it["exits"] >= it["operations"] >= FEWEST_EXITS for it in hypercall["samples"])
    assert first["outcomes"][0]["bracket"]["exits"] > 0
    figures = deep.nestctl("bench", "export", str(next(directory.glob("*.json")))).expect(0).stdout
    compared = {(row["workload"], row["to"]) for row in csv.DictReader(io.StringIO(figures)) if row["level"] == "l3"}
    assert {("syscall", "l2"), ("syscall", "L0"), ("hypercall_exit", "l2")} <= compared
