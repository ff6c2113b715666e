"""The program `sparsteer`: an interruption while its modules are loaded is no traceback either."""

import sys


def main() -> int:
    """Load the command and run it with the process's words; give its exit status."""
    try:
        from .main import main as run

        return run()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 1
