"""The Lambda, started by AWS's own runtime client, against a TMDB stand-in and a real S3 server.

A process takes a second or two to start, so tests that can share one. Nothing here is asserted of the time that
anything takes: a deadline that has come too early for a slow machine is given again, later.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from contract import balances, holds
from runtime_api import Lambda, Result, fake_secrets, frames, function, hasty, without_loop
from shells import Shell, answerless, kept

from harvester import __version__
from harvester.commands.verify import verify
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import Fault, always, scripted, silence
from harvester.fakes.s3_proxy import on_keys, refusing, s3_proxy
from harvester.fakes.tmdb import KEY, FakeTmdb, fake_tmdb
from harvester.runs.lease import LeaseState, encode_lease

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from harvester.fakes.s3_proxy import S3Proxy
    from harvester.fakes.s3_server import S3Server
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

pytestmark = [
    pytest.mark.timeout(120),  # for what hangs: a busy machine may take its time
    pytest.mark.skipif(sys.platform != "linux", reason="AWS's runtime client is for Linux"),
]

MOVIES = [f"tt{number:07d}" for number in range(1, 351)]
ONE_KEY, ANOTHER_KEY = "5ec7e7ab1e0ddba11c0ffee0ca5cade5", "0ddba11c0ffee5ca1ab1e0ff1ced0bad"
EXECUTION = "arn:aws:states:us-east-1:000000000000:execution:tmdb-harvest:5ca1ab1e-0000"
OF_A_CLOSE = ("run", "sources", "settings", "token")
"""What the state machine takes of the plan's answer for the close."""
TIMES = ("started_at", "ended_at")
FOLDER = "Filmes e séries"
KEY_OF_CSV = f"Raw/{FOLDER}/Movies/2026/11/22/movies.csv"
SENT = {
    "Records": [
        {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:CompleteMultipartUpload",
            "s3": {"bucket": {"name": "?"}, "object": {"key": "Raw/Filmes+e+s%C3%A9ries/Movies/2026/11/22/movies.csv"}},
        }
    ]
}


def csv_of(ids: list[str]) -> bytes:
    return "\n".join(["id|tituloPrincipal", *(f"{id_}|a title" for id_ in ids), ""]).encode()


class World:
    """A function with all that it speaks to.

    Attributes:
        settings: Those of the function, to look at the bucket with.
    """

    def __init__(self, lambda_: Lambda, tmdb: FakeTmdb, link: S3Proxy, bucket: Bucket, settings: Settings) -> None:
        self.lambda_, self.tmdb, self.link, self.bucket, self.settings = lambda_, tmdb, link, bucket, settings

    async def invoke(self, event: Any = None, **more: Any) -> Result:
        return await self.lambda_.invoke({} if event is None else event, **more)

    async def problems(self) -> list[str]:
        return (await verify(self.settings)).problems

    def titles(self) -> Counter[str]:
        """How often each movie has been asked for."""
        return Counter({id_: count for (route, id_), count in self.tmdb.asked.items() if route == "movie"})


@pytest.fixture
async def deploy(s3: S3Server, bucket: Bucket, settings_for: Make, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Deploys the function: with these ids in its CSV, this TMDB, this program, and other variables."""
    async with AsyncExitStack() as stack:

        async def make(
            ids: list[str], *, program: Any = None, never: tuple[str, ...] = (), tmdb: Any = None, **variables: str
        ) -> World:
            link = await stack.enter_async_context(s3_proxy(s3.endpoint))
            server = await stack.enter_async_context(fake_tmdb(**tmdb or {"catalog": Catalog(otherwise="movie")}))
            await bucket.put(KEY_OF_CSV, csv_of(ids))
            environment = s3.environment() | {
                "AWS_ENDPOINT_URL_S3": link.url,
                "TMDB_API_KEY": KEY,
                "TMDB_BASE_URL": server.url,
                "TMDB_RATE": "10000",
                "S3_BUCKET": bucket.name,
                "MOVIES_CSV": f"s3://{bucket.name}/{KEY_OF_CSV}",
            }
            secrets = (KEY, s3.secret_key, *never)
            given: dict[str, Any] = {"program": program} if program else {}
            lambda_ = await stack.enter_async_context(
                function(environment | variables, tmp_path, never=secrets, **given)
            )
            settings = settings_for(server.url, movies_csv=environment["MOVIES_CSV"])
            return World(lambda_, server, link, bucket, settings)

        yield make


def created(bucket: Bucket) -> dict[str, Any]:
    """What S3 sends when the CSV has been uploaded."""
    result: dict[str, Any] = json.loads(json.dumps(SENT))
    result["Records"][0]["s3"]["bucket"]["name"] = bucket.name
    return result


def test_a_cold_start_leaves_the_collector_at_work() -> None:
    """Cycles are not looked for while the Lambda's module is imported, and are afterwards."""
    program = "import gc, harvester.aws_lambda.handler; print(gc.isenabled())"
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert completed.stdout == "True\n"


async def test_a_schedule_and_an_upload_harvest_and_a_second_event_finds_nothing_to_do(
    deploy: Callable[..., Any], bucket: Bucket
) -> None:
    """On one process, each event with a loop of its own: harvested by the first, known to the second, however named."""
    world = await deploy(MOVIES[:250])
    scheduled = {"version": "0", "id": "x", "detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}
    reply = await world.invoke(scheduled)
    assert (reply.answer["status"], reply.answer["exit_code"], reply.answer["totals"]["found"]) == ("closed", 0, 250)
    asked = world.tmdb.asked.total()
    reply = await world.invoke(created(bucket))
    assert (reply.answer["status"], reply.answer["totals"]["found"]) == ("nothing_to_do", 250)
    assert world.tmdb.asked.total() == asked
    holds(reply.answer, code=0, of_a_run=True)
    balances(reply.answer["totals"])
    ignored = (await world.invoke({"Service": "Amazon S3", "Event": "s3:TestEvent"})).answer
    assert ignored == {"status": "ignored", "exit_code": 0, "version": __version__}
    assert world.lambda_.starts == 1
    assert await world.problems() == []
    landed = world.lambda_.lines("batch_landed")
    assert sorted((line["level"], line["collection"], line["found"]) for line in landed) == [
        ("info", "Movies", 50),
        ("info", "Movies", 100),
        ("info", "Movies", 100),
    ]
    assert world.lambda_.lines("run")[0]["run"] == reply.answer["run"]
    assert world.lambda_.out == ""


async def test_the_steps_of_a_state_machine_close_the_books(deploy: Callable[..., Any]) -> None:
    """Plan twice, each shard twice, close: called as the state machine calls them, with what it was started with."""
    world = await deploy(MOVIES)
    settings = {"s3_prefix": "Raw/Outra pasta", "tmdb_rate": 4_000, "tmdb_language": "pt-BR"}
    step = {"action": "plan", "children": "4", "execution": EXECUTION, "event": {"settings": settings}}
    plan = (await world.invoke(step)).answer
    assert (plan["status"], plan["shards"], plan["rate_per_child"], plan["settings"]) == ("to_do", 4, 1_000, settings)
    assert plan["sources"] == {"movies_csv": f"s3://{world.bucket.name}/{KEY_OF_CSV}"}
    repeated = (await world.invoke(step)).answer  # the first answer was lost
    assert {**repeated, **{name: plan[name] for name in TIMES}} == plan
    for answer in (plan, repeated):
        holds(answer, code=0, of_a_run=True)
    shards = orjson.loads(await world.bucket.read(plan["shards_key"]) or b"")
    step = {"action": "harvest", "settings": plan["settings"]}
    for shard in (*shards, *shards):
        reply = (await world.invoke(step | {"shard": shard})).answer
        assert (reply["status"], reply["run"]) == ("landed", plan["run"])
        holds(reply, code=0, of_a_run=True)
    closing = {"action": "close", "attempt": None} | {name: plan[name] for name in OF_A_CLOSE}
    for status in ("closed", "nothing_to_do"):
        reply = (await world.invoke(closing)).answer
        assert (reply["status"], reply["run"], reply["totals"]["found"]) == (status, plan["run"], 350)
        holds(reply, code=0, of_a_run=True)
        balances(reply["totals"])
    assert (await world.invoke(step | {"shard": shards[0]})).name == "LeaseLostError"
    assert set(world.titles().values()) == {1}
    assert world.lambda_.starts == 1


async def test_no_event_raises_the_rate_or_the_concurrency(deploy: Callable[..., Any]) -> None:
    """No event makes TMDB block the key: the function's own settings are the limit."""
    world = await deploy(MOVIES[:10], TMDB_RATE="5000")
    step = {"action": "plan", "execution": EXECUTION, "event": {}}
    [shard] = orjson.loads(await world.bucket.read((await world.invoke(step)).answer["shards_key"]) or b"")
    refused = {
        "tmdb_rate": {"settings": {"tmdb_rate": 5_001}},
        "tmdb_concurrency": {"settings": {"tmdb_concurrency": 21}},
        "tmdb_rate ": {"action": "harvest", "shard": shard | {"rate": 9_999.0}},
        "tmdb_rate  ": step | {"event": {"settings": {"tmdb_rate": 9_999}}},
    }
    for name, event in refused.items():
        reply = await world.invoke(event)
        assert (reply.name, reply.sentence.partition(" to ")[0]) == (
            "SettingsError",
            f"The event may not set {name.strip()}",
        )
    assert world.titles() == {}


async def test_beside_a_fan_out_a_lambda_is_busy_and_its_steps_are_not(deploy: Callable[..., Any]) -> None:
    """Between plan and close the lease is the fan-out's: another event, and another execution's plan, do not wait."""
    world = await deploy(MOVIES[:100])
    step = {"action": "plan", "execution": EXECUTION, "event": {}}
    plan = (await world.invoke(step)).answer
    [shard] = orjson.loads(await world.bucket.read(plan["shards_key"]) or b"")
    for other in ({}, {"again": True}, step | {"execution": f"{EXECUTION}-2"}):
        reply = await world.invoke(other)
        assert (reply.name, reply.sentence[:33]) == ("BusyError", "Another harvest is at work here: ")
    assert (await world.invoke({"action": "harvest", "shard": shard})).answer["status"] == "landed"
    closing = {"action": "close"} | {name: plan[name] for name in OF_A_CLOSE}
    assert (await world.invoke(closing | {"token": "0ddba11c0ffee5ca"})).name == "BusyError"
    assert (await world.invoke(closing)).answer["status"] == "closed"
    assert (await world.invoke()).answer["status"] == "nothing_to_do"
    assert set(world.titles().values()) == {1}


async def test_a_close_that_is_called_again_with_its_attempt_tries_no_title_twice(deploy: Callable[..., Any]) -> None:
    """As the state machine gives it back; a new attempt tries what has failed once more."""
    poison = MOVIES[5]
    deep = Fault("answer", body=b'{"id": 5, "title": "Deep", "x": ' + b"[" * 300 + b"]" * 300 + b"}")
    faults = lambda asked: deep if (asked.route, asked.id) == ("movie", poison) else None  # noqa: E731
    world = await deploy(MOVIES[:100], tmdb={"faults": faults})
    plan = (await world.invoke({"action": "plan", "execution": EXECUTION})).answer
    closing = {"action": "close"} | {name: plan[name] for name in OF_A_CLOSE}
    first = (await world.invoke(closing | {"attempt": None})).answer
    assert (first["status"], first["failed"]) == ("failed", {poison: "too_deep"})
    asked = world.titles()
    again = (await world.invoke(closing | {"attempt": first["attempt"]})).answer
    assert (again["status"], again["failed"], again["attempt"]) == ("failed", {poison: "too_deep"}, first["attempt"])
    assert world.titles() == asked
    world.tmdb.faults = scripted({})
    reply = (await world.invoke(closing | {"attempt": None})).answer
    assert (reply["status"], reply["attempt"] == first["attempt"]) == ("closed", False)
    assert set(world.titles() - asked) == set(MOVIES[:100])


async def test_with_its_time_nearly_over_it_lands_what_is_whole_and_goes_on_when_called_again(
    deploy: Callable[..., Any],
) -> None:
    """The answer is `more`, of whatever the time was enough for; then just the rest is asked for."""
    quiet = {("movie", id_): [always(silence(3600))] for id_ in (MOVIES[150], MOVIES[250])}
    world = await deploy(MOVIES, tmdb={"catalog": Catalog(otherwise="movie"), "faults": scripted(quiet)})
    seconds, deaths, reply = 2.0, 0, await world.invoke(seconds=2.0)
    while reply.answer is None:  # a slow machine, on which not one batch had landed
        assert reply.died or reply.name == "StoppedError"
        seconds, deaths = seconds * 2, deaths + reply.died
        reply = await world.invoke(seconds=seconds)
    assert (reply.answer["status"], reply.answer["exit_code"], reply.answer["stopped_by"]) == ("more", 75, "deadline")
    landed = reply.answer["totals"]["found"]
    assert landed in (100, 150)
    world.tmdb.faults = scripted({})
    asked = world.titles()
    reply = await world.invoke()
    again = world.titles() - asked
    assert (reply.answer["status"], reply.answer["totals"]["found"]) == ("closed", 350)
    assert 200 <= len(again) <= 350 - landed  # a receipt may have been written in the very moment of the end
    assert not set(MOVIES[:100]) & set(again)
    assert await world.problems() == []
    assert world.lambda_.starts == 1 + deaths


async def test_killed_when_its_time_is_over_a_cold_start_goes_on_and_closes_the_books(
    deploy: Callable[..., Any],
) -> None:
    """A time-out in the midst of a batch costs that batch; what has a receipt is not asked for again."""
    quiet = {("movie", MOVIES[150]): [always(silence(3600))]}
    world = await deploy(MOVIES[:200], tmdb={"catalog": Catalog(otherwise="movie"), "faults": scripted(quiet)})
    over = asyncio.Event()
    invoked = asyncio.ensure_future(world.invoke(over=over))
    while not (world.lambda_.runs and world.lambda_.lines("batch_landed")):
        await asyncio.sleep(0.01)
    over.set()
    assert (await invoked).died
    world.tmdb.faults = scripted({})
    asked = world.titles()
    reply = await world.invoke()
    assert (reply.answer["status"], reply.answer["totals"]["found"]) == ("closed", 200)
    assert set(world.titles() - asked) == set(MOVIES[100:200])
    assert await world.problems() == []
    assert world.lambda_.starts == 2


async def test_each_error_has_the_name_that_retry_and_catch_know_and_a_sentence(deploy: Callable[..., Any]) -> None:
    """One name for each exit code, a sentence of ours, of our frames the handler's alone, and no secret."""
    silent = {("movie", id_): [always(silence(3600))] for id_ in MOVIES[:100]}
    world = await deploy(MOVIES[:100], tmdb={"catalog": Catalog(otherwise="movie"), "faults": scripted(silent)})
    token = "c0ffee0123456789"
    begun = {"format": 1, "run": "2026-11-22-01234567", "rate": 10}
    begun |= {"generation": token, "token": token, "attempt": token}
    lone = {"action": "harvest", "shard": begun | {"batches": {"Movies": [MOVIES[:3]]}}}
    held, lease = LeaseState("another", "laptop", "2026-11-22T10:00:00Z"), "Raw/API/_harvest/lease.json"
    values = {
        "SettingsError": await world.invoke({"settings": {"s3_bucket": "another"}}),
        "InputError": await world.invoke({"acton": "plan"}),
        "NewerFormatError": await world.invoke(lone | {"shard": {"format": 2}}),
        "StoppedError": await world.invoke(seconds=6),
    }
    await world.bucket.put(lease, encode_lease(held))
    values["BusyError"] = await world.invoke()
    values["LeaseLostError"] = await world.invoke(lone)
    await world.bucket.put(lease, encode_lease(replace(held, token=token)))
    values["CorruptLakeError"] = await world.invoke(lone)
    await world.bucket.put(lease, encode_lease(replace(held, ended=True)))
    world.tmdb.revoked = True
    values["TmdbRefusedError"] = await world.invoke()
    world.tmdb.revoked = False
    world.link.rules["list"] = on_keys("_harvest", refusing(403, "AccessDenied"))
    values["StoreError"] = await world.invoke()
    assert {name: error.name for name, error in values.items()} == {name: name for name in values}
    assert {name: frames(error.error or {}) for name, error in values.items()} == {name: ["handler"] for name in values}
    assert values["SettingsError"].sentence.startswith("The event may not set s3_bucket, but only tmdb_language, ")
    assert values["InputError"].sentence == "the event: has 'acton', which is unknown"
    own_file = await world.invoke({"settings": {"movies_csv": "/proc/self/environ"}})
    refused = "The event may not set movies_csv to '/proc/self/environ': give s3://bucket/key"
    assert (own_file.name, own_file.sentence) == ("SettingsError", refused)
    assert values["CorruptLakeError"].sentence == "Raw/API/_harvest/2026-11-22-01234567/manifest.json is not there"
    assert values["NewerFormatError"].sentence.startswith("the shard has format 2, and this harvester reads format 1")
    assert values["BusyError"].sentence.startswith(f"Another harvest is at work here: laptop, since {held.since}")
    assert values["LeaseLostError"].sentence.startswith(
        f"Another harvest has taken over here: laptop, since {held.since}"
    )
    assert values["TmdbRefusedError"].sentence.startswith("TMDB refuses the key (HTTP 401, code 7")
    assert "AccessDenied. Grant this action" in values["StoreError"].sentence
    assert (await world.invoke(b'{"action": "\xf0\x9f\x98\x80 \\ud83d"}')).name == "InputError"
    assert (await world.invoke({"action": KEY})).sentence.startswith("the event: has the action '[secret]'")
    half = json.dumps(SENT).encode().replace(b"Raw/Filmes+e+s%C3%A9ries/Movies/2026/11/22/movies", b"\\ud83d")
    assert (await world.invoke(half)).sentence.startswith("\\ud83d.csv: is in no folder")
    assert world.lambda_.starts == 1
    assert all(line["level"] in ("info", "warning") for line in world.lambda_.lines())


async def test_a_tmdb_that_is_away_has_a_name_too(deploy: Callable[..., Any]) -> None:
    """Nobody to answer: TmdbUnavailableError, to be tried again later."""
    with answerless() as address:
        world = await deploy(MOVIES[:100], program=hasty(50), TMDB_BASE_URL=f"http://{address}/3")
        answer = await world.invoke()
    assert answer.name == "TmdbUnavailableError"
    assert "connection_refused" in answer.sentence


async def test_a_bug_is_a_harvest_error_whose_traceback_is_in_the_log_alone(deploy: Callable[..., Any]) -> None:
    """What nobody has foreseen says that it is ours to mend; the log knows where, and no secret is in either."""
    world = await deploy(MOVIES[:1], program=without_loop())
    answer = await world.invoke()
    assert (answer.name, frames(answer.error or {})) == ("HarvestError", ["handler"])
    assert answer.sentence == "This is a bug of the harvester (RuntimeError). What has landed is safe."
    (line,) = world.lambda_.lines("bug")
    assert "there is no loop for [secret]" in line["traceback"]
    assert "the cause" not in world.lambda_.out


async def test_a_key_kept_in_aws_is_fetched_once_a_process_and_anew_when_it_was_refused(
    deploy: Callable[..., Any],
) -> None:
    """One request for any number of events; a key that has been replaced is noticed by the event after; never shown."""
    async with fake_secrets() as secrets:
        secrets.parameters["/tmdb/key"] = ONE_KEY
        world = await deploy(
            MOVIES[:5],
            tmdb={"catalog": Catalog(otherwise="movie"), "key": ONE_KEY},
            never=(ONE_KEY, ANOTHER_KEY),
            TMDB_API_KEY="ssm:/tmdb/key",
            AWS_ENDPOINT_URL_SSM=secrets.url,
        )
        for status in ("closed", "nothing_to_do"):
            assert (await world.invoke()).answer["status"] == status
        assert secrets.asked == ["/tmdb/key"]
        world.tmdb.key = secrets.parameters["/tmdb/key"] = ANOTHER_KEY
        assert (await world.invoke({"again": True})).name == "TmdbRefusedError"
        assert (await world.invoke({"again": True})).answer["status"] == "closed"
        assert secrets.asked == ["/tmdb/key"] * 2
        assert world.lambda_.starts == 1


async def test_an_answer_is_small_however_many_titles_have_failed(deploy: Callable[..., Any]) -> None:
    """Step Functions takes 256 KiB of an answer: it names the first hundred, and the books count all of them."""
    ids = [f"tt{number:07d}" for number in range(1, 1_001)]
    deep = Fault("answer", body=b'{"id": 5, "title": "Deep", "x": ' + b"[" * 300 + b"]" * 300 + b"}")
    faults = lambda asked: deep if asked.route == "movie" else None  # noqa: E731
    world = await deploy(ids, tmdb={"faults": faults})
    reply = await world.invoke()
    assert (reply.answer["status"], reply.answer["exit_code"]) == ("failed", 5)
    assert reply.answer["totals"]["failed_by_reason"] == {"too_deep": 1_000}
    assert len(reply.answer["failed"]) == 100
    assert set(reply.answer["failed"]) <= set(ids)
    assert reply.bytes < 2**18
    failed = world.lambda_.lines("batch_failed")
    assert (len(failed), sum(line["failed"] for line in failed)) == (10, 1_000)


COLD = """
import sys
import harvester.aws_lambda.handler
print(*sorted(name for name in sys.modules if "." not in name or name.startswith("harvester.")))
"""


async def test_a_cold_start_imports_nothing_of_the_command_line(tmp_path: Path) -> None:
    """A cold start does not import modules that only the command line needs."""
    ended = await Shell(kept(), tmp_path).run("-c", COLD, program=())
    names = set(ended.out.split())
    unwanted = {
        f"harvester.{name}"
        for name in ("cli.app", "cli.runner", "reports.text", "commands.doctor", "commands.verify", "demo")
    }
    assert (names & {"typer", "click", "rich", "uvloop", "boto3", "moto", *unwanted}, ended.code) == (
        set(),
        0,
    )
    assert "harvester.commands.harvest" in names
