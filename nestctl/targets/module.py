"""The parameter `nested` of KVM's module on a machine: what is in effect, what will be, who uses it. Pure, but one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nestctl.adapters.shell import Shell
from nestctl.check.settings import read_bool
from nestctl.deadline import Deadline
from nestctl.errors import NotFoundOutError
from nestctl.paths import resource
from nestctl.targets.target import THIS_MACHINE

STATE_SCHEMA = "nestctl.nested/1"

DROP_IN = "/etc/modprobe.d/nestctl.conf"


@dataclass(frozen=True, kw_only=True)
class User:
    """A process that has /dev/kvm or a virtual machine open; `name` is its guest's, where it is QEMU."""

    pid: int
    name: str


@dataclass(frozen=True, kw_only=True)
class ModuleState:
    """What playbooks/files/nested-look.sh saw. Values are as they stand there, empty where nothing does.

    `name` is empty where the CPU shows neither VMX nor SVM. `state` is 'loaded', 'builtin' or 'absent'. `configured`
    is what modprobe would pass, `files` what each file says. Only root sees the users of others.
    """

    name: str
    state: str
    value: str
    refcnt: int
    configured: str
    boot: str
    files: tuple[tuple[str, str], ...]
    users: tuple[User, ...]
    is_root: bool

    @property
    def is_on(self) -> bool | None:
        """Whether nesting is in effect; None where no module says so."""
        return read_bool(self.value)

    @property
    def is_in_use(self) -> bool:
        """Whether it cannot be unloaded now; without root a user may be counted and not shown."""
        return bool(self.users) or self.refcnt > 0


def read_state(shell: Shell, deadline: Deadline) -> ModuleState:
    """Look at a machine, changing nothing. Raises `NotFoundOutError` when it answers with something else."""
    script = resource("playbooks", "files/nested-look.sh").read_bytes()
    completed = shell.run(("sh", "-s"), deadline=deadline, stdin=script)
    try:
        return parse_state(json.loads(completed.stdout))
    except (ValueError, KeyError, TypeError) as error:
        said = (completed.stderr or completed.stdout).decode(errors="replace").strip()[-200:]
        raise NotFoundOutError(f"What KVM's module has on {shell.where} could not be read: '{said}'.") from error


def parse_state(document: Mapping[str, Any]) -> ModuleState:
    """Read what nested-look.sh printed. Raises ValueError, KeyError or TypeError for anything else."""
    return ModuleState(
        name=document["module"],
        state=document["state"],
        value=document["value"],
        refcnt=int(document["refcnt"]),
        configured=document["configured"],
        boot=document["boot"],
        files=tuple((it["file"], it["value"]) for it in document["files"]),
        users=tuple(User(pid=int(it["pid"]), name=it["name"]) for it in document["users"]),
        is_root=bool(document["is_root"]),
    )


def render_state_json(target: str, state: ModuleState) -> dict[str, Any]:
    """Return the document of `nestctl nested status --json`. Its keys only change with the number in `schema`."""
    document = asdict(state)
    document["files"] = [{"file": file, "value": value} for file, value in state.files]
    return {"schema": STATE_SCHEMA, "target": target, "is_on": state.is_on, "module": document}


def render_state(state: ModuleState) -> str:
    """Say in a few lines what is in effect, what is on disk and on the boot line, and who uses the module."""
    if not state.name:
        return "module     none: the CPU shows neither VMX nor SVM, and neither kvm_intel nor kvm_amd is there"
    how = {"loaded": "loaded", "builtin": "built into the kernel", "absent": "not loaded"}[state.state]
    lines = [f"module     {state.name}, {how}", f"in effect  {_say(state.value)}"]
    lines += [f"on disk    {_say(value)} in {file}" for file, value in state.files] or ["on disk    nothing"]
    lines.append(f"boot line  {f'{state.name}.nested={state.boot}' if state.boot else 'nothing'}")
    if state.state != "builtin":
        lines.append(f"next load  {_say(state.configured) if state.configured else 'the default of the module'}")
    lines.append(f"used by    {say_users(state)}")
    return "\n".join(lines)


def say_users(state: ModuleState) -> str:
    """Name who uses the module, or say why nobody is named."""
    if state.users:
        return ", ".join(f"'{user.name}' (process {user.pid})" for user in state.users)
    if state.refcnt:
        return "something that does not show" + ("" if state.is_root else ": only root sees what others run")
    return "nobody" if state.is_root or state.state == "loaded" else "unknown: only root sees what others run"


def command_for(target: str, words: str) -> str:
    """Return a command of nestctl's for a target, as one types it."""
    return shlex.join(["nestctl", *words.split(), *([] if target == THIS_MACHINE else [target])])


def say_left(target: str, state: ModuleState, wanted: bool) -> str:
    """Say what is left to do until the parameter is what was wanted; empty when it is."""
    if state.is_on is wanted:
        return ""
    number = int(wanted)
    command = command_for(target, f"nested {say_switch(wanted)} --now")
    if state.state == "absent":
        return f"'{state.name}' is not loaded, and gets nested={number} when it is."
    if state.is_in_use:
        return (
            f"'{state.name}' runs with nested={state.value} and is used by {say_users(state)}: end that, then "
            f"'{command}', or reboot."
        )
    return f"'{state.name}' runs with nested={state.value}: '{command}' loads it again, or reboot."


def say_switch(wanted: bool) -> str:
    """Return the word of the command line: 'on' or 'off'."""
    return "on" if wanted else "off"


def _say(value: str) -> str:
    switch = read_bool(value)
    meaning = "" if switch is None else f" ({say_switch(switch)})"
    return f"nested={value}{meaning}" if value else "nothing"
