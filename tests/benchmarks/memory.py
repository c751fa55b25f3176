"""Peak memory of a whole harvest: with few ids, with many, and with records as large as TMDB's largest.

The S3 client is botocore's, which keeps its models of all S3 operations in memory. Its share is measured separately: a
process that imports the harvest and opens a bucket, against one that only imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import Row, csv_of, medians
from tmdb_server import answers, fast_tmdb

from harvester.errors import Exit
from harvester.fakes.tmdb import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench import Bench

FEW, MANY, QUICK_MANY = 10_000, 200_000, 100_000
QUICK_TITLES = 1_000
"""With `--quick`, this many titles of either CSV are harvested, so that equally many batches can be open."""

RECORD_BYTES = 262_144
LARGE, QUICK_LARGE = 2_000, 400
"""How many such records: 524 MB and 105 MB, many times the memory goal."""

PEAK, BYTES_PER_ID, LARGE_PEAK = 90_000_000, 400, 200_000_000
"""The goals, in bytes."""

IMPORTED = "import harvester.commands.harvest"
OPENED = """
import asyncio, harvester.commands.harvest
from harvester.store.s3 import open_bucket

async def opened():
    async with open_bucket("lake", region="us-east-1", credentials=("key", "secret", None)):
        pass

asyncio.run(opened())
"""


async def measure(bench: Bench) -> dict[str, float]:
    """Peak bytes of each case."""
    async with fast_tmdb(answers()) as tmdb:
        few = await _peak(bench, FEW, tmdb.url)
        if bench.quick:
            shorter = await _peak(bench, FEW, tmdb.url, limit=QUICK_TITLES)
            longer = await _peak(bench, QUICK_MANY, tmdb.url, limit=QUICK_TITLES)
        else:
            shorter, longer = few, await _peak(bench, MANY, tmdb.url)
    async with fast_tmdb(answers(record_bytes=RECORD_BYTES)) as tmdb:
        large = await _peak(bench, QUICK_LARGE if bench.quick else LARGE, tmdb.url)
    imported, opened = await bench.python("-c", IMPORTED), await bench.python("-c", OPENED)
    return {
        "few": few,
        "many": longer,
        "per id": (longer - shorter) / ((QUICK_MANY if bench.quick else MANY) - FEW),
        "large": large,
        "s3": opened.peak_bytes - imported.peak_bytes,
        "limited": bench.quick,
    }


async def _peak(bench: Bench, ids: int, url: str, *, limit: int | None = None) -> int:
    """Peak bytes of a harvest of this many ids, or of the first `limit` of them."""
    ran = await bench.harvest(
        *(("--limit", str(limit)) if limit else ()),
        check=not limit,
        TMDB_API_KEY=KEY,
        TMDB_BASE_URL=url,
        TMDB_RATE="10000",
        TMDB_CONCURRENCY="20",
        MOVIES_CSV=str(csv_of(bench, ids)),
        S3_PREFIX=f"Raw/memory-{ids}-{limit}",
    )
    if limit and ran.code != Exit.STOPPED:
        raise RuntimeError(f"a harvest of the first {limit} of {ids} ids ended with {ran.code}: {ran.out[-1000:]}")
    return ran.peak_bytes


def rows(runs: Sequence[dict[str, float]]) -> list[Row]:
    """Goal 8: few ids, the bytes of each further id, and large records."""
    seen = medians(runs)
    mb = {name: value / 1e6 for name, value in seen.items()}
    without = seen["few"] - seen["s3"]
    many = f"the first {QUICK_TITLES:,} of {QUICK_MANY:,}" if seen["limited"] else f"{MANY:,}"
    return [
        Row(
            8,
            f"peak memory with {FEW:,} ids",
            f"≤ {PEAK / 1e6:.0f} MB without what the S3 client adds",
            f"{without / 1e6:.1f} MB, and {mb['s3']:.1f} by the client: {mb['few']:.1f}",
            without <= PEAK,
        ),
        Row(
            8,
            f"with {many} ids ({mb['many']:.1f} MB), for each more",
            f"≤ {BYTES_PER_ID} bytes",
            f"{seen['per id']:.0f} bytes",
            seen["per id"] <= BYTES_PER_ID,
        ),
        Row(
            8,
            f"with records of {RECORD_BYTES / 1e3:.0f} KB",
            f"≤ {LARGE_PEAK / 1e6:.0f} MB",
            f"{mb['large']:.1f} MB",
            seen["large"] <= LARGE_PEAK,
        ),
    ]
