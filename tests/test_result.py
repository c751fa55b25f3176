"""The result contract: whatever command, however it ends, `--json` has the same keys for the same things."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from contract import balances, holds
from shells import Shell, kept

from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import always, refusal, scripted
from harvester.fakes.tmdb import KEY, fake_tmdb

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.fakes.s3_server import S3Server
    from harvester.store.s3 import Bucket

MOVIES = [f"tt{number:07d}" for number in range(1, 151)]


@dataclass(frozen=True, slots=True)
class Case:
    """A command, after a harvest or not, and what its result is."""

    words: tuple[str, ...]
    status: str
    code: int = 0
    harvested: tuple[str, ...] | None = None  # options of a harvest before it
    of_a_run: bool = True
    reconciled: bool = False  # its summary is named
    totals: bool = False
    to_do: int = 0
    poison: bool = False  # TMDB refuses one of the titles
    environment: dict[str, str] = field(default_factory=dict)


CASES = {
    "plan": Case(("plan",), "to_do"),
    "plan, nothing to do": Case(("plan",), "nothing_to_do", harvested=(), reconciled=True),
    "harvest": Case(("harvest",), "closed", reconciled=True, totals=True),
    "harvest, again": Case(("harvest",), "nothing_to_do", harvested=(), reconciled=True, totals=True),
    "harvest, failed": Case((), "failed", 5, reconciled=True, totals=True, poison=True),
    "harvest, stopped": Case(("harvest", "--limit", "1"), "stopped", 75, totals=True, to_do=50),
    "verify": Case(("verify",), "proved", harvested=(), reconciled=True, totals=True),
    "verify, wrong": Case(("verify",), "wrong", 1, harvested=("--limit", "1"), totals=True, to_do=50),
    "verify, a day": Case(("verify", "--day", "{day}"), "proved", harvested=(), totals=True),
    "missing": Case(("missing",), "some_missing", harvested=(), reconciled=True),
    "missing, unfinished": Case(("missing",), "some_missing", harvested=("--limit", "1")),
    "upload": Case(("upload",), "uploaded", of_a_run=False),
    "doctor": Case(("doctor",), "healthy", of_a_run=False),
    "doctor, wrong": Case(("doctor",), "wrong", 1, of_a_run=False, environment={"MOVIES_CSV": "nowhere.csv"}),
    "no run": Case(("verify",), "error", 1, of_a_run=False),
    "no CSV": Case((), "error", 2, of_a_run=False, environment={"MOVIES_CSV": "nowhere.csv"}),
    "no setting": Case(("plan",), "error", 2, of_a_run=False, environment={"S3_BUCKET": ""}),
    "key refused": Case(("harvest",), "error", 3, environment={"TMDB_API_KEY": "f" * 32}),
    "no bucket": Case(("missing",), "error", 4, of_a_run=False, environment={"S3_BUCKET": "no-such-bucket"}),
    "no TMDB": Case((), "error", 6, environment={"TMDB_BASE_URL": "http://127.0.0.1:9/3"}),
    "both servers": Case(("demo", "--serve", "--chaos", "kill=1"), "error", 2, of_a_run=False),
}


@pytest.fixture
def shell(s3: S3Server, bucket: Bucket, tmp_path: Path) -> Shell:
    """A shell in which 150 movies and a row that is none are to be harvested."""
    csv = tmp_path / "movies.csv"
    csv.write_text("".join(f"{id_}|a title\n" for id_ in ["id", *MOVIES, "nm0000001"]), encoding="utf-8")
    settings = {"TMDB_API_KEY": KEY, "S3_BUCKET": bucket.name, "MOVIES_CSV": str(csv), "TMDB_RATE": "1000"}
    return Shell(kept() | s3.environment() | settings, tmp_path)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_every_result_holds_the_contract(case: Case, shell: Shell, bucket: Bucket) -> None:
    """Status, exit code and version always; where there is a run, which, where and when; totals all of them."""
    faults = scripted({("movie", MOVIES[7]): [always(refusal(404, code=11))]} if case.poison else {})
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), faults=faults) as tmdb:
        shell = shell.having(TMDB_BASE_URL=tmdb.url)
        before = None if case.harvested is None else (await shell.run("harvest", *case.harvested, "--json")).result
        words = [word.format(day=before["run"][:10]) if before else word for word in case.words]
        ended = await shell.having(**case.environment).run(*words, "--json")
    result = ended.result
    assert (ended.code, result["status"]) == (case.code, case.status), result
    holds(result, code=case.code, of_a_run=case.of_a_run, day="--day" in words)
    if case.of_a_run:
        assert result["lake"] == f"s3://{bucket.name}/Raw/API"
        assert (result["summary_key"] is not None) == case.reconciled
        assert before is None or result["run"] in (before["run"], None)
    if case.totals:
        balances(result["totals"], to_do=case.to_do)
        assert result["totals"]["rejected"] == 1
    else:
        assert "totals" not in result


async def test_a_harvest_that_a_signal_stops_holds_the_contract(shell: Shell) -> None:
    """Stopped by a container, its totals balance with what is left to do."""
    async with (
        fake_tmdb(catalog=Catalog(otherwise="movie"), latency=(0.01, 0.02)) as tmdb,
        shell.having(TMDB_BASE_URL=tmdb.url, TMDB_RATE="100").start("--json") as running,
    ):
        await running.until(lambda: tmdb.asked.total() >= 20)
        running.send(signal.SIGTERM)
        ended = await running.ended()
    holds(ended.result, code=75, of_a_run=True)
    assert (ended.code, ended.result["status"], ended.result["summary_key"]) == (75, "stopped", None)
    balances(ended.result["totals"], to_do=len(MOVIES) - ended.result["totals"]["found"])


async def test_what_is_stopped_before_it_begins_holds_the_contract(shell: Shell) -> None:
    """Also where nothing is imported yet that makes results."""
    program = "import harvester.__main__ as program, signal; signal.signal(15, program._stop); signal.raise_signal(15)"
    ended = await shell.run("harvest", "--json", program=("-c", program))
    holds(ended.result, code=75)
    assert (ended.code, ended.result["status"], ended.result["error"]) == (75, "error", "StoppedError")


async def test_an_upload_that_is_harvested_too_has_both_results(shell: Shell) -> None:
    """The harvest's is on top, as without the upload; the upload's is whole within it."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        ended = await shell.having(TMDB_BASE_URL=tmdb.url).run("upload", "--then-harvest", "--limit", "1", "--json")
    result: dict[str, Any] = ended.result
    holds(result, code=75, of_a_run=True)
    balances(result["totals"], to_do=50)
    holds(result["upload"], code=0)
    assert (result["status"], result["upload"]["status"]) == ("stopped", "uploaded")


async def test_every_log_line_names_the_run_once_it_is_known(shell: Shell) -> None:
    """From the line that begins the run, each has its name, and numbers are numbers."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        ended = await shell.having(TMDB_BASE_URL=tmdb.url).run("harvest", "--json")
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert {line["run"] for line in lines} == {ended.result["run"]}
    landed = [line for line in lines if line["event"] == "batch_landed"]
    assert sum(line["found"] for line in landed) == len(MOVIES)
    assert sum(line["bytes"] for line in landed) == ended.result["totals"]["bytes"]
