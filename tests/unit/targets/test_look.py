"""What playbooks/files/nested-look.sh sees: the script itself is run, on trees that stand for /proc and /sys."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from nestctl.paths import resource
from nestctl.targets.module import ModuleState, parse_state

SCRIPT = resource("playbooks", "files/nested-look.sh").read_text(encoding="utf-8")

INTEL, AMD, NEITHER = "flags\t: fpu vmx\n", "flags\t: fpu svm\n", "flags\t: fpu\n"
BOTH_BUILT_IN = {"sys/module/kvm_intel/parameters/nested": "Y\n", "sys/module/kvm_amd/parameters/nested": "0\n"}


def look(root: Path, files: Mapping[str, str], *, configured: str = "") -> ModuleState:
    """Run the script below `root`; `configured` is what 'modprobe --showconfig' prints there."""
    programs = root / "programs"
    for path, text in {"proc/cpuinfo": NEITHER, "proc/cmdline": "quiet\n", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    programs.mkdir()
    (programs / "modprobe").write_text(f"cat <<'END'\n{configured}\nEND\n", encoding="utf-8")
    (programs / "modprobe").chmod(0o755)
    script = re.sub(r"(?<![\w./}])/(?=(proc|sys|etc|run|usr|lib)/)", f"{root}/", SCRIPT)
    ran = subprocess.run(
        ("sh", "-s"),
        input=script,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": f"{programs}:/usr/bin:/bin"},
    )
    return parse_state(json.loads(ran.stdout))


@pytest.mark.parametrize(
    ("cpuinfo", "name", "value"), [(INTEL, "kvm_intel", "Y"), (AMD, "kvm_amd", "0")], ids=["intel", "amd"]
)
def test_of_two_built_in_modules_the_processor_s_counts(tmp_path: Path, cpuinfo: str, name: str, value: str) -> None:
    state = look(tmp_path, {"proc/cpuinfo": cpuinfo, **BOTH_BUILT_IN})
    assert (state.name, state.state, state.value) == (name, "builtin", value)


def test_the_other_vendor_s_module_is_not_this_processor_s(tmp_path: Path) -> None:
    state = look(tmp_path, {"proc/cpuinfo": INTEL, "sys/module/kvm_amd/parameters/nested": "1\n"})
    assert (state.name, state.state, state.value) == ("kvm_intel", "absent", "")


def test_a_module_that_is_there_is_found_where_the_flags_are_hidden(tmp_path: Path) -> None:
    module = {"initstate": "live\n", "refcnt": "2\n", "parameters/nested": "1\n"}
    state = look(tmp_path, {f"sys/module/kvm_amd/{name}": text for name, text in module.items()})
    assert (state.name, state.state, state.value, state.refcnt) == ("kvm_amd", "loaded", "1", 2)


def test_where_there_is_neither_no_module_is_named(tmp_path: Path) -> None:
    assert look(tmp_path, {}).name == ""


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ("nested=0", "0"),
        ("nested", "1"),
        ("ept=1 nested", "1"),
        ("nested ept=1", "1"),
        ("nested=0 nested", "1"),
        ("nested nested=0", "0"),
        ("nested_early_check=1", ""),
    ],
)
def test_a_name_alone_is_a_setting(tmp_path: Path, options: str, value: str) -> None:
    """As nestctl.check.settings reads it, too."""
    files = {
        "proc/cpuinfo": INTEL,
        "proc/cmdline": f"quiet kvm-intel.{options.replace(' ', ' kvm_intel.')}\n",
        "etc/modprobe.d/kvm.conf": f"options  kvm-intel\t{options}\n",
    }
    state = look(tmp_path, files, configured=f"options kvm_intel {options}")
    assert (state.configured, state.boot) == (value, value)
    assert [it for _, it in state.files] == ([value] if value else [])
