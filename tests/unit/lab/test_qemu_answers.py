"""What libvirt in a guest has learnt is kept once, and given to guests of the same kind only."""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nestctl.adapters.shell import Completed
from nestctl.deadline import Deadline
from nestctl.lab.qemu_answers import GUEST_FILE, find_answers, keep_answers
from nestctl.lab.seed import render_seed
from nestctl.model.seed import Seed, User
from tests.builders import lab_of_depth, plan_of_depth, recognizable_keys


@dataclass
class Guest:
    """A guest whose libvirt has answers, or has not been asked anything yet."""

    answers: bytes
    where: str = "a guest"
    commands: list[Sequence[str]] = field(default_factory=list)

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        assert not stdin
        assert not deadline.is_over
        self.commands.append(command)
        exit_code = 0 if self.answers else 1
        return Completed(command=tuple(command), where=self.where, exit_code=exit_code, stdout=self.answers, stderr=b"")


def soon() -> Deadline:
    return Deadline.after(20, "Keeping answers")


def test_what_one_guest_was_told_the_next_one_of_its_kind_knows() -> None:
    plan = plan_of_depth(2)
    assert find_answers(plan) == b""
    keep_answers(plan, Guest(answers=b""), soon())
    assert find_answers(plan) == b""
    keep_answers(plan, Guest(answers=b"<qemuCaps/>"), soon())
    assert find_answers(replace(plan, name="other", lab="another")) == b"<qemuCaps/>"


def test_guests_with_another_cpu_kernel_or_image_are_told_nothing() -> None:
    plan = plan_of_depth(3)
    keep_answers(plan, Guest(answers=b"<qemuCaps/>"), soon())
    others = (
        replace(plan, image="another"),
        replace(plan, kernel_args=("nokaslr",)),
        replace(plan, cpu_features_off=("npt",)),
        replace(plan, is_hypervisor=False),
        plan.guests[0],
    )
    assert [find_answers(it) for it in others] == [b""] * len(others)


def test_no_guest_is_asked_for_what_is_known() -> None:
    plan, first, second = plan_of_depth(2), Guest(answers=b"<qemuCaps/>"), Guest(answers=b"other")
    for guest in (first, second):
        keep_answers(plan, guest, soon())
    assert (len(first.commands), len(second.commands)) == (1, 0)
    assert find_answers(plan) == b"<qemuCaps/>"


def test_a_guest_that_others_may_have_been_in_is_not_believed() -> None:
    plan, guest = plan_of_depth(2), Guest(answers=b"<qemuCaps/>")
    for contents in (Seed(users=(User(name="ada"),)), Seed(commands=("true",))):
        keep_answers(replace(plan, contents=contents), guest, soon())
    assert guest.commands == []
    assert find_answers(plan) == b""


def test_the_seed_puts_them_where_libvirt_looks() -> None:
    keys = recognizable_keys(lab_of_depth(2).guests)
    with tarfile.open(fileobj=io.BytesIO(render_seed(plan_of_depth(2), keys, b"<qemuCaps/>"))) as archive:
        (member,) = (it for it in archive if it.name == GUEST_FILE)
        assert member.mode == 0o600
    assert GUEST_FILE.endswith("/926803a9278e445ec919c2b6cbd8c1c449c75b26dcb1686b774314180376c725.xml")
