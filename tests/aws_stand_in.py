"""AWS on this machine, as far as it goes: ministack for its services, AWS's own command line to speak to them.

Both come from PyPI and want other versions of botocore than we do, so they live in an environment of their own, made
once for those who ask for it. The Lambda is our very packages, started by AWS's own runtime client: as `provided`,
because ministack's own Python runtime hides the names of errors.
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
"""Pinned: a new rule or another habit of theirs is no change of ours."""

BOOTSTRAP = """#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT:{layer}"
exec {python} -m awslambdaric "$_HANDLER"
"""


def make_tools(folder: Path) -> Path:
    """The folder of the programs in `TOOLS`, installed in an environment of their own below `folder`."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *TOOLS], check=True)
    return folder / "bin"


def make_packages(made: Path, folder: Path) -> None:
    """Our configuration in `folder`, the packages `made` beside it, as they are deployed; the function can boot."""
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
    """The services, up at `url`; `environment` points a program at them, and nowhere else."""

    url: str
    tools: Path
    environment: dict[str, str]

    async def __call__(self, *words: str) -> Any:
        """What `aws …` answers; an error of it is a CalledProcessError with all that it said."""
        command = [str(self.tools / "aws"), *words, "--output", "json"]
        process = await asyncio.create_subprocess_exec(
            *command, env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, f"{' '.join(words)}: {out.decode()}{err.decode()}"
        text = out.decode().strip()
        return json.loads(text) if text.startswith(("{", "[")) else text

    async def deploy(self, packages: Path, **parameters: str) -> dict[str, str]:
        """The outputs of our template, deployed by the README's very lines but the one that builds the packages.

        `parameters` go where the README has `Runtime` alone.
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
        [result] = (await self("cloudformation", "describe-stacks", "--stack-name", "tmdb"))["Stacks"]
        return {each["OutputKey"]: each["OutputValue"] for each in result["Outputs"]}

    @asynccontextmanager
    async def states(self) -> AsyncIterator[Any]:
        """A client of Step Functions, for who asks often: the command line takes a second of CPU each time."""
        session = AioSession()
        session.register_component("data_loader", LOADER)
        names = ("aws_access_key_id", "aws_secret_access_key")
        keys = {name: self.environment[name.upper()] for name in names}
        async with session.create_client("stepfunctions", REGION, endpoint_url=self.url, **keys) as client:
            yield client

    async def start(self, machine: str) -> str:
        """The ARN of a new execution of the state machine."""
        result = await self("stepfunctions", "start-execution", "--state-machine-arn", machine)
        return str(result["executionArn"])

    async def map_runs(self, execution: str) -> list[str]:
        """How each try of an execution's map has ended, or that it runs."""
        async with self.states() as client:
            runs = (await client.list_map_runs(executionArn=execution))["mapRuns"]
            result = [await client.describe_map_run(mapRunArn=run["mapRunArn"]) for run in runs]
        return [str(each["status"]) for each in result]

    async def errors(self, execution: str) -> list[str]:
        """The names of the errors that an execution's own steps have ended with so far, in order."""
        async with self.states() as client:
            events = (await client.get_execution_history(executionArn=execution, maxResults=1_000))["events"]
        return [event["taskFailedEventDetails"]["error"] for event in events if event["type"] == "TaskFailed"]

    async def ended(self, execution: str) -> dict[str, Any]:
        """What became of an execution, once it has ended."""
        async with self.states() as client:
            while True:
                result: dict[str, Any] = await client.describe_execution(executionArn=execution)
                if result["status"] != "RUNNING":
                    return result
                await asyncio.sleep(0.2)


@asynccontextmanager
async def aws_stand_in(tools: Path, folder: Path, port: int, **environment: str) -> AsyncIterator[Aws]:
    """AWS, with `environment` for its Lambdas besides what their template says."""
    url = f"http://127.0.0.1:{port}"
    ours = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtesttest", "AWS_REGION": REGION}
    ours |= {"AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true"}
    served = {"SFN_WAIT_SCALE": "0.1"}  # a minute is the longest that it waits for a retry: here six seconds
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
        await process.wait()  # or it would start others
        kill_all(lambdas(folder))


async def _until_up(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            assert process.returncode is None, log.read_text()
            try:
                async with session.get(f"{url}/_ministack/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)


def kill_all(pids: Iterable[int]) -> None:
    """Kill these processes; those that have ended meanwhile do not mind."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def lambdas(folder: Path) -> list[int]:
    """The processes of Lambdas whose services live in `folder`."""
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
