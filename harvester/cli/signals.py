"""SIGINT and SIGTERM: the first one asks a command to stop, the second one ends the process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from harvester.errors import SAFE, Exit

if TYPE_CHECKING:
    from harvester.runtime.shutdown import Shutdown

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def set_signal_handler(handler: Any) -> None:
    """Set `handler` for all `SIGNALS`."""
    for number in SIGNALS:
        signal.signal(number, handler)


def on_shutdown_signals(shutdown: Shutdown, *, then: str = "beginning no more batches, landing the open ones") -> None:
    """Have the first SIGINT or SIGTERM request a shutdown and print what happens `then`, the second end the process."""
    loop = asyncio.get_running_loop()

    def on_signal(name: str) -> None:
        for number in SIGNALS:
            loop.add_signal_handler(number, _exit_now)
        sys.stderr.write(f"\n{name}: {then} (again to stop at once)\n")
        shutdown.request(name)

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number.name)


def _exit_now() -> NoReturn:
    """End the process at once; on a terminal, show the cursor that a progress bar has hidden."""
    try:
        if os.isatty(2):
            os.write(2, f"\x1b[?25h\nStopped at once. {SAFE}\n".encode())
    finally:
        os._exit(int(Exit.STOPPED))  # also where it cannot be written
