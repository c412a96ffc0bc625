"""Ask a guest itself what it runs on: what its XML says is a wish, what its CPU says is the truth."""

from __future__ import annotations

from dataclasses import dataclass

from nestctl.adapters.shell import Shell
from nestctl.deadline import Deadline
from nestctl.errors import GuestError

# One process in a guest that may be slow. udev loads the module, perhaps a little after sshd answers; modprobe waits
# until a module that is being loaded is ready, and does nothing when it is.
_SCRIPT = """
echo "signature=$(systemd-detect-virt --vm)"
if grep -qw vmx /proc/cpuinfo; then modprobe -q kvm_intel; fi
if grep -qw svm /proc/cpuinfo; then modprobe -q kvm_amd; fi
for module in kvm_intel kvm_amd; do
    [ -e /sys/module/$module/parameters/nested ] || continue
    echo "module=$module"
    echo "nested=$(cat /sys/module/$module/parameters/nested)"
done
[ -c /dev/kvm ] && echo "device=yes"
exit 0
"""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a guest sees: the hypervisor's signature in CPUID ('kvm', or 'qemu' for TCG), and its own KVM."""

    signature: str
    kvm_module: str
    is_nested_enabled: bool
    has_kvm_device: bool


def read_truth(shell: Shell, deadline: Deadline) -> Truth:
    return parse_truth(shell.run(("sh", "-c", _SCRIPT), deadline=deadline).expect_success().text)


def parse_truth(text: str) -> Truth:
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return Truth(
        signature=values.get("signature", ""),
        kvm_module=values.get("module", ""),
        is_nested_enabled=values.get("nested", "") in {"Y", "y", "1"},
        has_kvm_device="device" in values,
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
