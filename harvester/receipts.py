"""Receipts, a run's plan and its books, as data: what the bucket must hold so that nothing else has to remember.

A receipt is written last of a batch and says what became of each id: a batch with a receipt is done. A batch with
failed titles has the same paper in `failed/` instead, and is tried again by the next run. The plan is written first
of a run, the summary when its books are closed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import orjson

from harvester.answers import Failed, Found, Match, Missing
from harvester.batches import Batch, Layout
from harvester.errors import BooksError
from harvester.titles import COLLECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.titles import Collection, Ids

OUTCOMES = frozenset(["found", "missing", "failed"])


@dataclass(frozen=True, slots=True)
class LandedFile:
    """A data file as it landed: its size in bytes, its SHA-256 in hexadecimal, and S3's own mark of the content."""

    key: str
    records: int
    bytes: int
    sha256: str
    etag: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of each id of one batch.

    Attributes:
        batch: The batch's name.
        files: Where its found titles landed; empty if none was found.
        outcomes: Id to `{"outcome": "found" | "missing" | "failed", …}`, in the order of the batch.
        landed_at: UTC, ISO 8601.
        moved: Id to `{"kind", "tmdb_id", "place"}` of titles that TMDB has as the other kind. Their outcome stands in
            a receipt of the other collection, in a batch made of such ids; `place` is where they stood in this one.
    """

    batch: str
    collection: Collection
    run: str
    files: tuple[LandedFile, ...]
    outcomes: dict[str, dict[str, Any]]
    landed_at: str
    moved: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the batch, in its order."""
        ids = list(self.outcomes)
        for id_, told in self.moved.items():
            ids.insert(told["place"], id_)
        return tuple(ids)

    @property
    def failed(self) -> bool:
        """Whether some title has failed: then this paper stands in `failed/` and the batch is not done."""
        return any(told["outcome"] == "failed" for told in self.outcomes.values())

    @property
    def found(self) -> int:
        """Titles found, each of them a record in one of the files."""
        return sum(told["outcome"] == "found" for told in self.outcomes.values())


def write_receipt(
    batch: Batch,
    told: Sequence[Found | Missing | Failed | Match],
    *,
    files: Sequence[LandedFile],
    run: str,
    landed_at: str,
) -> Receipt:
    """The receipt of `batch`, from what was `told` of its ids, in their order."""
    outcomes: dict[str, dict[str, Any]] = {}
    moved: dict[str, dict[str, Any]] = {}
    for place, (id_, what) in enumerate(zip(batch.ids, told, strict=True)):
        match what:
            case Found(kind, tmdb_id):
                outcomes[id_] = {"outcome": "found", "kind": kind, "tmdb_id": tmdb_id}
            case Missing(reason, None):
                outcomes[id_] = {"outcome": "missing", "reason": reason}
            case Missing(reason, show_id):
                outcomes[id_] = {"outcome": "missing", "reason": reason, "show_id": show_id}
            case Failed(reason):
                outcomes[id_] = {"outcome": "failed", "reason": reason}
            case Match(kind, tmdb_id):
                moved[id_] = {"kind": kind, "tmdb_id": tmdb_id, "place": place}
    return Receipt(batch.name, batch.collection, run, tuple(files), outcomes, landed_at, moved)


def encode_receipt(receipt: Receipt) -> bytes:
    """The JSON of a receipt; `moved` stands there only where a title has.

    `seal`, SHA-256 in hexadecimal over all the rest, tells whether somebody has edited the paper.
    """
    whole = {each.name: getattr(receipt, each.name) for each in fields(receipt)}  # asdict would copy every word of it
    if not receipt.moved:
        del whole["moved"]
    return orjson.dumps(whole | {"seal": _seal(whole)})


def _seal(whole: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(whole)).hexdigest()


def decode_receipt(key: str, body: bytes) -> Receipt:
    """The receipt in `body`, as read from `key`, found consistent in itself.

    Raises:
        BooksError: It is not a receipt, or does not say of the ids of its name what became of each.
    """
    try:
        whole = orjson.loads(body)
        broken = whole.pop("seal", None) != _seal(whole)
        files = tuple(LandedFile(**file) for file in whole.pop("files"))
        receipt = Receipt(files=files, **whole)
        name = Batch(receipt.collection, receipt.ids).name
        strange = {told["outcome"] for told in receipt.outcomes.values()} - OUTCOMES
        Books().take(receipt)
        homeless = [i for i, told in receipt.moved.items() if not (told["kind"] in COLLECTIONS and told["tmdb_id"])]
        records, found = sum(file.records for file in files), receipt.found
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise BooksError(f"{key} is not a receipt: {error!r}") from error
    if name != receipt.batch or not key.endswith(f"/{receipt.collection}/{name}.json"):
        raise BooksError(f"{key} is a receipt of other ids: they make {receipt.collection}/{name}")
    if receipt.failed and "/receipts/" in key:
        raise BooksError(f"{key} is a receipt of a batch that has failed titles")
    if strange or records != found:
        raise BooksError(
            f"{key} contradicts itself: {found} titles found, {records} records, outcomes {strange or 'known'}"
        )
    if homeless:
        raise BooksError(f"{key} says that {homeless[0]} has moved, and not where to")
    if broken:
        raise BooksError(f"{key} has been edited: its seal is not that of what it says")
    return receipt


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is about: its input row for row, its settings, and the names of its batches in order.

    `created_at` dates the whole run: receipts older than it are of an earlier harvest of the same ids on the same day
    (`--again`), and do not count.
    """

    run: str
    fingerprint: str
    created_at: str
    input: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    batches: dict[str, list[str]]

    @property
    def says(self) -> tuple[dict[str, list[Any]], list[Any], dict[str, list[str]]]:
        """What two plans of one run agree in, wherever their CSVs were read from and TMDB was reached."""
        counts = {
            name: [told[count] for count in ("rows", "ids", "duplicates", "rejected")]
            for name, told in self.input.items()
        }
        shape = [self.settings["tmdb_language"], list(self.settings["tmdb_append"]), self.settings["output_format"]]
        return counts, shape, self.batches


def encode_plan(plan: Plan) -> bytes:
    """The JSON of a plan."""
    return orjson.dumps(asdict(plan))


def decode_plan(key: str, body: bytes) -> Plan:
    """The plan in `body`, as read from `key`.

    Raises:
        BooksError: It is not a plan.
    """
    try:
        plan = Plan(**orjson.loads(body))
        counts, shape, batches = plan.says
        texts = [plan.run, plan.created_at, plan.settings["s3_key_template"], *shape[1]]
        texts += [name for names in batches.values() for name in names]
        numbers = [number for some in counts.values() for number in some]
        Layout("", plan.settings["s3_key_template"], plan.run).data_key("Movies", "")
        sound = all(isinstance(text, str) for text in texts) and all(isinstance(number, int) for number in numbers)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise BooksError(f"{key} is not a plan: {error!r}") from error
    if not key.endswith(f"/{plan.run}/plan.json"):
        raise BooksError(f"{key} is not a plan of its run but of {plan.run!r}")
    if not sound:
        raise BooksError(f"{key} is not a plan: something in it is of another type")
    return plan


def fingerprint(
    ids: Mapping[Collection, Sequence[str]], *, language: str | None, append: Sequence[str], form: str
) -> str:
    """4 bytes, in hexadecimal, over the ids in their order and over whatever changes records."""
    digest = hashlib.sha256()
    for collection in sorted(ids):
        digest.update("\n".join([collection, *ids[collection], ""]).encode())
    digest.update(f"{language}\n{','.join(sorted(append))}\n{form}".encode())
    return digest.hexdigest()[:8]


@dataclass(slots=True)
class Books:
    """The account of a run: what came in, what became of it, and what landed.

    They balance when `rows = ids + duplicates + rejected` and `ids = found + missing + failed`.
    """

    rows: int = 0
    ids: int = 0
    duplicates: int = 0
    rejected: int = 0
    found: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    files: int = 0
    bytes: int = 0

    def take_input(self, ids: Ids) -> None:
        """Count a CSV."""
        self.rows += ids.rows
        self.ids += len(ids.ids)
        self.duplicates += ids.duplicates
        self.rejected += ids.rejected

    def take(self, receipt: Receipt) -> None:
        """Count a batch."""
        self.batches += 1
        self.files += len(receipt.files)
        self.bytes += sum(file.bytes for file in receipt.files)
        for told in receipt.outcomes.values():
            match told["outcome"]:
                case "found":
                    self.found += 1
                case "missing":
                    self.missing[told["reason"]] += 1
                case _:
                    self.failed[told["reason"]] += 1

    @property
    def accounted(self) -> int:
        """Ids that have an outcome."""
        return self.found + self.missing.total() + self.failed.total()

    @property
    def balance(self) -> bool:
        """Whether every row and every id is accounted for."""
        return self.rows == self.ids + self.duplicates + self.rejected and self.ids == self.accounted

    def as_json(self) -> dict[str, Any]:
        """As the summary and `--json` show them."""
        return {
            "rows": self.rows,
            "duplicates": self.duplicates,
            "rejected": self.rejected,
            "ids": self.ids,
            "found": self.found,
            "missing": self.missing.total(),
            "failed": self.failed.total(),
            "missing_by_reason": dict(sorted(self.missing.items())),
            "failed_by_reason": dict(sorted(self.failed.items())),
            "batches": self.batches,
            "files": self.files,
            "bytes": self.bytes,
        }
