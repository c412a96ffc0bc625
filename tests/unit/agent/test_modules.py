from __future__ import annotations

from nestctl.agent import modules
from nestctl.agent.tree import Entry, RecordedTree


def recorded(entries: dict[str, str]) -> RecordedTree:
    return RecordedTree({path: {"text": text} for path, text in entries.items()})


def test_a_loaded_module_is_told_from_one_that_is_built_in() -> None:
    machine = recorded(
        {
            "sys/module/kvm_intel/initstate": "live\n",
            "sys/module/kvm_intel/refcnt": "3\n",
            "sys/module/kvm_intel/parameters/nested": "Y\n",
            "sys/module/kvm/parameters/ignore_msrs": "N\n",
            "sys/module/kvmgt/initstate": "live\n",
        }
    )
    assert modules.read_modules(machine) == {
        "kvm": {"state": "built in", "parameters": {"ignore_msrs": {"value": "N"}}},
        "kvm_intel": {"state": "loaded", "users": {"value": 3}, "parameters": {"nested": {"value": "Y"}}},
    }


def test_settings_of_all_directories_are_read_and_a_file_hides_those_of_its_name_behind() -> None:
    machine = recorded(
        {
            "etc/modprobe.d/kvm.conf": "# options kvm_intel nested=7\noptions kvm-intel nested=0\n",
            "usr/lib/modprobe.d/kvm.conf": "options kvm_intel nested=1\n",
            "lib/modprobe.d/deny.conf": "blacklist kvm_amd\ninstall kvm /bin/false\nblacklist nouveau\n",
            "usr/local/lib/modprobe.d/k.conf": "options kvm_amd \\\n  nested=1 npt=1\n",
        }
    )
    assert modules.read_settings(machine) == [
        {"file": "/lib/modprobe.d/deny.conf", "kind": "blacklist", "module": "kvm_amd", "text": ""},
        {"file": "/lib/modprobe.d/deny.conf", "kind": "install", "module": "kvm", "text": "/bin/false"},
        {
            "file": "/usr/local/lib/modprobe.d/k.conf",
            "kind": "options",
            "module": "kvm_amd",
            "text": "nested=1 npt=1",
        },
        {"file": "/etc/modprobe.d/kvm.conf", "kind": "options", "module": "kvm_intel", "text": "nested=0"},
    ]


def test_settings_come_in_the_order_of_the_files_names_whatever_their_directory() -> None:
    """The last one counts: here /etc has it, though its directory is the first."""
    machine = recorded(
        {
            "etc/modprobe.d/zz.conf": "options kvm_intel nested=0\n",
            "usr/lib/modprobe.d/aa.conf": "options kvm_intel nested=1\n",
            "run/modprobe.d/Kvm.conf": "options kvm_intel nested\n",
        }
    )
    files = ["/run/modprobe.d/Kvm.conf", "/usr/lib/modprobe.d/aa.conf", "/etc/modprobe.d/zz.conf"]
    assert [setting["file"] for setting in modules.read_settings(machine)] == files


def test_what_is_kept_of_settings_says_the_same() -> None:
    text = "options kvm-intel \\\n nested=1\noptions wifi key=secret\nblacklist kvm\n"
    kept = modules.keep_settings(text)
    assert "secret" not in kept
    assert modules.parse_settings(kept) == modules.parse_settings(text)


def test_the_boot_line_is_kept_without_what_is_not_ours() -> None:
    line = "BOOT_IMAGE=/x root=UUID=1 kvm-intel.nested=1 mitigations=off nosmt ip=10.0.0.1 -- --token nosmt"
    assert modules.keep_boot_line(line) == "kvm-intel.nested=1 mitigations=off nosmt\n"


def users(entries: dict[str, Entry], count: int | None) -> dict[str, object]:
    module = {"state": "loaded", "users": {"value": count}} if count is not None else {"state": "built in"}
    return modules.read_users(RecordedTree(entries), {"value": {"kvm": {}, "kvm_amd": module}})


def test_processes_that_hold_kvm_are_named() -> None:
    entries: dict[str, Entry] = {
        "proc/12/fd/3": {"link": "/dev/kvm"},
        "proc/12/fd/4": {"link": "anon_inode:kvm-vcpu:0"},
        "proc/12/comm": {"text": "qemu-system-x86\n"},
        "proc/13/fd/0": {"link": "/dev/null"},
        "proc/self/fd/0": {"link": "/dev/kvm"},
    }
    process = {"pid": "12", "name": "qemu-system-x86"}
    assert users(entries, 1) == {"processes": [process], "is_complete": True}
    assert users(entries, None) == {"processes": [process], "is_complete": True}


def test_nobody_is_looked_for_where_the_count_says_nobody() -> None:
    assert users({"proc/12/fd/3": {"link": "/dev/kvm"}}, 0) == {"processes": [], "is_complete": True}


def test_processes_that_may_not_be_looked_at_make_it_incomplete() -> None:
    assert users({"proc/1/fd": {"error": "EACCES"}}, 2) == {"processes": [], "is_complete": False}


def test_files_of_modules_are_found_in_the_kernels_own_directory() -> None:
    machine = recorded(
        {
            "lib/modules/6.1.0-9-amd64/modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/arch/x86/kvm/kvm.ko\n",
            "lib/modules/6.1.0-9-amd64/kernel/arch/x86/kvm/kvm-amd.ko.xz": "",
        }
    )
    assert modules.read_module_files(machine, "6.1.0-9-amd64", "x86_64") == {"kvm": "built in", "kvm_amd": "file"}


def test_another_hypervisor_is_told_by_its_module_or_its_device() -> None:
    machine = recorded({"sys/module/vboxdrv/initstate": "live", "dev/vboxdrv": ""})
    assert modules.read_other_hypervisors(machine) == {"VirtualBox": ["/sys/module/vboxdrv", "/dev/vboxdrv"]}
