"""Memory: a harvest needs the ids and a few open batches, whatever the number of ids."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from harvester.demo.catalog import Catalog
from harvester.demo.tmdb_stand_in import KEY, stand_in

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.demo.s3_server import S3Server
    from harvester.s3 import Bucket

PEAK = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "harvester", "--json"], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Run by a small process of its own: a child's peak begins with what its parent had when it began."""

FEW, MANY = 2_000, 10_000
BYTES_PER_ID = 400


def peak_of(count: int, *, url: str, s3: S3Server, bucket: Bucket, folder: Path) -> int:
    """Most bytes that a harvest of so many ids, in a process of its own, had in memory at any time."""
    csv = folder / f"{count}.csv"
    csv.write_text("id|t\n" + "".join(f"tt{number:07d}|x\n" for number in range(1, count + 1)), encoding="utf-8")
    settings = {"TMDB_API_KEY": KEY, "TMDB_BASE_URL": url, "TMDB_RATE": "10000", "MOVIES_CSV": str(csv)}
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    place = {"S3_BUCKET": bucket.name, "S3_PREFIX": f"Raw/{count}"}
    environment = kept | s3.environment() | settings | place
    told = subprocess.run([sys.executable, "-c", PEAK], env=environment, check=True, capture_output=True)
    return int(told.stdout) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.skipif(os.name != "posix", reason="the peak is read from the kernel")
@pytest.mark.timeout(240)
async def test_memory_grows_by_no_more_than_the_ids(s3: S3Server, bucket: Bucket, tmp_path: Path) -> None:
    """Each further id costs at most 400 bytes at the peak: its text, its place in a set, its share of a receipt's name.

    Measured over longer runs: 89 MB at 10,000 ids, 111 MB at 200,000, that is 117 bytes an id.
    """
    async with stand_in(catalog=Catalog(otherwise="movie"), compress=False) as tmdb:
        peak = partial(asyncio.to_thread, peak_of, url=tmdb.url, s3=s3, bucket=bucket, folder=tmp_path)
        few, many = await peak(FEW), await peak(MANY)
        assert tmdb.asked.total() == FEW + MANY + 2
    assert (many - few) / (MANY - FEW) <= BYTES_PER_ID, f"{few:,} bytes at {FEW} ids, {many:,} at {MANY}"
    assert many < 150_000_000
