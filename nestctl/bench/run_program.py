"""Run a benchmark program on a level, with its server on the level above where it needs one."""

from __future__ import annotations

import secrets

from nestctl.adapters.shell import Shell
from nestctl.bench.level import Level
from nestctl.bench.programs import Levels, Program, parse_output
from nestctl.deadline import Deadline
from nestctl.errors import GuestError, NestctlError
from nestctl.model.samples import Outcome

PORTS = range(45_000, 46_000)  # below those that Linux gives to clients (ip_local_port_range begins at 32768 or 49152)
LOOPBACK = "127.0.0.1"


def run_program(program: Program, level: Level, above: Level | None, deadline: Deadline) -> Outcome:
    """Run it once. What keeps it from running is the reason in the outcome. Raises `DeadlineError`."""
    if program.levels is Levels.GUESTS and above is None:
        return Outcome(workload=program.name, not_measured="there is no level above")
    deadline.check()
    try:
        return _run(program, level, above, deadline)
    except NestctlError as error:
        deadline.check()
        return Outcome(workload=program.name, not_measured=error.message)


def _run(program: Program, level: Level, above: Level | None, deadline: Deadline) -> Outcome:
    names = {}
    if program.server and above is not None:
        for shell in (level.shell, above.shell):
            if missing := _missing(program, shell, deadline):
                return missing
        gateway = _read_gateway(level.shell, deadline)
        # A guest of this machine reaches it through QEMU's user-mode network, which ends at the loopback interface.
        address = LOOPBACK if above.above is None else gateway
        names = {"port": str(secrets.choice(PORTS)), "above": gateway, "address": address}
        above.shell.run(("sh", "-c", _fill(program.server, names)), deadline=deadline).expect_success()
    completed = level.shell.run(("sh", "-c", _fill(program.command, names)), deadline=deadline)
    if completed.exit_code and (missing := _missing(program, level.shell, deadline)):
        return missing
    return parse_output(program, completed.expect_success().text)


def _missing(program: Program, shell: Shell, deadline: Deadline) -> Outcome | None:
    if shell.run(("sh", "-c", 'command -v "$0"', program.program), deadline=deadline).exit_code == 0:
        return None
    cure = f"on Debian 'apt-get install {program.packages}' adds it"
    return Outcome(workload=program.name, not_measured=f"'{program.program}' is not installed on {shell.where}; {cure}")


def _fill(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    return text


def _read_gateway(shell: Shell, deadline: Deadline) -> str:
    """Ask for the guest's default route: its gateway is the level above."""
    words = shell.run(("ip", "-4", "route", "show", "default"), deadline=deadline).expect_success().text.split()
    if "via" not in words[:-1]:
        raise GuestError(f"{shell.where} has no default route to the level above.")
    return words[words.index("via") + 1]
