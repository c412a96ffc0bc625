"""Each vCPU on a CPU of its own while it is measured, and QEMU's other threads elsewhere, where a machine has room."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from nestctl.adapters.shell import Shell
from nestctl.bench.level import Level
from nestctl.deadline import Deadline
from nestctl.errors import NestctlError

# Functions of the shell for the QEMU of a domain, as libvirt starts it: '-name guest=NAME,debug-threads=on'
# (src/qemu/qemu_command.c). Its threads are listed each with its number, its CPUs and its name, which is 'CPU n/KVM' or
# 'CPU n/TCG' for a vCPU's.
QEMU_FUNCTIONS = """
find_qemu() { pgrep -o -f "^/usr/bin/qemu-system.* guest=$1,"; }
list_threads() {
    for task in "/proc/$1/task/"*; do
        cpus=$(sed -n "s/^Cpus_allowed_list:[[:space:]]*//p" "$task/status") || continue
        echo "${task##*/} $cpus $(cat "$task/comm")"
    done
}
"""

# CPUs that are online, and then the threads of each domain, with its name before them.
_LIST = f"""
{QEMU_FUNCTIONS}
cat /sys/devices/system/cpu/online
for domain; do
    pid=$(find_qemu "$domain") || continue
    list_threads "$pid" | sed "s/^/$domain /"
done
"""
# A thread that has ended meanwhile needs no CPU.
_PIN = 'while [ $# -gt 0 ]; do taskset -pc "$1" "$2" >/dev/null 2>&1 || [ ! -e "/proc/$2" ] || exit 1; shift 2; done'

_STEP_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Thread:
    """A thread of a guest's QEMU; `cpus` is the kernel's list of those that it may run on."""

    domain: str
    number: str
    cpus: str
    name: str

    @property
    def is_vcpu(self) -> bool:
        return self.name.startswith("CPU ")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where threads are to run, by their number; without any, `reason` says why all stay where they are."""

    cpus: Mapping[str, str]
    reason: str = ""


def parse_cpus(text: str) -> tuple[int, ...]:
    """Read the kernel's list of CPUs: '0-3,6' (Documentation/admin-guide/cputopology.rst)."""
    ranges = (part.partition("-") for part in text.split(",") if part)
    return tuple(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


def parse_threads(text: str) -> tuple[tuple[int, ...], tuple[Thread, ...]]:
    """Read the CPUs that are online, and the threads of guests."""
    online, *lines = text.splitlines() or [""]
    words = (line.split(" ", 3) for line in lines)
    return parse_cpus(online), tuple(Thread(domain=it[0], number=it[1], cpus=it[2], name=it[3]) for it in words)


def plan_pins(online: Sequence[int], threads: Sequence[Thread]) -> Plan:
    """Give each vCPU one of the last CPUs, and all other threads of all guests the first ones."""
    vcpus = [thread for thread in threads if thread.is_vcpu]
    if any(set(parse_cpus(thread.cpus)) != set(online) for thread in vcpus):
        return Plan(cpus={}, reason="as its lab file, or somebody else, has pinned it")
    if not vcpus:
        return Plan(cpus={}, reason="no: no QEMU of the lab's was found that runs it")
    if len(online) <= len(vcpus):
        return Plan(cpus={}, reason=f"no: {len(vcpus)} vCPUs on {len(online)} CPUs leave none for QEMU's other threads")
    own, rest = online[-len(vcpus) :], ",".join(map(str, online[: -len(vcpus)]))
    pins = {thread.number: str(cpu) for thread, cpu in zip(vcpus, own, strict=True)}
    return Plan(cpus={thread.number: pins.get(thread.number, rest) for thread in threads})


@contextmanager
def pinned(levels: Sequence[Level], lab: str) -> Iterator[Mapping[str, str]]:
    """Pin the guests of every level that has room for it, and put their threads back in the end.

    Yields by the name of each guest how it is pinned, or why it is not.
    """
    with ExitStack() as stack:
        said: dict[str, str] = {}
        for host in levels:
            guests = [level.name for level in levels if level.above == host.name]
            if guests:
                text = stack.enter_context(_pinned_on(host.shell, [f"{lab}-{name}" for name in guests]))
                said |= dict.fromkeys(guests, text)
        yield said


@contextmanager
def _pinned_on(shell: Shell, domains: Sequence[str]) -> Iterator[str]:
    try:
        online, threads = _list(shell, domains)
    except (NestctlError, ValueError, IndexError) as error:
        yield f"no: {error}"
        return
    plan = plan_pins(online, threads)
    if not plan.cpus:
        yield plan.reason
        return
    try:
        _pin(shell, plan.cpus)
        yield "each vCPU on a CPU of its own, QEMU's other threads on the rest"
    finally:
        try:
            _put_back(shell, domains, threads)
        except NestctlError as error:
            log.warning("the threads of guests on %s could not be put back: %s", shell.where, error)


def _put_back(shell: Shell, domains: Sequence[str], before: Sequence[Thread]) -> None:
    """Let all threads run where they ran; one that is new has the CPUs of its process then."""
    known = {thread.number: thread.cpus for thread in before}
    first = {thread.domain: thread.cpus for thread in reversed(before)}
    _, now = _list(shell, domains)
    _pin(shell, {thread.number: known.get(thread.number, first[thread.domain]) for thread in now})


def _list(shell: Shell, domains: Sequence[str]) -> tuple[tuple[int, ...], tuple[Thread, ...]]:
    deadline = Deadline.after(_STEP_S, f"Looking for guests on {shell.where}")
    return parse_threads(shell.run(("sh", "-c", _LIST, "sh", *domains), deadline=deadline).expect_success().text)


def _pin(shell: Shell, cpus: Mapping[str, str]) -> None:
    words = [word for number, where in cpus.items() for word in (where, number)]
    deadline = Deadline.after(_STEP_S, f"Pinning guests on {shell.where}")
    shell.run(("sh", "-c", _PIN, "sh", *words), deadline=deadline).expect_success()
