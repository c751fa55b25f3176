"""Lambda on this machine: the Runtime API, AWS's own runtime client in a process that asks it for events, and a vault.

    async with function(environment, folder) as lambda_:
        told = await lambda_.invoke({"action": "plan"})

The service's part is played here: a process is started for the first event and kept for the next ones (a warm start),
killed when the time of an invocation is over, and started anew for the event after that (a cold start).
Source: docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, version 2018-06-01. The vault speaks the JSON protocol
of Parameter Store and Secrets Manager, as far as a key is read there.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from shells import Running, Shell, kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

HANDLER = "harvester.aws_lambda.handler.handler"
CLIENT = ("-m", "awslambdaric")
ARN = "arn:aws:lambda:us-east-1:000000000000:function:harvester"

ANSWER_BYTES = 6 * 2**20
"""What Lambda takes of an answer; a state machine takes 256 KiB of it."""

_HASTY = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from loops import Hasty

class Ours(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return Hasty({times})

asyncio.set_event_loop_policy(Ours())
from awslambdaric.__main__ import main
main(sys.argv)
"""

_WITHOUT_LOOP = """
import asyncio, os, sys

class NoLoop(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        try:
            raise KeyError("the cause")
        except KeyError as error:
            raise RuntimeError("there is no loop for " + os.environ["TMDB_API_KEY"]) from error

asyncio.set_event_loop_policy(NoLoop())
from awslambdaric.__main__ import main
main(sys.argv)
"""


def hasty(times: float) -> tuple[str, str]:
    """The runtime client in a process in which `times` seconds pass in one, by the clock of its loop."""
    return "-c", _HASTY.format(tests=str(Path(__file__).parent), times=times)


def without_loop() -> tuple[str, str]:
    """The runtime client in a process that has no loop: nobody has foreseen it, and the error says TMDB's key."""
    return "-c", _WITHOUT_LOOP


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an invocation: the `answer`, or the `error` as the runtime client sends it.

    Attributes:
        died: Whether the process ended without a word, killed when its time was over or of its own accord.
    """

    answer: Any = None
    error: dict[str, Any] | None = None
    died: bool = False
    bytes: int = 0

    @property
    def name(self) -> str:
        """By which Retry and Catch know the error."""
        assert self.error is not None, self
        return str(self.error["errorType"])

    @property
    def sentence(self) -> str:
        """What it says."""
        assert self.error is not None, self
        return str(self.error["errorMessage"])


@dataclass(slots=True)
class Lambda:
    """A function, deployed; made by `function`.

    Attributes:
        shell: Where its processes are run.
        program: How they are started.
        starts: How many have been started.
        never: What must stand in none of their answers, errors and logs.
        runs: All of them, with what they have written.
    """

    shell: Shell
    program: tuple[str, ...] = CLIENT
    starts: int = 0
    never: list[str] = field(default_factory=list)
    runs: list[Running] = field(default_factory=list)
    url: str = ""
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _waiting: asyncio.Queue[tuple[str, Any, float]] = field(default_factory=asyncio.Queue)
    _told: dict[str, asyncio.Future[Result]] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def invoke(self, event: Any, *, seconds: float = 900.0, over: asyncio.Event | None = None) -> Result:
        """What comes of the event, which has so many `seconds`; they are over at once when somebody says so.

        Starting a process is not counted, as it is not by Lambda.
        """
        if not self.runs or self.runs[-1].process.returncode is not None:
            await self._start()
        number = f"00000000-0000-4000-8000-{next(self._numbers):012d}"
        results: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._told[number] = results
        process = self.runs[-1].process
        begun, *ends = (
            asyncio.ensure_future(each)
            for each in (self._ready.wait(), process.wait(), (over or asyncio.Event()).wait())
        )
        try:
            await asyncio.wait([results, begun, ends[0]], return_when=asyncio.FIRST_COMPLETED)
            self._waiting.put_nowait((number, event, seconds))
            await asyncio.wait([results, *ends], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (begun, *ends):
                each.cancel()
        if results.done():
            return results.result()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await asyncio.gather(*self.runs[-1].reading)
        self._told.pop(number, None)
        while not self._waiting.empty():
            self._waiting.get_nowait()
        return Result(died=True)

    @property
    def out(self) -> str:
        """All that its processes have written to standard output: the runtime client's words."""
        return b"".join(bytes(run.out) for run in self.runs).decode()

    @property
    def err(self) -> str:
        """And to standard error: our log."""
        return b"".join(bytes(run.err) for run in self.runs).decode()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of the log, all of them JSON; those of one event, if it is named."""
        whole, _, _ = self.err.rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    async def _start(self) -> None:
        environment = {**self.shell.environment, "AWS_LAMBDA_RUNTIME_API": self.url.removeprefix("http://")}
        self._ready.clear()
        shell = Shell(environment, self.shell.folder)
        self.runs.append(await self._stack.enter_async_context(shell.start(HANDLER, program=self.program)))
        self.starts += 1

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """The Runtime API."""
        match request.method, request.path.removeprefix("/2018-06-01/runtime/").split("/"):
            case "GET", ["invocation", "next"]:
                return await self._next(request)
            case "POST", ["invocation", number, "response"]:
                body = await request.read()
                assert len(body) <= ANSWER_BYTES
                self._tell(number, Result(answer=json.loads(body), bytes=len(body)))
            case "POST", ["invocation", number, "error"]:
                body = await request.read()
                self._tell(number, Result(error=json.loads(body), bytes=len(body)))
            case "POST", ["init", "error"]:
                error = json.loads(await request.read())
                for number in list(self._told):
                    self._tell(number, Result(error=error))
            case _:
                return web.json_response({"errorType": "NotFound"}, status=404)
        return web.json_response({"status": "OK"}, status=202)

    def _tell(self, number: str, result: Result) -> None:
        waiting = self._told.pop(number)
        if not waiting.done():
            waiting.set_result(result)
        for words in self.never:
            assert words not in json.dumps([result.answer, result.error], ensure_ascii=False), result

    async def _next(self, request: web.BaseRequest) -> web.StreamResponse:
        self._ready.set()
        number, event, seconds = await self._waiting.get()
        if request.transport is None or request.transport.is_closing():  # its process has been killed just now
            self._waiting.put_nowait((number, event, seconds))
            return web.Response()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": number,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + seconds) * 1_000)),
            "Lambda-Runtime-Invoked-Function-Arn": ARN,
            "Content-Type": "application/json",
        }
        return web.Response(body=event if isinstance(event, bytes) else json.dumps(event).encode(), headers=headers)

    async def close(self) -> None:
        """End the processes, and look through all that they have said."""
        for run in self.runs:
            await run.end()
        await self._stack.aclose()
        for words in self.never:
            assert words not in self.out + self.err, (words, self.out, self.err)


@asynccontextmanager
async def serving(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The URL at which a server on loopback answers while inside."""
    runner = web.ServerRunner(web.Server(answer, access_log=None, handler_cancellation=True), shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def function(
    environment: Mapping[str, str], folder: Path, *, program: tuple[str, ...] = CLIENT, never: tuple[str, ...] = ()
) -> AsyncIterator[Lambda]:
    """A function with this environment, in this folder; nothing is started before the first event."""
    deployed = Lambda(Shell(kept() | environment, folder), program, never=list(never))
    async with serving(deployed.serve) as deployed.url:
        try:
            yield deployed
        finally:
            await deployed.close()


def frames(error: dict[str, Any]) -> list[str]:
    """The functions in an error's stack."""
    return re.findall(r", line \d+, in (\w+)", "".join(error["stackTrace"]))


@dataclass(slots=True)
class Vault:
    """The running vault; made by `vault`.

    Attributes:
        parameters: What Parameter Store has, by name.
        secrets: The answers of Secrets Manager, by name; a text is a `SecretString`.
        refusal: What everybody is told instead, as status and AWS's word; None once it is well again.
        asked: The names asked for, in order.
    """

    url: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    asked: list[str] = field(default_factory=list)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """The two calls there are."""
        asked = json.loads(await request.read())
        operation = request.headers["X-Amz-Target"].rpartition(".")[2]
        name = asked.get("Name", asked.get("SecretId"))
        self.asked.append(name)
        if self.refusal:
            status, code = self.refusal
            return _aws({"__type": code, "message": f"{code}: it said {request.headers['Authorization']}"}, status)
        if operation == "GetParameter" and asked.get("WithDecryption"):
            if name in self.parameters:
                return _aws({"Parameter": {"Name": name, "Type": "SecureString", "Value": self.parameters[name]}})
            return _aws({"__type": "ParameterNotFound"}, 400)
        if operation == "GetSecretValue" and (secret := self.secrets.get(name)) is not None:
            return _aws({"Name": name, **({"SecretString": secret} if isinstance(secret, str) else secret)})
        return _aws({"__type": "ResourceNotFoundException", "message": "Secrets Manager can't find it."}, 400)


def _aws(result: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(result).encode(), status=status, content_type="application/x-amz-json-1.1")


@asynccontextmanager
async def vault() -> AsyncIterator[Vault]:
    """A vault that answers at `.url` while inside, for both services."""
    kept_in = Vault()
    async with serving(kept_in.serve) as kept_in.url:
        yield kept_in
