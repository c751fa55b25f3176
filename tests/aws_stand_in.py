"""A stand-in for AWS on this machine: ministack for the services, and AWS's own command line.

Both come from PyPI and need other versions of botocore than we do, so they have their own environment, made once, on
demand. The Lambda consists of our packages, started by AWS's own runtime client: with the runtime `provided`, because
ministack's own Python runtime hides the names of errors.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import botocore.loaders
from aiobotocore.session import AioSession
from packages import ROOT
from shells import kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

ACCOUNT = "000000000000"
REGION = "us-east-1"
RUNTIME = "provided.al2023"
LOADER = botocore.loaders.create_loader()  # parsed once
TOOLS = ("ministack==1.5.33", "awscli==1.46.3", "cfn-lint==1.58.0")
"""Pinned, so that a new rule or behaviour of theirs does not break our tests."""

BOOTSTRAP = """#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT:{layer}"
exec {python} -m awslambdaric "$_HANDLER"
"""


def make_tools(folder: Path) -> Path:
    """The folder with the programs of `TOOLS`, installed in a new environment at `folder`."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *TOOLS], check=True)
    return folder / "bin"


def make_packages(made: Path, folder: Path) -> None:
    """Copy our configuration and the packages `made` into `folder`, as for a deployment, with a bootstrap file."""
    shutil.copytree(ROOT / "config", folder / "config")
    template = folder / "config" / "aws" / "template.yaml"
    known = template.read_text(encoding="utf-8")
    template.write_text(known.replace("AllowedValues: [python3.11,", f"AllowedValues: [{RUNTIME}, python3.11,"))
    built = folder / "dist"
    shutil.copytree(made, built)
    layer = folder / "layer"
    with zipfile.ZipFile(built / "x86_64" / "layer.zip") as zipped:
        zipped.extractall(layer)
    with zipfile.ZipFile(built / "function.zip", "a") as zipped:
        bootstrap = zipfile.ZipInfo("bootstrap")
        bootstrap.external_attr = (stat.S_IFREG | 0o755) << 16
        zipped.writestr(bootstrap, BOOTSTRAP.format(layer=layer / "python", python=sys.executable))


@dataclass(frozen=True, slots=True)
class Aws:
    """The services, running at `url`; `environment` points a program only at them."""

    url: str
    tools: Path
    environment: dict[str, str]

    async def __call__(self, *words: str) -> Any:
        """The output of `aws …`, parsed if it is JSON; a failure is an AssertionError with its output."""
        command = [str(self.tools / "aws"), *words, "--output", "json"]
        process = await asyncio.create_subprocess_exec(
            *command, env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, f"{' '.join(words)}: {out.decode()}{err.decode()}"
        text = out.decode().strip()
        return json.loads(text) if text.startswith(("{", "[")) else text

    async def deploy(self, packages: Path, **parameters: str) -> dict[str, str]:
        """The outputs of our template, deployed by the README's own commands without the build of the packages.

        `parameters` are added where the README has only `Runtime`.
        """
        given = " ".join(f"{name}={value}" for name, value in parameters.items())
        (packages / "dist" / "runtime").write_text(f"{RUNTIME} {given}\n", encoding="utf-8")
        [block] = re.findall(r"```\n(ARTIFACTS=.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        script = block.replace("config/aws/build.sh\n", "")
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", script),
            env=self.environment | {"PATH": f"{self.tools}:{os.environ['PATH']}"},
            cwd=packages,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        [stack] = (await self("cloudformation", "describe-stacks", "--stack-name", "tmdb"))["Stacks"]
        return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}

    @asynccontextmanager
    async def states(self) -> AsyncIterator[Any]:
        """A client of Step Functions, for frequent calls: the command line takes a second of CPU each time."""
        session = AioSession()
        session.register_component("data_loader", LOADER)
        names = ("aws_access_key_id", "aws_secret_access_key")
        keys = {name: self.environment[name.upper()] for name in names}
        async with session.create_client("stepfunctions", REGION, endpoint_url=self.url, **keys) as client:
            yield client

    async def start(self, machine: str) -> str:
        """The ARN of a new execution of the state machine."""
        execution = await self("stepfunctions", "start-execution", "--state-machine-arn", machine)
        return str(execution["executionArn"])

    async def map_runs(self, execution: str) -> list[str]:
        """The status of each attempt of an execution's map."""
        async with self.states() as client:
            runs = (await client.list_map_runs(executionArn=execution))["mapRuns"]
            described = [await client.describe_map_run(mapRunArn=run["mapRunArn"]) for run in runs]
        return [str(each["status"]) for each in described]

    async def errors(self, execution: str) -> list[str]:
        """The error names of an execution's failed tasks so far, in order."""
        async with self.states() as client:
            events = (await client.get_execution_history(executionArn=execution, maxResults=1_000))["events"]
        return [event["taskFailedEventDetails"]["error"] for event in events if event["type"] == "TaskFailed"]

    async def ended(self, execution: str) -> dict[str, Any]:
        """The description of an execution, after its end."""
        async with self.states() as client:
            while True:
                described: dict[str, Any] = await client.describe_execution(executionArn=execution)
                if described["status"] != "RUNNING":
                    return described
                await asyncio.sleep(0.2)


@asynccontextmanager
async def aws_stand_in(tools: Path, folder: Path, port: int, **environment: str) -> AsyncIterator[Aws]:
    """The stand-in, running inside the context; `environment` is added to that of its Lambdas."""
    url = f"http://127.0.0.1:{port}"
    ours = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtesttest", "AWS_REGION": REGION}
    ours |= {"AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true"}
    served = {"SFN_WAIT_SCALE": "0.1"}  # the longest wait for a retry, a minute, takes six seconds here
    served |= {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "TMPDIR": str(folder), "HOME": str(folder)}
    with (folder / "ministack.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(tools / "ministack"), env=kept() | ours | served | environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        aws = Aws(url, tools, kept() | ours | {"HOME": str(folder)})
        await _until_up(process, url, folder / "ministack.log")
        yield aws
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()  # else it would start more Lambdas
        kill_all(lambdas(folder))


async def _until_up(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            assert process.returncode is None, log.read_text()
            try:
                async with session.get(f"{url}/_ministack/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)


def kill_all(pids: Iterable[int]) -> None:
    """Kill these processes, if they still run."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def lambdas(folder: Path) -> list[int]:
    """The process ids of Lambdas whose TMPDIR is `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:  # it has ended, or is not ours
                continue
            if b"awslambdaric" in words and f"TMPDIR={folder}\0".encode() in environment:
                found.append(int(entry.name))
    return found
