"""The harvester in processes of its own, as users run it: started, spoken to, waited for, and never left behind.

    async with Shell(environment, folder).start("--json") as running:
        await running.until(lambda: tmdb.asked.total() > 20)
        running.send(signal.SIGTERM)
        ended = await running.ended()

Whatever is waited for, a process that ends before it is an `AssertionError` with all that it has said. Nothing here
knows a number of seconds: what takes too long is the affair of the test's own time limit.
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
"""How often is looked whether a thing is so."""

QUICK, SLOW = 5.0, 0.25
"""How fast seconds pass for a process on a loop of ours: that waits for nothing but time; that has work to do in it."""

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
    """The program: the harvester as it is where there is no uvloop, with asyncio's own loop and another clock.

    `times` seconds pass in one, after `Running.hurry` they are `quick`, and after `Running.slow_down` `slow`. Nothing
    of the harvester is touched: each of its timeouts and waits is as long as ever, by the clock that it goes by.
    """
    tests = str(Path(__file__).parent)
    return "-c", _ON_OUR_LOOP.format(tests=tests, times=times, quick=quick, slow=slow)


def kept() -> dict[str, str]:
    """What of our own environment every program needs."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}


@contextmanager
def answerless(port: int = 0) -> Iterator[str]:
    """An address, `host:port`, at which every connection is refused: the port is taken, and not listened at.

    A server of the test's own may be told to listen there all the same, and nobody else is ever given the port.
    """
    with socket.socket() as nobody:
        nobody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        nobody.bind(("127.0.0.1", port))
        yield f"127.0.0.1:{nobody.getsockname()[1]}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process has ended: its code, and what it has written."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON object of `--json`."""
        result: dict[str, Any] = json.loads(self.out)
        return result

    @property
    def said(self) -> str:
        """All it said, as one line, without boxes."""
        return " ".join((self.out + self.err).replace("│", " ").split())

    @property
    def sentences(self) -> list[str]:
        """The lines that it has told people on standard error: neither log lines nor Python's own list of imports."""
        return [line for line in self.err.splitlines() if line and not line.startswith(("{", "import time:"))]


@dataclass(slots=True)
class Running:
    """A process, whose output is read as it comes; made by `Shell.start`.

    Attributes:
        process: The process; its standard input may be written to, if it has one.
        never: What must not stand in what it has said when it has ended.
        out: What it has written so far on standard output.
        err: And on standard error.
    """

    process: asyncio.subprocess.Process
    never: tuple[str, ...] = ()
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    reading: list[asyncio.Task[None]] = field(default_factory=list)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; one that has ended meanwhile does not mind."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def hurry(self) -> None:
        """From now on time passes faster for it; it runs `on_our_loop`."""
        self.send(signal.SIGUSR1)

    def slow_down(self) -> None:
        """From now on it has more time than it knows; it runs `on_our_loop`."""
        self.send(signal.SIGUSR2)

    async def until(self, so: Callable[[], object]) -> None:
        """Return when `so()`, or what it is awaited to, is true; fail if the process has ended before."""
        while True:
            if over := self.process.returncode is not None:
                await asyncio.gather(*self.reading)
            result = so()
            if await result if isinstance(result, Awaitable) else result:
                return
            assert not over, f"it has ended with {self.process.returncode}: {self.out!r} {self.err!r}"
            await asyncio.sleep(LOOK_SECONDS)

    async def says(self, text: str) -> None:
        """Return when it has said so, on either stream."""
        await self.until(lambda: text.encode() in self.out or text.encode() in self.err)

    async def ended(self) -> Ended:
        """Wait for its end, and for all it has said; its standard input stays open."""
        code = await self.process.wait()
        await asyncio.gather(*self.reading)
        ended = Ended(code, self.out.decode(), self.err.decode())
        for words in self.never:
            assert words not in ended.out + ended.err, (words, ended)
        return ended

    async def read(self, stream: asyncio.StreamReader, into: bytearray) -> None:
        """Keep what comes out of a stream, to its end."""
        while block := await stream.read(2**16):
            into += block

    async def end(self) -> None:
        """Leave nothing of it: whatever still runs is killed."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        for task in self.reading:
            task.cancel()  # a child of its own may have the other end of the pipe
        await asyncio.wait(self.reading) if self.reading else None
        self.process._transport.close()  # nothing else closes the pipes then


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs programs in a folder and an environment.

    Attributes:
        environment: All of it; `kept` is what any program needs.
        folder: Where they are run.
        never: What they must not say, whatever happens.
    """

    environment: Mapping[str, str]
    folder: Path
    never: tuple[str, ...] = ("Traceback", KEY)

    def having(self, **environment: str) -> Shell:
        """The same with other variables."""
        return replace(self, environment={**self.environment, **environment})

    @asynccontextmanager
    async def start(self, *words: str, program: tuple[str, ...] = HARVESTER, **streams: Any) -> AsyncIterator[Running]:
        """The program, running, until the context is left: then it is killed, if it has not ended.

        Its standard input is empty, and its output is read, unless `streams` say otherwise, as `subprocess` has them.
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
        """How the program ends."""
        async with self.start(*words, **options) as running:
            return await running.ended()
