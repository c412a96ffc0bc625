"""What is said of kernels, CPUs and what guests share, and what the answer for tenants makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from nestctl.agent.facts import SCHEMA
from nestctl.check.advisories import identify_release, load_advisories
from nestctl.check.assess import assess
from nestctl.check.findings import Finding, Question, Status, Verdict
from nestctl.check.questions import assess_safety
from nestctl.check.report import Report, count_safety, render_json, render_summary
from nestctl.check.rules import cpu_flaws, safety
from nestctl.check.rules.kernel_flaws import Exposure, assess_exposure, find_kernel_flaws, fixing_versions
from nestctl.cli.check import check
from nestctl.errors import ExitCode
from nestctl.model.facts import Facts
from nestctl.model.facts_document import parse_facts

TABLE = load_advisories()
ADVISORIES = {advisory.id: advisory for advisory in TABLE.advisories}


def known(value: Any) -> dict[str, Any]:
    return {"value": value}


def module(**parameters: str) -> dict[str, Any]:
    return {"state": "loaded", "parameters": {name: known(value) for name, value in parameters.items()}}


INTEL = {"vendor": "GenuineIntel", "vmx": True, "svm": False, "hypervisor": False, "signatures": []}
SAFE = dict.fromkeys(cpu_flaws.FLAWS, "Not affected")


def changelog(*numbers: str, is_complete: bool = True) -> dict[str, Any]:
    return {"files": ["/usr/share/doc/x/changelog.gz"], "is_complete": is_complete, "cves": {"2026": " ".join(numbers)}}


UNREAD = "98863"  # of which the table knows no versions: only a changelog can say that it is fixed


def facts(*, offers: bool | None = True, **host: Any) -> Facts:
    """A safe Intel machine that gives guests VMX, with other answers where they are named; None: no answer."""
    answers = {
        "architecture": "x86_64",
        "kernel": "6.12.110",
        "modules": {"kvm": module(nx_huge_pages="N"), "kvm_intel": module(nested="Y", ept="Y")},
        "boot_line": ["quiet"],
        "cpu_vulnerabilities": SAFE,
        "smt_active": False,
        "ksm_run": 0,
        "fixed_cves": changelog(UNREAD),
        **host,
    }
    document = {
        "schema": SCHEMA,
        "host": {name: known(value) for name, value in answers.items() if value is not None},
        "cpuid": known(host.get("cpuid", INTEL)),
        "kvm": {"offers": known({"vmx": offers, "svm": False})} if offers is not None else {},
    }
    return parse_facts(document)


def answer(machine: Facts) -> Verdict:
    return assess(machine).safe_for_tenants.verdict


def test_a_machine_with_nothing_open_is_safe() -> None:
    assert answer(facts()) is Verdict.YES
    finding = find_kernel_flaws(facts())
    assert finding.status is Status.PASS
    assert TABLE.as_of in finding.evidence


def test_the_worst_open_flaw_is_named_and_all_are_listed_with_what_fixes_them() -> None:
    finding = find_kernel_flaws(facts(kernel="6.12.90"))
    assert finding.status is Status.WARN
    assert "CVE-2026-64561 (Zapscape)" in finding.summary
    assert "an exploit is public" in finding.summary
    for cve in ("CVE-2026-53359 (Januscape) fixed in 6.12.95", "CVE-2026-89932 fixed in 6.12.110"):
        assert cve in finding.evidence
    assert "CVE-2026-43133" not in finding.evidence  # AMD's
    assert "CVE-2026-46316" not in finding.evidence  # arm64's
    assert finding.fix.startswith("Update the kernel to 6.12.110, or later.")
    assert "kvm_intel with nested=0" in finding.fix
    assert answer(facts(kernel="6.12.90")) is Verdict.NO


def test_one_open_flaw_is_told_as_one() -> None:
    amd = {**INTEL, "vendor": "AuthenticAMD"}
    finding = find_kernel_flaws(facts(kernel="6.18.41", cpuid=amd, modules={"kvm_amd": module(nested="1", npt="Y")}))
    assert finding.summary.startswith("this kernel has a known flaw: CVE-2026-64561 (Zapscape)")


@pytest.mark.parametrize(
    ("kernel", "versions"),
    [
        ("6.12.90", ["6.12.110"]),
        ("6.6.10", ["6.6.157"]),
        ("6.1.150", ["6.6.157", "6.12.110"]),  # 6.1 lacks fixes: the next two series that have all
        ("7.0.1", ["7.2.5"]),
        ("9.9.9", []),
    ],
)
def test_the_versions_that_are_named_have_every_fix(kernel: str, versions: list[str]) -> None:
    advisories = [ADVISORIES[cve] for cve in ("CVE-2026-53359", "CVE-2026-64561", "CVE-2026-89932")]
    assert [str(it) for it in fixing_versions(identify_release(kernel), advisories, TABLE)] == versions


def test_flaws_that_guests_do_not_reach_do_not_count() -> None:
    closed = facts(kernel="6.12.90", offers=False)
    finding = find_kernel_flaws(closed)
    assert finding.status is Status.PASS
    assert "if guests were given nesting" in finding.summary
    assert "not reached without nesting: " in finding.evidence
    assert answer(closed) is Verdict.YES


@pytest.mark.parametrize(
    "modules",
    [
        {"kvm_intel": module(nested="N", ept="N")},
        {"kvm_amd": module(nested="0", npt="0")},
        {"kvm_pvm": module()},
    ],
    ids=["ept=N", "npt=0", "kvm_pvm"],
)
def test_on_shadow_page_tables_nested_0_does_not_help(modules: dict[str, Any]) -> None:
    machine = facts(kernel="6.12.90", offers=False, modules=modules)
    assert assess_exposure(machine) == Exposure(gives_nesting=False, on_shadow_pages=True)
    finding = find_kernel_flaws(machine)
    assert finding.status is Status.WARN
    assert "CVE-2026-53359" in finding.evidence
    assert "CVE-2026-89932" not in finding.evidence  # only guests with VMX reach it
    assert "nested=0 does not help here" in finding.fix


def test_what_reaches_kvm_is_taken_from_the_module_where_kvm_did_not_say() -> None:
    assert assess_exposure(facts(offers=None)).gives_nesting is True
    off = facts(offers=None, modules={"kvm_intel": module(nested="N", ept="Y")})
    assert assess_exposure(off).gives_nesting is False
    assert assess_exposure(facts(offers=None, modules={})).gives_nesting is None
    assert find_kernel_flaws(facts(kernel="6.12.90", offers=None, modules={})).status is Status.WARN


def test_where_a_file_tells_how_it_stands_the_version_does_not_count() -> None:
    """A vendor's kernel that has the file for VMSCAPE has the fix, whatever its number."""
    old: dict[str, Any] = {"kernel": "6.12.40", "cpu_vulnerabilities": {}}
    assert "CVE-2025-40300 (VMSCAPE)" in find_kernel_flaws(facts(**old)).evidence
    told = find_kernel_flaws(facts(**{**old, "cpu_vulnerabilities": SAFE}))
    assert "CVE-2025-40300" not in told.evidence
    assert "with nested=0" in told.fix


def test_arm64_has_its_own_flaws_and_its_own_switch() -> None:
    arm: dict[str, Any] = {"architecture": "aarch64", "kernel": "6.12.90", "modules": {}, "cpuid": None}
    nested = find_kernel_flaws(facts(**arm, boot_line=["kvm-arm.mode=nested"]))
    assert "CVE-2026-46316 (ITScape)" in nested.summary
    assert "CVE-2026-46317" in nested.evidence
    assert "nested=0" not in nested.fix
    plain = find_kernel_flaws(facts(**arm))
    assert "CVE-2026-46317" not in plain.evidence
    assert find_kernel_flaws(facts(**{**arm, "kernel": "7.1.0"})).status is Status.PASS
    assert assess_exposure(facts(**{**arm, "boot_line": None})).gives_nesting is None


def test_other_architectures_are_not_judged() -> None:
    finding = find_kernel_flaws(facts(architecture="s390x"))
    assert finding.status is Status.UNKNOWN
    assert "s390x" in finding.evidence


def test_without_a_release_nothing_is_known() -> None:
    assert find_kernel_flaws(facts(kernel=None)).status is Status.UNKNOWN


DEBIAN: dict[str, Any] = {
    "kernel": "6.1.0-18-amd64",
    "kernel_banner": "Linux version 6.1.0-18-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.188-1 (2026-09-20)",
    "distribution": {"id": "debian", "version": "12"},
}


def test_where_only_the_versions_of_an_advisory_are_not_known_that_is_said() -> None:
    machine = facts(fixed_cves=None)
    finding = find_kernel_flaws(machine)
    assert finding.status is Status.UNKNOWN
    assert "which kernels have the fix of CVE-2026-98863 is not known" in finding.summary
    assert "no copy of its record could be read" in finding.evidence
    assert finding.fix.count("https://www.cve.org/CVERecord?id=CVE-2026-98863") == 1
    assert answer(machine) is Verdict.UNKNOWN
    assert find_kernel_flaws(facts(fixed_cves=None, offers=False)).status is Status.PASS  # and no guest reaches it


def test_a_vendor_s_kernel_is_unknown_and_the_vendor_s_tracker_is_named() -> None:
    finding = find_kernel_flaws(facts(**DEBIAN, fixed_cves=None))
    assert finding.status is Status.UNKNOWN
    assert "vendor status unknown" in finding.summary
    assert "6.1.0-18-amd64 (on 6.1.188)" in finding.evidence
    assert "CVE-2026-64561 (Zapscape) no fix is listed for 6.1" in finding.evidence
    assert "no changelog of its package says more" in finding.evidence
    assert finding.fix.endswith("https://security-tracker.debian.org/tracker/CVE-2026-64561")
    assert answer(facts(**DEBIAN)) is Verdict.UNKNOWN


def test_a_changelog_that_names_all_that_is_open_makes_it_safe() -> None:
    left = ["64561", "46113", UNREAD]
    assert answer(facts(**DEBIAN, fixed_cves=changelog(*left))) is Verdict.YES
    some = find_kernel_flaws(facts(**DEBIAN, fixed_cves=changelog(left[1], UNREAD, is_complete=False)))
    assert some.status is Status.UNKNOWN
    assert "have put 1 fix into" in some.summary
    assert "/usr/share/doc/x/changelog.gz (of which only a part was read) does not name these" in some.evidence
    assert "CVE-2026-64561" in some.evidence
    assert "CVE-2026-46113" not in some.evidence


def test_a_vendor_without_a_known_tracker_is_told_the_cve() -> None:
    finding = find_kernel_flaws(facts(kernel="6.18.44-fc-v657", live_patches=["livepatch_1"]))
    assert finding.fix.endswith("the vendor's tracker for CVE-2026-89932")
    assert "Live patches that may close some: livepatch_1" in finding.evidence


@pytest.mark.parametrize(
    ("flaw", "said", "status"),
    [
        ("mds", "Not affected", Status.PASS),
        ("mds", "Mitigation: Clear CPU buffers; SMT disabled", Status.PASS),
        ("mds", "Vulnerable: Clear CPU buffers attempted, no microcode; SMT vulnerable", Status.WARN),
        ("itlb_multihit", "KVM: Vulnerable", Status.WARN),
        ("itlb_multihit", "Processor vulnerable", Status.WARN),
        ("itlb_multihit", "KVM: Mitigation: Split huge pages", Status.PASS),
        ("l1tf", "Mitigation: PTE Inversion; VMX: vulnerable", Status.WARN),
        ("l1tf", "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable", Status.PASS),
        ("spectre_v2", "Mitigation: Retpolines; PBRSB-eIBRS: Vulnerable; BHI: Not affected", Status.WARN),
        ("spectre_v2", "Mitigation: Enhanced IBRS; BHI: Vulnerable", Status.WARN),
        ("spectre_v2", "Mitigation: Enhanced IBRS; BHI: Vulnerable, KVM: SW loop", Status.PASS),
        ("spec_store_bypass", "Vulnerable", Status.PASS),
        ("meltdown", "Vulnerable", Status.PASS),
        ("srbds", "Unknown: Dependent on hypervisor status", Status.UNKNOWN),
        ("old_microcode", "Vulnerable", Status.WARN),
    ],
)
def test_flaws_of_the_cpu(flaw: str, said: str, status: Status) -> None:
    finding = cpu_flaws.find_cpu_flaws(facts(cpu_vulnerabilities={**SAFE, flaw: said}))
    assert finding.status is status
    assert (flaw in finding.evidence) == (status is not Status.PASS)


def test_all_open_flaws_of_the_cpu_are_one_finding() -> None:
    finding = cpu_flaws.find_cpu_flaws(facts(cpu_vulnerabilities={"mds": "Vulnerable", "tsa": "Vulnerable"}))
    assert finding.summary.endswith("mds, tsa")


AMD = {**INTEL, "vendor": "AuthenticAMD"}


@pytest.mark.parametrize(
    ("cpuid", "lacking", "unknown"),
    [
        (INTEL, ["vmscape", "tsa"], "vmscape"),
        (AMD, ["vmscape", "tsa"], "tsa, vmscape"),
        (AMD, ["mds", "l1tf", "gather_data_sampling"], ""),
        ({**INTEL, "vendor": "Shanghai"}, ["retbleed", "l1tf"], "l1tf"),
        (None, ["vmscape", "tsa"], "tsa, vmscape"),
    ],
    ids=["intel", "amd", "amd has none of Intel's", "zhaoxin", "vendor unknown"],
)
def test_a_flaw_that_the_kernel_does_not_know_is_unknown_and_not_safe(
    cpuid: dict[str, Any] | None, lacking: list[str], unknown: str
) -> None:
    said = {flaw: said for flaw, said in SAFE.items() if flaw not in lacking}
    document = {"architecture": known("x86_64"), "cpu_vulnerabilities": known(said)}
    machine = parse_facts({"schema": SCHEMA, "host": document, "cpuid": known(cpuid) if cpuid else {}, "kvm": {}})
    finding = cpu_flaws.find_cpu_flaws(machine)
    assert finding.status is (Status.UNKNOWN if unknown else Status.PASS)
    assert (f"no file for {unknown}" in finding.evidence) == bool(unknown)
    assert unknown in finding.summary


def test_one_that_is_open_counts_more_than_those_that_are_unknown() -> None:
    finding = cpu_flaws.find_cpu_flaws(facts(cpu_vulnerabilities={"mds": "Vulnerable", "l1tf": "Unknown: no word"}))
    assert (finding.status, finding.summary.endswith(": mds")) == (Status.WARN, True)
    assert "no file for spectre_v2" in finding.evidence


def test_one_that_the_kernel_cannot_tell_is_named_beside_those_that_it_does_not_know() -> None:
    said = {flaw: "Not affected" for flaw in SAFE if flaw != "vmscape"} | {"srbds": "Unknown: no word"}
    assert cpu_flaws.find_cpu_flaws(facts(cpu_vulnerabilities=said)).summary.endswith("srbds, vmscape")


def test_files_are_counted_in_words_that_fit() -> None:
    arm: dict[str, Any] = {"architecture": "aarch64", "cpu_vulnerabilities": {"spectre_v2": "Not affected"}}
    assert cpu_flaws.find_cpu_flaws(facts(**arm)).evidence.endswith(", 1 file")
    assert cpu_flaws.find_cpu_flaws(facts()).evidence.endswith(f", {len(SAFE)} files")


@pytest.mark.parametrize(
    ("kernel", "is_old"), [("4.9.337", True), ("3.10.0-1160.el7.x86_64", True), ("6.12.110", False)]
)
def test_a_kernel_without_the_directory_is_unknown_and_not_safe(kernel: str, is_old: bool) -> None:
    document = {"unknown": "/sys/...: No such file or directory", "error": "ENOENT"}
    host = {"cpu_vulnerabilities": document, "kernel": known(kernel)}
    machine = parse_facts({"schema": SCHEMA, "host": host, "cpuid": {}, "kvm": {}})
    finding = cpu_flaws.find_cpu_flaws(machine)
    assert finding.status is Status.UNKNOWN
    assert ("too old" in finding.summary) == is_old
    assert safety.find_smt(machine) is None


@pytest.mark.parametrize(
    ("said", "active", "status"),
    [
        ("Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable", True, Status.WARN),
        ("Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable", None, Status.WARN),
        ("Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable", False, None),
        ("Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT disabled", True, None),
        ("Mitigation: Clear CPU buffers; SMT Host state unknown", False, Status.UNKNOWN),
        ("Not affected", True, None),
    ],
)
def test_threads_of_a_core(said: str, active: bool | None, status: Status | None) -> None:
    machine = facts(cpu_vulnerabilities={"l1tf": said}, smt_active=active, smt_control="on")
    finding = safety.find_smt(machine)
    assert (finding.status if finding else None) is status


def test_merged_pages() -> None:
    assert safety.find_ksm(facts(ksm_run=0)) is None
    assert safety.find_ksm(facts(ksm_run=2)) is None
    finding = safety.find_ksm(facts(ksm_run=1))
    assert finding
    assert finding.status is Status.WARN
    assert answer(facts(ksm_run=1)) is Verdict.NO
    assert answer(facts(ksm_run=None)) is Verdict.UNKNOWN


L1TF = {"l1tf": "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT disabled"}


@pytest.mark.parametrize(
    ("flush", "flaws", "status"),
    [
        ("never", L1TF, Status.WARN),
        ("cond", L1TF, Status.INFO),
        ("always", L1TF, None),
        ("never", SAFE, None),
        ("not required", SAFE, None),
    ],
)
def test_the_flush_of_the_data_cache(flush: str, flaws: dict[str, str], status: Status | None) -> None:
    modules = {"kvm_intel": module(nested="Y", vmentry_l1d_flush=flush)}
    finding = safety.find_l1d_flush(facts(modules=modules, cpu_vulnerabilities=flaws))
    assert (finding.status if finding else None) is status


@pytest.mark.parametrize(
    ("value", "said", "status"),
    [
        ("N", "KVM: Vulnerable", Status.WARN),
        ("never", "KVM: Vulnerable", Status.WARN),
        ("Y", "KVM: Mitigation: Split huge pages", None),
        ("N", "Not affected", None),
    ],
)
def test_execution_from_huge_pages(value: str, said: str, status: Status | None) -> None:
    machine = facts(modules={"kvm": module(nx_huge_pages=value)}, cpu_vulnerabilities={"itlb_multihit": said})
    finding = safety.find_huge_pages(machine)
    assert (finding.status if finding else None) is status


@pytest.mark.parametrize(
    ("word", "is_bad"),
    [
        ("mitigations=off", True),
        ("mitigations=auto,no_guest_host,no_guest_guest", True),
        ("mitigations=auto,nosmt,no_guest_guest", True),
        ("mitigations=auto", False),
        ("mitigations=auto,nosmt", False),
        ("mitigations=auto,no_user_user", False),
        ("l1tf=off", True),
        ("l1tf=full,force", False),
        ("kvm-intel.vmentry_l1d_flush=never", True),
        ("kvm.nx_huge_pages=off", True),
        ("nospectre_v2", True),
        ("vmscape=force", False),
    ],
)
def test_words_of_the_boot_line(word: str, is_bad: bool) -> None:
    finding = safety.find_boot_line(facts(boot_line=["quiet", word]))
    assert (finding is not None) == is_bad
    if finding:
        assert word in finding.evidence


def test_encrypted_memory_is_mentioned() -> None:
    finding = safety.find_encryption(facts(modules={"kvm_amd": module(sev="Y", sev_es="1", sev_snp="N")}))
    assert finding
    assert (finding.status, finding.evidence.endswith("sev, sev_es")) == (Status.INFO, True)


def finding(status: Status) -> Finding:
    return Finding(name="safety.ksm", status=status, summary=f"it is {status}", evidence="constructed")


def test_a_warning_is_a_no_an_unknown_is_unknown_and_what_is_only_told_is_neither() -> None:
    assert assess_safety([finding(Status.UNKNOWN), finding(Status.WARN)]).verdict is Verdict.NO
    assert assess_safety([finding(Status.WARN), finding(Status.WARN)]).reason == "it is warn (and 1 more)"
    assert assess_safety([finding(Status.UNKNOWN), finding(Status.INFO)]).verdict is Verdict.UNKNOWN
    assert assess_safety([finding(Status.INFO), finding(Status.PASS)]).verdict is Verdict.YES


def loop() -> dict[str, Any]:
    return {"loop": known({"turns": 1000, "elapsed_ns": 1000})}


@pytest.mark.parametrize(
    ("host", "exit_code", "safe"),
    [
        ({}, ExitCode.OK, Verdict.YES),
        ({"ksm_run": 1}, ExitCode.NO, Verdict.NO),
        ({"ksm_run": None}, ExitCode.NOT_FOUND_OUT, Verdict.UNKNOWN),
    ],
)
def test_safety_counts_only_for_strangers(host: dict[str, Any], exit_code: ExitCode, safe: Verdict) -> None:
    document = {
        "schema": SCHEMA,
        "host": {
            "architecture": known("x86_64"),
            "kernel": known("6.12.110"),
            "cpu_vulnerabilities": known(SAFE),
            "modules": known({"kvm_intel": module(nested="Y", ept="Y")}),
            "ksm_run": known(0),
            "fixed_cves": known(changelog(UNREAD)),
            **{name: known(value) if value is not None else {} for name, value in host.items()},
        },
        "cpuid": known(INTEL),
        "kvm": {"offers": known({"vmx": True, "svm": False}), **loop()},
    }
    report = Report(assessment=assess(parse_facts(document)), collected=document)
    assert report.assessment.verdict.exit_code is ExitCode.OK
    assert report.assessment.safe_for_tenants.verdict is safe
    counted = count_safety(report)
    assert counted.assessment.verdict.exit_code is exit_code
    assert render_json(counted)["counts_safety"] is True
    assert "strangers" in render_summary(counted.assessment).splitlines()[0]
    statuses = {it.status for it in counted.assessment.findings_of(Question.SAFETY)}
    assert Status.WARN not in statuses
    assert (Status.FAIL in statuses) == (safe is Verdict.NO)


@pytest.mark.parametrize(
    ("machine", "plain", "untrusted"),
    [
        ("safety-fixed-6.12", 0, 3),
        ("safety-debian-changelog", 0, 3),
        ("safety-open-6.1", 0, 1),
        ("safety-l1tf-unmitigated", 0, 1),
        ("safety-old-kernel", 0, 1),
        ("safety-vendor-unknown", 0, 3),
        ("safety-flaws-not-known", 1, 1),
        ("safety-shadow-paging", 1, 1),
    ],
)
def test_recorded_machines_end_with_their_exit_codes(machine: str, plain: int, untrusted: int) -> None:
    root = str(Path(__file__).parents[2] / "hosts" / machine)
    app = typer.Typer()
    app.command()(check)
    assert CliRunner().invoke(app, ["--root", root]).exit_code == plain
    assert CliRunner().invoke(app, ["--root", root, "--untrusted"]).exit_code == untrusted


@pytest.mark.parametrize("vendor", ["CentaurHauls", "Shanghai"])
def test_zhaoxin_s_cpus_have_vmx_and_its_flaws(vendor: str) -> None:
    """As the agent gives the vendor's name: without the spaces around it."""
    zhaoxin = {**INTEL, "vendor": vendor}
    evidence = find_kernel_flaws(facts(kernel="6.12.10", cpuid=zhaoxin)).evidence
    assert "CVE-2026-89932" in evidence  # of VMX
    assert "CVE-2026-43133" not in evidence  # of SVM
