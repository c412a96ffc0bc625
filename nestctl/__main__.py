"""The boundary: errors become sentences and exit codes here, and a traceback means a bug."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn

from nestctl.errors import ExitCode


def main() -> None:
    # Whoever ends us politely gets what Ctrl-C gets: guests half made are removed, `quickstart` cleans up.
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # it is with nohup(1)
        signal.signal(signal.SIGHUP, _hang_up)
    from nestctl.cli.refused import explain_refusal, flush_output, have_home, open_missing_streams

    open_missing_streams()
    have_home()
    from nestctl.cli import app

    try:
        app(prog_name="nestctl")
    except SystemExit as ended:
        # Whoever read our output has enough of it (`nestctl ... | head`): Click and Rich make 1 of that, our "no".
        if isinstance(ended.__context__, BrokenPipeError):
            sys.exit(ExitCode.OK)
        raise
    except Exception as error:
        # What Click prints by itself (help, the version) it prints before the boundary around commands begins.
        if isinstance(error, OSError) and (refusal := explain_refusal(error)):
            from nestctl.console import show_error

            show_error(refusal)
            sys.exit(refusal.exit_code)
        traceback.print_exc()
        sys.stderr.write("nestctl: this is a bug; please report it with the lines above and 'nestctl check --json'.\n")
        sys.exit(ExitCode.BUG)
    finally:
        flush_output()


def _hang_up(number: int, frame: object) -> NoReturn:
    """Go on without the terminal, which may be gone: what is cleaned up now shows its steps, and nobody listens."""
    try:
        os.write(2, b"\n")
    except OSError:
        from nestctl.console import drop_errors

        drop_errors()
    _interrupt(number, frame)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
