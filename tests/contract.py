"""The contract of results: the keys that every `--json` object and every answer of the Lambda has."""

from __future__ import annotations

import re
from typing import Any

from harvester import __version__

COMMON = ["status", "exit_code", "version"]
OF_A_RUN = ["run", "lake", "summary_key", "started_at", "ended_at"]
NUMBERS = ["rows", "ids", "duplicates", "rejected", "filtered", "found", "missing", "failed", "fresh"]
NUMBERS += ["other_ids", "batches", "files", "bytes"]
BY_REASON = ["missing", "failed"]

RUN = re.compile(r"\d{4}-\d\d-\d\d-[0-9a-f]{8}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def holds(result: dict[str, Any], *, code: int, of_a_run: bool = False, day: bool = False) -> None:
    """Assert that a result has the common keys, first, and those of a run, next, if it is `of_a_run`."""
    expected = COMMON + (OF_A_RUN if of_a_run else [])
    assert [*result][: len(expected)] == expected
    assert (result["exit_code"], result["version"]) == (code, __version__)
    assert re.fullmatch(r"[a-z_]+", result["status"])
    if result["status"] == "error":
        assert re.fullmatch(r"\w+", result["error"])
        assert result["message"]
    if not of_a_run:
        assert result.keys().isdisjoint(OF_A_RUN)
        return
    assert result["run"] is None if day else RUN.fullmatch(result["run"])
    bucket, _, prefix = result["lake"].removeprefix("s3://").partition("/")
    assert (result["lake"], bool(bucket), bool(prefix)) == (f"s3://{bucket}/{prefix}", True, True)
    assert result["summary_key"] in (None, f"{prefix}/_harvest/{result['run']}/summary.json")
    assert TIME.fullmatch(result["started_at"])
    assert TIME.fullmatch(result["ended_at"])
    assert result["started_at"] <= result["ended_at"]


def balances(totals: dict[str, Any], *, to_do: int = 0) -> None:
    """Assert that totals are flat numbers, all of them, that they balance, and that the reasons add up."""
    assert [*totals] == NUMBERS + [f"{name}_by_reason" for name in BY_REASON]
    assert all(type(totals[name]) is int for name in NUMBERS)
    assert totals["rows"] == totals["ids"] + totals["duplicates"] + totals["rejected"] + totals["filtered"]
    with_outcome = sum(totals[name] for name in ("found", "missing", "failed", "fresh"))
    assert totals["ids"] == with_outcome + to_do
    for name in BY_REASON:
        assert totals[name] == sum(totals[f"{name}_by_reason"].values())
