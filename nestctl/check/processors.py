"""Who makes x86 processors, by the names that CPUID gives them (leaf 0: EBX, EDX, ECX), and what serves KVM there."""

from __future__ import annotations

INTEL = frozenset({"GenuineIntel"})
AMD = frozenset({"AuthenticAMD"})
HYGON = frozenset({"HygonGenuine"})  # they have SVM
ZHAOXIN = frozenset({"CentaurHauls", "Shanghai"})  # they have VMX

HARDWARE_MODULES = {**dict.fromkeys(INTEL | ZHAOXIN, "kvm_intel"), **dict.fromkeys(AMD | HYGON, "kvm_amd")}
