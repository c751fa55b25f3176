"""Runs the harvester in its own process, as users do; no process outlives its context.

    async with Shell(environment, folder).start("--json") as running:
        await running.until(lambda: tmdb.asked.total() > 20)
        running.send(signal.SIGTERM)
        ended = await running.ended()

If a process ends before the condition that a test waits for, that is an `AssertionError` with all its output. There are
no timeouts here: the test's own time limit ends what takes too long.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvester.fakes.tmdb import KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

HARVESTER = ("-m", "harvester")

LOOK_SECONDS = 0.01
"""Seconds between two checks of a condition."""

QUICK, SLOW = 5.0, 0.25
"""Speed of the clock for a process on our loop: when it only waits for time, and when it has work to do."""

_ON_OUR_LOOP = """
import asyncio, signal, sys
sys.path.insert(0, {tests!r})
from loops import Hasty

class Ours(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        loop = Hasty({times})
        loop.add_signal_handler(signal.SIGUSR1, loop.hurry, {quick})
        loop.add_signal_handler(signal.SIGUSR2, loop.hurry, {slow})
        return loop

sys.modules["uvloop"] = None
asyncio.set_event_loop_policy(Ours())
from harvester.__main__ import main
main()
"""


def on_our_loop(times: float = 1.0, *, quick: float = QUICK, slow: float = SLOW) -> tuple[str, str]:
    """The program: the harvester without uvloop, on asyncio's own loop with another clock.

    The clock runs `times` as fast as real time; after `Running.hurry` `quick` times, after `Running.slow_down` `slow`
    times. The harvester is unchanged: its timeouts and waits are as long as ever by that clock.
    """
    tests = str(Path(__file__).parent)
    return "-c", _ON_OUR_LOOP.format(tests=tests, times=times, quick=quick, slow=slow)


def kept() -> dict[str, str]:
    """The variables of our own environment that every program needs."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}


@contextmanager
def answerless(port: int = 0) -> Iterator[str]:
    """An address, `host:port`, that refuses every connection: the port is bound, but nothing listens.

    A server of the test may still listen there (SO_REUSEADDR); no other program is given the port.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@dataclass(frozen=True, slots=True)
class Ended:
    """An ended process: its exit code and its output."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def said(self) -> str:
        """All its output as one line, without frames."""
        return " ".join((self.out + self.err).replace("│", " ").split())

    @property
    def sentences(self) -> list[str]:
        """Lines for people on standard error: without log lines and Python's list of imports."""
        return [line for line in self.err.splitlines() if line and not line.startswith(("{", "import time:"))]


@dataclass(slots=True)
class Running:
    """A running process, whose output is read continuously; made by `Shell.start`.

    Attributes:
        process: The process; its standard input may be written to, if it has one.
        never: Texts that must not be in its output.
        out: Its standard output so far.
        err: Its standard error so far.
    """

    process: asyncio.subprocess.Process
    never: tuple[str, ...] = ()
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    reading: list[asyncio.Task[None]] = field(default_factory=list)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; ignored if the process has ended."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def hurry(self) -> None:
        """Let its clock run faster from now on; for a program of `on_our_loop`."""
        self.send(signal.SIGUSR1)

    def slow_down(self) -> None:
        """Let its clock run slower than real time from now on; for a program of `on_our_loop`."""
        self.send(signal.SIGUSR2)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()`, awaited if need be, is true; fail if the process ends before."""
        while True:
            if has_ended := self.process.returncode is not None:
                await asyncio.gather(*self.reading)
            value = condition()
            if await value if isinstance(value, Awaitable) else value:
                return
            assert not has_ended, f"it has ended with {self.process.returncode}: {self.out!r} {self.err!r}"
            await asyncio.sleep(LOOK_SECONDS)

    async def says(self, text: str) -> None:
        """Wait until the text is in either output."""
        await self.until(lambda: text.encode() in self.out or text.encode() in self.err)

    async def ended(self) -> Ended:
        """Wait for its end and all its output; its standard input stays open."""
        code = await self.process.wait()
        await asyncio.gather(*self.reading)
        ended = Ended(code, self.out.decode(), self.err.decode())
        for words in self.never:
            assert words not in ended.out + ended.err, (words, ended)
        return ended

    async def read(self, stream: asyncio.StreamReader, into: bytearray) -> None:
        """Read a stream to its end into a buffer."""
        while block := await stream.read(2**16):
            into += block

    async def end(self) -> None:
        """Kill it if it still runs, and close its pipes."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        for task in self.reading:
            task.cancel()  # one of its children may still hold the pipe open
        await asyncio.wait(self.reading) if self.reading else None
        self.process._transport.close()  # nothing else closes the pipes in that case


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs programs in a folder and an environment.

    Attributes:
        environment: The complete environment; `kept` gives the variables that any program needs.
        folder: Their working folder.
        never: Texts that must not be in their output.
    """

    environment: Mapping[str, str]
    folder: Path
    never: tuple[str, ...] = ("Traceback", KEY)

    def having(self, **environment: str) -> Shell:
        """A copy with additional variables."""
        return replace(self, environment={**self.environment, **environment})

    @asynccontextmanager
    async def start(self, *words: str, program: tuple[str, ...] = HARVESTER, **streams: Any) -> AsyncIterator[Running]:
        """The running program; killed at the end of the context, if it has not ended.

        Its standard input is empty and its output is read, unless `streams` (arguments of `subprocess`) differ.
        """
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *program, *words),
            env=self.environment,
            cwd=self.folder,
            **{"stdin": asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe} | streams,
        )
        running = Running(process, self.never)
        for stream, into in ((process.stdout, running.out), (process.stderr, running.err)):
            if stream:
                running.reading.append(asyncio.ensure_future(running.read(stream, into)))
        try:
            yield running
        finally:
            await running.end()

    async def run(self, *words: str, **options: Any) -> Ended:
        """Run the program to its end."""
        async with self.start(*words, **options) as running:
            return await running.ended()
