"""Shared by all benchmarks: two cores, clients in their own processes, and the rows of one table.

A benchmark is a module with two functions: `async measure(bench) -> dict[str, float]`, the numbers of one run, and
`rows(runs: Sequence[dict[str, float]]) -> list[Row]`, the rows of the table from all runs. In `run.py` the benchmarks
take turns, so that a busy minute of the machine affects all of them alike.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from harvester.fakes.s3_server import REGION, s3_server
from harvester.store.s3 import open_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from harvester.fakes.s3_server import S3Server
    from harvester.store.s3 import Bucket

HERE = Path(__file__).parent

CORES = sorted(os.sched_getaffinity(0))
if len(CORES) < 2:
    raise SystemExit("The benchmarks need two cores: one for the servers, one for what is measured.")
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]
"""The servers and this process run on the first core, the measured client on the last."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: a goal, and what was measured."""

    number: int
    what: str
    goal: str
    seen: str
    met: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """An ended client: its output, and what it used. `peak_bytes` is the most memory it held at a time."""

    code: int
    out: str
    err: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Bench:
    """The environment of a benchmark.

    Attributes:
        folder: For files that benchmarks write.
        s3: A real S3 server, on the servers' core.
        bucket: A bucket in it, for this process to read and write.
        quick: Smaller sizes: shorter, and less exact.
    """

    folder: Path
    s3: S3Server
    bucket: Bucket
    quick: bool
    environment: Mapping[str, str] = field(default_factory=dict)

    async def run(self, *command: str, check: bool = True, **environment: str) -> Ran:
        """Run a command on the client's core: its output, and what it used.

        Raises:
            RuntimeError: With `check`, its exit code is not 0.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(HERE / "measured.py"), str(CLIENT_CORE), *command),
            env=self.environment | environment,
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        *printed, result = out.decode().splitlines()
        ran = Ran(out="\n".join(printed), err=err.decode(), **json.loads(result))
        if check and ran.code:
            raise RuntimeError(f"{command} ended with {ran.code}: {ran.out[-1000:]} {ran.err[-3000:]}")
        return ran

    async def python(self, *words: str, check: bool = True, **environment: str) -> Ran:
        """As `run`, with this Python."""
        return await self.run(sys.executable, *words, check=check, **environment)

    async def harvest(self, *words: str, before: Sequence[str] = (), check: bool = True, **settings: str) -> Ran:
        """A harvest by the command line, with its result as JSON; `before` is a command that runs it."""
        environment = self.s3.environment() | {"S3_BUCKET": self.bucket.name} | settings
        command = (*before, sys.executable, "-m", "harvester", *words, "--json")
        return await self.run(*command, check=check, **environment)


@asynccontextmanager
async def open_bench(folder: Path, *, quick: bool) -> AsyncIterator[Bench]:
    """A bench in `folder`, with its own S3 server; clients see none of this process's settings."""
    environment = {"PATH": os.environ["PATH"], "PYTHONUTF8": "1", "HOME": str(folder)}
    async with s3_server(folder / "s3", buckets=["lake"]) as s3:
        credentials = (s3.access_key, s3.secret_key, None)
        async with open_bucket("lake", region=REGION, credentials=credentials, endpoint_url=s3.endpoint) as bucket:
            yield Bench(folder, s3, bucket, quick=quick, environment=environment)


@cache
def rivals_bin(name: str) -> Path:
    """A program in the rivals' own environment, created if missing: their packages must not slow ours.

    If botocore finds Scrapy's pyOpenSSL, importing botocore takes 20 ms and 9 MB more.
    """
    folder = HERE / ".venv"
    if not (folder / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--requirement", str(HERE / "rivals.txt")]
        subprocess.run(pip, check=True)
        (folder / "made").touch()
    return folder / "bin" / name


def csv_of(bench: Bench, ids: int) -> Path:
    """A CSV with this many ids."""
    path = bench.folder / f"{ids}.csv"
    path.write_text("id|t\n" + "".join(f"tt{number:07d}|x\n" for number in range(1, ids + 1)), encoding="utf-8")
    return path


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each number over all runs."""
    return {name: median(run[name] for run in runs) for name in runs[0]}
