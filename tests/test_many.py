"""Many harvests in one prefix on one day, at once or in turn: every title is there once, whichever of them are killed.

Each harvester is a process of its own, behind a link and a TMDB stand-in of its own, as in `test_kills`, whose moments
are used here too. They share a bucket. When all have ended, the day's folder is audited over all runs, by a plain S3
client and by code that is only this file's; `verify --day` is asked as a second opinion.

The processes are forked by one that has imported the harvester already (a start takes 1.3 s of CPU otherwise), and look
every 0.2 s whether the lease is free, instead of every 5. One round of each kind is in the default run. All of them:
`pytest -m kill`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Silent, client_of
from loops import no_wait
from shells import Ended, kept
from test_kills import (
    DATA,
    DOCUMENT,
    FIRST,
    KILLED,
    LEASE,
    MIXED,
    Lake,
    Point,
    Scene,
    World,
    audit,
    audit_files,
    audit_record,
    audit_requests,
    few_and_all,
    ids_from,
    lake_of,
    lines_of,
    name_of_batch,
    points,
    proved,
    scene_of,
    truth_of,
)

from harvester.commands.harvest import HarvestReport, harvest
from harvester.commands.verify import verify
from harvester.errors import SettingsError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import always, healthy, refusal, scripted
from harvester.fakes.tmdb import fake_tmdb
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown
from harvester.tmdb.known_titles import KNOWN_TITLES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from test_kills import Truth

    from harvester.fakes.catalog import Kind
    from harvester.fakes.faults import Asked, Fault
    from harvester.fakes.s3_server import S3Server
    from harvester.fakes.tmdb import FakeTmdb
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Cut = Mapping[str, list[str]]
    """The ids of one harvest, by the collection of their CSV."""

pytestmark = pytest.mark.timeout(300)  # five processes share the machine with whatever else there is

DAY = "2026-11-29"

# --- what there is to harvest

FILMS, SHOWS = ids_from(1, 320), ids_from(900_001, 60)


def catalog() -> Catalog:
    """Some movies are series and the reverse, some are both, some are nothing."""
    kinds: dict[str, Kind] = dict.fromkeys([*SHOWS, *FILMS[7::29]], "tv")
    kinds |= dict.fromkeys(SHOWS[3::14], "movie")
    kinds |= dict.fromkeys([*FILMS[11::50], *SHOWS[5::20]], "both")
    kinds |= dict.fromkeys([*FILMS[6::60], *SHOWS[2::30]], "unknown")
    return Catalog(kinds=kinds | {FILMS[40]: "episode", SHOWS[10]: "season"})


CATALOG = catalog()


@cache
def truth(id_: str, home: str) -> Truth:
    """What must come of an id in the CSV of a collection."""
    return truth_of(CATALOG, id_, home)


WHOLE: Cut = {"Movies": FILMS[:220], "Series": SHOWS[:30]}
"""Four batches."""

ONE: Cut = {"Movies": FILMS[:80]}
"""One batch, with titles of both kinds: `complete 1` is that of its movies, `complete 2` of its series."""

# --- processes of their own

NURSERY = """
import asyncio, gc, json, os, signal, sys, traceback
from pathlib import Path
from harvester.errors import HarvestError
from harvester.commands.harvest import LeaseOptions, harvest
from harvester.runs.lease import LeaseTimes
from harvester.reports.observers import harvest_observer
from harvester.runtime.clock import Clock, utc_now
from harvester.cli.logs import set_up_logs
from harvester.settings.settings import load_settings
from harvester.runtime.shutdown import Shutdown

async def work(order):
    lease_options = LeaseOptions(times=LeaseTimes(**order["times"]))
    now = lambda: order["day"] + utc_now()[10:]
    return await harvest(
        load_settings(),
        observer=harvest_observer(),
        shutdown=Shutdown(),
        again="--again" in order["words"],
        lease_options=lease_options,
        clock=Clock(now=now),
    )

def child(order, folder):
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    set_up_logs()
    code = 1
    try:
        report = asyncio.run(work(order))
        code, response = report.exit_code, report.as_json()
    except HarvestError as error:
        code, response = error.exit_code, {"status": "error", "error": type(error).__name__, "message": str(error)}
    except BaseException:
        response = traceback.format_exc()
    os.write(1, json.dumps(response).encode())
    os._exit(code)

def put(path, value):
    path.with_suffix(".new").write_text(str(value))
    path.with_suffix(".new").rename(path)

gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    order = json.loads(line)
    folder = Path(order["folder"])
    if os.fork() == 0:  # waits for the harvester, which it forks
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if (pid := os.fork()) == 0:
            child(order, folder)
        put(folder / "pid", pid)
        put(folder / "code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
os.killpg(0, signal.SIGKILL)
"""


@dataclass(slots=True)
class Child:
    """A harvester in a process of its own, as `Scene.start` makes it; its output is in a folder."""

    folder: Path
    pid: int = 0

    @property
    def process(self) -> Child:
        return self

    @property
    def returncode(self) -> int | None:
        """How it has ended; None if it has not."""
        code = self.read("code")
        return int(code) if code else None

    @property
    def err(self) -> str:
        """What it has written so far on standard error."""
        return self.read("err")

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def send(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    async def ended(self) -> Ended:
        """Wait for its end."""
        await until(lambda: self.returncode is not None)
        return Ended(self.returncode or 0, self.read("out"), self.err)

    async def waits(self) -> None:
        """Return when it has said that it waits for another."""
        await until(lambda: "lease_held" in self.err or self.returncode is not None)
        assert self.returncode is None, self.err


async def until(so: Callable[[], object]) -> None:
    """Return when `so()` is true."""
    while not so():
        await asyncio.sleep(0.01)


@dataclass(slots=True)
class Nursery:
    """Forks harvesters; made by the fixture."""

    process: subprocess.Popen[str]
    started: int = 0

    def serve(self, scene: Scene, **times: float) -> None:
        """From now on the harvesters of this scene are forked here, with these times of the lease."""
        scene.start = partial(self.start, scene, {"poll": 0.2} | times)

    @asynccontextmanager
    async def start(self, scene: Scene, times: Mapping[str, float], *words: str) -> AsyncIterator[Child]:
        """A harvester, until the context is left."""
        self.started += 1
        folder = scene.shell.folder / f"child-{self.started}"
        folder.mkdir()
        order = {"environment": scene.shell.environment, "folder": str(folder), "times": times, "day": DAY}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order | {"words": words}) + "\n")
        self.process.stdin.flush()
        await until((folder / "pid").exists)
        child = Child(folder, int((folder / "pid").read_text()))
        try:
            yield child
        finally:
            child.kill()
            await child.ended()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """The one process that all harvesters of this file are forked by; they end with it."""
    command = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=kept(), start_new_session=True) as process:
        yield Nursery(process)
        assert process.poll() is None
        assert process.stdin
        process.stdin.close()


# --- the audit of a day


def audit_day(lake: Lake, cuts: Sequence[Cut], *, unfinished: Sequence[Cut] = ()) -> list[str]:
    """Every harm in the folders of a day on which these cuts have been harvested to the end, and others begun."""
    problems = [f"an upload of {key} is an orphan" for key in lake.uploads]
    ours = {key for key in lake.objects if key == LEASE or DOCUMENT.fullmatch(key) or DATA.fullmatch(key)}
    problems += [f"{key} is not a key of ours" for key in lake.objects if key not in ours]
    problems += [*audit_titles(lake, cuts, unfinished)]
    runs: dict[str, dict[str, bytes]] = {}
    for key, body in lake.objects.items():
        if found := DOCUMENT.fullmatch(key):
            runs.setdefault(found[1], {})[found[2]] = body
    outcomes = {
        run: {row["id"]: row for row in lines_of(documents["outcomes.jsonl.gz"])}
        for run, documents in runs.items()
        if "summary.json" in documents
    }
    wanted = sorted(tuple(ids_in(cut)) for cut in {json.dumps(cut, sort_keys=True): cut for cut in cuts}.values())
    if sorted(tuple(ids) for ids in outcomes.values()) != wanted:
        problems.append(f"{len(outcomes)} runs are closed, not {len(wanted)}, or their ids are not those of the CSVs")
    for run in outcomes:
        problems += [f"{run}: {problem}" for problem in audit_run(lake, run, runs, outcomes)]
    return problems


def ids_in(cut: Cut) -> list[str]:
    """The distinct ids of a cut, in their order."""
    return list(dict.fromkeys(id_ for ids in cut.values() for id_ in ids))


def audit_titles(lake: Lake, cuts: Sequence[Cut], unfinished: Sequence[Cut]) -> Iterator[str]:
    """Each title that TMDB has, of a cut that was harvested, is in one data file; no other title is in two."""
    homes: dict[str, set[str]] = {}
    for cut in (*cuts, *unfinished):
        for home, ids in cut.items():
            for id_ in ids:
                homes.setdefault(id_, set()).add(home)
    times: Counter[str] = Counter()
    for collection, key, body in lake.data():
        for record in map(json.loads, body.splitlines()):
            id_ = record.pop("imdb_id")
            times[id_] += 1
            truths = [truth(id_, home) for home in homes.get(id_, ())]
            of_collection = [truth for truth in truths if not isinstance(truth, str) and truth[0] == collection]
            if not of_collection:
                yield f"{id_} does not belong into {key}"
            else:
                yield from (f"{id_} {problem} in {key}" for problem in audit_record(id_, record, of_collection[0]))
    finished = {id_ for cut in cuts for id_ in ids_in(cut)}
    for id_, collections in homes.items():
        known = not isinstance(truth(id_, min(collections)), str)
        if times[id_] > known or (id_ in finished and times[id_] != known):
            yield f"{id_} has {times[id_]} records instead of {int(known)}"


def audit_run(
    lake: Lake, run: str, runs: Mapping[str, Mapping[str, bytes]], outcomes: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """The outcomes of a closed run are those of its receipts and of the runs that have its fresh ids."""
    receipts = [json.loads(body) for name, body in runs[run].items() if name.startswith("receipts/")]
    generation = json.loads(runs[run]["manifest.json"])["generation"]
    rows = lines_of(runs[run][f"ids-{generation}.jsonl.gz"])
    marks = {row["id"]: {"outcome": "fresh", "run": row["fresh"]} for row in rows if "fresh" in row}
    outcomes_by_id = dict(marks)
    for receipt in receipts:
        yield from audit_files(receipt, lake)
        if receipt["generation"] != generation:
            yield f"the receipt of {receipt['batch']} is of another generation"
        if receipt["batch"] != name_of_batch(receipt["collection"], list(receipt["outcomes"])):
            yield f"the receipt of {receipt['batch']} is of other ids"
        outcomes_by_id |= receipt["outcomes"]
    if [row["id"] for row in rows if "id" in row] != list(outcomes[run]):
        yield "its ids and outcomes are not of the same titles"
    if [{"id": id_} | outcomes_by_id.get(id_, {}) for id_ in outcomes[run]] != list(outcomes[run].values()):
        yield "its outcomes are not those of its receipts"
    for id_, row in outcomes[run].items():
        if row["outcome"] not in ("found", "missing", "fresh"):
            yield f"{id_} is {row}"
        # By now another run may have done the same batch whole, in which the one that had the title finds it fresh.
        if row["outcome"] == "fresh" and not any(
            has(other, id_, lake, runs, outcomes) for other in runs if other != run
        ):
            yield f"{id_} is fresh by {row['run']}, which does not have it"


def has(
    run: str,
    id_: str,
    lake: Lake,
    runs: Mapping[str, Mapping[str, bytes]],
    outcomes: Mapping[str, Mapping[str, Any]],
) -> bool:
    """Whether a run has looked this title up: by its outcomes or, if it is not closed, by receipts and files."""
    if run in outcomes:
        return outcomes[run].get(id_, {}).get("outcome") in ("found", "missing")
    if "manifest.json" not in runs.get(run, {}):
        return False
    receipts = [json.loads(body) for name, body in runs[run].items() if name.startswith("receipts/")]
    if any(receipt["outcomes"].get(id_, {}).get("outcome") in ("found", "missing") for receipt in receipts):
        return True
    names = [name for names in json.loads(runs[run]["manifest.json"])["batches"].values() for name in names]
    files = [body for _, key, body in lake.data() if any(f"/{name}." in key for name in names)]
    return any(f'"imdb_id":"{id_}"'.encode() in body for body in files)


# --- five at once, killed at random


@dataclass(slots=True)
class Contender:
    """One of several harvesters: it is started when so many events have been seen, and again after each kill."""

    number: int
    scene: Scene
    words: tuple[str, ...]
    begins: int
    kills: list[Point]
    codes: list[int] = field(default_factory=list)
    last: Ended | None = None
    done: bool = False

    @property
    def events(self) -> int:
        return len(self.scene.link.seen) + self.scene.tmdb.asked.total()

    async def contend(self, all_of_them: Sequence[Contender]) -> None:
        """Harvest until it has ended by itself."""
        others = [one for one in all_of_them if one is not self]
        await until(
            lambda: (
                sum(one.events for one in others) >= self.begins or all(one.done or not one.events for one in others)
            )
        )
        for point in (*self.kills, None):
            ended = await self.scene.life(point, *self.words)
            self.codes.append(ended.code)
            self.last = ended
            if ended.code != KILLED:
                break
        self.done = True


@dataclass(slots=True)
class Round:
    """What five harvesters do: their cuts, and which of them harvest again."""

    cuts: list[Cut]
    again: list[bool]


def same_cut(_dice: random.Random) -> Round:
    return Round([WHOLE] * 5, [False] * 5)


def one_in_another_order(dice: random.Random) -> Round:
    other = {home: dice.sample(ids, len(ids)) for home, ids in WHOLE.items()}
    cuts = [WHOLE] * 4
    cuts.insert(dice.randrange(5), other)
    return Round(cuts, [False] * 5)


def overlapping(dice: random.Random) -> Round:
    """A cut, the same grown, shrunk, moved along, and one whose series are among the others' movies."""
    at = dice.randint(20, 120)
    cuts: list[Cut] = [
        {"Movies": FILMS[:200], "Series": SHOWS[:30]},
        {"Movies": FILMS[: 200 + at // 2], "Series": SHOWS[:40]},
        {"Movies": [*FILMS[: at // 2], *FILMS[at:150]]},
        {"Movies": FILMS[at : at + 180], "Series": SHOWS[10:50]},
        {"Movies": FILMS[at // 3 :: 7], "Series": [*FILMS[at : at + 40], *SHOWS[::2]]},
    ]
    return Round(dice.sample(cuts, 5), [False] * 5)


def again_beside_plain(dice: random.Random) -> Round:
    part: Cut = {"Movies": FILMS[50:150], "Series": SHOWS[:10]}
    cuts = dice.choice([[WHOLE] * 5, [WHOLE, WHOLE, WHOLE, part, part]])
    return Round(cuts, [True, dice.random() < 0.5, False, True, False])


ROUNDS: dict[str, Callable[[random.Random], Round]] = {
    "one CSV": same_cut,
    "one in another order": one_in_another_order,
    "overlapping CSVs": overlapping,
    "again beside plain": again_beside_plain,
}

WRITES = (
    "put lease",
    "complete ids",
    "put manifest",
    "create",
    "part",
    "complete",
    "put receipt",
    "complete outcomes",
    "put summary",
)


def moment(dice: random.Random) -> Point:
    """A point at which a harvester is killed, if it ever comes to it: any event, or a write."""
    when = dice.choice(["before", "after"])
    if dice.random() < 0.4:
        return Point(when, "event", dice.randint(1, 350))
    return Point(when, dice.choice(WRITES), dice.randint(1, 4))


SEEDS = range(20)


@pytest.mark.parametrize(
    "case",
    few_and_all(
        [(kind, seed) for kind in ROUNDS for seed in (100,)], [(kind, seed) for kind in ROUNDS for seed in SEEDS]
    ),
)
async def test_five_at_once_killed_at_random_lose_and_double_nothing(
    case: tuple[str, int], s3: S3Server, tmp_path: Path, nursery: Nursery
) -> None:
    """Killed anywhere and started again, all five end with 0: no title is lost or doubled, no upload is an orphan.

    One at a time asks TMDB, and nothing is deleted.
    """
    kind, seed = case
    dice = random.Random(f"{kind} {seed}")
    plan = ROUNDS[kind](dice)
    async with AsyncExitStack() as stack:
        contenders: list[Contender] = []
        turns: list[tuple[int, int]] = []
        for number, (cut, again) in enumerate(zip(plan.cuts, plan.again, strict=True)):
            beside = contenders[0].scene if contenders else None
            world = World(CATALOG, cut)
            scene = await stack.enter_async_context(scene_of(world, s3, tmp_path / str(number), beside=beside))
            nursery.serve(scene)
            scene.shared = True
            kills = [moment(dice) for _ in range(dice.randint(1, 3))]
            begins = dice.randint(0, 900) if number else 0
            words = ("--again",) if again else ()
            one = Contender(number, scene, words, begins, kills)
            scene.faults = partial(take_turn, one, turns)
            contenders.append(one)
        await asyncio.gather(*(one.contend(contenders) for one in contenders))
        for one in contenders:
            assert ({*one.codes[:-1]} | {KILLED}, one.codes[-1]) == ({KILLED}, 0), one.last
            assert [call for call in one.scene.link.seen if call.operation in ("delete", "copy")] == []
        assert [turn for turn, times in Counter(turns).items() if times > 1] == []
        first = contenders[0].scene
        problems = audit_day(await first.lake(), plan.cuts)
        assert problems == [], problems
        verification = await verify(first.settings, day=DAY)
        assert (verification.problems, verification.unfinished) == ([], [])


def take_turn(one: Contender, turns: list[tuple[int, int]], asked: Asked) -> Fault | None:
    """Note which life of which harvester asks for a title, whenever that changes."""
    if asked.id and turns[-1:] != [(one.number, len(one.codes))]:
        turns.append((one.number, len(one.codes)))
    return None


# --- two at once, one of them killed at a given moment


async def hold_at(scene: Scene, point: Point, *words: str) -> asyncio.Task[Ended]:
    """A life that has come to the point, and gets no further: S3 does not answer it any more."""
    scene.held = scene.reached.is_set
    life = asyncio.create_task(scene.life(point, *words, act=lambda: None))
    reached = asyncio.create_task(scene.reached.wait())
    await asyncio.wait([life, reached], return_when=asyncio.FIRST_COMPLETED)
    assert reached.done(), life.result()
    return life


async def kill(scene: Scene, life: asyncio.Task[Ended]) -> None:
    """Kill the one that is held."""
    scene.process.kill()
    assert (await life).code == KILLED
    scene.held = lambda: False


BETWEEN = [
    Point("before", "complete", 2),
    Point("after", "complete", 2),
    Point("before", "put receipt", 1),
    Point("after", "put receipt", 1),
]
"""Around the landing of the reclassified titles of a batch, and its receipt."""

PAIRS = [((), ()), (("--again",), ("--again",)), ((), ("--again",)), (("--again",), ())]
KILLED_BESIDE = [
    (f"{' '.join(['first', *first])}, {' '.join(['second', *second])} {how}", point)
    for first, second in PAIRS
    for how in ("waits", "starts after")
    for point in BETWEEN
]


@pytest.mark.parametrize(
    "case", few_and_all([one for one in KILLED_BESIDE if one[1] == BETWEEN[2] and "waits" in one[0]], KILLED_BESIDE)
)
async def test_killed_beside_another_between_reclassified_titles_and_receipt(
    case: tuple[str, Point], s3: S3Server, tmp_path: Path, nursery: Nursery
) -> None:
    """The second of two over one CSV takes over from the killed one, asks only for what has no receipt, ends with 0."""
    how, point = case
    first_words, second_words = (["--again"] if "--again" in words else [] for words in how.split(","))
    world = World(CATALOG, ONE)
    async with (
        scene_of(world, s3, tmp_path / "1") as first,
        scene_of(world, s3, tmp_path / "2", beside=first) as second,
    ):
        nursery.serve(first)
        nursery.serve(second)
        if first_words:
            assert (await first.life()).code == 0
        held = await hold_at(first, point, *first_words)
        if how.endswith("waits"):
            life = asyncio.create_task(second.life(None, *second_words))
            await until(lambda: second.process is not None)
            await second.process.waits()
            await kill(first, held)
        else:
            await kill(first, held)
            life = asyncio.create_task(second.life(None, *second_words))
        ended = await life
        assert (ended.code, ended.result["exit_code"]) == (0, 0), ended.result
        await proved(second, ended.result["totals"], earlier=len(first_words))
        asked = {id_ for _, id_ in second.tmdb.asked if id_}
        assert asked == (set() if str(point) == "after put receipt 1" else {*ONE["Movies"]})
        assert (await first.life()).result["status"] == "nothing_to_do"


@pytest.mark.parametrize("words", PAIRS, ids=str)
async def test_two_a_moment_apart_harvest_one_after_the_other(
    words: tuple[tuple[str, ...], tuple[str, ...]], s3: S3Server, tmp_path: Path, nursery: Nursery
) -> None:
    """With nobody killed, the second waits for the first: then it has nothing to do, or a generation of its own."""
    world = World(CATALOG, ONE)
    async with (
        scene_of(world, s3, tmp_path / "1") as first,
        scene_of(world, s3, tmp_path / "2", beside=first) as second,
    ):
        nursery.serve(first)
        nursery.serve(second)
        if words[0]:
            assert (await first.life()).code == 0
        held = await hold_at(first, BETWEEN[2], *words[0])
        life = asyncio.create_task(second.life(None, *words[1]))
        await until(lambda: second.process is not None)
        await second.process.waits()
        first.held = lambda: False
        assert (await held).result["status"] == "closed"
        ended = await life
        assert (ended.code, ended.result["status"]) == (0, "closed" if words[1] else "nothing_to_do"), ended
        earlier = len(words[0]) + len(words[1])
        assert audit(world, await second.lake(), ended.result["totals"], earlier=earlier) == []
        assert (await verify(second.settings)).as_json()["status"] == "proved"


def two(seed: int) -> tuple[Point, int, Point]:
    """Where the first is killed, how many of its receipts the second finds, and where that is killed, if it is."""
    dice = random.Random(seed)
    calls = points(FIRST, "create", "complete", "put receipt", "put summary", each=7, seed=seed)
    second = Point(dice.choice(["before", "after"]), "event", dice.randint(20, 300))
    return dice.choice(calls), dice.randint(0, 4), second


TWOS = [two(seed) for seed in range(10)]


@pytest.mark.parametrize("case", few_and_all(TWOS[:2], TWOS))
async def test_two_harvesters_of_the_same_ids_both_killed_lose_and_double_nothing(
    case: tuple[Point, int, Point], s3: S3Server, tmp_path: Path, nursery: Nursery
) -> None:
    """The second begins while the first is at work, both are killed, and one more run reconciles the totals.

    While the first is alive the second asks for nothing, and nothing is done twice.
    """
    first_point, receipts, second_point = case
    async with scene_of(MIXED, s3, tmp_path, rate=400) as first, scene_of(MIXED, s3, tmp_path, rate=400) as second:
        nursery.serve(first)
        nursery.serve(second)
        too_early: list[Asked] = []

        def faults(asked: Asked) -> Fault | None:
            if asked.id and not first.over:
                too_early.append(asked)
            return MIXED.faults(asked)

        second.faults = faults
        second.held = lambda: (
            not (first.over or (first.seen["put lease"] > 1 and first.seen["put receipt"] >= receipts))
        )
        ended = await asyncio.gather(first.life(first_point), second.life(second_point))
        assert [one.code for one in ended] in ([KILLED, KILLED], [KILLED, 0])
        assert too_early == []
        last = await first.life()
        assert (last.code, last.result["exit_code"]) == (0, 0), last.result
        await proved(first, last.result["totals"], ended=last.result["status"] != "nothing_to_do")
        assert audit_requests(second.lives) == []


TIMES = {"renew": 0.7, "check": 1.0, "silent": 2.0}
"""Seconds instead of 30, 45 and 90."""

LATE = [Point(when, name, 6) for name in ("create", "part", "complete") for when in ("after", "before")]
LATE += [Point(when, "put receipt", 3) for when in ("after", "before")]


@pytest.mark.parametrize("point", few_and_all([Point("before", "complete", 6)], LATE))
async def test_a_holder_that_wakes_after_another_has_taken_over_writes_nothing_more(
    point: Point, s3: S3Server, tmp_path: Path, nursery: Nursery
) -> None:
    """Stopped for so long that another has reconciled the totals, it ends with 75, and the next run finds all in order.

    Only a put of a receipt that was on its way is made again: then the next run asks again for that batch.
    """
    async with scene_of(MIXED, s3, tmp_path) as first, scene_of(MIXED, s3, tmp_path) as second:
        nursery.serve(first, **TIMES)
        nursery.serve(second, **TIMES)
        life = asyncio.create_task(first.life(point, act=lambda: first.process.send(signal.SIGSTOP)))
        await first.reached.wait()
        assert (await second.life()).code == 0
        first.process.send(signal.SIGCONT)
        ended = await life
        assert (ended.code, ended.result["error"]) == (75, "LeaseLostError")
        last = await second.life()
        assert last.result["status"] == ("closed" if str(point) == "before put receipt 3" else "nothing_to_do")
        assert audit(MIXED, await second.lake(), last.result["totals"]) == []
        assert (await verify(second.settings)).as_json()["status"] == "proved"


# --- a kill between data and receipt, and another CSV that has the same ids

OTHER_CUTS: dict[str, Cut] = {
    "moved along": {"Movies": FILMS[40:120]},
    "grown in front": {"Movies": [*FILMS[200:205], *FILMS[:80]]},
    "shrunk": {"Movies": FILMS[:50]},
    "in another order": {"Movies": FILMS[:80][::-1]},
    "among the series": {"Movies": FILMS[100:110], "Series": FILMS[:80]},
}
OTHER_CSVS = [
    (f"{name}, {how}", point)
    for name in OTHER_CUTS
    for how in ("waits", "starts after")
    for point in (Point("after", "complete", 1), *BETWEEN[1:3])
]


@pytest.mark.parametrize("case", few_and_all(OTHER_CSVS[2::6], OTHER_CSVS))
async def test_killed_between_data_and_receipt_another_csv_doubles_nothing(
    case: tuple[str, Point], s3: S3Server, tmp_path: Path, nursery: Nursery
) -> None:
    """Titles in a file without a receipt are fresh for the day's next CSV, and the killed run can still be closed."""
    (name, how), point = case[0].split(", "), case[1]
    other = OTHER_CUTS[name]
    async with (
        scene_of(World(CATALOG, ONE), s3, tmp_path / "1") as first,
        scene_of(World(CATALOG, other), s3, tmp_path / "2", beside=first) as second,
    ):
        for scene in (first, second):
            nursery.serve(scene)
            scene.shared = True
        held = await hold_at(first, point)
        if how == "waits":
            life = asyncio.create_task(second.life())
            await until(lambda: second.process is not None)
            await second.process.waits()
            await kill(first, held)
        else:
            await kill(first, held)
            life = asyncio.create_task(second.life())
        landed = titles_in(await first.lake())
        ended = await life
        assert (ended.code, ended.result["exit_code"]) == (0, 0), ended.result
        assert ended.result["totals"]["fresh"] == len(landed & {*ids_in(other)}) > 0
        asked = {id_ for _, id_ in second.tmdb.asked if id_}.difference(*KNOWN_TITLES.values())
        assert asked == {*ids_in(other)} - landed
        assert audit_day(await second.lake(), [other], unfinished=[ONE]) == []
        verification = await verify(second.settings, day=DAY)
        assert (verification.problems, len(verification.unfinished)) == ([], 1)
        ended = await first.life()
        assert (ended.code, ended.result["exit_code"]) == (0, 0), ended.result
        assert audit_day(await second.lake(), [other, ONE]) == []
        verification = await verify(second.settings, day=DAY)
        assert (verification.problems, verification.unfinished) == ([], [])


def titles_in(lake: Lake) -> set[str]:
    """The ids of all records."""
    return {json.loads(line)["imdb_id"] for _, _, body in lake.data() for line in body.splitlines()}


GROWN: dict[str, tuple[Cut, Cut]] = {
    "grown": ({"Movies": FILMS[:120]}, {"Movies": FILMS[:140]}),
    "shrunk": ({"Movies": FILMS[:140]}, {"Movies": FILMS[:100]}),
    "with series": ({"Movies": FILMS[:100]}, {"Movies": FILMS[:100], "Series": SHOWS[:10]}),
}
"""Cuts that share their first batch, so that both runs have one of the same name."""

SAME_BATCH = [
    (name, point)
    for name in GROWN
    for point in (
        Point("after", "put manifest", 1),
        Point("after", "create", 1),
        Point("after", "complete", 1),
        Point("before", "put receipt", 1),
        Point("after", "put receipt", 1),
    )
]


@pytest.mark.parametrize("case", few_and_all([(name, SAME_BATCH[0][1]) for name in GROWN], SAME_BATCH))
async def test_a_batch_that_two_runs_share_by_name_is_landed_once(
    case: tuple[str, Point], s3: S3Server, tmp_path: Path, nursery: Nursery
) -> None:
    """Killed at any moment of its first batch, a run leaves alone what another has landed under the same name since."""
    name, point = case
    one, other = GROWN[name]
    async with (
        scene_of(World(CATALOG, one), s3, tmp_path / "1") as first,
        scene_of(World(CATALOG, other), s3, tmp_path / "2", beside=first) as second,
    ):
        for scene in (first, second):
            nursery.serve(scene)
            scene.shared = True
        assert (await first.life(point)).code == KILLED
        for scene, done, left in ((second, [other], [one]), (first, [one, other], []), (second, [one, other], [])):
            ended = await scene.life()
            assert (ended.code, ended.result["exit_code"]) == (0, 0), ended.result
            problems = audit_day(await first.lake(), done, unfinished=left)
            assert problems == [], problems
            verification = await verify(first.settings, day=DAY)
            assert (verification.problems, len(verification.unfinished)) == ([], len(left))
        assert (ended.result["status"], second.seen["ask"]) == ("nothing_to_do", 0)


# --- several cuts on one day, in turn and in this process

IDS = FILMS[:130]
NEW = FILMS[300]


@dataclass(slots=True)
class Day:
    """A bucket on one day, in which one harvest follows another."""

    settings_for: Callable[..., Settings]
    tmdb: FakeTmdb
    client: Any
    bucket: Bucket

    async def harvest(
        self, cut: Cut, *, again: bool = False, limit: int | None = None, day: str = DAY, **options: Any
    ) -> HarvestReport:
        """How the harvest of these ids ends."""
        self.tmdb.asked.clear()
        settings = self.settings(cut, **options)
        now = iter_of_times(day)
        return await harvest(
            settings,
            observer=Silent(),
            shutdown=Shutdown(limit=limit),
            again=again,
            clock=Clock(sleep=no_wait, now=now),
        )

    def settings(self, cut: Cut = {"Movies": IDS}, **options: Any) -> Settings:  # noqa: B006  # it is not changed
        return self.settings_for(self.tmdb.url, **{home.lower(): ids for home, ids in cut.items()}, **options)

    @property
    def asked(self) -> set[str]:
        """The titles that the last harvest has asked for."""
        return {id_ for _, id_ in self.tmdb.asked if id_}

    async def lake(self) -> Lake:
        return await lake_of(self.client, self.bucket.name)

    async def proved(self, *cuts: Cut, unfinished: Sequence[Cut] = ()) -> None:
        """Assert that every title is there once, and that `verify` confirms the day and each closed run."""
        lake = await self.lake()
        assert audit_day(lake, cuts, unfinished=unfinished) == []
        verification = await verify(self.settings(), day=DAY)
        assert (verification.problems, len(verification.unfinished)) == ([], len(unfinished))
        for run in {found[1] for key in lake.objects if (found := DOCUMENT.fullmatch(key))} - {
            *verification.unfinished
        }:
            assert (await verify(self.settings(), run=run)).problems == []


def iter_of_times(day: str) -> Callable[[], str]:
    """A clock that is a millisecond later whenever it is asked: no two records are alike."""
    times = iter(range(86_400_000))

    def now() -> str:
        seconds, milliseconds = divmod(next(times), 1_000)
        return f"{day}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}Z"

    return now


@pytest.fixture
async def day(settings_for: Callable[..., Settings], s3: S3Server, bucket: Bucket) -> AsyncIterator[Day]:
    asyncio.get_running_loop().set_debug(False)
    async with client_of(s3) as client, fake_tmdb(catalog=CATALOG) as tmdb:
        yield Day(settings_for, tmdb, client, bucket)


SECOND_CUTS: dict[str, tuple[Cut, set[str]]] = {
    "one id in front": ({"Movies": [NEW, *IDS]}, {NEW}),
    "one id at the end": ({"Movies": [*IDS, NEW]}, {NEW}),
    "one id in the middle": ({"Movies": [*IDS[:117], NEW, *IDS[117:]]}, {NEW}),
    "one id removed": ({"Movies": [*IDS[:117], *IDS[118:]]}, set()),
    "one id replaced": ({"Movies": [*IDS[:117], NEW, *IDS[118:]]}, {NEW}),
    "reordered": ({"Movies": IDS[::-1]}, set()),
    "a subset": ({"Movies": IDS[::3]}, set()),
    "shared at the start": ({"Movies": [*IDS[:100], *FILMS[240:260]]}, {*FILMS[240:260]}),
    "the same ids among the series": ({"Series": IDS}, set()),
    "the same ids, and series": ({"Movies": IDS, "Series": SHOWS[:20]}, {*SHOWS[:20]}),
    "some of the ids among the series": ({"Movies": IDS[:50], "Series": [*IDS[40:90], *SHOWS[:5]]}, {*SHOWS[:5]}),
    "no id in common": ({"Movies": FILMS[240:270]}, {*FILMS[240:270]}),
}
"""A second CSV on the day on which that of `IDS` was harvested, and what of it TMDB has to be asked for."""


@pytest.mark.parametrize("name", SECOND_CUTS)
async def test_a_second_cut_on_a_day_asks_only_for_what_is_new(name: str, day: Day) -> None:
    """Ids that another run of the day has are fresh: they are not asked again, and every title is there once."""
    cut, new = SECOND_CUTS[name]
    await day.harvest({"Movies": IDS})
    before = await day.lake()
    report = await day.harvest(cut)
    assert (report.status, day.asked) == ("closed", new)
    assert report.totals.fresh == len(ids_in(cut)) - len(new)
    assert report.totals.reconciles
    lake = await day.lake()
    assert {key: lake.objects[key] for key in before.objects if key != LEASE} == {
        key: body for key, body in before.objects.items() if key != LEASE
    }
    await day.proved({"Movies": IDS}, cut)


async def test_repeats_of_two_csvs_that_share_ids_ask_nothing(day: Day) -> None:
    """Harvested in turn, neither undoes what the other has done: repeats have nothing to do, and write nothing."""
    one, other = {"Movies": IDS[:110]}, {"Movies": [*IDS[:90], *FILMS[240:260]]}
    statuses = [(await day.harvest(cut)).status for cut in (one, other)]
    before = await day.lake()
    for cut in (one, other, one):
        statuses.append((await day.harvest(cut)).status)
        assert day.asked == set()
    assert statuses == ["closed", "closed", "nothing_to_do", "nothing_to_do", "nothing_to_do"]
    assert await day.lake() == before
    await day.proved(one, other)


async def test_a_fresh_id_names_the_run_that_has_it_and_not_one_that_found_it_fresh(day: Day) -> None:
    """Of three cuts that share ids, the third names the first where the second had nothing to ask."""
    cuts: list[Cut] = [{"Movies": IDS[:70]}, {"Movies": IDS[20:100]}, {"Movies": IDS[40:120]}]
    runs = [(await day.harvest(cut)).run for cut in cuts]
    [body] = [body for key, body in (await day.lake()).objects.items() if key.endswith(f"{runs[2]}/outcomes.jsonl.gz")]
    assert Counter(row.get("run") for row in lines_of(body)) == {runs[0]: 30, runs[1]: 30, None: 20}
    await day.proved(*cuts)


async def test_again_keeps_what_is_fresh(day: Day) -> None:
    """A new generation has the marks of the one before: its own titles are asked again, those of others are not."""
    one, other = {"Movies": IDS[:110]}, {"Movies": [*IDS[:90], *FILMS[240:260]]}
    await day.harvest(one)
    await day.harvest(other)
    for cut, asked in ((other, {*FILMS[240:260]}), (one, {*IDS[:110]})):
        report = await day.harvest(cut, again=True)
        assert (report.status, day.asked) == ("closed", asked)
        await day.proved(one, other)


async def test_again_with_a_limit_takes_nothing_away(day: Day) -> None:
    """After each start of a generation that takes several, every record is still there, and none is asked twice."""
    cut, other = {"Movies": IDS, "Series": SHOWS[:20]}, {"Movies": [*IDS[:50], *FILMS[240:260]]}
    await day.harvest(cut)
    await day.harvest(other)
    titles = Counter(titles_in(await day.lake()))
    asked: Counter[str] = Counter()
    statuses = []
    for again in (True, True, False):
        statuses.append((await day.harvest(cut, again=again, limit=1)).status)
        asked.update(day.asked)
        lake = await day.lake()
        assert Counter(titles_in(lake)) == titles
        assert [problem for problem in audit_day(lake, [cut, other]) if "records" in problem] == []
    assert statuses == ["stopped", "stopped", "closed"]
    assert asked == Counter(ids_in(cut))
    await day.proved(cut, other)


SHARED: Cut = {"Movies": FILMS[:100]}
SHARING: Cut = {"Movies": [*FILMS[200:300], *FILMS[:100]]}
"""Its second batch has the ids, and so the name, of the only batch of `SHARED`."""


async def begin_both(day: Day, *, failing: bool = False) -> None:
    """Of one of two runs that share a batch by name all but that batch is done, and of the other all; one may fail."""
    assert (await day.harvest(SHARING, limit=1)).status == "stopped"
    if failing:
        day.tmdb.faults = scripted({("movie", FILMS[50]): [always(refusal(404, code=11))]})
    assert (await day.harvest(SHARED)).status == ("failed" if failing else "closed")
    day.tmdb.faults = healthy


async def test_a_batch_shared_by_name_is_left_to_the_run_that_has_it(day: Day) -> None:
    """All its ids are fresh: nothing is asked, no file is written, and `--again` and `--repair` leave it alone too."""
    await begin_both(day)
    files = await files_of_shared(day)
    assert len(files) == 2
    for again in (False, True):
        report = await day.harvest(SHARING, again=again)
        assert (report.status, report.totals.fresh, day.asked & {*FILMS[:100]}) == ("closed", 100, set())
        assert await files_of_shared(day) == files
        await day.proved(SHARING, SHARED)
        for run, whole_day in ((report.run, None), (None, DAY)):
            verification = await verify(day.settings(), run=run, day=whole_day, repairing=True)
            assert (verification.problems, verification.repaired) == ([], [])
        assert await files_of_shared(day) == files


async def files_of_shared(day: Day) -> dict[str, bytes]:
    """The data files under the name that both runs have a batch of."""
    name = name_of_batch("Movies", FILMS[:100])
    return {key: body for _, key, body in (await day.lake()).data() if name in key}


async def test_a_batch_shared_by_name_with_a_failed_title_loses_nothing(day: Day) -> None:
    """The run that tries the failed title takes nothing of the rest away, and in the end both are closed."""
    await begin_both(day, failing=True)
    titles = titles_in(await day.lake())
    assert (await day.harvest(SHARING)).status == "closed"
    assert titles_in(await day.lake()) == titles | {FILMS[50]}
    assert [
        problem for problem in audit_day(await day.lake(), [SHARING], unfinished=[SHARED]) if "records" in problem
    ] == []
    assert (await day.harvest(SHARED)).status == "closed"
    await day.proved(SHARING, SHARED)
    assert (await day.harvest(SHARING)).status == "nothing_to_do"


OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "another language": {"tmdb_language": "pt-BR"},
    "more parts": {"tmdb_append": "credits"},
    "another format": {"output_format": "array"},
    "another template": {"s3_key_template": "{prefix}/{collection}/{yyyy}-{mm}-{dd}/{batch}.json"},
}
WITH_OTHER_OPTIONS = [
    (name, cut)
    for name in OTHER_OPTIONS
    for cut in ("the same CSV", "a subset", "no id in common")
    if cut == "the same CSV" or name == "another language"
]


@pytest.mark.parametrize("case", WITH_OTHER_OPTIONS, ids=", ".join)
async def test_other_options_on_a_day_are_refused_before_tmdb_is_asked(case: tuple[str, str], day: Day) -> None:
    """One day has one form: exit 2, nothing asked, nothing written; after the commands of the message it goes well."""
    name, which = case
    cut = {"the same CSV": {"Movies": IDS}, **{name: cut for name, (cut, _) in SECOND_CUTS.items()}}[which]
    await day.harvest({"Movies": IDS})
    before = await day.lake()
    with pytest.raises(SettingsError) as caught:
        await day.harvest(cut, **OTHER_OPTIONS[name])
    assert (int(caught.value.exit_code), day.tmdb.asked.total(), await day.lake()) == (2, 0, before)
    assert (await day.harvest({"Movies": IDS})).status == "nothing_to_do"
    await clear(day, str(caught.value))
    assert (await day.harvest(cut, **OTHER_OPTIONS[name])).status == "closed"
    assert day.asked == {*ids_in(cut)}
    assert (await verify(day.settings(**OTHER_OPTIONS[name]), day=DAY)).problems == []


async def clear(day: Day, message: str) -> None:
    """Do as the commands in the message say, as `aws s3 rm --recursive` would."""
    commands = [shlex.split(command) for command in re.findall(r"aws s3 rm .*?(?= && |$)", message)]
    assert len(commands) == 3
    for command in commands:
        assert command[:4] == ["aws", "s3", "rm", "--recursive"]
        name, _, prefix = command[4].removeprefix("s3://").partition("/")
        assert name == day.bucket.name
        begins = prefix
        if command[5:]:
            assert command[5:8] == ["--exclude", "*", "--include"]
            begins += command[8].removesuffix("*")
        for key in (await day.lake()).objects:
            if key.startswith(begins):
                await day.client.delete_object(Bucket=name, Key=key)


async def test_other_options_are_no_harm_where_only_a_manifest_was_written(day: Day) -> None:
    """A run of which nothing has landed binds no day: another language is harvested, and the day proved."""
    await day.harvest({"Movies": IDS[:50]})
    for key in (await day.lake()).objects:
        if "/ids-" not in key and not key.endswith("/manifest.json"):
            await day.client.delete_object(Bucket=day.bucket.name, Key=key)
    assert (await day.harvest({"Movies": IDS[:50]}, tmdb_language="pt-BR")).status == "closed"


async def test_the_next_day_begins_with_everything(day: Day) -> None:
    """Fresh is only what another run of the same day has: a second cut on the next day asks for all of its ids."""
    cut: Cut = {"Movies": IDS[30:90]}
    await day.harvest({"Movies": IDS})
    report = await day.harvest(cut, day="2026-11-30")
    assert (report.status, report.totals.fresh, day.asked) == ("closed", 0, {*ids_in(cut)})
    assert (await verify(day.settings(), day="2026-11-30")).problems == []
    first_day = {
        key: body for key, body in (await day.lake()).objects.items() if "2026-11-30" not in key.replace("/", "-")
    }
    assert audit_day(Lake(first_day, []), [{"Movies": IDS}]) == []


# --- the audit itself


async def test_the_audit_of_a_day_sees_every_harm(day: Day) -> None:
    """A healthy day has no harm, and each harm done to it is seen: a check that cannot fail would show nothing."""
    cuts: list[Cut] = [{"Movies": IDS[:80]}, {"Movies": IDS[20:130], "Series": SHOWS[:20]}]
    for cut in cuts:
        await day.harvest(cut)
    lake = await day.lake()
    assert audit_day(lake, cuts) == []
    keys = {
        name: next(key for key in lake.objects if re.search(pattern, key))
        for name, pattern in {"data": r"Movies/\d+/", "receipt": "/receipts/", "outcomes": "outcomes"}.items()
    }
    fresh = next(key for key in lake.objects if "outcomes" in key and b'"fresh"' in gzip.decompress(lake.objects[key]))

    def changed(key: str, body: bytes | None) -> Lake:
        objects = {name: value for name, value in lake.objects.items() if name != key or body is not None}
        return Lake(objects | ({key: body} if body is not None else {}), lake.uploads)

    def packed(key: str, old: bytes, new: bytes) -> Lake:
        body = gzip.decompress(lake.objects[key])
        assert old in body
        return changed(key, gzip.compress(body.replace(old, new, 1)))

    harms = {
        "a data file gone": changed(keys["data"], None),
        "a data file empty": changed(keys["data"], b""),
        "a data file twice": changed(keys["data"].replace(".json", ".2.json"), lake.objects[keys["data"]]),
        "a data file of another name": changed(keys["data"].replace("/tt", "/aa"), b""),
        "a receipt gone": changed(keys["receipt"], None),
        "the outcomes of one title": packed(keys["outcomes"], b'"missing"', b'"found"'),
        "fresh by a run that is not there": packed(fresh, b'"run":"2026', b'"run":"2025'),
        "an upload": Lake(lake.objects, ["Raw/API/Movies/export.json"]),
    }
    assert [name for name, harmed in harms.items() if not audit_day(harmed, cuts)] == []
    assert audit_day(lake, cuts[:1]) != []
    assert audit_day(lake, [*cuts, {"Movies": FILMS[240:250]}]) != []


SIGKILLS_OF_TWO = len(KILLED_BESIDE) + len(TWOS) + len(OTHER_CSVS) + len(SAME_BATCH)
"""Kills in one `pytest -m kill` here, less those of rounds of five, and of the second of two."""
