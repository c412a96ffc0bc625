from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed
from nestctl.deadline import Deadline
from nestctl.errors import CommandError, GuestError
from nestctl.lab.verify import Truth, expect_accelerated, expect_hypervisor, parse_truth, read_truth

GOOD = Truth(signature="kvm", kvm_module="kvm_amd", is_nested_enabled=True, has_kvm_device=True)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A shell that gives one answer to everything."""

    stdout: bytes
    exit_code: int = 0
    where: str = "a fake"

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        return Completed(
            command=tuple(command), where=self.where, exit_code=self.exit_code, stdout=self.stdout, stderr=b""
        )


def soon() -> Deadline:
    return Deadline.after(20, "Looking")


def test_a_guest_that_can_run_guests_is_understood() -> None:
    assert parse_truth("signature=kvm\nmodule=kvm_amd\nnested=1\ndevice=yes\n") == GOOD


@pytest.mark.parametrize(("written", "is_enabled"), [("Y", True), ("1", True), ("N", False), ("0", False), ("", False)])
def test_both_forms_of_a_modules_truth_are_read(written: str, is_enabled: bool) -> None:
    assert parse_truth(f"module=kvm_intel\nnested={written}").is_nested_enabled is is_enabled


@pytest.mark.parametrize("text", ["", "welcome", "=", "a=b=c"])
def test_what_is_not_said_is_not_there(text: str) -> None:
    expected = Truth(signature="", kvm_module="", is_nested_enabled=False, has_kvm_device=False)
    assert parse_truth(text) == expected


def test_this_machine_can_be_asked() -> None:
    """What it says depends on the machine; that the script runs in a plain shell does not."""
    assert read_truth(LocalShell(), soon()).signature is not None


def test_a_guest_that_does_not_answer_is_an_error() -> None:
    assert read_truth(Answers(stdout=b"signature=kvm"), soon()).signature == "kvm"
    with pytest.raises(CommandError, match="exit code 1"):
        read_truth(Answers(stdout=b"", exit_code=1), soon())


def test_a_guest_under_kvm_is_accepted() -> None:
    expect_accelerated("l2", "kvm", GOOD)
    expect_hypervisor("l1", GOOD)


def test_a_domain_that_is_emulated_is_refused() -> None:
    with pytest.raises(GuestError, match="'l2' would be emulated: its domain is of type 'qemu'"):
        expect_accelerated("l2", "qemu", GOOD)


@pytest.mark.parametrize("signature", ["qemu", "none", ""])
def test_a_cpu_that_shows_no_kvm_is_refused(signature: str) -> None:
    truth = Truth(signature=signature, kvm_module="", is_nested_enabled=False, has_kvm_device=False)
    with pytest.raises(GuestError, match=f"its CPU shows '{signature}'"):
        expect_accelerated("l2", "kvm", truth)


@pytest.mark.parametrize(
    ("module", "has_device", "seen"),
    [("", True, "module absent, /dev/kvm there"), ("kvm_intel", False, "module kvm_intel, /dev/kvm absent")],
)
def test_a_guest_without_kvm_of_its_own_is_no_hypervisor(module: str, has_device: bool, seen: str) -> None:
    truth = Truth(signature="kvm", kvm_module=module, is_nested_enabled=False, has_kvm_device=has_device)
    with pytest.raises(GuestError, match=seen) as raised:
        expect_hypervisor("l1", truth)
    assert "silently be emulated" in raised.value.message
    assert "nestctl check" in raised.value.hint
