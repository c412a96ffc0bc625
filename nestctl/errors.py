"""The errors a user can meet, and the exit code of each.

    NestctlError                 something could not be done or found out
      UsageError            2    a wrong option, name or file
        LabFileError        2    a wrong lab file: says file, line and key
      PrerequisiteError     3    something that has to be there is missing
      NotFoundOutError      3    a question could not be answered
        UnreachableError    3    a machine did not answer, prove who it is, or let us in
      FailedError           4    a program, guest or hypervisor failed
        CommandError        4    a process ended with a failure
        HypervisorError     4    libvirt refused or failed
        GuestError          4    a guest is not what it should be
      DeadlineError         5    something did not happen in time
      SeveralError          4    several guests failed; the exit code is the highest of theirs

"No" is not an error: a negative answer is a result, and its exit code is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process says to its caller (documented in docs/reference/exit-codes.md)."""

    OK = 0
    NO = 1
    USAGE = 2
    NOT_FOUND_OUT = 3
    FAILED = 4
    DEADLINE = 5
    BUG = 70
    INTERRUPTED = 130


class NestctlError(Exception):
    """A failure with a sentence for the user and, where there is one, what to do about it.

    Args:
        message: a full sentence with the value that was seen; names in single quotes.
        hint: what to do, in the imperative; shown on a line of its own.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(NestctlError):
    """The user has to write something else: an option, a name, a file. Exit code 2."""

    exit_code = ExitCode.USAGE


class LabFileError(UsageError):
    """Something in a lab file or a roster is wrong; a line for each fault, with file, line and key. Exit code 2."""


class PrerequisiteError(NestctlError):
    """Something is missing that nestctl does not bring: a program, a permission, room, a libvirt. Exit code 3."""

    exit_code = ExitCode.NOT_FOUND_OUT


class NotFoundOutError(NestctlError):
    """A question could not be answered, which is not the answer 'no'. Exit code 3."""

    exit_code = ExitCode.NOT_FOUND_OUT


class UnreachableError(NotFoundOutError):
    """A machine did not answer, did not prove who it is, or did not let us in. Exit code 3."""


class FailedError(NestctlError):
    """Something was tried and failed, in a way that has no error of its own. Exit code 4."""

    exit_code = ExitCode.FAILED


class CommandError(FailedError):
    """A process ended with a failure: the message has its command and what it said. Exit code 4."""


class HypervisorError(FailedError):
    """libvirt refused or failed: the message has its own words. Exit code 4."""


class GuestError(FailedError):
    """A guest is not what it should be: it stopped, its first boot failed, it lacks what was promised. Exit code 4."""


class DeadlineError(NestctlError):
    """Something did not happen in time; see `Deadline`. Exit code 5."""

    exit_code = ExitCode.DEADLINE


class SeveralError(NestctlError):
    """Several guests failed; each says why. The exit code is the highest of theirs."""

    def __init__(self, errors: Sequence[tuple[str, NestctlError]]) -> None:
        said = "\n".join(
            f"'{name}': {error.message}" + (f"\n  {error.hint}" if error.hint else "") for name, error in errors
        )
        super().__init__(f"{len(errors)} guests failed.\n{said}")
        self.exit_code = max(error.exit_code for _, error in errors)
