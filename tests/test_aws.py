"""The entry points on AWS, from `aws cloudformation package` to a closed run, over stand-ins of AWS and of TMDB.

Deselected by default: environments are made and packages built, which takes a minute; `-m aws` runs them. The stand-in
of Step Functions knows no RedriveExecution; but the state machine has a failed map redriven by itself.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from bisect import bisect_left
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aws_stand_in import Aws, aws_stand_in, kill_all, lambdas, make_packages, make_tools
from packages import ROOT
from shells import Shell

from harvester.fakes.catalog import catalog_of
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.runs.lease import decode_lease
from harvester.store.s3 import open_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from harvester.fakes.tmdb import FakeTmdb
    from harvester.store.s3 import Bucket

pytestmark = [pytest.mark.aws, pytest.mark.timeout(1_200), pytest.mark.xdist_group("aws")]

LAKE, RATE, CHILDREN = "lake-of-tests", 100, 4
LEASE = "Raw/API/_harvest/lease.json"

MOVIES, SERIES = ([f"tt{number:07}" for number in numbers] for numbers in (range(1_000, 2_500), range(2_500, 3_000)))


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tools(tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="module")
def packages(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    make_packages(made, folder)
    return folder


@pytest.fixture
async def tmdb() -> AsyncIterator[FakeTmdb]:
    """A TMDB that knows nineteen of twenty titles."""
    catalog = catalog_of(
        dict.fromkeys(MOVIES, ("a film", "2000")), dict.fromkeys(SERIES, ("a series", "2000")), missing=0.05
    )
    async with fake_tmdb(catalog=catalog, latency=(0.02, 0.1)) as server:
        yield server


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def landed(bucket: Bucket) -> dict[str, str]:
    """When each batch landed, by the key of its receipt."""
    keys = [key for key in await bucket.objects("Raw/API/_harvest/") if "/receipts/" in key]
    return {key: json.loads(await bucket.read(key) or b"{}")["landed_at"] for key in keys}


def busiest(tmdb: FakeTmdb, *, seconds: float) -> int:
    """The most requests that came within so many seconds."""
    times = list(tmdb.arrivals)
    return max(bisect_left(times, first + seconds) - index for index, first in enumerate(times))


async def until_asked(tmdb: FakeTmdb, requests: int) -> None:
    while tmdb.asked.total() < requests:
        await asyncio.sleep(0.02)


async def deployed(aws: Aws, packages: Path, folder: Path) -> str:
    """The state machine of our stack, with the key where the template says, and the CSVs uploaded."""
    await aws("ssm", "put-parameter", "--type", "SecureString", "--name", "/tmdb/api-key", "--value", KEY)
    parameters = {"Architecture": "x86_64", "Rate": str(RATE), "Children": str(CHILDREN)}
    outputs = await aws.deploy(packages, BucketName=LAKE, **parameters)
    for name, ids in (("movies", MOVIES), ("series", SERIES)):
        rows = "".join(f"{id_}|a title\n{id_}|a title\n" for id_ in ids)
        (folder / f"{name}.csv").write_text(f"id|tituloPincipal\n{rows}", encoding="utf-8")
        key = f"Raw/Local/CSV/{name.capitalize()}/2026/11/22/{name}.csv"
        await aws("s3", "cp", str(folder / f"{name}.csv"), f"s3://{outputs['BucketName']}/{key}")
    return outputs["StateMachineArn"]


@asynccontextmanager
async def lake_of(aws: Aws) -> AsyncIterator[Bucket]:
    """The bucket of our stack, as its owner has it open."""
    credentials = (aws.environment["AWS_ACCESS_KEY_ID"], aws.environment["AWS_SECRET_ACCESS_KEY"], None)
    async with open_bucket(LAKE, region="us-east-1", credentials=credentials, endpoint_url=aws.url) as lake:
        yield lake


def shell_of(aws: Aws, tmdb: FakeTmdb, folder: Path) -> Shell:
    """The command line on a laptop, with the CSVs and the lake of our stack."""
    settings = aws.environment | {
        "AWS_ENDPOINT_URL_S3": aws.url,
        "S3_BUCKET": LAKE,
        "TMDB_BASE_URL": tmdb.url,
        "TMDB_RATE": str(RATE),
        "TMDB_API_KEY": "ssm:/tmdb/api-key",
        "MOVIES_CSV": f"s3://{LAKE}/Raw/Local/CSV/Movies/",
        "SERIES_CSV": str(folder / "series.csv"),
    }
    return Shell(settings, folder)


async def test_killed_children_are_called_again_and_a_failed_map_is_redriven_and_closes_with_the_same_totals(
    tools: Path, packages: Path, tmdb: FakeTmdb, tmp_path: Path
) -> None:
    """2,000 ids over four children at one rate: one is killed, then all for good; the totals are the command line's."""
    async with aws_stand_in(tools, tmp_path, free_port(), TMDB_BASE_URL=tmdb.url) as aws:
        machine = await deployed(aws, packages, tmp_path)
        async with lake_of(aws) as lake:
            execution = await aws.start(machine)
            await until_asked(tmdb, 300)
            while len(crowd := lambdas(tmp_path)) < CHILDREN:
                await asyncio.sleep(0.02)
            kill_all(crowd[:1])  # this one is called again by Retry
            await until_asked(tmdb, 900)
            before = await landed(lake)
            while "FAILED" not in await aws.map_runs(execution):  # and these until their tries are used up
                kill_all(lambdas(tmp_path))
                await asyncio.sleep(0.1)
            assert len(await landed(lake)) < 20

            outcome = await aws.ended(execution)  # the map is tried again when no child is at work any more
            assert outcome["status"] == "SUCCEEDED", outcome
            closed = json.loads(outcome["output"])
            assert closed["status"] == "closed"
            assert await aws.map_runs(execution) == ["FAILED", "SUCCEEDED"]
            assert await aws.errors(execution) == []
            after = await landed(lake)
            assert {key: when for key, when in after.items() if key in before} == before
            assert len(after) == closed["totals"]["batches"] == 20
            assert await lake.uploads("") == []
            lease = decode_lease(await lake.read(LEASE) or b"")
            assert lease is not None
            assert (lease.run, lease.ended) == (closed["run"], True)
        assert busiest(tmdb, seconds=5) <= 1.3 * 5 * RATE  # the machine may be busy, too; each for itself it were 4
        outcome = await aws.ended(await aws.start(machine))
        assert json.loads(outcome["output"])["status"] == "nothing_to_do"
        shell = shell_of(aws, tmdb, tmp_path)
        verification = await result_of(shell, "verify")
        assert (verification["status"], verification["run"], verification["totals"]) == (
            "proved",
            closed["run"],
            closed["totals"],
        )
        same = await result_of(shell, "harvest")  # the very run, from the command line
        assert (same["status"], same["run"], same["requests"]) == ("nothing_to_do", closed["run"], 0)
        other = await result_of(shell, "harvest", "--prefix", "Raw/Other")
        assert other["status"] == "closed"
        assert other["totals"] == closed["totals"]


async def result_of(shell: Shell, *words: str) -> dict[str, Any]:
    """What a command of the harvester prints, which ends with exit code 0."""
    async with shell.start(*words, "--json") as running:
        ended = await running.ended()
    assert ended.code == 0, ended
    return ended.result


def test_the_template_is_what_cloudformation_takes(tools: Path) -> None:
    """cfn-lint finds nothing wrong in it."""
    template = str(ROOT / "config" / "aws" / "template.yaml")
    completed = subprocess.run([str(tools / "cfn-lint"), template], check=False, capture_output=True, text=True)
    assert (completed.returncode, completed.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm to install asl-validator with")
def test_the_state_machine_is_what_step_functions_takes(tmp_path: Path) -> None:
    """asl-validator finds nothing wrong in it."""
    subprocess.run(["npm", "install", "--silent", "asl-validator@4"], check=True, cwd=tmp_path, capture_output=True)
    machine = str(ROOT / "config" / "aws" / "distributed_map.asl.json")
    command = ["npx", "asl-validator", "--json-path", machine]
    completed = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert completed.returncode == 0, completed.stdout + completed.stderr
