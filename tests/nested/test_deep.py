"""Three levels for real: the lab of `nestctl init --template deep`. KVM runs the third inside KVM inside the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nestctl.image.store import Image
from tests.nested.harness import Lab, give_one_cpu


@pytest.fixture
def deep(image: Image, state: Path) -> Iterator[Lab]:
    assert image.disk.exists()
    with Lab(directory=state.parent, name="deep").removed_in_the_end() as lab:
        lab.nestctl("init", "--template", "deep").expect(0)
        give_one_cpu(state.parent / "lab.yaml")
        yield lab


def test_a_guest_runs_under_kvm_at_the_third_level(deep: Lab) -> None:
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
