"""Read and change the machines that run guests: files of /sys and modules, each put back as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from nestctl.adapters.shell import Shell
from nestctl.bench.pins import QEMU_FUNCTIONS, parse_cpus
from nestctl.bench.tune.settings import Module, Proof, Setting
from nestctl.bench.tune.trials import is_same
from nestctl.deadline import Deadline
from nestctl.errors import FailedError, GuestError, NestctlError

_ONLINE = "/sys/devices/system/cpu/online"
_FREE_2M = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

# Each file with its path before it; one that is not there is left out. What is read is a line.
_READ = 'for path; do [ -r "$path" ] && echo "$path $(head -n 1 "$path")"; done; grep -m 1 "^flags" /proc/cpuinfo || :'
_WRITE = 'printf "%s" "$2" > "$1"'
_LIST_PARAMETERS = """
cd "/sys/module/$1/parameters"
for name in *; do [ ! -r "$name" ] || echo "$name=$(cat "$name")"; done
"""
# 'modprobe -r' would take kvm along, and with it what was set in its parameters since it was loaded.
_RELOAD = 'name=$1; shift; rmmod "$name" && modprobe "$name" "$@"'

_FIND_QEMU = f'{QEMU_FUNCTIONS}pid=$(find_qemu "$1") || exit 0; '
_PROOFS = {
    "qemu": _FIND_QEMU + 'tr "\\0" " " < "/proc/$pid/cmdline"',
    "threads": _FIND_QEMU + 'list_threads "$pid"',
    "kernel": "cat /proc/cmdline",
    "cpu": 'grep -m 1 "^flags" /proc/cpuinfo',
}

_STEP_S = 120.0


class LeftChangedError(FailedError):
    """A machine is not as it was before: nothing more may be tried."""


def deadline_for(purpose: str) -> Deadline:
    """Give a command on a machine of any level its time."""
    return Deadline.after(_STEP_S, purpose)


class Seen:
    """What a machine says of itself: files by path, its CPUs, and the flags of the first one."""

    def __init__(self, text: str) -> None:
        lines = [line.partition(" ") for line in text.splitlines()]
        self.values = {path: _chosen(value) for path, _, value in lines if path.startswith("/")}
        self.flags = frozenset(next((line.split() for line in text.splitlines() if line.startswith("flags")), [])[2:])
        self.cpus = parse_cpus(self.values.get(_ONLINE, ""))
        self.free_huge_pages_mib = 2 * int(self.values.get(_FREE_2M, "0"))


def look_at(shell: Shell, settings: Sequence[Setting]) -> Seen:
    """Read all that settings are about on one machine."""
    paths = dict.fromkeys(setting.path for setting in settings if setting.path)
    command = ("sh", "-c", _READ, "sh", *paths, _ONLINE, _FREE_2M)
    return Seen(shell.run(command, deadline=deadline_for(f"Looking at {shell.where}")).expect_success().text)


def _chosen(value: str) -> str:
    """Of 'always [madvise] never' the word in brackets; any other value as it is."""
    found = re.search(r"\[(\w+)\]", value)
    return found.group(1) if found else value


@contextmanager
def changed_machine(shell: Shell, setting: Setting) -> Iterator[None]:
    """Have a setting of a machine's in effect meanwhile; a module is loaded again twice, so no guest may run then.

    Raises `FailedError` when it does not take effect, or cannot be put back.
    """
    if setting.module:
        before = _read_parameters(shell, setting.module)
        wanted = {**before, setting.module.parameter: setting.module.value}
        try:
            _load(shell, setting.module, wanted, must={setting.module.parameter})
            yield
        finally:
            with _putting_back(shell, setting):
                _load(shell, setting.module, before, must=set(before))
    elif setting.file:
        before_text = look_at(shell, (setting,)).values[setting.file.path]
        try:
            _write(shell, setting.file.path, setting.file.value)
            yield
        finally:
            with _putting_back(shell, setting):
                _write(shell, setting.file.path, before_text)


@contextmanager
def _putting_back(shell: Shell, setting: Setting) -> Iterator[None]:
    try:
        yield
    except NestctlError as error:
        message = f"'{setting.path}' on {shell.where} could not be put back: {error.message}"
        raise LeftChangedError(message) from error


def _write(shell: Shell, path: str, value: str) -> None:
    command = ("sh", "-c", _WRITE, "sh", path, value)
    shell.run(command, deadline=deadline_for(f"Setting '{path}'")).expect_success()
    text = shell.run(("cat", path), deadline=deadline_for(f"Reading '{path}'")).expect_success().text
    if not is_same(_chosen(text), value):
        raise FailedError(f"'{value}' was written to '{path}' on {shell.where}, and it has '{text}'.")


def _read_parameters(shell: Shell, module: Module) -> dict[str, str]:
    command = ("sh", "-c", _LIST_PARAMETERS, "sh", module.name)
    text = shell.run(command, deadline=deadline_for(f"Reading '{module.name}'")).expect_success().text
    return {name: value for name, _, value in (line.partition("=") for line in text.splitlines())}


def _load(shell: Shell, module: Module, wanted: Mapping[str, str], *, must: set[str]) -> None:
    """Load a module again. What modprobe.d says holds without a word; only what differs then is given.

    Some parameters can be read and not given (vmentry_l1d_flush says 'not required').
    """
    _reload(shell, module, ())
    differing = _differing(_read_parameters(shell, module), wanted)
    if differing:
        _reload(shell, module, tuple(f"{name}={wanted[name]}" for name in differing))
    if wrong := sorted(must & set(_differing(_read_parameters(shell, module), wanted))):
        raise FailedError(
            f"'{module.name}' on {shell.where} was loaded again, and its '{wrong[0]}' is not as it was to be."
        )


def _differing(there: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [name for name, value in wanted.items() if not is_same(there.get(name, ""), value)]


def _reload(shell: Shell, module: Module, words: tuple[str, ...]) -> None:
    command = ("sh", "-c", _RELOAD, "sh", module.name, *words)
    shell.run(command, deadline=deadline_for(f"Loading '{module.name}' again")).expect_success()


def expect_seen(proof: Proof, *, host: Shell, inside: Shell, domain: str, cpu: str) -> None:
    """Raise `GuestError` when a guest's setting cannot be seen; `host` runs the guest, `inside` is in it."""
    shell = host if proof.in_ in {"qemu", "threads"} else inside
    command = ("sh", "-c", _PROOFS[proof.in_], "sh", domain)
    text = shell.run(command, deadline=deadline_for(f"Looking for '{proof.like}'")).expect_success().text
    found = re.search(proof.like.replace("{cpu}", cpu), text, re.MULTILINE)
    if bool(found) is proof.absent:
        what = "is still to be seen" if proof.absent else "is not to be seen"
        raise GuestError(f"The setting is not in effect: '{proof.like}' {what} in {shell.where}.")
