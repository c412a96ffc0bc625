"""Files of /sys and modules on a machine: what is read there, and that it is put back."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nestctl.adapters.process import LocalShell
from nestctl.adapters.shell import Completed
from nestctl.bench.tune.machines import LeftChangedError, Seen, changed_machine, expect_seen, look_at
from nestctl.bench.tune.settings import Proof, Setting, read_settings
from nestctl.bench.tune.trials import is_same
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, GuestError
from tests.nested.harness import wait_until

SETTINGS = {setting.name: setting for setting in read_settings()}


@dataclass
class ModuleShell:
    """A machine with kvm_amd: loading it takes what modprobe.d says, and what is given over that."""

    options: dict[str, str]
    values: dict[str, str]
    ignored: tuple[str, ...] = ()
    where: str = "l1"
    commands: list[str] = field(default_factory=list)

    def run(self, command: Sequence[str], *, deadline: Deadline, stdin: bytes = b"") -> Completed:
        deadline.check()
        text = ""
        if "modprobe" in command[2]:
            given = dict(word.split("=") for word in command[5:])
            self.commands.append(shlex.join(command[4:]))
            self.values = {**self.options, **{k: v for k, v in given.items() if k not in self.ignored}}
        else:
            text = "\n".join(f"{name}={value}" for name, value in self.values.items())
        return Completed(command=tuple(command), where=self.where, exit_code=0, stdout=text.encode(), stderr=b"")


OPTIONS = {"npt": "Y", "nested": "0", "vls": "1"}


def test_a_module_is_loaded_with_one_parameter_changed_and_with_what_it_had_again() -> None:
    shell = ModuleShell(options=OPTIONS, values={**OPTIONS, "nested": "1"})
    with changed_machine(shell, SETTINGS["npt-off"]):
        assert shell.values == {"npt": "N", "nested": "1", "vls": "1"}
    assert shell.values == {"npt": "Y", "nested": "1", "vls": "1"}
    assert shell.commands == ["kvm_amd", "kvm_amd npt=N nested=1", "kvm_amd", "kvm_amd nested=1"]


def test_it_is_put_back_when_what_is_done_meanwhile_fails() -> None:
    shell = ModuleShell(options=OPTIONS, values=dict(OPTIONS))
    with pytest.raises(KeyboardInterrupt), changed_machine(shell, SETTINGS["npt-off"]):
        raise KeyboardInterrupt
    assert shell.values == OPTIONS


def test_a_parameter_that_does_not_take_the_value_is_an_error() -> None:
    shell = ModuleShell(options=OPTIONS, values=dict(OPTIONS), ignored=("npt",))
    with (
        pytest.raises(FailedError, match="its 'npt' is not as it was to be"),
        changed_machine(shell, SETTINGS["npt-off"]),
    ):
        pytest.fail("it is not in effect")
    assert shell.values == OPTIONS


def test_what_cannot_be_put_back_is_said() -> None:
    shell = ModuleShell(options=OPTIONS, values={**OPTIONS, "nested": "1"})
    with (
        pytest.raises(LeftChangedError, match=r"kvm_amd/parameters/npt' on l1 could not be put back"),
        changed_machine(shell, SETTINGS["npt-off"]),
    ):
        shell.ignored = ("nested",)


def test_this_machine_is_read_for_real() -> None:
    """The commands are the shell's own, and so are tried in one."""
    seen = look_at(LocalShell(), read_settings())
    assert seen.cpus
    assert seen.free_huge_pages_mib >= 0
    assert all("[" not in value for value in seen.values.values())


def test_what_a_machine_says() -> None:
    text = (
        "/sys/devices/system/cpu/online 0-2,5\n/sys/kernel/mm/transparent_hugepage/enabled always [madvise] never\n"
        "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages 8\nflags\t\t: fpu svm npt"
    )
    seen = Seen(text)
    assert seen.cpus == (0, 1, 2, 5)
    assert seen.values["/sys/kernel/mm/transparent_hugepage/enabled"] == "madvise"
    assert seen.free_huge_pages_mib == 16
    assert {"svm", "npt"} < seen.flags


@pytest.mark.parametrize(("there", "wanted"), [("Y", "1"), ("0", "N"), ("always", "always")])
def test_a_kernels_booleans_are_the_same_in_both_forms(there: str, wanted: str) -> None:
    assert is_same(there, wanted)
    assert not is_same(there, "2")


def test_a_proof_is_looked_for_where_it_is_to_be_seen() -> None:
    local = LocalShell()
    flags = Proof.model_validate({"in": "cpu", "like": r"\bfpu\b"})
    expect_seen(flags, host=local, inside=local, domain="none", cpu="")
    with pytest.raises(GuestError, match="is still to be seen"):
        expect_seen(flags.model_copy(update={"absent": True}), host=local, inside=local, domain="none", cpu="")
    with pytest.raises(GuestError, match="is not to be seen"):
        expect_seen(_proof("cache-none"), host=local, inside=local, domain="no-such-guest", cpu="")
    with pytest.raises(GuestError, match="is not to be seen"):
        expect_seen(_proof("pins"), host=local, inside=local, domain="no-such-guest", cpu="1")


def _proof(name: str) -> Proof:
    setting: Setting = SETTINGS[name]
    assert setting.proof
    return setting.proof


def test_a_file_is_written_and_put_back_for_real(tmp_path: Path) -> None:
    """A file that takes what is written stands for one of /sys."""
    path = tmp_path / "halt_poll_ns"
    path.write_text("200000\n")
    setting = SETTINGS["halt-poll-off"]
    assert setting.file
    setting = setting.model_copy(update={"file": setting.file.model_copy(update={"path": str(path)})})
    with changed_machine(LocalShell(), setting):
        assert path.read_text() == "0"
    assert path.read_text() == "200000"


def test_threads_of_a_qemu_are_seen_with_their_cpus() -> None:
    """A process with QEMU's command line stands for it; its one thread may run where this test may."""
    words = "/usr/bin/qemu-system-x86_64 -name guest=demo-seen,debug-threads=on"
    with subprocess.Popen(("bash", "-c", f'exec -a "{words}" sleep 60')) as process:
        try:
            wait_until(lambda: Path(f"/proc/{process.pid}/cmdline").read_text().startswith(words), timeout_s=30)
            local = LocalShell()
            proof = Proof.model_validate({"in": "threads", "like": rf"^{process.pid} {{cpu}} sleep$"})
            (cpus,) = re.findall(r"^Cpus_allowed_list:\s*(\S+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
            expect_seen(proof, host=local, inside=local, domain="demo-seen", cpu=cpus)
            with pytest.raises(GuestError, match="is not to be seen"):
                expect_seen(proof, host=local, inside=local, domain="demo-see", cpu=cpus)
        finally:
            process.kill()
