"""Runs a fuzz target with atheris, which is coverage-guided (PyPI, Linux), starting from its seeds."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def fuzz(atheris: Any, check: Callable[[bytes], None], seeds: Sequence[bytes]) -> NoReturn:
    """Fuzz `check`, starting from the seeds, and exit; the command line takes libFuzzer's options."""
    if atheris is None:
        sys.exit("atheris is not installed: pip install atheris (Linux; see its page for the Pythons it supports)")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        for number, seed in enumerate(seeds):
            Path(corpus, str(number)).write_bytes(seed)
        if os.fork() == 0:
            atheris.Setup([*sys.argv, corpus], check)
            atheris.Fuzz()  # it ends the process without cleanup
        _, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status))
