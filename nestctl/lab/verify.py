"""Ask a guest itself what it runs on: what its XML says is a wish, what its CPU says is the truth."""

from __future__ import annotations

from dataclasses import dataclass

from nestctl.adapters.shell import Shell
from nestctl.check.settings import read_bool
from nestctl.deadline import Deadline
from nestctl.errors import GuestError
from nestctl.lab.seed import FAILURE_FILE, LOG_FILE

# Where it is noted that the playbook that makes hypervisors has run through, and which version of it.
PREPARED_FILE = "/var/lib/nestctl/l1-kvm"

# As few processes as can be, in a guest that may be slow. udev loads the module, perhaps a little after sshd answers;
# modprobe waits until one that is being loaded is ready. A module of the kernel itself has no initstate.
_SCRIPT = f"""
echo "signature=$(systemd-detect-virt --vm)"
loaded=
for module in kvm_intel kvm_amd; do
    [ -e /sys/module/$module/parameters/nested ] || continue
    state=live
    [ ! -e /sys/module/$module/initstate ] || read -r state < /sys/module/$module/initstate
    [ "$state" != live ] || loaded=$module
done
if [ -z "$loaded" ]; then
    if grep -qw vmx /proc/cpuinfo; then modprobe -q kvm_intel; fi
    if grep -qw svm /proc/cpuinfo; then modprobe -q kvm_amd; fi
fi
for module in kvm_intel kvm_amd; do
    [ -e /sys/module/$module/parameters/nested ] || continue
    read -r nested < /sys/module/$module/parameters/nested
    echo "module=$module"
    echo "nested=$nested"
done
[ -c /dev/kvm ] && echo "device=yes"
[ ! -e {PREPARED_FILE} ] || echo "prepared=$(cat {PREPARED_FILE})"
[ ! -e {FAILURE_FILE} ] || sed 's/^/failure=/' {FAILURE_FILE}
exit 0
"""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a guest sees: the hypervisor's signature in CPUID ('kvm', or 'qemu' for TCG), and its own KVM.

    `failure` is what the first boot says of a command of the seed's that failed; empty when none did. `prepared` is the
    digest of the playbook that has made it a hypervisor; empty when none has.
    """

    signature: str
    kvm_module: str
    is_nested_enabled: bool
    has_kvm_device: bool
    failure: str = ""
    prepared: str = ""


def read_truth(shell: Shell, deadline: Deadline) -> Truth:
    """Ask a guest what it sees. Raises `CommandError` when it cannot be asked, `DeadlineError` when it is too slow."""
    return parse_truth(shell.run(("sh", "-c", _SCRIPT), deadline=deadline).expect_success().text)


def parse_truth(text: str) -> Truth:
    """Parse what the script printed; what it did not say is empty or false. Text that is none of its is no error."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return Truth(
        signature=values.get("signature", ""),
        kvm_module=values.get("module", ""),
        is_nested_enabled=read_bool(values.get("nested", "")) is True,
        has_kvm_device="device" in values,
        prepared=values.get("prepared", ""),
        failure="\n".join(line[8:] for line in text.splitlines() if line.startswith("failure=")),
    )


def expect_seeded(name: str, truth: Truth) -> None:
    """Raise `GuestError` when a command of the seed's has failed at the guest's first boot."""
    if truth.failure:
        raise GuestError(
            f"The first boot of the guest '{name}' went wrong: {truth.failure}",
            hint=f"'nestctl ssh {name} -- cat {LOG_FILE}' has all of it. A seed is used once: correct it in the lab "
            "file and make the guest anew.",
        )


def expect_accelerated(name: str, domain_type: str, truth: Truth) -> None:
    """Raise `GuestError` unless a guest that is meant to run under KVM does: in its domain and by its own CPU."""
    if domain_type != "kvm":
        raise GuestError(f"The guest '{name}' would be emulated: its domain is of type '{domain_type}', not 'kvm'.")
    if truth.signature != "kvm":
        raise GuestError(f"The guest '{name}' is not run by KVM: its CPU shows '{truth.signature}'.")


def expect_hypervisor(name: str, truth: Truth) -> None:
    """Raise `GuestError` unless a guest can run accelerated guests itself."""
    if not truth.kvm_module or not truth.has_kvm_device:
        seen = f"module {truth.kvm_module or 'absent'}, /dev/kvm {'there' if truth.has_kvm_device else 'absent'}"
        raise GuestError(
            f"The guest '{name}' has no working KVM ({seen}): the guests inside it would silently be emulated.",
            hint="Run 'nestctl check' on the host; it says whether guests are given VMX or SVM.",
        )
