"""Chaos: what the user asks for happens, and an audit that could fail says that nothing came of it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from harvester.demo.chaos import ENDS, Chaos, audit_lake, parse_chaos
from harvester.demo.environment import open_environment
from harvester.errors import Exit, SettingsError
from harvester.fakes.faults import NAMED, TRANSIENT

if TYPE_CHECKING:
    from pathlib import Path


def test_faults_of_both_servers_and_kills_are_distinguished() -> None:
    """A name that begins with `s3-` is a fault of the bucket's, `kill` a number, everything else TMDB's."""
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
def test_what_cannot_be_asked_for_is_reported(text: str, message: str) -> None:
    """A mistyped chaos is a usage error that names the piece and what there is."""
    with pytest.raises(SettingsError) as caught:
        parse_chaos(text)
    assert str(caught.value).startswith(f"--chaos {text!r}: {message}")


def test_every_fault_that_may_be_asked_for_passes_and_leaves_the_record_as_it_is() -> None:
    """A refused key, a title that TMDB says it does not have, another record: the audit would accuse the harvester."""
    assert NAMED.keys() - TRANSIENT.keys() == {"401", "403", "404", "big"}
    for name in ("401", "403", "404", "big"):
        with pytest.raises(SettingsError) as caught:
            parse_chaos(f"429=1%,{name}=1%")
        assert str(caught.value).endswith(f"no fault is called {name!r}; there are {', '.join(TRANSIENT)}")


def test_every_end_of_a_start_has_its_words() -> None:
    """No exit code is shown as another."""
    assert (set(ENDS), len(set(ENDS.values()))) == (set(Exit), len(Exit))


async def chaos(folder: Path, text: str) -> tuple[int | None, dict[str, Any], str]:
    """Exit code, result and story of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "harvester", "demo", "--chaos", text, "--json", "--folder", str(folder)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, json.loads(out), err.decode()


@pytest.mark.timeout(180)
async def test_under_faults_and_kills_the_totals_reconcile_and_the_audit_is_clean(tmp_path: Path) -> None:
    """`demo --chaos` ends with an audited run: nothing lost, doubled, altered, invented, orphaned or foreign."""
    code, result, story = await chaos(
        tmp_path / "[/x] out", "500=4%,reset=2%,empty=2%,s3-503=2%,s3-reset-after=1%,kill=2"
    )
    assert code == 0, result
    assert result["kills"] == 2
    assert [start["exit"] for start in result["starts"]][:2] == [None, None]
    assert result["starts"][-1]["exit"] == 0
    wrong = {name: count for name, count in result["audit"].items() if name != "expected" and count}
    assert (wrong, result["verify"], result["audit"]["expected"]) == ({}, "proved", result["totals"]["found"])
    assert "start 1" in story
    assert "SIGKILL" in story
    assert f"The files are in {tmp_path}/[/x] out/. All" in story
    files = [path for path in (tmp_path / "[/x] out/Raw/API").rglob("*.json") if "_harvest" not in path.parts]
    assert len(files) == result["totals"]["files"]


@pytest.mark.timeout(120)
async def test_the_audit_finds_whatever_is_wrong(tmp_path: Path) -> None:
    """A record lost, doubled, altered or invented, an orphaned upload and a foreign object are each counted."""
    async with open_environment(tmp_path, rate=10_000, latency=(0, 0)) as environment:
        report = await environment.ask("harvest")
        assert report["status"] == "closed"
        audit = await audit_lake(environment)
        assert (audit.clean, audit.expected) == (True, report["totals"]["found"])
        first, second, *_ = await environment.bucket.objects("Raw/API/Movies/")
        lost, doubled, altered, mistaken, misled, *rest = (await environment.bucket.read(first) or b"").splitlines(
            keepends=True
        )
        expected = dict.fromkeys(("lost", "doubled", "altered", "invented", "orphans", "foreign"), 1)
        altered = altered.replace(b'"adult":false', b'"adult":true')
        mistaken = mistaken.replace(b'"tmdb_id":', b'"tmdb_id":1')
        invented = rest[0].replace(rest[0][12:21], b"tt9999999")
        await environment.bucket.put(first, b"".join([doubled, doubled, altered, mistaken, invented, *rest]))
        among = next(iter(await environment.bucket.objects("Raw/API/Series/")))
        await environment.bucket.put(among, (await environment.bucket.read(among) or b"") + misled)
        await environment.bucket.put(first.replace("tt0", "xx0"), b"")
        await environment.bucket.begin(second)
        audit = await audit_lake(environment)
    assert not audit.clean
    assert audit.counts() == expected | {"altered": 3}  # its text, its TMDB id, its kind
    assert (audit.lost, audit.invented) == ([json.loads(lost)["imdb_id"]], ["tt9999999"])
