"""What a guest's VMX or SVM can do, bit by bit: the tables behind the findings about quality. Pure.

Intel: the capability registers a guest would read (SDM volume 3, appendix A), as KVM fills them. AMD: CPUID leaf
0x8000000A as a guest would see it (APM volume 3, E.4.9). The parameters are those of kvm_intel and kvm_amd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nestctl.check.findings import Finding, Status
from nestctl.check.questions import find_backend
from nestctl.check.settings import find_intents, read_bool
from nestctl.model.facts import Facts, Known

# In a control register the high word says what may be set to 1.
ALLOWED = 32
PINBASED, PROCBASED, PROCBASED2, EPT_VPID_CAP = 0x481, 0x482, 0x48B, 0x48C
TRUE_PINBASED, TRUE_PROCBASED, VMFUNC = 0x48D, 0x48E, 0x491
SVM_LEAF = "0x8000000a"


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One ability: `where` is a register and bit; any of several is enough. `without` says what its lack means.

    `parameter` is the module's switch where that tells more than the bit: VMCS shadowing KVM offers in any case, and
    does it in software where the switch is off. What software does as well for L1 has none: `preemption_timer` and
    `pml` say what KVM itself uses (arch/x86/kvm/vmx/nested.c, nested_vmx_setup_ctls_msrs), and `flexpriority`
    is about APIC accesses (vmx.c, cpu_need_virtualize_apic_accesses), not the TPR shadow.
    """

    name: str
    title: str
    where: tuple[tuple[int, int], ...]
    without: str
    status: Status = Status.WARN
    parameter: str = ""

    @property
    def __name__(self) -> str:
        return f"find_{self.name}"


class IntelFeature(Feature):
    """A bit of a VMX capability register."""

    vendor_feature = "vmx"

    def __call__(self, facts: Facts) -> Finding | None:
        if not (isinstance(facts.vmx_msrs, Known) and isinstance(facts.offers, Known) and facts.offers.value.vmx):
            return None
        read = {number: fact.value for number, fact in facts.vmx_msrs.value.items() if isinstance(fact, Known)}
        bits = [(number, bit) for number, bit in self.where if number in read]
        if not bits or (bits[0][0] == EPT_VPID_CAP and not _has_ept(read)):
            return None  # where there is no EPT, its own finding says so, and its sizes mean nothing
        is_there = any(read[number] >> bit & 1 for number, bit in bits)
        shown = ", ".join(f"MSR {number:#x} = {read[number]:#x}, bit {bit}" for number, bit in bits)
        return _judge(self, facts, is_there, shown)


def _has_ept(read: Mapping[int, int]) -> bool:
    return bool(read.get(PROCBASED2, 0) >> ALLOWED + 1 & 1)


class AmdFeature(Feature):
    """A bit of EDX of CPUID leaf 0x8000000A."""

    def __call__(self, facts: Facts) -> Finding | None:
        if not (
            isinstance(facts.supported_cpuid, Known) and isinstance(facts.offers, Known) and facts.offers.value.svm
        ):
            return None
        registers = facts.supported_cpuid.value.get(SVM_LEAF)
        if registers is None:
            return None
        ((_, bit),) = self.where
        shown = f"CPUID 0x8000000A for guests: EDX = {registers[3]:#x}, bit {bit}"
        return _judge(self, facts, bool(registers[3] >> bit & 1), shown)


def _judge(feature: Feature, facts: Facts, is_there: bool, shown: str) -> Finding:
    module = find_backend(facts)
    value = module.parameters.get(feature.parameter, "") if module and feature.parameter else ""
    is_off = read_bool(value) is False
    evidence = f"{shown}; {module.name}.{feature.parameter} = {value}" if module and value else shown
    # Where nobody has set it, the kernel itself has: the processor lacks the feature, and nothing can be done.
    intents = find_intents(facts, module.name, feature.parameter) if is_off and module else ()
    culprit = next((intent for intent in intents if intent.value is False), None)
    fix = f"Take '{culprit.text}' out of {culprit.where} and load the module again." if culprit else ""
    if is_there and not is_off:
        return Finding(name=f"nested.{feature.name}", status=Status.PASS, summary=feature.title, evidence=evidence)
    return Finding(
        name=f"nested.{feature.name}",
        status=feature.status,
        summary=f"no {feature.title}: {feature.without}",
        evidence=evidence,
        fix=fix,
    )


INTEL_FEATURES: tuple[IntelFeature, ...] = (
    IntelFeature(
        name="ept",
        title="EPT (nested page tables)",
        where=((PROCBASED2, ALLOWED + 1),),
        without="L2's memory goes through shadow page tables in L1, far too slow for everyday use",
        status=Status.FAIL,
        parameter="ept",
    ),
    IntelFeature(
        name="vpid",
        title="VPID (tagged TLB)",
        where=((PROCBASED2, ALLOWED + 5),),
        without="every switch between L1 and L2 empties the TLB",
        parameter="vpid",
    ),
    IntelFeature(
        name="unrestricted_guest",
        title="unrestricted guest",
        where=((PROCBASED2, ALLOWED + 7),),
        without="L1 has to emulate L2's real mode; ESXi and Hyper-V refuse to start as L1",
        parameter="unrestricted_guest",
    ),
    IntelFeature(
        name="shadow_vmcs",
        title="VMCS shadowing",
        where=((PROCBASED2, ALLOWED + 14),),
        without="every VMREAD and VMWRITE of L1 is an exit; nothing else makes L2 as much slower",
        parameter="enable_shadow_vmcs",
    ),
    IntelFeature(
        name="msr_bitmap",
        title="MSR bitmaps",
        where=((PROCBASED, ALLOWED + 28), (TRUE_PROCBASED, ALLOWED + 28)),
        without="every access of L2 to an MSR is an exit to L1",
    ),
    IntelFeature(
        name="tpr_shadow",
        title="TPR shadow",
        where=((PROCBASED, ALLOWED + 21), (TRUE_PROCBASED, ALLOWED + 21)),
        without="L2's task priority register costs exits",
    ),
    IntelFeature(
        name="virtual_interrupts",
        title="virtual interrupt delivery",
        where=((PROCBASED2, ALLOWED + 9),),
        without="every interrupt of L2 is an exit to L1",
        status=Status.INFO,
        parameter="enable_apicv",
    ),
    IntelFeature(
        name="posted_interrupts",
        title="posted interrupts",
        where=((PINBASED, ALLOWED + 7), (TRUE_PINBASED, ALLOWED + 7)),
        without="an interrupt for L2 that comes while it runs is an exit",
        status=Status.INFO,
        parameter="enable_apicv",
    ),
    IntelFeature(
        name="pml",
        title="page modification logging",
        where=((PROCBASED2, ALLOWED + 17),),
        without="L1 finds the pages L2 has written (to migrate it) by write protection",
        status=Status.INFO,
        parameter="eptad",
    ),
    IntelFeature(
        name="tsc_scaling",
        title="TSC scaling",
        where=((PROCBASED2, ALLOWED + 25),),
        without="L2 cannot be given a TSC of another frequency, as after a migration",
        status=Status.INFO,
    ),
    IntelFeature(
        name="preemption_timer",
        title="VMX preemption timer",
        where=((PINBASED, ALLOWED + 6), (TRUE_PINBASED, ALLOWED + 6)),
        without="L1 needs a timer interrupt to take a processor back from L2",
        status=Status.INFO,
    ),
    IntelFeature(
        name="vmfunc",
        title="VMFUNC with EPTP switching",
        where=((VMFUNC, 0),),
        without="L2 cannot switch page tables by itself; only some hypervisors want to",
        status=Status.INFO,
    ),
    IntelFeature(
        name="ept_2m",
        title="EPT pages of 2 MiB",
        where=((EPT_VPID_CAP, 16),),
        without="L1 maps all of L2's memory in 4 KiB pages",
    ),
    IntelFeature(
        name="ept_1g",
        title="EPT pages of 1 GiB",
        where=((EPT_VPID_CAP, 17),),
        without="L1 maps L2's memory in pages of 2 MiB at most",
        status=Status.INFO,
    ),
    IntelFeature(
        name="ept_accessed_dirty",
        title="EPT accessed and dirty bits",
        where=((EPT_VPID_CAP, 21),),
        without="L1 finds out by page faults which pages L2 has used",
        status=Status.INFO,
        parameter="eptad",
    ),
)

AMD_FEATURES: tuple[AmdFeature, ...] = (
    AmdFeature(
        name="npt",
        title="NPT (nested page tables)",
        where=((0, 0),),
        without="L2's memory goes through shadow page tables in L1, far too slow for everyday use",
        status=Status.FAIL,
        parameter="npt",
    ),
    AmdFeature(
        name="nrips",
        title="next RIP on exits",
        where=((0, 3),),
        without="L1 has to decode L2's instructions to step over them",
        parameter="nrips",
    ),
    AmdFeature(
        name="vmcb_clean",
        title="VMCB clean bits",
        where=((0, 5),),
        without="every entry into L2 loads the whole VMCB again",
    ),
    AmdFeature(
        name="flush_by_asid",
        title="flush by ASID",
        where=((0, 6),),
        without="L1 can only empty the whole TLB; VMware Workstation 17 refuses to start (KVM offers it since 6.8)",
    ),
    AmdFeature(
        name="virtual_vmload",
        title="virtual VMLOAD and VMSAVE",
        where=((0, 15),),
        without="both instructions of L1 are exits, on every entry into L2",
        parameter="vls",
    ),
    AmdFeature(
        name="vgif",
        title="virtual GIF",
        where=((0, 16),),
        without="STGI and CLGI of L1 are exits, on every entry into L2",
        parameter="vgif",
    ),
    AmdFeature(
        name="decode_assists",
        title="decode assists",
        where=((0, 7),),
        without="L1 has to fetch and decode L2's instructions itself",
        status=Status.INFO,
    ),
    AmdFeature(
        name="tsc_ratio",
        title="TSC scaling",
        where=((0, 4),),
        without="L2 cannot be given a TSC of another frequency, as after a migration",
        status=Status.INFO,
        parameter="tsc_scaling",
    ),
    AmdFeature(
        name="lbr",
        title="LBR virtualization",
        where=((0, 1),),
        without="the last branch records of L2 are not its own",
        status=Status.INFO,
        parameter="lbrv",
    ),
    AmdFeature(
        name="avic",
        title="AVIC",
        where=((0, 13),),
        without="L2's interrupts are exits; KVM does not offer it to guests",
        status=Status.INFO,
    ),
    AmdFeature(
        name="vnmi",
        title="virtual NMI",
        where=((0, 25),),
        without="L1 follows L2's NMIs by intercepting IRET",
        status=Status.INFO,
        parameter="vnmi",
    ),
    AmdFeature(
        name="gmet",
        title="GMET (guest mode execute trap)",
        where=((0, 17),),
        without="L1 cannot tell L2's supervisor from its user code in the page tables, as Windows' VBS likes to",
        status=Status.INFO,
    ),
)
