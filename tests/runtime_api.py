"""Lambda on this machine: the Runtime API, AWS's own runtime client in a process, and a fake of AWS's secret stores.

    async with function(environment, folder) as lambda_:
        result = await lambda_.invoke({"action": "plan"})

This module acts as the Lambda service: it starts a process for the first event, keeps it for the next ones (a warm
start), kills it when an invocation's time is over, and starts a new one for the event after that (a cold start).
Source: docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, version 2018-06-01. `fake_secrets` speaks the JSON
protocol of Parameter Store and Secrets Manager, as far as reading a key needs it.
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
"""Most bytes of a response that Lambda accepts; a state machine accepts 256 KiB."""

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
    """The runtime client in a process whose loop's clock runs `times` as fast."""
    return "-c", _HASTY.format(tests=str(Path(__file__).parent), times=times)


def without_loop() -> tuple[str, str]:
    """The runtime client in a process without a loop: an unforeseen error, whose message has TMDB's key in it."""
    return "-c", _WITHOUT_LOOP


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an invocation: the `answer`, or the `error` as the runtime client sends it.

    Attributes:
        died: Whether the process ended without a response, killed after its time or by itself.
    """

    answer: Any = None
    error: dict[str, Any] | None = None
    died: bool = False
    bytes: int = 0

    @property
    def name(self) -> str:
        """The name by which Retry and Catch of a state machine match the error."""
        assert self.error is not None, self
        return str(self.error["errorType"])

    @property
    def sentence(self) -> str:
        """The error's message."""
        assert self.error is not None, self
        return str(self.error["errorMessage"])


@dataclass(slots=True)
class Lambda:
    """A deployed function; made by `function`.

    Attributes:
        shell: Runs its processes.
        program: The program they run.
        starts: How many have been started.
        never: Texts that must not be in any answer, error or log.
        runs: All processes, with their output.
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
    _pending: dict[str, asyncio.Future[Result]] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def invoke(self, event: Any, *, seconds: float = 900.0, over: asyncio.Event | None = None) -> Result:
        """The result of an event, which has `seconds` of time, or less if `over` is set before.

        As in Lambda, the time to start a process is not counted.
        """
        if not self.runs or self.runs[-1].process.returncode is not None:
            await self._start()
        number = f"00000000-0000-4000-8000-{next(self._numbers):012d}"
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending[number] = result
        process = self.runs[-1].process
        begun, *ends = (
            asyncio.ensure_future(each)
            for each in (self._ready.wait(), process.wait(), (over or asyncio.Event()).wait())
        )
        try:
            await asyncio.wait([result, begun, ends[0]], return_when=asyncio.FIRST_COMPLETED)
            self._waiting.put_nowait((number, event, seconds))
            await asyncio.wait([result, *ends], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (begun, *ends):
                each.cancel()
        if result.done():
            return result.result()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await asyncio.gather(*self.runs[-1].reading)
        self._pending.pop(number, None)
        while not self._waiting.empty():
            self._waiting.get_nowait()
        return Result(died=True)

    @property
    def out(self) -> str:
        """The standard output of all its processes: that of the runtime client."""
        return b"".join(bytes(run.out) for run in self.runs).decode()

    @property
    def err(self) -> str:
        """The standard error of all its processes: our log."""
        return b"".join(bytes(run.err) for run in self.runs).decode()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of the log, which are all JSON; only those of `event`, if given."""
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
        """Respond to a request to the Runtime API."""
        match request.method, request.path.removeprefix("/2018-06-01/runtime/").split("/"):
            case "GET", ["invocation", "next"]:
                return await self._next(request)
            case "POST", ["invocation", number, "response"]:
                body = await request.read()
                assert len(body) <= ANSWER_BYTES
                self._resolve(number, Result(answer=json.loads(body), bytes=len(body)))
            case "POST", ["invocation", number, "error"]:
                body = await request.read()
                self._resolve(number, Result(error=json.loads(body), bytes=len(body)))
            case "POST", ["init", "error"]:
                error = json.loads(await request.read())
                for number in list(self._pending):
                    self._resolve(number, Result(error=error))
            case _:
                return web.json_response({"errorType": "NotFound"}, status=404)
        return web.json_response({"status": "OK"}, status=202)

    def _resolve(self, number: str, result: Result) -> None:
        waiting = self._pending.pop(number)
        if not waiting.done():
            waiting.set_result(result)
        for words in self.never:
            assert words not in json.dumps([result.answer, result.error], ensure_ascii=False), result

    async def _next(self, request: web.BaseRequest) -> web.StreamResponse:
        self._ready.set()
        number, event, seconds = await self._waiting.get()
        if request.transport is None or request.transport.is_closing():  # its process has just been killed
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
        """End the processes, and check their output for the texts in `never`."""
        for run in self.runs:
            await run.end()
        await self._stack.aclose()
        for words in self.never:
            assert words not in self.out + self.err, (words, self.out, self.err)


@asynccontextmanager
async def serving(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """The URL of a server on loopback that runs inside the context."""
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
    """A function with this environment, in this folder; its first process starts with the first event."""
    deployed = Lambda(Shell(kept() | environment, folder), program, never=list(never))
    async with serving(deployed.serve) as deployed.url:
        try:
            yield deployed
        finally:
            await deployed.close()


def frames(error: dict[str, Any]) -> list[str]:
    """Names of the functions in an error's stack trace."""
    return re.findall(r", line \d+, in (\w+)", "".join(error["stackTrace"]))


@dataclass(slots=True)
class FakeSecrets:
    """The running server for Parameter Store and Secrets Manager; made by `fake_secrets`.

    Attributes:
        parameters: Values in Parameter Store, by name.
        secrets: Responses of Secrets Manager, by name; a text is a `SecretString`.
        refusal: Status and AWS's error code for every request; None for normal responses.
        asked: The requested names, in order.
    """

    url: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str | dict[str, Any]] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    asked: list[str] = field(default_factory=list)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Respond to GetParameter or GetSecretValue."""
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
async def fake_secrets() -> AsyncIterator[FakeSecrets]:
    """A server at `.url` for Parameter Store and Secrets Manager, running inside the context."""
    server = FakeSecrets()
    async with serving(server.serve) as server.url:
        yield server
