"""Permissions: the role of config/aws/template.yaml is enough, none of its actions is too much, and README says so.

The policies are read out of the template, never copied, and put on a bucket of SeaweedFS as its bucket policy: for a
guest, who may do nothing that no statement allows. Where an action is taken away, it is from another guest's copy of
the policy, in the same document: no policy is replaced while it is at work.

What SeaweedFS decides otherwise than AWS, as far as we ask: it lets all who may put an object abort an upload as well
(tried, see `test_seaweedfs_distinguishes_the_actions`), so there the abort is denied in so many words; and a missing
object is a 404 also to who may not list, where AWS says 403: but without a right to list nothing is begun.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError
from cloudformation import Stack, listed, load, within
from conftest import LOADER, capture_logs, client_of
from loops import no_wait
from shells import Shell, kept
from test_doctor import examined, of

from harvester import errors
from harvester.commands.harvest import LeaseOptions, harvest
from harvester.commands.plan import plan
from harvester.commands.shards import Shard, harvest_shard, plan_shards
from harvester.commands.upload import upload
from harvester.commands.verify import verify
from harvester.errors import Exit, HarvestError, StoreError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import refusal, scripted
from harvester.fakes.s3_proxy import s3_proxy
from harvester.fakes.s3_server import S3Server, principal, s3_server
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.model.batch import cut
from harvester.runs.lease import LeaseTimes
from harvester.runtime.clock import Clock, utc_now
from harvester.runtime.shutdown import Shutdown
from harvester.settings.settings import Settings, load_settings, names_of
from harvester.store.s3 import open_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from conftest import Silent

    from harvester.commands.harvest import HarvestReport
    from harvester.commands.verify import VerificationReport
    from harvester.fakes.tmdb import FakeTmdb
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

pytestmark = pytest.mark.timeout(240)  # for what hangs: a busy machine may take its time

ROOT = Path(__file__).parents[1]
TEMPLATE = load(ROOT / "config" / "aws" / "template.yaml")
MACHINE = json.loads((ROOT / "config" / "aws" / "distributed_map.asl.json").read_text(encoding="utf-8"))
PERMISSIONS = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Permissions\n")[2].partition("\n## ")[0]

LIST, UPLOADS = "s3:ListBucket", "s3:ListBucketMultipartUploads"
PUT, ABORT, GET, DELETE = "s3:PutObject", "s3:AbortMultipartUpload", "s3:GetObject", "s3:DeleteObject"

Statements = list[dict[str, Any]]

GUESTS = ("function", "lessened", "machine", "nobody")
"""Who may do what the template's role may; the same but for one action; what the state machine's may; and nothing."""

DAY = "2026-11-22"
NOON = f"{DAY}T12:00:00.000Z"
CSV = "Raw/Local/CSV/Movies/2026/11/22/movies.csv"
LEASE = "Raw/API/_harvest/lease.json"
MOVIES = [f"tt{number:07d}" for number in range(1, 6)]
SERIES = [f"tt{number:07d}" for number in range(900_001, 900_006)]
[BATCH] = (batch.name for batch in cut("Series", SERIES))
LANDING = "Raw/API/Series/2026/11/22/"
FOREIGN = f"{LANDING}export.json"
IS_FOREIGN = f"{FOREIGN} is foreign: no run of the day has such a file; --repair moves it away"


# --- the template, and what is in it


def stack(bucket: str = "lake", **given: Any) -> Stack:
    """The template, deployed with a bucket of this name."""
    return Stack(TEMPLATE, {"Bucket": bucket, "Bucket.Arn": f"arn:aws:s3:::{bucket}", **given})


def statements_of(role: str, policy: str, result: Stack) -> Statements:
    """The statements of one policy of a role; each has a list of actions."""
    [found] = [each for each in result.properties(role)["Policies"] if each["PolicyName"] == policy]
    return [each | {"Action": listed(each["Action"])} for each in found["PolicyDocument"]["Statement"]]


def harvesting(bucket: str = "lake") -> Statements:
    """What the function may do in the bucket."""
    return statements_of("FunctionRole", "harvest", stack(bucket))


def uploading(bucket: str = "lake") -> Statements:
    """What README says that `upload` needs: all that a harvest needs, on the CSVs."""
    *seeing, landing, csvs = harvesting(bucket)
    return [*seeing, {**landing, "Resource": csvs["Resource"]}]


def repairing(bucket: str = "lake") -> Statements:
    """What README says that `verify --repair` needs: what a harvest needs, and to delete; the CSVs it does not read."""
    *seeing, landing, _ = harvesting(bucket)
    return [*seeing, {**landing, "Action": [*landing["Action"], DELETE]}]


def without(statements: Statements, sid: str, action: str) -> Statements:
    """The same but for one action of one statement; an abort is denied as well, which SeaweedFS else lets pass."""
    less = []
    for each in statements:
        if each["Sid"] != sid:
            less.append(each)
        elif actions := [one for one in each["Action"] if one != action]:
            less.append(each | {"Action": actions})
        if each["Sid"] == sid and action == ABORT:
            less.append(each | {"Sid": "NoAbort", "Effect": "Deny", "Action": [ABORT]})
    return less


def cells(statements: Statements) -> set[tuple[str, str]]:
    """Every action, with the statement that allows it."""
    return {(each["Sid"], action) for each in statements for action in each["Action"]}


def refused(action: str) -> str:
    """All that is reported of an action that S3 has refused."""
    advice = "Grant this action to the credentials in use (README, section on permissions)."
    return f"Cannot {action}: AccessDenied. {advice}"


# --- the world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """A server with guests, for the fixtures of conftest too."""
    async with s3_server(tmp_path_factory.mktemp("guests"), users=GUESTS) as server:
        if server.kind == "moto":
            pytest.skip("moto lets everybody in")
        yield server


@dataclass(slots=True)
class World:
    """A bucket with the policy of the template, and the CSVs where `upload` puts them.

    Attributes:
        lake: The bucket as its owner has it open.
        make: Makes settings, as `settings_for`.
    """

    server: S3Server
    lake: Bucket
    tmdb: FakeTmdb
    make: Make
    observer: Silent

    def environment(self, user: str) -> dict[str, str]:
        """Of a process that is this guest of the server's."""
        return (
            kept()
            | self.variables()
            | {
                "TMDB_API_KEY": KEY,
                "TMDB_BASE_URL": self.tmdb.url,
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL_S3": self.server.endpoint,
                "AWS_ACCESS_KEY_ID": user,
                "AWS_SECRET_ACCESS_KEY": self.server.users[user],
            }
        )

    def variables(self) -> dict[str, str]:
        """The environment that the template gives the function, but for where TMDB's key is kept."""
        resources = stack(self.lake.name).properties("Function")["Environment"]["Variables"]
        return {name: str(value) for name, value in resources.items() if value != "" and name != "TMDB_API_KEY"}

    def settings(self, user: str = "function", **more: Any) -> Settings:
        """The function's settings, for a guest."""
        ours = {name.lower(): value for name, value in self.variables().items()} | {"tmdb_rate": 10_000}
        keys = {"aws_access_key_id": user, "aws_secret_access_key": self.server.users[user]}
        return self.make(self.tmdb.url, **(ours | keys | more))

    async def grant(self, **policies: Statements) -> None:
        """Put the one policy of the bucket: what each guest may do."""
        await grant(self.server, self.lake.name, **policies)

    async def harvest(self, user: str = "function", *, limit: int | None = None, **more: Any) -> HarvestReport:
        """What comes of a harvest, at noon unless `clock` says otherwise."""
        settings = self.settings(user, **more.pop("settings", {}))
        at_noon = {"clock": Clock(now=lambda: NOON, sleep=no_wait)}
        return await harvest(settings, observer=self.observer, shutdown=Shutdown(limit=limit), **(at_noon | more))

    async def put_csv(self, collection: str, ids: list[str]) -> None:
        """Put a CSV of just these ids where `upload` would today."""
        rows = "".join(f"{id_}|a title\n" for id_ in ids)
        key = CSV.replace("Movies", collection).replace("movies", collection.lower())
        await self.lake.put(key, f"id|tituloPincipal\n{rows}".encode())

    async def half_done(self) -> None:
        """The movies have landed, of the series one has failed, and an orphan and a foreign object are beside them."""
        report = await self.harvest()
        assert (report.status, report.totals.found, [*report.failed]) == ("failed", 9, [SERIES[2]])
        await self.begin(f"{LANDING}{BATCH}.json")
        await self.lake.put(FOREIGN, b"{}")

    async def begin(self, key: str) -> None:
        """Leave an upload as the function does when it is killed."""
        async with self.opened("function") as bucket:
            await bucket.begin(key)

    def opened(self, user: str, name: str | None = None) -> Any:
        """The bucket as a guest has it open."""
        return open_bucket(
            name or self.lake.name,
            region="us-east-1",
            credentials=(user, self.server.users[user], None),
            endpoint_url=self.server.endpoint,
        )

    async def closed(self, report: HarvestReport) -> tuple[str, int, list[str], list[Any]]:
        """How a run has ended, what it found, what `verify` says of it, and what uploads are left."""
        verification = await verify(self.settings())
        return report.status, report.totals.found, verification.problems, await self.lake.uploads("")


async def grant(server: S3Server, bucket: str, **policies: Statements) -> None:
    """Put the policy of a bucket: what each guest may do."""
    granted_statements = [
        each | {"Sid": f"{user}{each['Sid']}", "Principal": principal(user)}
        for user, statements in policies.items()
        for each in statements
    ]
    async with client_of(server) as client:
        document = json.dumps({"Version": "2012-10-17", "Statement": granted_statements})
        await client.put_bucket_policy(Bucket=bucket, Policy=document)


@pytest.fixture
async def world(s3: S3Server, bucket: Bucket, settings_for: Make, observer: Silent) -> AsyncIterator[World]:
    """A world of five movies and five series, of which one fails at first."""
    asyncio.get_running_loop().set_debug(False)  # four thousand calls take half as long again with it
    faults = scripted({("tv", SERIES[2]): [refusal(500)] * 7})
    async with fake_tmdb(catalog=Catalog(otherwise="both"), faults=faults) as tmdb:
        made = World(s3, bucket, tmdb, settings_for, observer)
        await made.put_csv("Movies", MOVIES)
        await made.put_csv("Series", SERIES)
        yield made


# --- the instrument: does SeaweedFS decide as AWS would?

ASKS = {
    "list_objects_v2": {LIST},
    "list_multipart_uploads": {UPLOADS},
    "put_object": {PUT},
    "create_multipart_upload": {PUT},
    "upload_part": {PUT},
    "complete_multipart_upload": {PUT},
    "abort_multipart_upload": {ABORT},
    "get_object": {GET},
    "head_object": {GET},
    "copy_object": {GET, PUT},
    "delete_object": {DELETE},
}
"""What AWS asks for each call (docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html)."""

OF_BUCKET = {LIST, UPLOADS}
"""Actions on the bucket, which know no prefix; all others are on objects."""


@contextmanager
def suppress_refusal() -> Iterator[None]:
    """Let S3's refusal pass, and nothing else; the answer to a HEAD has no word of S3's."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "403"):
            raise


async def granted(server: S3Server, bucket: str, folder: str) -> set[str]:
    """Which calls S3 grants the guest in a folder; the owner has put there what they are about."""
    asyncio.get_running_loop().set_debug(False)
    key = {"Bucket": bucket, "Key": f"{folder}/object"}
    async with client_of(server) as owner:
        await owner.put_object(**key, Body=b"1")
        one, other = [(await owner.create_multipart_upload(**key))["UploadId"] for _ in range(2)]
        etag = (await owner.upload_part(**key, UploadId=one, PartNumber=1, Body=b"1"))["ETag"]
    arguments: dict[str, dict[str, Any]] = {
        "list_objects_v2": {"Bucket": bucket, "Prefix": folder},
        "list_multipart_uploads": {"Bucket": bucket, "Prefix": folder},
        "put_object": {**key, "Key": f"{folder}/new", "Body": b"1"},
        "upload_part": {**key, "UploadId": one, "PartNumber": 1, "Body": b"1"},
        "complete_multipart_upload": {
            **key,
            "UploadId": one,
            "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": etag}]},
        },
        "abort_multipart_upload": {**key, "UploadId": other},
        "copy_object": {**key, "Key": f"{folder}/copy", "CopySource": key},
    }
    passed = set()
    session = AioSession()
    session.register_component("data_loader", LOADER)
    who = {"aws_access_key_id": "function", "aws_secret_access_key": server.users["function"]}
    async with session.create_client("s3", region_name="us-east-1", endpoint_url=server.endpoint, **who) as user:
        for call in ASKS:
            with suppress_refusal():
                await getattr(user, call)(**arguments.get(call, key))
                passed.add(call)
    return passed


ALL = frozenset().union(*ASKS.values())


@pytest.mark.parametrize("allowed", [frozenset(), *(frozenset([one]) for one in sorted(ALL)), ALL], ids=sorted)
async def test_seaweedfs_distinguishes_the_actions(allowed: frozenset[str], s3: S3Server, bucket: Bucket) -> None:
    """A guest may call just what its actions are for, without any nothing at all, and with all only in its folder."""
    arn = f"arn:aws:s3:::{bucket.name}"
    of_bucket, of_objects = sorted(allowed & OF_BUCKET), sorted(allowed - OF_BUCKET)
    statements = [{"Sid": "nothing", "Effect": "Allow", "Action": [GET], "Resource": f"{arn}/no-such-object"}]
    statements += [{"Sid": "bucket", "Effect": "Allow", "Action": of_bucket, "Resource": arn}] if of_bucket else []
    statements += [{"Sid": "objects", "Effect": "Allow", "Action": of_objects, "Resource": f"{arn}/in/*"}]
    await grant(s3, bucket.name, function=[each for each in statements if each["Action"]])
    expected = {call for call, asked in ASKS.items() if asked <= allowed}
    more = {"abort_multipart_upload"} if PUT in allowed else set()  # the one thing that AWS would not grant
    assert await granted(s3, bucket.name, "in") == expected | more
    if allowed == ALL:
        assert await granted(s3, bucket.name, "out") == {call for call in expected if ASKS[call] <= OF_BUCKET}


async def test_what_is_denied_is_refused_whatever_is_allowed(s3: S3Server, bucket: Bucket) -> None:
    """Deny comes before Allow, as on AWS; by which an abort can be taken from who may put."""
    arn = f"arn:aws:s3:::{bucket.name}"
    whole = {"Effect": "Allow", "Action": "s3:*", "Resource": [arn, f"{arn}/*"]}
    await grant(
        s3, bucket.name, function=[whole | {"Sid": "all"}, whole | {"Sid": "no", "Effect": "Deny", "Action": [ABORT]}]
    )
    assert await granted(s3, bucket.name, "in") == ASKS.keys() - {"abort_multipart_upload"}


# --- just that policy


async def test_by_just_that_policy_a_whole_life_works(world: World, tmp_path: Path) -> None:
    """Killed, resumed, an orphan aborted, a failed title tried again, `--again`, a CSV that has grown, proved: all."""
    movies = [f"tt{number:07d}" for number in range(1, 221)]
    world.tmdb.catalog = Catalog(kinds={movies[5]: "tv", movies[150]: "unknown"}, otherwise="both")
    world.tmdb.faults = scripted({("movie", movies[210]): [refusal(500)] * 6})
    await world.put_csv("Movies", movies)
    await world.put_csv("Series", SERIES)
    await world.grant(function=harvesting(world.lake.name))
    environment = world.environment("function") | {"TMDB_RATE": "400"}
    async with Shell(environment, tmp_path).start("--json") as running:
        await running.until(lambda: world.tmdb.asked.total() > 120)
        running.send(signal.SIGKILL)
        assert (await running.ended()).code == -signal.SIGKILL

    real: dict[str, Any] = {"clock": Clock(sleep=no_wait)}
    async with s3_proxy(world.server.endpoint) as link:
        real["settings"] = {"aws_endpoint_url_s3": link.url}
        with capture_logs() as logs:
            report = await world.harvest(**real)
            assert (report.status, report.exit_code, [*report.failed]) == ("failed", Exit.FAILED, [movies[210]])
            folder = world.observer.layout.data_folder("Movies")
            await world.begin(f"{folder}{[*cut('Movies', movies)][2].name}.json")
            report = await world.harvest(**real)
            assert await world.closed(report) == ("closed", 224, [], [])
            assert (await world.harvest(**real)).status == "nothing_to_do"
            assert (await world.harvest(again=True, limit=100, **real)).status == "stopped"
            report = await world.harvest(**real)
            assert await world.closed(report) == ("closed", 224, [], [])
            assert (await plan(world.settings()))["status"] == "nothing_to_do"
            await world.put_csv("Movies", [*movies, "tt0000999"])
            report = await world.harvest(**real)
            assert (report.totals.fresh, await world.closed(report)) == (225, ("closed", 1, [], []))  # one is missing
        assert (await examined(world.settings())).healthy
        used = {call.operation for call in link.seen}
    assert used == {"create", "part", "complete", "abort", "put", "get", "list", "uploads"}
    assert [line for line in logs if "AccessDenied" in str(line)] == []


async def test_by_just_that_policy_a_run_is_shared_out_and_closed(world: World) -> None:
    """Planned, harvested in shards and closed, the shards read by the state machine, which may read nothing else."""
    resources = stack(world.lake.name)
    machine = [
        each
        for each in statements_of("StateMachineRole", "fan-out", resources)
        if any(action.startswith("s3:") for action in each["Action"])
    ]
    await world.grant(function=harvesting(world.lake.name), machine=machine)
    await world.put_csv("Movies", [f"tt{number:07d}" for number in range(1, 21)])  # as many requests as the series
    planned = await plan_shards(world.settings(), children=2)
    async with world.opened("machine") as bucket:
        shards = json.loads(await bucket.read(planned["shards_key"]) or b"")
        for key in (planned["shards_key"].replace("shards", "manifest"), LEASE, CSV):
            with pytest.raises(StoreError, match="AccessDenied"):
                await bucket.read(key)
    for shard in shards:
        report = await harvest_shard(
            world.settings(), Shard.of(shard), observer=world.observer, shutdown=Shutdown(), clock=Clock(sleep=no_wait)
        )
        assert report.status == "landed"
    lease_options = LeaseOptions(wait=False, token=planned["token"])
    report = await world.harvest(run_name=planned["run"], lease_options=lease_options, clock=Clock(now=utc_now))
    assert len(shards) == 2
    assert await world.closed(report) == ("closed", 25, [], [])


async def test_to_verify_it_is_enough_to_list_and_read(world: World) -> None:
    """Verification needs no right to write, nor to see the CSVs."""
    await world.grant(function=harvesting(world.lake.name))
    await world.harvest()
    assert (await world.harvest()).status == "closed"
    listing, _, landing, _ = harvesting(world.lake.name)
    reading = [listing, landing | {"Action": [GET]}]
    await world.grant(nobody=reading)
    assert (await verify(world.settings("nobody"))).problems == []


async def test_nothing_outside_can_be_touched(s3: S3Server, bucket: Bucket) -> None:
    """Of what stands elsewhere in the bucket the role sees not even the names, and S3 holds to the condition.

    Only unfinished uploads may be listed anywhere: AWS knows no `s3:prefix` for that action.
    """
    await grant(s3, bucket.name, function=harvesting(bucket.name))
    assert await granted(s3, bucket.name, "Raw/API/a") == ASKS.keys() - {"delete_object"}
    for folder in ("Raw/API2", "Raw", "Trusted/Raw/API"):
        assert await granted(s3, bucket.name, folder) == {"list_multipart_uploads"}


async def test_the_csvs_can_be_read_and_no_more(s3: S3Server, bucket: Bucket) -> None:
    """Who harvests cannot alter what it was given, nor take a CSV for a data file: that would be `upload`'s right."""
    await grant(s3, bucket.name, function=harvesting(bucket.name))
    reading = {"list_objects_v2", "list_multipart_uploads", "get_object", "head_object"}
    assert await granted(s3, bucket.name, "Raw/Local/CSV/Movies") == reading


async def test_another_bucket_is_closed(s3: S3Server, bucket: Bucket) -> None:
    """The role is for one bucket, and for none of its settings."""
    await grant(s3, bucket.name, function=harvesting(bucket.name))
    async with client_of(s3) as owner:
        await owner.create_bucket(Bucket=f"{bucket.name}-other")
    assert await granted(s3, f"{bucket.name}-other", "Raw/API") == set()


# --- with an action taken away

TRIED = {
    ("ListObjects", LIST): "list s3://{bucket}/Raw/Local/CSV/Movies/",
    ("ListUploads", UPLOADS): "list the uploads of s3://{bucket}/Raw/API/Movies/2026/11/22/",
    ("ReadAndLand", PUT): f"write s3://{{bucket}}/{LEASE}",
    ("ReadAndLand", ABORT): f"abort s3://{{bucket}}/{LANDING}{BATCH}.json",
    ("ReadAndLand", GET): "read s3://{bucket}/{run}manifest.json",
    ("ReadTheCsvs", GET): f"read s3://{{bucket}}/{CSV}",
}
"""By statement and action: what a run that is half done says it cannot do without it."""


def test_no_action_is_left_out() -> None:
    """Every action of the role has an entry that says what it is for."""
    assert cells(harvesting()) == TRIED.keys()


@pytest.mark.parametrize(("sid", "action"), TRIED)
async def test_without_one_action_it_is_named_and_nothing_is_lost(sid: str, action: str, world: World) -> None:
    """Exit 4 and a sentence: what was tried, AccessDenied, what to do; and with it again the totals are reconciled."""
    policy = harvesting(world.lake.name)
    await world.grant(function=policy, lessened=without(policy, sid, action))
    await world.half_done()
    run = world.observer.layout.folder
    stood = await world.lake.objects("Raw/API/")

    with pytest.raises(StoreError) as caught:
        await world.harvest("lessened")
    assert str(caught.value) == refused(TRIED[sid, action].format(bucket=world.lake.name, run=run))
    assert caught.value.exit_code == Exit.STORE
    stands = await world.lake.objects("Raw/API/")
    assert stood.keys() <= stands.keys()
    assert {key: stands[key] for key in stood if "/Movies/" in key} == {
        k: f for k, f in stood.items() if "/Movies/" in k
    }

    assert await world.closed(await world.harvest()) == ("closed", 10, [IS_FOREIGN], [])
    assert {world.tmdb.asked["movie", id_] for id_ in MOVIES} == {1}
    assert await world.lake.read(FOREIGN) == b"{}"


async def test_the_command_line_reports_it_in_one_sentence(world: World, tmp_path: Path) -> None:
    """Exit 4, and no word more; TMDB has been asked nothing."""
    policy = harvesting(world.lake.name)
    await world.grant(lessened=without(policy, "ReadAndLand", PUT))
    environment = world.environment("lessened")
    ended = await Shell(environment, tmp_path).run()
    assert ended.code == Exit.STORE
    assert ended.sentences == [refused(f"write s3://{world.lake.name}/{LEASE}")]
    assert world.tmdb.asked.total() == 0


OF_A_CHILD = {
    LIST: "list s3://{bucket}/Raw/API/Movies/2026/11/22/",
    UPLOADS: "list the uploads of s3://{bucket}/Raw/API/Movies/2026/11/22/",
    PUT: f"write s3://{{bucket}}/{LEASE}",
    ABORT: f"abort s3://{{bucket}}/{LANDING}{BATCH}.json",
    GET: f"read s3://{{bucket}}/{LEASE}",
}
"""By action: what the child of a fan-out says it cannot do without it. It reads no CSV."""


@pytest.mark.parametrize("action", OF_A_CHILD)
async def test_a_child_without_one_action_names_it_and_nothing_is_lost(action: str, world: World) -> None:
    """A shard is refused like a whole run, and harvested with the action it is as if nothing had been."""
    policy = harvesting(world.lake.name)
    [sid] = {each["Sid"] for each in policy if action in each["Action"]} - {"ReadTheCsvs"}
    await world.grant(function=policy, lessened=without(policy, sid, action))
    planned = await plan_shards(world.settings(), children=1, clock=Clock(now=lambda: NOON))
    [document] = json.loads(await world.lake.read(planned["shards_key"]) or b"")
    shard = replace(Shard.of(document), batches={"Series": (tuple(SERIES),)})
    await world.begin(f"{LANDING}{BATCH}.json")
    world.tmdb.faults = scripted({})

    async def child(user: str) -> HarvestReport:
        return await harvest_shard(
            world.settings(user),
            shard,
            observer=world.observer,
            shutdown=Shutdown(),
            clock=Clock(now=lambda: NOON, sleep=no_wait),
        )

    with pytest.raises(StoreError) as caught:
        await child("lessened")
    assert str(caught.value) == refused(OF_A_CHILD[action].format(bucket=world.lake.name))
    assert await world.lake.objects(LANDING) == {}
    report = await child("function")
    assert (report.status, report.totals.found, await world.lake.uploads("")) == ("landed", 5, [])


@pytest.mark.parametrize(("sid", "action"), TRIED)
async def test_the_doctor_names_the_action_that_is_missing(sid: str, action: str, world: World) -> None:
    """Before anything is harvested: the permission by the name that AWS has for it, or the CSV that cannot be read."""
    policy = harvesting(world.lake.name)
    await world.grant(lessened=without(policy, sid, action))
    doctor_report = await examined(world.settings("lessened"))
    what = "MOVIES_CSV" if sid == "ReadTheCsvs" else action
    assert "AccessDenied" in of(doctor_report, what)
    assert (doctor_report.healthy, of(doctor_report, what).count("bad: ")) == (False, 1)


async def test_to_the_doctor_it_is_no_fault_that_nothing_can_be_deleted(world: World) -> None:
    """The function's policy is healthy as it is: the missing action is a note, which says what it is for."""
    await world.grant(function=harvesting(world.lake.name))
    doctor_report = await examined(world.settings())
    assert doctor_report.healthy
    assert of(doctor_report, DELETE) == (
        f"note: cannot remove s3://{world.lake.name}/Raw/API/_harvest/doctor/probe.json: AccessDenied "
        "Only `verify --repair` needs it (README, Permissions)."
    )


# --- repairing

OF_A_REPAIR = {
    ("ListObjects", LIST): "list s3://{bucket}/Raw/API/_harvest/",
    ("ListUploads", UPLOADS): None,
    ("ReadAndLand", PUT): f"write s3://{{bucket}}/{LEASE}",
    ("ReadAndLand", ABORT): None,
    ("ReadAndLand", GET): f"read s3://{{bucket}}/{LEASE}",
    ("ReadAndLand", DELETE): None,
}
"""By action: what `verify --repair` says it cannot do without it; None where it ends all the same."""


def test_no_action_of_a_repair_is_left_out() -> None:
    """A harvest's actions below the prefix, and the one that only a repair needs."""
    assert cells(repairing()) == OF_A_REPAIR.keys()
    assert DELETE not in {action for _, action in cells(harvesting())}


@pytest.mark.parametrize(("sid", "action"), OF_A_REPAIR)
async def test_a_repair_without_one_action_names_it_and_touches_nothing(sid: str, action: str, world: World) -> None:
    """The foreign object stays where it is until it can be moved, and is named; with the action it is in quarantine."""
    world.tmdb.faults = scripted({})
    policy = repairing(world.lake.name)
    await world.grant(function=harvesting(world.lake.name), lessened=without(policy, sid, action), nobody=policy)
    await world.lake.put(FOREIGN, b"{}")
    report = await world.harvest()
    assert await world.closed(report) == ("closed", 10, [IS_FOREIGN], [])
    quarantine = world.observer.layout.quarantine_key(FOREIGN)

    async def repaired(user: str) -> VerificationReport:
        return await verify(world.settings(user), repairing=True)

    if words := OF_A_REPAIR[sid, action]:
        with pytest.raises(StoreError) as caught:
            await repaired("lessened")
        assert str(caught.value) == refused(words.format(bucket=world.lake.name))
        assert (await world.lake.read(FOREIGN), await world.lake.read(quarantine)) == (b"{}", None)
    elif action == DELETE:
        with capture_logs() as logs:
            verification = await repaired("lessened")
        assert (verification.problems, verification.repaired) == ([IS_FOREIGN], [])
        assert [line["problem"] for line in logs if line["event"] == "not_repaired"] == [
            refused(f"remove s3://{world.lake.name}/{FOREIGN}")
        ]
        assert await world.lake.read(FOREIGN) == b"{}"
        await world.lake.delete(quarantine)  # the copy of an object that could not be removed
    else:
        assert (await repaired("lessened")).problems == []
        await world.lake.put(FOREIGN, b"{}")
        await world.lake.delete(quarantine)
    verification = await repaired("nobody")
    assert (verification.problems, verification.repaired) == ([], [f"{FOREIGN} was foreign, and is now {quarantine}"])
    assert (await world.lake.read(FOREIGN), await world.lake.read(quarantine)) == (None, b"{}")


# --- uploading the CSVs

YESTERDAY = "Raw/Local/CSV/Movies/2026/11/21/movies.csv"

OF_AN_UPLOAD = {
    ("ListObjects", LIST): "list s3://{bucket}/Raw/Local/CSV/Movies/",
    ("ListUploads", UPLOADS): "list the uploads of s3://{bucket}/Raw/Local/CSV/Movies/",
    ("ReadAndLand", PUT): f"begin s3://{{bucket}}/{CSV}",
    ("ReadAndLand", ABORT): f"abort s3://{{bucket}}/{CSV}",
    ("ReadAndLand", GET): f"look at s3://{{bucket}}/{YESTERDAY}",
}
"""By action: what an upload says it cannot do without it, where one of yesterday stands and one of today was killed."""


def test_no_action_of_an_upload_is_left_out() -> None:
    """The same as a harvest's, on the CSVs."""
    assert cells(uploading()) == OF_AN_UPLOAD.keys()


@pytest.mark.parametrize(("sid", "action"), OF_AN_UPLOAD)
async def test_an_upload_without_one_action_names_it(sid: str, action: str, world: World, tmp_path: Path) -> None:
    """With those five on the CSVs it works, after a kill too; without one it says which, and what stood stands."""
    policy = uploading(world.lake.name)
    await world.grant(function=policy, lessened=without(policy, sid, action))
    csv = tmp_path / "movies.csv"

    async def uploaded(user: str, day: str) -> str:
        settings = world.settings(user, movies_csv=str(csv)).model_copy(update={"series_csv": None})
        report = await upload(settings, shutdown=Shutdown(), now=lambda: f"{day}T12:00:00.000Z")
        return report.status

    await world.lake.delete(CSV)
    csv.write_bytes(b"id\ntt0000001\n")
    assert await uploaded("function", "2026-11-21") == "uploaded"
    csv.write_bytes(b"id\ntt0000001\ntt0000002\n")
    await world.begin(CSV)
    with pytest.raises(StoreError) as caught:
        await uploaded("lessened", "2026-11-22")
    assert str(caught.value) == refused(OF_AN_UPLOAD[sid, action].format(bucket=world.lake.name))
    assert await world.lake.read(YESTERDAY) == b"id\ntt0000001\n"
    assert await world.lake.read(CSV) is None
    assert await uploaded("function", "2026-11-22") == "uploaded"
    assert await uploaded("function", "2026-11-22") == "unchanged"
    assert (await world.lake.read(CSV), await world.lake.uploads("")) == (csv.read_bytes(), [])


# --- README


def test_readme_asks_for_the_actions_of_the_template() -> None:
    """A policy of one's own needs the same: what on the bucket, what on its objects, and what for a repair."""
    of_bucket, _, of_objects = PERMISSIONS.partition("on its objects")
    of_harvest, _, of_repair = of_objects.partition("`s3:DeleteObject` is needed\nby `verify --repair` alone.")
    *seeing, landing, _ = harvesting()
    assert re.findall(r"`(s3:\w+)`", of_bucket) == [action for each in seeing for action in each["Action"]]
    assert set(re.findall(r"`(s3:\w+)`", of_harvest)) == set(landing["Action"])
    assert "`AbortIncompleteMultipartUpload`" in of_repair
    assert "`upload` needs the same, on `Raw/Local/CSV/*`." in of_repair
    keys = [
        each for kept_in in ("ssm", "secret") for each in statements_of("FunctionRole", "key", stack(TmdbKeyIn=kept_in))
    ]
    assert [f"`{action}`" in PERMISSIONS for each in keys for action in each["Action"]] == [True, True]


# --- the template's other promises


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Architecture": "x86_64", "TmdbKeyIn": "secret", "TmdbKeyName": "/tmdb"},
        {"MoviesCsv": "none", "SeriesCsv": "s3://other/series.csv", "AlarmEmail": "a@example.com"},
        {"BucketName": "my-lake"},
    ],
    ids=lambda given: ",".join(given) or "defaults",
)
def test_whatever_is_given_every_name_is_one_of_something(given: dict[str, str]) -> None:
    """No reference leads nowhere, nor to what is not made; the outputs say nothing in brackets of ours but names."""
    made = stack(**given)
    assert "Function" in made.resources
    assert made.resolve(TEMPLATE["Outputs"])["BucketName"]["Value"] == "lake"


def test_the_bucket_is_encrypted_versioned_and_shut_to_the_public() -> None:
    """All four blocks, not one of them; and nobody gets in without TLS."""
    bucket = stack().properties("Bucket")
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] in ("AES256", "aws:kms")
    assert bucket["PublicAccessBlockConfiguration"] == dict.fromkeys(
        ["BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"], True
    )
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    policy = stack().properties("BucketPolicy")
    [denied] = policy["PolicyDocument"]["Statement"]
    assert (policy["Bucket"], denied["Effect"], denied["Principal"]) == ("lake", "Deny", "*")
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert denied["Resource"] == ["arn:aws:s3:::lake", "arn:aws:s3:::lake/*"]


def test_the_bucket_outlives_the_stack() -> None:
    """Who takes the stack down keeps what has been harvested."""
    policies = [TEMPLATE["Resources"]["Bucket"][what] for what in ("DeletionPolicy", "UpdateReplacePolicy")]
    assert policies == ["RetainExceptOnCreate", "Retain"]  # a first deployment that fails leaves none in the way


def test_parts_that_nobody_completes_are_billed_for_a_day_at_most() -> None:
    """Those of a machine that never comes back, of any key; and no object is ever expired but replaced ones."""
    rules = stack().properties("Bucket")["LifecycleConfiguration"]["Rules"]
    aborting = [rule for rule in rules if rule.get("AbortIncompleteMultipartUpload") == {"DaysAfterInitiation": 1}]
    assert [rule["Status"] for rule in aborting] == ["Enabled"]
    assert [rule.keys() & {"Prefix", "TagFilters", "ObjectSizeGreaterThan"} for rule in aborting] == [set()]
    assert [key for rule in rules for key in rule if key.startswith("Expiration")] == []


def test_logs_are_kept_for_so_many_days_and_no_others_can_be_made() -> None:
    """The function writes to the one group that has a retention; it may make no group, which would have none."""
    resources = stack(LogDays=7)
    logs, function = resources.properties("FunctionLogs"), resources.properties("Function")
    assert logs == {"LogGroupName": f"/aws/lambda/{function['FunctionName']}", "RetentionInDays": 7}
    assert stack().properties("FunctionLogs")["RetentionInDays"] == TEMPLATE["Parameters"]["LogDays"]["Default"]
    [writing] = statements_of("FunctionRole", "logs", resources)
    assert writing["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert writing["Resource"].endswith(f":log-group:{logs['LogGroupName']}:*")


def test_nothing_starts_by_itself_unless_asked() -> None:
    """The timetable would spend somebody's rate and money."""
    assert stack().properties("Timetable")["State"] == "DISABLED"
    assert stack(ScheduleState="ENABLED").properties("Timetable")["State"] == "ENABLED"


def test_nobody_is_allowed_everything() -> None:
    """No action and no resource of an Allow is all there are; the one wildcard among the actions is of a Deny."""
    statements = list(within(stack().resources, "Effect"))
    allowed = [each for each in statements if each["Effect"] == "Allow"]
    assert len(allowed) > 10
    assert [action for each in allowed for action in listed(each["Action"]) if "*" in action] == []
    bare = re.compile(r"\*|arn:[^/]*:\*")  # arn:…:log-group:name:* has a name before
    resources = [one for each in allowed for one in listed(each.get("Resource", []))]
    assert [
        one
        for one in resources
        if bare.fullmatch(one) and not any(name in one for name in (":log-group:/", ":execution:tmdb-"))
    ] == []
    assert {each["Effect"] for each in statements if "*" in str(each["Action"])} == {"Deny"}
    assert [each for each in allowed if each.get("Principal") == "*"] == []


def test_each_role_is_for_one_service() -> None:
    """The function's for Lambda, the state machine's for Step Functions, that of who starts it for the scheduler."""
    taken = {
        name: [listed(each["Principal"]["Service"]) for each in role["AssumeRolePolicyDocument"]["Statement"]]
        for name, role in stack().of_type("AWS::IAM::Role").items()
    }
    assert taken == {
        "FunctionRole": [["lambda.amazonaws.com"]],
        "StateMachineRole": [["states.amazonaws.com"]],
        "StarterRole": [["scheduler.amazonaws.com"]],
    }
    assert not any("ManagedPolicyArns" in role for role in stack().of_type("AWS::IAM::Role").values())


def test_the_state_machine_may_invoke_the_function_and_read_the_shards() -> None:
    """Beside beginning and ending its own children: nothing else, of nobody else's."""
    resources = stack(**{"Function.Arn": "arn:function"})
    states, name = "arn:aws:states:us-east-1:111122223333", resources.properties("StateMachine")["StateMachineName"]
    assert {
        action: each["Resource"]
        for each in statements_of("StateMachineRole", "fan-out", resources)
        for action in each["Action"]
    } == {
        "lambda:InvokeFunction": "arn:function",
        GET: "arn:aws:s3:::lake/Raw/API/_harvest/*/shards.json",
        "states:StartExecution": f"{states}:stateMachine:{name}",
        "states:DescribeExecution": [f"{states}:execution:{name}:*", f"{states}:execution:{name}/*"],
        "states:StopExecution": [f"{states}:execution:{name}:*", f"{states}:execution:{name}/*"],
        "states:RedriveExecution": [f"{states}:execution:{name}:*", f"{states}:execution:{name}/*"],
    }
    [starting] = statements_of("StarterRole", "start", resources)
    assert (starting["Action"], starting["Resource"]) == (["states:StartExecution"], "<StateMachine>")


def test_the_function_gets_settings_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable is one that is read, none is Lambda's own, and together they are what the defaults are."""
    variables = stack("my-lake").properties("Function")["Environment"]["Variables"]
    known = {name for field in Settings.model_fields for name in names_of(field)}
    assert set(variables) <= known
    assert [name for name in variables if name.startswith(("AWS_", "LAMBDA_"))] == []
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    settings, default = load_settings(), Settings.model_fields
    assert settings.api_key_ref == "ssm:/tmdb/api-key"
    assert (settings.s3_bucket, settings.movies_csv) == ("my-lake", "s3://my-lake/Raw/Local/CSV/Movies/")
    same = ("tmdb_rate", "tmdb_language", "tmdb_append", "output_format", "s3_prefix")
    assert [getattr(settings, name) for name in same] == [default[name].default for name in same]


@pytest.mark.parametrize("none", ["MoviesCsv", "SeriesCsv"])
def test_who_has_one_csv_says_so(none: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`none` is no CSV, and the other is where `upload` puts it."""
    for name, value in stack(**{none: "none"}).properties("Function")["Environment"]["Variables"].items():
        monkeypatch.setenv(name, str(value))
    settings = load_settings()
    given = {name for name in ("movies_csv", "series_csv") if getattr(settings, name)}
    assert given == {"movies_csv", "series_csv"} - {none.replace("Csv", "_csv").lower()}


@pytest.mark.parametrize(
    ("kept_in", "name", "action", "resource"),
    [
        ("ssm", "/tmdb/api-key", "ssm:GetParameter", "ssm:us-east-1:111122223333:parameter/tmdb/api-key"),
        (
            "secret",
            "/tmdb",
            "secretsmanager:GetSecretValue",
            "secretsmanager:us-east-1:111122223333:secret:/tmdb-??????",
        ),
    ],
)
def test_the_key_is_given_by_where_it_is_kept(kept_in: str, name: str, action: str, resource: str) -> None:
    """No parameter takes a secret; the function may read the one that its settings name, and no other."""
    resources = stack(TmdbKeyIn=kept_in, TmdbKeyName=name)
    variables = resources.properties("Function")["Environment"]["Variables"]
    assert variables["TMDB_API_KEY"] == f"{kept_in}:{name}"
    assert Settings(tmdb_api_key=variables["TMDB_API_KEY"]).api_key_ref == f"{kept_in}:{name}"
    [reading] = statements_of("FunctionRole", "key", resources)
    assert (reading["Action"], reading["Resource"]) == ([action], f"arn:aws:{resource}")
    assert [name for name, parameter in TEMPLATE["Parameters"].items() if "NoEcho" in parameter] == []
    assert TEMPLATE["Parameters"]["TmdbKeyIn"]["AllowedValues"] == ["ssm", "secret"]


# --- the state machine

OURS = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, HarvestError)}

FATAL = {
    "HarvestError": "a bug of ours",
    "SettingsError": "the template sets it wrong",
    "InputError": "the CSV is no list of ids, or has become another",
    "NewerFormatError": "the lake is of a newer harvester",
    "TmdbRefusedError": "the key is no good; asked again once, for one that has been replaced",
    "StoppedError": "the time of an invocation is too short for a batch",
}
"""What asking again does not change, with why; and contradictory totals, but where they are reconciled."""

AGAIN = {
    "Plan": {"StoreError", "TmdbUnavailableError", "BusyError", "LeaseLostError"},
    "Harvest a shard": {"StoreError", "TmdbUnavailableError"},
    "Reconcile the totals": {"StoreError", "TmdbUnavailableError", "CorruptLakeError"},
}
"""By state that calls the function: what is asked again. Reconciling the totals again does what is missing."""

CAUGHT = {
    "Plan": dict.fromkeys(["SettingsError", "InputError", "NewerFormatError", "TmdbRefusedError"], "Nothing was begun"),
    "Harvest a shard": {"LeaseLostError": "Landed"},
    "Reconcile the totals": {"BusyError": "Plan", "LeaseLostError": "Plan"},
}
"""By state that calls the function: where it goes on after an error. A child waits for nobody, and is never busy."""


def names_in(rules: list[dict[str, Any]]) -> set[str]:
    """The names that some rules of Retry or Catch are for, but for AWS's own, which have a point in them."""
    return {name for rule in rules for name in rule["ErrorEquals"] if "." not in name}


def tasks() -> dict[str, dict[str, Any]]:
    """The states that call the function, by name."""
    states = within(MACHINE, "States")
    return {name: state for each in states for name, state in each["States"].items() if state["Type"] == "Task"}


@pytest.mark.parametrize("state", AGAIN)
def test_each_error_is_asked_again_or_caught_or_known_to_be_fatal(state: str) -> None:
    """Another error of ours has to be asked here what the state machine does about it."""
    task = tasks()[state]
    assert names_in(task["Retry"]) == AGAIN[state] | {"TmdbRefusedError"}
    assert {name: rule["Next"] for rule in task.get("Catch", []) for name in rule["ErrorEquals"]} == CAUGHT[state]
    fatal_here = {"CorruptLakeError"} if state != "Reconcile the totals" else set()
    fatal_here |= {"BusyError"} if state == "Harvest a shard" else set()
    assert AGAIN[state] | CAUGHT[state].keys() | FATAL.keys() | fatal_here == OURS.keys()


def test_a_plan_that_finds_the_lake_busy_outlasts_a_lease_that_nobody_renews() -> None:
    """Asked again after more seconds than a lease is silent before it is taken over, for hours."""
    [rule] = [rule for rule in tasks()["Plan"]["Retry"] if "BusyError" in rule["ErrorEquals"]]
    assert rule["ErrorEquals"] == ["BusyError", "LeaseLostError"]
    assert rule["IntervalSeconds"] > LeaseTimes().silent
    assert (rule["BackoffRate"], rule["IntervalSeconds"] * rule["MaxAttempts"] >= 3 * 3_600) == (1, True)


def test_what_a_step_needs_of_the_plan_is_handed_on() -> None:
    """The execution to the plan, shard and settings to each child, token, sources and attempt to the close."""
    steps = {name: task["Parameters"]["Payload"] for name, task in tasks().items()}
    assert steps["Plan"].keys() == {"action", "children", "execution.$", "event.$"}
    assert (steps["Plan"]["execution.$"], steps["Plan"]["event.$"]) == ("$$.Execution.Id", "$$.Execution.Input")
    [states] = [each["States"] for each in within(MACHINE, "States") if "Harvest the shards" in each["States"]]
    selected = {"shard.$": "$$.Map.Item.Value", "settings.$": "$.plan.settings"}
    assert states["Harvest the shards"]["ItemSelector"] == selected
    assert steps["Harvest a shard"] == {"action": "harvest", "shard.$": "$.shard", "settings.$": "$.settings"}
    taken = {f"{name}.$": f"$.plan.{name}" for name in ("run", "sources", "settings", "token")}
    assert steps["Reconcile the totals"] == {"action": "close", "attempt.$": "$.closed.attempt"} | taken
    assert states["Reconcile the totals"]["ResultSelector"]["attempt.$"] == "$.Payload.attempt"
    assert states["Begin to close"]["Result"] == {"attempt": None}


def test_every_state_that_calls_the_function_is_looked_at() -> None:
    """None is without a Retry for what AWS itself may do wrong."""
    assert tasks().keys() == AGAIN.keys()
    for task in tasks().values():
        assert "Lambda.TooManyRequestsException" in {name for rule in task["Retry"] for name in rule["ErrorEquals"]}


def test_the_template_fills_in_what_the_state_machine_leaves_open() -> None:
    """Each `${…}` of its definition is given, and no other."""
    given = stack().properties("StateMachine")["DefinitionSubstitutions"]
    assert set(re.findall(r"\$\{(\w+)\}", json.dumps(MACHINE))) == given.keys()
    assert given["Children"] == TEMPLATE["Parameters"]["Children"]["Default"]
