"""Read which of the kernel's modules serve KVM, how they are set, and how they are meant to be set."""

from __future__ import annotations

import re
from typing import Any

from .fact import Fact, NotFoundOut, find_out
from .tree import Tree

MODULES = "sys/module"
BOOT_LINE = "proc/cmdline"

# Where modprobe looks: a file hides those of the same name in the directories behind (modprobe.d(5)).
MODPROBE_DIRECTORIES = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)

# Modules whose settings matter here; a '-' in a name is a '_' (modprobe(8)).
RELEVANT_MODULE = re.compile(r"(kvm|kvm_.*|vboxdrv|vmmon)\Z")

# What is kept of the boot line: it may hold names, addresses and keys of other programs.
RELEVANT_BOOT_PARAMETER = re.compile(
    r"(kvm[-_a-z0-9]*\.[a-z0-9_]+|nokvm|clearcpuid|no5lvl|nox2apic|nosmp|nosmt|maxcpus|nr_cpus|mem|"
    r"mitigations|nopti|pti|kpti|nospectre_v[12]|nospec_store_bypass_disable|spectre_v2(_user)?|"
    r"spec_(store_bypass_disable|rstack_overflow)|l1tf|l1d_flush|mds|tsx|tsx_async_abort|mmio_stale_data|srbds|"
    r"retbleed|gather_data_sampling|reg_file_data_sampling|indirect_target_selection|tsa|vmscape|"
    r"(module_|modprobe\.|initcall_)blacklist|nomodule|lockdown|module\.sig_enforce|"
    r"(intel_|amd_)?iommu|hugepages|hugepagesz|default_hugepagesz|transparent_hugepage|prot_virt|numa_balancing)\Z"
)

# Other programs that hold VMX or SVM, by what shows of them.
OTHER_HYPERVISORS = {
    "VirtualBox": ("sys/module/vboxdrv", "dev/vboxdrv"),
    "VMware": ("sys/module/vmmon", "dev/vmmon"),
    "Parallels": ("sys/module/prl_hypervisor",),
    "Hyper-V": ("dev/mshv",),
}

# fs/anon_inodes.c names the open files of KVM so: 'anon_inode:kvm-vm', 'anon_inode:kvm-vcpu:0'.
KVM_FILE = re.compile(r"(/dev/kvm|anon_inode:\[?kvm-(vm|vcpu).*)\Z")


def read_facts(tree: Tree, kernel: str, architecture: str) -> dict[str, Fact]:
    """Read every fact; `kernel` is the release, for the directory of its modules."""
    modules = find_out(lambda: read_modules(tree))
    return {
        "modules": modules,
        "module_files": find_out(lambda: read_module_files(tree, kernel, architecture)),
        "module_settings": find_out(lambda: read_settings(tree)),
        "boot_line": find_out(lambda: tree.text(BOOT_LINE, keep=keep_boot_line).split()),
        "kvm_users": find_out(lambda: read_users(tree, modules)),
        "other_hypervisors": find_out(lambda: read_other_hypervisors(tree)),
    }


def read_modules(tree: Tree) -> dict[str, Any]:
    """Return the KVM modules that are there, each with its state and its parameters as the kernel prints them.

    A module that was loaded has `initstate`; one that is built into the kernel has only `parameters`. Built in without
    any parameter it does not show at all.
    """
    names = tree.names(MODULES, lambda name: name == "kvm" or name.startswith("kvm_"))
    return {name: _describe_module(tree, f"{MODULES}/{name}") for name in names}


def _describe_module(tree: Tree, path: str) -> dict[str, Any]:
    is_loaded = "value" in find_out(lambda: tree.word(f"{path}/initstate"))
    described: dict[str, Any] = {"state": "loaded" if is_loaded else "built in"}
    if is_loaded:
        described["users"] = find_out(lambda: _count(tree.word(f"{path}/refcnt")))
    names = find_out(lambda: tree.names(f"{path}/parameters")).get("value", [])
    described["parameters"] = {
        name: find_out(lambda name=name: tree.word(f"{path}/parameters/{name}"))  # type: ignore[misc]
        for name in names
    }
    return described


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise NotFoundOut(f"The kernel says '{text[:40]}' where a number of users should be.")
    return int(text)


def read_module_files(tree: Tree, kernel: str, architecture: str) -> dict[str, str]:
    """Return which KVM modules the running kernel has: {'kvm_intel': 'file'}, or 'built in'.

    The kernel's directory may be missing, in a container or where the kernel comes from outside: unknown then.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+~-]*", kernel):
        raise NotFoundOut("The kernel's release is not known, so its modules are not found.")
    directory = f"lib/modules/{kernel}"
    built_in = tree.text(f"{directory}/modules.builtin", keep=_keep_kvm_lines)
    found = {_module_name(line): "built in" for line in built_in.split()}
    part = {"x86_64": "x86", "aarch64": "arm64", "s390x": "s390", "ppc64le": "powerpc"}.get(architecture, architecture)
    listing = find_out(lambda: tree.names(f"{directory}/kernel/arch/{part}/kvm", lambda name: ".ko" in name))
    found.update({_module_name(name): "file" for name in listing.get("value", [])})
    return found


def _keep_kvm_lines(text: str) -> str:
    return "".join(f"{line}\n" for line in text.splitlines() if "/kvm" in line)


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def keep_boot_line(text: str) -> str:
    """Keep the parameters that bear on virtualization or its safety, up to the '--' before init's own arguments."""
    words: list[str] = []
    for word in text.split():
        if word == "--":
            break
        if RELEVANT_BOOT_PARAMETER.match(word.partition("=")[0]):
            words.append(word)
    return " ".join(words) + "\n"


def read_settings(tree: Tree) -> list[dict[str, str]]:
    """Return what modprobe.d says of the relevant modules: {file, kind (options, blacklist, install), module, text}.

    The order is modprobe's: by the files' names, whatever their directory (kmod, conf_files_insert_sorted).
    """
    paths: dict[str, str] = {}
    for directory in MODPROBE_DIRECTORIES:
        for name in find_out(lambda: tree.names(directory, lambda name: name.endswith(".conf"))).get("value", []):  # noqa: B023
            paths.setdefault(name, f"{directory}/{name}")
    settings: list[dict[str, str]] = []
    for _, path in sorted(paths.items()):
        text = find_out(lambda: tree.text(path, keep=keep_settings)).get("value", "")  # noqa: B023
        settings += [{"file": f"/{path}", **setting} for setting in parse_settings(text)]
    return settings


def keep_settings(text: str) -> str:
    """Keep the lines about the relevant modules, each on one line."""
    return "".join(f"{it['kind']} {it['module']} {it['text']}".rstrip() + "\n" for it in parse_settings(text))


def parse_settings(text: str) -> list[dict[str, str]]:
    """Parse the lines 'options', 'blacklist' and 'install' of a file of modprobe.d; a backslash ends no line."""
    settings: list[dict[str, str]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = line.split(None, 2)
        if len(words) < 2 or words[0] not in ("options", "blacklist", "install"):
            continue
        module = words[1].replace("-", "_")
        if RELEVANT_MODULE.match(module):
            settings.append({"kind": words[0], "module": module, "text": words[2].strip() if len(words) > 2 else ""})
    return settings


def read_users(tree: Tree, modules: Fact) -> dict[str, Any]:
    """Return the processes that hold KVM's files open, and whether all processes could be looked at.

    Where the modules' own counts say that nobody does, nobody is looked for: that takes longer than all the rest.
    """
    backends = [module for name, module in modules.get("value", {}).items() if name != "kvm"]
    if all(module.get("users", {}).get("value") == 0 for module in backends):
        return {"processes": [], "is_complete": True}
    processes: list[dict[str, str]] = []
    is_complete = True
    for pid in tree.names("proc", str.isdigit):
        try:
            held = tree.links(f"proc/{pid}/fd", lambda target: bool(KVM_FILE.match(target)))
        except PermissionError:
            is_complete = False
            continue
        except OSError:
            continue  # it has ended in the meantime
        if held:
            name = find_out(lambda: tree.word(f"proc/{pid}/comm")).get("value", "?")  # noqa: B023
            processes.append({"pid": pid, "name": name})
    return {"processes": processes, "is_complete": is_complete}


def read_other_hypervisors(tree: Tree) -> dict[str, list[str]]:
    """Return what shows of hypervisors beside KVM: {'VirtualBox': ['/sys/module/vboxdrv']}."""
    found = {name: [f"/{path}" for path in paths if tree.exists(path)] for name, paths in OTHER_HYPERVISORS.items()}
    return {name: paths for name, paths in found.items() if paths}
