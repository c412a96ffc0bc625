"""Who is above this machine, and what its owner can do there to be given VMX or SVM. Pure.

Signatures: the vendors' documents, as systemd collects them (src/basic/virt.c). DMI: the same, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nestctl.agent.place import AZURE_ASSET_TAG, DMI_FIELDS, ORACLE_ASSET_TAG
from nestctl.model.facts import Facts, Known

# CPUID 0x40000000 and every 0x100 further: EBX, ECX, EDX.
SIGNATURES = {
    "KVMKVMKVM": "KVM",
    "Linux KVM Hv": "KVM",
    "PVMPVMPVM": "KVM",  # kvm_pvm's own leaf, beside KVM's
    "TCGTCGTCGTCG": "QEMU's TCG",
    "VMwareVMware": "VMware",
    "XenVMMXenVMM": "Xen",
    "VBoxVBoxVBox": "VirtualBox",
    "Microsoft Hv": "Hyper-V",
    "bhyve bhyve": "bhyve",
    "ACRNACRNACRN": "ACRN",
    "QNXQVMBSQG": "QNX",
    "SRESRESRESRE": "SRE",
    "Apple VZ": "Apple's Virtualization",
    "lrpepyh  vr": "Parallels",
    "NVMMNVMMNVMM": "NVMM",
}
# Others show it too, for their guests' sake; whoever else shows is who it is.
SHOWN_BY_OTHERS = "Microsoft Hv"

DMI_PREFIXES = {
    "KVM": "KVM",
    "OpenStack": "KVM",
    "KubeVirt": "KVM",
    "Amazon EC2": "Amazon EC2",
    "QEMU": "QEMU",
    "VMware": "VMware",
    "VMW": "VMware",
    "innotek GmbH": "VirtualBox",
    "VirtualBox": "VirtualBox",
    "Oracle Corporation": "VirtualBox",
    "Xen": "Xen",
    "Bochs": "Bochs",
    "The Bochs Project": "Bochs",
    "Parallels": "Parallels",
    "BHYVE": "bhyve",
    "Hyper-V": "Hyper-V",
    "Apple Virtualization": "Apple's Virtualization",
    "Google Compute Engine": "Google Compute Engine",
}

# These make no machines of metal, so that their name alone tells a guest; Oracle, Google and Amazon do.
NO_MAKER_OF_MACHINES = frozenset({"KVM", "QEMU", "Bochs", "VMware", "bhyve"})

# The VMCS revision that KVM gives its guests (VMCS12_REVISION, arch/x86/kvm/vmx/vmcs12.h); no processor has it.
KVM_VMCS_REVISION = 0x11E57ED0
VMCS_REVISION_MASK = 0x7FFFFFFF  # IA32_VMX_BASIC, bits 30:0 (Intel SDM volume 3, appendix A.1)

NOTHING_TELLS = "neither the firmware nor a device tree names what is above"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cloud or hypervisor as its customer knows it, and how a guest there is given VMX or SVM."""

    name: str
    advice: str
    is_here: Callable[[Facts], bool]
    is_cloud: bool = False


def dmi(facts: Facts) -> Mapping[str, str]:
    """Return the fields of DMI that were read, none where there is no DMI."""
    return facts.dmi.value if isinstance(facts.dmi, Known) else {}


def is_guest(facts: Facts) -> bool | None:
    """Say whether something is above this machine; None where nothing tells. A hidden hypervisor is found, too."""
    if find_hidden_evidence(facts):
        return True
    if isinstance(facts.cpuid, Known):
        return facts.cpuid.value.is_guest
    if isinstance(facts.s390_hypervisor, Known):
        return bool(facts.s390_hypervisor.value)
    if isinstance(facts.device_tree_hypervisor, Known) or _is_powervm(facts):
        return True
    if isinstance(facts.cpu_platform, Known) and facts.cpu_platform.value == "PowerNV":
        return False
    # Where there is no CPUID, the firmware's own names are all there is.
    return bool(_vendor_by_dmi(facts)) if dmi(facts) else None


def find_hidden_evidence(facts: Facts) -> str:
    """Return what gives away a hypervisor that clears CPUID's bit, else ''."""
    if isinstance(facts.cpuid, Known) and facts.cpuid.value.is_guest:
        return ""
    if isinstance(facts.msr_vmx_basic, Known):
        revision = facts.msr_vmx_basic.value & VMCS_REVISION_MASK
        if revision == KVM_VMCS_REVISION:
            return f"the VMCS revision in MSR 0x480 is {revision:#x}, which is KVM's for its guests"
    vendor = _vendor_by_dmi(facts) if isinstance(facts.cpuid, Known) and not is_metal(facts) else ""
    if vendor in NO_MAKER_OF_MACHINES:
        return f"the firmware names {vendor}"
    if vendor and isinstance(facts.smbios_is_guest, Known) and facts.smbios_is_guest.value:
        return f"the firmware's table says 'virtual machine', and names {vendor}"
    return ""


def rules_hypervisor(facts: Facts) -> bool:
    """Say whether this is the guest that rules the hypervisor above: Xen's dom0, Hyper-V's root partition."""
    others = facts.other_hypervisors.value if isinstance(facts.other_hypervisors, Known) else {}
    return _is_dom0(facts) or "Hyper-V" in others


def _is_dom0(facts: Facts) -> bool:
    return isinstance(facts.is_xen_dom0, Known) and facts.is_xen_dom0.value


def is_metal(facts: Facts) -> bool:
    """Say whether a cloud has given the machine itself."""
    return dmi(facts).get("product_name", "").endswith((".metal", "-metal"))


def name_hypervisor(facts: Facts) -> str:
    """Name who is above, '' where nobody shows."""
    signatures = facts.cpuid.value.signatures if isinstance(facts.cpuid, Known) else ()
    for signature in (*(it for it in signatures if it != SHOWN_BY_OTHERS), *signatures):
        if signature in SIGNATURES:
            return SIGNATURES[signature]
    if signatures:
        return f"a hypervisor that calls itself '{signatures[0]}'"
    if isinstance(facts.s390_hypervisor, Known) and facts.s390_hypervisor.value:
        return facts.s390_hypervisor.value
    if isinstance(facts.device_tree_hypervisor, Known):
        compatible = facts.device_tree_hypervisor.value
        return "KVM" if compatible.startswith("linux,kvm") else compatible
    if _is_powervm(facts):
        return "PowerVM"
    return "KVM" if find_hidden_evidence(facts).startswith("the VMCS") else _vendor_by_dmi(facts)


def _is_powervm(facts: Facts) -> bool:
    """A Power system says 'PowerNV' to its own kernel, 'pSeries' to a guest's (arch/powerpc/platforms)."""
    return isinstance(facts.cpu_platform, Known) and facts.cpu_platform.value == "pSeries"


def _vendor_by_dmi(facts: Facts) -> str:
    fields = dmi(facts)
    for field in DMI_FIELDS:
        for prefix, vendor in DMI_PREFIXES.items():
            if fields.get(field, "").startswith(prefix):
                return vendor
    return ""


def _says(field: str, *prefixes: str) -> Callable[[Facts], bool]:
    return lambda facts: dmi(facts).get(field, "").startswith(prefixes)


def _is_hypervisor(*names: str) -> Callable[[Facts], bool]:
    return lambda facts: name_hypervisor(facts) in names


def _is_microsoft(facts: Facts) -> bool:
    fields = dmi(facts)
    return fields.get("sys_vendor") == "Microsoft Corporation" and fields.get("product_name") == "Virtual Machine"


def _has_asset_tag(facts: Facts, tag: str) -> bool:
    return dmi(facts).get("chassis_asset_tag") == tag


# The first that fits is it: a cloud before the hypervisor it is made of.
PLACES: tuple[Place, ...] = (
    Place(
        name="Amazon EC2",
        advice=(
            "Use a type of instance that supports it (C8i, M8i, R8i and their kin, Intel only) and start it with the "
            "CPU option NestedVirtualization=enabled, or use a '.metal' type. List them: aws ec2 "
            "describe-instance-types --filters Name=processor-info.supported-features,Values=nested-virtualization"
        ),
        is_here=_says("sys_vendor", "Amazon EC2"),
        is_cloud=True,
    ),
    Place(
        name="Google Compute Engine",
        advice=(
            "A new machine: gcloud compute instances create NAME --enable-nested-virtualization. This one: gcloud "
            "compute instances export NAME --destination=FILE, write 'advancedMachineFeatures: "
            "{enableNestedVirtualization: true}' into it, gcloud compute instances update-from-file NAME "
            "--source=FILE --most-disruptive-allowed-action=RESTART. It takes an Intel type of Haswell or newer that "
            "is neither E2 nor memory-optimized, and the organization's policy compute.disableNestedVirtualization has "
            "to allow it."
        ),
        is_here=_says("product_name", "Google Compute Engine"),
        is_cloud=True,
    ),
    Place(
        name="Microsoft Azure",
        advice=(
            "There is no switch: the size of the machine decides. Choose an Intel size of the D or E families of "
            "version 3 or newer."
        ),
        is_here=lambda facts: _is_microsoft(facts) and _has_asset_tag(facts, AZURE_ASSET_TAG),
        is_cloud=True,
    ),
    Place(
        name="Oracle Cloud",
        advice=(
            "A customer cannot switch it on in the host above, and nothing documents a shape of virtual machine that "
            "has it. Use a bare-metal shape (their names begin with 'BM.')."
        ),
        is_here=lambda facts: _has_asset_tag(facts, ORACLE_ASSET_TAG),
        is_cloud=True,
    ),
    Place(
        name="DigitalOcean",
        advice="Some regions give it and some do not: create the machine in another region.",
        is_here=_says("sys_vendor", "DigitalOcean"),
        is_cloud=True,
    ),
    Place(
        name="Hetzner Cloud",
        advice="Nothing documents it there; a dedicated server is bare metal.",
        is_here=_says("sys_vendor", "Hetzner"),
        is_cloud=True,
    ),
    Place(
        name="Hyper-V",
        advice=(
            "On the Hyper-V host, with this machine off: "
            "Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true"
        ),
        is_here=lambda facts: _is_microsoft(facts) or name_hypervisor(facts) == "Hyper-V",
    ),
    Place(
        name="VMware",
        advice=(
            "With this machine off: set 'Expose hardware assisted virtualization to the guest OS', or write "
            'vhv.enable = "TRUE" to its .vmx file.'
        ),
        is_here=_is_hypervisor("VMware"),
    ),
    Place(
        name="VirtualBox",
        advice="On its host, with this machine off: VBoxManage modifyvm NAME --nested-hw-virt on",
        is_here=_is_hypervisor("VirtualBox"),
    ),
    Place(
        name="Xen",
        advice="In the domain's configuration: nestedhvm=1, with hap=1 (shadow paging excludes it), and type='hvm'.",
        is_here=_is_hypervisor("Xen"),
    ),
    Place(
        name="Parallels",
        advice="On its host, with this machine off: prlctl set NAME --nested-virt on",
        is_here=_is_hypervisor("Parallels"),
    ),
    Place(
        name="KVM without firmware (Firecracker, Cloud Hypervisor, crosvm)",
        advice=(
            "Ask whoever runs the host: its KVM has to nest, and the machine's CPU template must not remove VMX or "
            "SVM (Firecracker's T2A removes SVM)."
        ),
        is_here=lambda facts: name_hypervisor(facts) == "KVM" and not dmi(facts),
    ),
    Place(
        name="KVM or QEMU",
        advice=(
            "On the host above: switch nesting on (nestctl nested on) and give this guest its CPU: "
            "<cpu mode='host-passthrough'/> in libvirt, 'qm set VMID --cpu host' in Proxmox VE, "
            "'-cpu host' in QEMU, 'cpu: {model: host-passthrough}' in KubeVirt."
        ),
        is_here=_is_hypervisor("KVM", "QEMU", "QEMU's TCG"),
    ),
    Place(
        name="Bochs",
        advice="Choose a processor that has it in the configuration: cpu: model=corei7_skylake_x (VMX) or ryzen (SVM).",
        is_here=_is_hypervisor("Bochs"),
    ),
)


def find_place(facts: Facts) -> Place | None:
    """Return the first place of the table that fits, a cloud before its hypervisor; None for an unknown one."""
    return next((place for place in PLACES if place.is_here(facts)), None)


def describe_place(facts: Facts) -> str:
    """Say where this machine is in one line; '' where that is not known."""
    guest = is_guest(facts)
    if guest is None:
        return ""
    if rules_hypervisor(facts):
        return (
            f"the machine that rules {name_hypervisor(facts)} (its {'dom0' if _is_dom0(facts) else 'root partition'})"
        )
    if not guest:
        place = find_place(facts)
        return f"bare metal of {place.name}" if place and place.is_cloud else "bare metal"
    if name_hypervisor(facts) == "LPAR":
        return "a logical partition (LPAR), level 1 at least"
    hypervisor = name_hypervisor(facts) or "a hypervisor that does not say its name"
    place = find_place(facts)
    cloud = f" at {place.name}" if place and place.is_cloud and place.name != hypervisor else ""
    return f"a guest of {hypervisor}{cloud}, level 1 at least"
