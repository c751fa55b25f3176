"""`demo --chaos`: the faults and kills asked for happen, and the audit, which can fail, finds nothing wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from contract import balances, holds

from harvester.demo.chaos import ENDS, Chaos, audit_lake, parse_chaos
from harvester.demo.environment import open_environment
from harvester.errors import Exit, SettingsError
from harvester.fakes.faults import NAMED, TRANSIENT

if TYPE_CHECKING:
    from pathlib import Path


def test_faults_of_both_servers_and_kills_are_distinguished() -> None:
    """A name that begins with `s3-` is a fault of S3, `kill` is a number, any other name is a fault of TMDB."""
    assert parse_chaos("429=5%, reset=2%,s3-503=0.01,kill=3") == Chaos(
        {"429": 0.05, "reset": 0.02}, {"s3-503": 0.01}, 3
    )
    assert parse_chaos("") == Chaos({}, {}, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "a fault is written name=share, such as 429=5%, not 'nonsense'"),
        ("50x=3%", "no fault is called '50x'; there are 500, 502,"),
        ("404=1%", "no fault is called '404'; there are 500, 502,"),
        ("s3-oops=1%", "no fault is called 's3-oops'; there are s3-503,"),
        ("429=5%,429=6%", "the fault '429' is given twice"),
        ("429=lots", "the share of '429' must be a number such as 5% or 0.05, not 'lots'"),
        ("500=60%,502=60%", "the shares make 120% together"),
        ("kill=half", "kill is a number of kills, such as kill=3"),
        ("kill=1,kill=2", "kill is a number of kills, such as kill=3"),
    ],
)
def test_a_wrong_chaos_is_refused_with_the_reason(text: str, message: str) -> None:
    """A mistyped chaos is a usage error that names the wrong piece and the known names."""
    with pytest.raises(SettingsError) as caught:
        parse_chaos(text)
    assert str(caught.value).startswith(f"--chaos {text!r}: {message}")


def test_every_fault_that_may_be_asked_for_passes_and_leaves_the_record_as_it_is() -> None:
    """With a refused key, a 404 or a changed record the audit would blame the harvester: these are not allowed."""
    assert NAMED.keys() - TRANSIENT.keys() == {"401", "403", "404", "big"}
    for name in ("401", "403", "404", "big"):
        with pytest.raises(SettingsError) as caught:
            parse_chaos(f"429=1%,{name}=1%")
        assert str(caught.value).endswith(f"no fault is called {name!r}; there are {', '.join(TRANSIENT)}")


def test_every_end_of_a_start_has_its_words() -> None:
    """Every exit code has its own text."""
    assert (set(ENDS), len(set(ENDS.values()))) == (set(Exit), len(Exit))


async def chaos(folder: Path, text: str) -> tuple[int | None, dict[str, Any], str]:
    """Exit code, result and standard error of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "harvester", "demo", "--chaos", text, "--json", "--folder", str(folder)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, json.loads(out), err.decode()


@pytest.mark.timeout(180)
async def test_under_faults_and_kills_the_totals_reconcile_and_the_audit_is_clean(tmp_path: Path) -> None:
    """`demo --chaos` ends reconciled and audited: nothing lost, doubled, altered, invented, orphaned or foreign."""
    code, result, story = await chaos(
        tmp_path / "[/x] out", "500=4%,reset=2%,empty=2%,s3-503=2%,s3-reset-after=1%,kill=2"
    )
    assert code == 0, result
    holds(result, code=0, of_a_run=True)
    assert result["summary_key"]
    balances(result["totals"])
    assert result["kills"] == 2
    assert [start["exit"] for start in result["starts"]][:2] == [None, None]
    assert result["starts"][-1]["exit"] == 0
    wrong = {name: count for name, count in result["audit"].items() if name != "expected" and count}
    assert (wrong, result["verify"], result["audit"]["expected"]) == ({}, "proved", result["totals"]["found"])
    assert "start 1" in story
    assert "SIGKILL" in story
    assert f"The files are in {tmp_path}/[/x] out/. The demo" in story
    files = [path for path in (tmp_path / "[/x] out/Raw/API").rglob("*.json") if "_harvest" not in path.parts]
    assert len(files) == result["totals"]["files"]


@pytest.mark.timeout(120)
async def test_the_audit_finds_every_kind_of_problem(tmp_path: Path) -> None:
    """Lost, doubled, altered and invented records, an orphaned upload and a foreign object are each counted."""
    async with open_environment(tmp_path, rate=10_000, latency=(0, 0)) as env:
        report = await env.ask("harvest")
        assert report["status"] == "closed"
        audit = await audit_lake(env)
        assert (audit.clean, audit.expected) == (True, report["totals"]["found"])
        first, second, *_ = await env.bucket.objects("Raw/API/Movies/")
        lost, doubled, altered, mistaken, misled, *rest = (await env.bucket.read(first) or b"").splitlines(
            keepends=True
        )
        expected = dict.fromkeys(("lost", "doubled", "altered", "invented", "orphans", "foreign"), 1)
        altered = altered.replace(b'"adult":false', b'"adult":true')
        mistaken = mistaken.replace(b'"tmdb_id":', b'"tmdb_id":1')
        invented = rest[0].replace(rest[0][12:21], b"tt9999999")
        await env.bucket.put(first, b"".join([doubled, doubled, altered, mistaken, invented, *rest]))
        among = next(iter(await env.bucket.objects("Raw/API/Series/")))
        await env.bucket.put(among, (await env.bucket.read(among) or b"") + misled)
        await env.bucket.put(first.replace("tt0", "xx0"), b"")
        await env.bucket.begin(second)
        audit = await audit_lake(env)
    assert not audit.clean
    assert audit.counts() == expected | {"altered": 3}  # its text, its TMDB id, its kind
    assert (audit.lost, audit.invented) == ([json.loads(lost)["imdb_id"]], ["tt9999999"])
