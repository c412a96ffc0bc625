"""The proof of nesting in small machines of either vendor; test_lab.py has it in L1 and in L2 of a lab."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from nestctl.agent import svm, vmx
from nestctl.bench.workloads import AGENT_WORKLOADS
from nestctl.check.assess import assess
from nestctl.check.findings import Assessment, Status, Verdict
from nestctl.image.store import Image
from nestctl.model.facts_document import parse_facts
from nestctl.model.samples import Family
from tests.nested import bochs
from tests.nested.initramfs import build_initramfs, read_answers

_PRICE = (
    "import json; from agent.nested import measure_nested_exit; "
    "samples = measure_nested_exit(target_s=0.25, repeats=3, timeout_s=60); "
    'print(json.dumps({"samples": samples}))'
)

# What bench asks of a micro-guest, with samples short enough for an emulator.
_EXITS = sorted(
    workload.name
    for workload in AGENT_WORKLOADS
    if workload.family is Family.MICRO_GUEST and workload.name not in {"ipi", "first_touch_2m"}
)
_PRICES = (
    "import json; from agent.measure import measure_one; "
    f"outcomes = [measure_one(name, 2, 5_000_000) for name in {json.dumps(_EXITS)}]; "
    'print(json.dumps({"outcomes": outcomes}))'
)

# One boot, the module with other parameters each time: as it comes, without nested paging, without nesting.
_AMD = f"""
load kvm_amd
agent on
python price '{_PRICE}'
python prices '{_PRICES}'
unload kvm_amd
load kvm_amd npt=0
agent shadow
python shadow_prices '{_PRICES}'
unload kvm_amd
load kvm_amd nested=0
agent off
"""
_INTEL = f"""
load kvm_intel
agent on
python prices '{_PRICES}'
unload kvm_intel
load kvm_intel ept=0
agent shadow
python shadow_prices '{_PRICES}'
unload kvm_intel
load kvm_intel nested=0
agent off
"""


def _findings(assessment: Assessment) -> dict[str, Status]:
    return {finding.name: finding.status for finding in assessment.findings}


def _expect_proof(collected: dict[str, Any], *, exit_code: int, is_paging_nested: bool = True, exits: int) -> None:
    run = collected["kvm"]["nested_run"]["value"]
    assert run["failure"] == "", run
    assert (run["exit_code"], run["is_paging_nested"]) == (exit_code, is_paging_nested)
    assert run["exits_of_all_runs"] >= exits, run
    assert assess(parse_facts(collected)).can_nest.verdict is Verdict.YES


def _expect_prices(answer: dict[str, Any], *, logs_by_itself: bool = False) -> None:
    """Every exit that bench prices was taken, and KVM counted it.

    A CPU that logs dirty pages by itself (Intel's PML) leaves the guest when its log of 512 pages is full.
    """
    outcomes = {outcome["workload"]: outcome for outcome in answer["outcomes"]}
    assert [*outcomes] == _EXITS
    for name, outcome in outcomes.items():
        assert len(outcome["samples"]) == 2, outcome
        for sample in outcome["samples"]:
            assert not sample.get("void"), outcome
            assert sample["operations"] > 0
            if sample.get("exits") is not None:
                pages = 512 if logs_by_itself and name == "dirty_log" else 1
                assert sample["exits"] >= sample["operations"] // pages, outcome
    counted = {name for name, outcome in outcomes.items() if outcome["samples"][0].get("exits") is not None}
    assert {*_EXITS} - counted == {"nested_exit", "vcpu_create", "vm_create"}


def _expect_no_offer(collected: dict[str, Any]) -> None:
    assert collected["kvm"]["offers"]["value"] == {"vmx": False, "svm": False}
    assert "neither VMX nor SVM" in collected["kvm"]["nested_run"]["unknown"]
    assessment = assess(parse_facts(collected))
    assert (assessment.can_nest.verdict, assessment.verdict) == (Verdict.NO, Verdict.NO)
    findings = _findings(assessment)
    assert (findings["nested.parameter"], findings["nested.offered"]) == (Status.FAIL, Status.FAIL)
    assert "nested.proof" not in findings


def test_svm_with_and_without_nested_paging_and_switched_off(image: Image, tmp_path: Path) -> None:
    initramfs = build_initramfs(image, tmp_path, script=_AMD)
    machine = "qemu-system-x86_64 -accel tcg -cpu max,la57=off,svm=on,npt=on -m 512 -nodefaults -nographic -no-reboot"
    files = ("-serial", "stdio", "-kernel", str(image.kernel), "-initrd", str(initramfs))
    command = (*machine.split(), *files, "-append", "console=ttyS0 quiet panic=-1")
    booted = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
    answers = read_answers(booted.stdout)
    named = ["on", "price", "prices", "shadow", "shadow_prices", "off", "end"]
    assert list(answers) == named, booted.stdout + booted.stderr
    _expect_proof(answers["on"], exit_code=svm.EXIT_CPUID, exits=50)
    _expect_proof(answers["shadow"], exit_code=svm.EXIT_CPUID, is_paging_nested=False, exits=50)
    _expect_no_offer(answers["off"])
    # Thousands of exits, where there is the time for them: as bench takes them.
    turns, elapsed_ns = zip(*answers["price"]["samples"], strict=True)
    assert len(set(turns)) == 1
    assert sum(turns) >= 1000
    assert min(elapsed_ns) >= 250_000_000
    _expect_prices(answers["prices"])
    _expect_prices(answers["shadow_prices"])


def test_vmx_with_and_without_nested_paging_and_switched_off(image: Image, tmp_path: Path) -> None:
    """Two to three minutes: Bochs interprets, and boots a whole kernel first."""
    cd = bochs.build_cd(image, build_initramfs(image, tmp_path, script=_INTEL), tmp_path)
    answers = read_answers(bochs.boot(cd, tmp_path, until=r"^<end 0>", timeout_s=900))
    assert list(answers) == ["on", "prices", "shadow", "shadow_prices", "off", "end"]
    assert answers["on"]["cpuid"]["value"]["vendor"] == "GenuineIntel"
    assert assess(parse_facts(answers["on"])).is_emulated
    _expect_proof(answers["on"], exit_code=vmx.EXIT_CPUID, exits=1000)
    _expect_proof(answers["shadow"], exit_code=vmx.EXIT_CPUID, is_paging_nested=False, exits=1000)
    _expect_prices(answers["prices"], logs_by_itself=True)
    _expect_prices(answers["shadow_prices"])
    _expect_no_offer(answers["off"])
