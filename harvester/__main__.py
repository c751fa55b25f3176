"""`python -m harvester`: harvests, unless a command is named.

A signal is heard from the first moment on, also while Python still imports what the command line needs.
"""

from __future__ import annotations

import os
import signal
import sys

from harvester import __version__


def main() -> None:
    """Run the command line's command, and exit with its code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from harvester.cli.app import main as run

    run()


def _stop(*_: object) -> None:
    """End at once, with the code and in the shape that `cli` would choose: nothing is open yet."""
    text = "Stopped before anything was begun."
    error = f'{{"status":"error","exit_code":75,"version":"{__version__}","error":"StoppedError","message":"{text}"}}'
    number, text = (1, error) if "--json" in sys.argv else (2, text)
    try:
        os.write(number, f"{text}\n".encode())
    finally:
        os._exit(75)  # also where it cannot be written


if __name__ == "__main__":
    main()
