"""The program `sparsteer`: an interruption while its modules are loaded is no traceback either."""

import os
import sys


def main() -> int:
    """Load the command and run it with the process's words; give its exit status."""
    _open_what_is_closed()
    _spin_briefly()
    try:
        from .main import main as run

        status = run()
        _end_a_server(status)
        return status
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 1


def _end_a_server(status: int) -> None:
    """End the process of `serve`, whose threads may be reading a language model: to wait for them
    takes seconds, and an ordinary end aborts where one of them is within torch."""
    if sys.argv[1:2] == ["serve"]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _spin_briefly() -> None:
    """Let OpenMP's threads sleep soon while they wait for each other, unless the user says how.

    By default they spin for long, and where another process has the core that the slowest of them
    needs, all spin until it is their turn. To sleep at once would make idle machines slower
    (docs/kernels.md). This is read when torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def _open_what_is_closed() -> None:
    """Send standard output or error to nowhere where the shell closed it (`>&-`): the number would
    else be given to the next file that is opened, and that file get what is printed."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w", encoding="utf-8"))
