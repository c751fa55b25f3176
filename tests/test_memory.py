"""Memory: a harvest needs the ids and a few open batches, whatever the number of ids."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from shells import kept

from harvester.fakes.catalog import Catalog
from harvester.fakes.tmdb import KEY, fake_tmdb

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.fakes.s3_server import S3Server
    from harvester.store.s3 import Bucket

PEAK = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-m", "harvester", *sys.argv[1:]], stdout=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
"""Exit code and most bytes of a harvest, in a small process: a child's peak begins with what its parent had then."""

LEFT = """
import asyncio, gc, tracemalloc
from harvester.commands.harvest import harvest
from harvester.runtime.observer import BatchLanded, RunBegun, TitleDone
from harvester.runtime.shutdown import Shutdown
from harvester.settings.settings import load_settings

class Last:
    left = titles = seen = 0

    def __call__(self, event):
        match event:
            case RunBegun():
                self.titles = event.titles
            case TitleDone():
                self.seen += 1
            case BatchLanded():
                self.titles -= sum(event.outcomes.values())
                if self.titles == 0:
                    gc.collect()
                    self.left = tracemalloc.get_traced_memory()[0]

tracemalloc.start()
last = Last()
asyncio.run(harvest(load_settings(), observer=last, shutdown=Shutdown()))
print(last.seen, last.left)
"""
"""Titles of a harvest, and the bytes it held when its last batch had landed: not those of batches still open then."""

LIMIT = 1_000
FEW, MANY = 2_000, 200_000
SHORT, LONG = 500, 3_000
BYTES_PER_ID = 400

posix = pytest.mark.skipif(os.name != "posix", reason="the peak is read from the kernel")


async def printed_by(
    program: str, *words: str, ids: int, url: str, s3: S3Server, bucket: Bucket, folder: Path
) -> tuple[int, int]:
    """The two numbers that a program prints, run with the settings of a harvest of so many ids."""
    csv = folder / f"{ids}.csv"
    csv.write_text("id|t\n" + "".join(f"tt{number:07d}|x\n" for number in range(1, ids + 1)), encoding="utf-8")
    settings = {"TMDB_API_KEY": KEY, "TMDB_BASE_URL": url, "TMDB_RATE": "10000", "MOVIES_CSV": str(csv)}
    target = {"S3_BUCKET": bucket.name, "S3_PREFIX": f"Raw/{ids}"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *words),
        env=kept() | s3.environment() | settings | target,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it and its child, should nobody wait for them any longer
    first, second = map(int, out.split())
    return first, second


@posix
@pytest.mark.timeout(120)
async def test_memory_grows_by_no_more_than_the_ids(s3: S3Server, bucket: Bucket, tmp_path: Path) -> None:
    """Each further id costs at most 400 bytes at the peak, and with 200,000 of them it stays below 150 MB.

    As many titles are harvested of the long CSV as of the short one, so that as many batches can be open.
    """
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), compress=False) as tmdb:
        peaks = {}
        for ids in (FEW, MANY):
            words = ("--json", "--limit", str(LIMIT))
            code, peaks[ids] = await printed_by(
                PEAK, *words, ids=ids, url=tmdb.url, s3=s3, bucket=bucket, folder=tmp_path
            )
            assert code == 75
        assert tmdb.asked.total() == 2 * (LIMIT + 1)
    assert (peaks[MANY] - peaks[FEW]) / (MANY - FEW) <= BYTES_PER_ID, peaks
    assert peaks[MANY] < 150_000_000


@posix
@pytest.mark.timeout(120)
async def test_a_batch_that_has_landed_leaves_nothing_behind(s3: S3Server, bucket: Bucket, tmp_path: Path) -> None:
    """When the last batch has landed, each title harvested has left no more than an id takes; its record has 1.4 KB."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), compress=False) as tmdb:
        left = {}
        for ids in (SHORT, LONG):
            seen, left[ids] = await printed_by(LEFT, ids=ids, url=tmdb.url, s3=s3, bucket=bucket, folder=tmp_path)
            assert seen == ids
    assert (left[LONG] - left[SHORT]) / (LONG - SHORT) <= BYTES_PER_ID, left
