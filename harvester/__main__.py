"""`python -m harvester`: runs `harvest`, unless another command is named.

Signals are handled from the start, even while Python still imports the command line's modules.
"""

from __future__ import annotations

import os
import signal
import sys

from harvester import __version__


def main() -> None:
    """Run the command and exit with its code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from harvester.cli.app import main as run

    run()


def _stop(*_: object) -> None:
    """Exit immediately, with the same code and output format as `cli`: nothing is open yet."""
    text = "Stopped before any work began."
    error = f'{{"status":"error","exit_code":75,"version":"{__version__}","error":"StoppedError","message":"{text}"}}'
    file_descriptor, text = (1, error) if "--json" in sys.argv else (2, text)
    try:
        os.write(file_descriptor, f"{text}\n".encode())
    finally:
        os._exit(75)  # even if the write fails


if __name__ == "__main__":
    main()
