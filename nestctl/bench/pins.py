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

# Functions of the shell for the QEMU of a domain, as libvirt starts it: by its whole path, which differs (Red Hat's is
# /usr/libexec/qemu-kvm), with '-name guest=NAME,debug-threads=on' (src/qemu/qemu_command.c); pgrep would do,
# and is not everywhere; in the file, a zero ends each word (proc_pid_cmdline(5)). Its threads are listed each with its
# number, its CPUs and its name, which is 'CPU n/KVM' or 'CPU n/TCG' for a vCPU's.
QEMU_FUNCTIONS = """
find_qemu() {
    LC_ALL=C grep -las "^/.*.-name.guest=$1," /proc/[0-9]*/cmdline | sed 's|^/proc/||; s|/.*||; q' | grep .
}
list_threads() {
    for task in "/proc/$1/task/"*; do
        cpus=$(sed -n "s/^Cpus_allowed_list:[[:space:]]*//p" "$task/status") || continue
        echo "${task##*/} $cpus $(cat "$task/comm")"
    done
}
"""

# CPUs that are online; of each, after an @, the threads of its core and the NUMA node
# (Documentation/ABI/stable/sysfs-devices-system-cpu); and the threads of each domain, with its name before them.
_LIST = f"""
{QEMU_FUNCTIONS}
cat /sys/devices/system/cpu/online
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    siblings=$(cat "$cpu/topology/thread_siblings_list" 2>/dev/null) || continue
    node=$(echo "$cpu"/node[0-9]*)
    echo "@ ${{cpu##*/cpu}} $siblings ${{node##*/node}}"
done
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
class Core:
    """The CPUs of one core, which share its units, and the NUMA node it is on; empty where the kernel has none."""

    cpus: tuple[int, ...]
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where threads are to run, by their number; without any all stay where they are. `reason` says how, or why not."""

    cpus: Mapping[str, str]
    reason: str


def parse_cpus(text: str) -> tuple[int, ...]:
    """Read the kernel's list of CPUs: '0-3,6' (Documentation/admin-guide/cputopology.rst)."""
    ranges = (part.partition("-") for part in text.split(",") if part)
    return tuple(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


def parse_threads(text: str) -> tuple[tuple[Core, ...], tuple[Thread, ...]]:
    """Read the cores with CPUs that are online, and the threads of guests."""
    first, *lines = text.splitlines() or [""]
    online = parse_cpus(first)
    words = [line.split(" ", 3) for line in lines]
    found = {int(it[1]): (parse_cpus(it[2]), it[3]) for it in words if it[0] == "@"}
    cores: dict[tuple[int, ...], Core] = {}
    for cpu in online:
        siblings, node = found.get(cpu, ((cpu,), ""))
        there = tuple(sibling for sibling in siblings if sibling in online)
        cores.setdefault(there, Core(cpus=there, node=node))
    threads = (Thread(domain=it[0], number=it[1], cpus=it[2], name=it[3]) for it in words if it[0] != "@")
    return tuple(cores.values()), tuple(threads)


def plan_pins(cores: Sequence[Core], threads: Sequence[Thread]) -> Plan:
    """Give each vCPU a CPU on one of the last cores, and all other threads of all guests the cores that are left.

    A vCPU gets a core for itself where there are enough; else as many share one as it has CPUs. No other thread runs
    on such a core. All are on one NUMA node where one has room.
    """
    vcpus = [thread for thread in threads if thread.is_vcpu]
    online = {cpu for core in cores for cpu in core.cpus}
    if any(set(parse_cpus(thread.cpus)) != online for thread in vcpus):
        return Plan(cpus={}, reason="as its lab file, or somebody else, has pinned it")
    if not vcpus:
        return Plan(cpus={}, reason="no: no QEMU of the lab's was found that runs it")
    for shares in (False, True):
        for pool in _pools(cores):
            own = _take(pool, len(vcpus), shares=shares)
            rest = [core for core in pool if not set(core.cpus) & set(own)]
            if len(own) == len(vcpus) and rest:
                return _plan(threads, own, pool, rest, shares=shares)
    room = f"{len(vcpus)} vCPUs on {len(online)} CPUs of {len(cores)} cores leave no core for QEMU's other threads"
    return Plan(cpus={}, reason=f"no: {room}")


def _pools(cores: Sequence[Core]) -> Iterator[Sequence[Core]]:
    """Each node by itself, the last first, and then all of them."""
    for node in reversed(dict.fromkeys(core.node for core in cores)):
        yield [core for core in cores if core.node == node]
    yield cores


def _take(pool: Sequence[Core], count: int, *, shares: bool) -> list[int]:
    """Take CPUs of the last cores but never of the first; fewer than asked for where there are no more."""
    taken: list[int] = []
    for core in reversed(pool[1:]):
        taken += core.cpus if shares else core.cpus[:1]
    return sorted(taken[:count])


def _plan(
    threads: Sequence[Thread], own: Sequence[int], pool: Sequence[Core], rest: Sequence[Core], *, shares: bool
) -> Plan:
    others = ",".join(str(cpu) for cpu in sorted(cpu for core in rest for cpu in core.cpus))
    vcpus = [thread.number for thread in threads if thread.is_vcpu]
    pins = {number: str(cpu) for number, cpu in zip(vcpus, own, strict=True)}
    has_siblings = any(len(core.cpus) > 1 for core in pool)
    what = "CPU of its own" if shares or not has_siblings else "core of its own"
    said = f"each vCPU on a {what}, QEMU's other threads on the rest"
    if shares:
        said += "; vCPUs share cores, for there are too few"
    if len({core.node for core in pool}) > 1:
        said += "; on several NUMA nodes, for none has room"
    return Plan(cpus={thread.number: pins.get(thread.number, others) for thread in threads}, reason=said)


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
        cores, threads = _list(shell, domains)
    except (NestctlError, ValueError, IndexError) as error:
        yield f"no: {error}"
        return
    plan = plan_pins(cores, threads)
    if not plan.cpus:
        yield plan.reason
        return
    try:
        _pin(shell, plan.cpus)
        yield plan.reason
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
    there = (thread for thread in now if thread.domain in first)
    _pin(shell, {thread.number: known.get(thread.number, first[thread.domain]) for thread in there})


def _list(shell: Shell, domains: Sequence[str]) -> tuple[tuple[Core, ...], tuple[Thread, ...]]:
    deadline = Deadline.after(_STEP_S, f"Looking for guests on {shell.where}")
    return parse_threads(shell.run(("sh", "-c", _LIST, "sh", *domains), deadline=deadline).expect_success().text)


def _pin(shell: Shell, cpus: Mapping[str, str]) -> None:
    words = [word for number, where in cpus.items() for word in (where, number)]
    deadline = Deadline.after(_STEP_S, f"Pinning guests on {shell.where}")
    shell.run(("sh", "-c", _PIN, "sh", *words), deadline=deadline).expect_success()
