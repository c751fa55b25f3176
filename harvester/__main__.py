"""`python -m harvester`: harvests, unless a command is named.

A signal is heard from the first moment on, also while Python still imports what the command line needs.
"""

from __future__ import annotations

import os
import signal
import sys

_MESSAGE = "Stopped before anything was begun."


def main() -> None:
    """Run the command line's command, and exit with its code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from harvester.cli import main as run

    run()


def _stop(*_: object) -> None:
    """End at once, with the code and in the shape that `cli` would choose: nothing is open yet."""
    try:
        if "--json" in sys.argv:
            error = f'{{"status":"error","error":"StoppedError","message":"{_MESSAGE}","exit_code":75}}\n'
            os.write(1, error.encode())
        else:
            os.write(2, f"{_MESSAGE}\n".encode())
    finally:
        os._exit(75)  # also where neither can be written


if __name__ == "__main__":
    main()
