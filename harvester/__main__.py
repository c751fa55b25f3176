"""`python -m harvester`: harvests, unless a command is named.

A signal is heard from the first moment on, also while Python still imports what the command line needs.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_SAID = "Stopped before anything was begun."


def main() -> None:
    """Run the command line's command, and exit with its code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from harvester.cli import main as run

    run()


def _stop(_number: int, _frame: FrameType | None) -> None:
    """End at once, with the code and in the shape that `cli` would choose: nothing is open yet."""
    try:
        if "--json" in sys.argv:
            told = f'{{"status":"error","error":"StoppedError","message":"{_SAID}","exit_code":75}}\n'
            os.write(1, told.encode())
        else:
            os.write(2, f"{_SAID}\n".encode())
    finally:
        os._exit(75)  # also where neither can be written


if __name__ == "__main__":
    main()
