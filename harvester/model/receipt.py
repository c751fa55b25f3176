"""Receipts: the outcome of each id of a batch, and the files that landed. It is written last: the commit of a batch.

A batch with failed titles has its receipt under the same key, with their reasons; the next run tries it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required

from pydantic import AfterValidator, FailFast, Field
from typing_extensions import TypedDict

from harvester.errors import CorruptLakeError
from harvester.model.batch import BATCH_SIZE, Batch
from harvester.model.documents import BatchName, Count, RunName, Sha256, Text, Token, Word, decode_document
from harvester.model.ids import Collection, Kind, TitleId  # noqa: TC001  # pydantic needs them
from harvester.model.layout import FILES_LIMIT
from harvester.model.outcome import Failed, Found, Fresh, Missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.model.layout import Layout
    from harvester.model.outcome import Outcome

RECEIPT_BYTES = 2**20
"""Bytes of a receipt at most; one of 100 ids and 2 files has 8 KB."""

_ORIGIN = {"kind", "tmdb_id"}
_NEEDED = {"found": _ORIGIN, "missing": {"reason"}, "failed": {"reason"}, "fresh": {"run"}}


class OutcomeJson(TypedDict, total=False):
    """The outcome of a title. A failed title whose earlier record was kept has also `kept`, and that record's origin.

    `other_id` is the IMDb id that TMDB has for a found title, if it is not the one asked for.
    """

    outcome: Required[Literal["found", "missing", "failed", "fresh"]]
    kind: Kind
    tmdb_id: Count
    other_id: Word
    reason: Word
    show_id: Count
    run: RunName
    kept: Literal[True]


def _complete(outcome: OutcomeJson) -> OutcomeJson:
    needed = _NEEDED[outcome["outcome"]] | (_ORIGIN if "kept" in outcome else set())
    if not needed <= outcome.keys():
        raise ValueError(f"{outcome['outcome']} needs {', '.join(sorted(needed))}")
    return outcome


@dataclass(frozen=True, slots=True)
class LandedFile:
    """A data file as it landed: its size in bytes, its SHA-256 in hexadecimal, and its ETag from S3."""

    key: Text
    records: Annotated[int, Field(ge=0, le=BATCH_SIZE)]
    bytes: Count
    sha256: Sha256
    etag: Text


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of each id of one batch, in its order, and its files; `landed_at` is UTC, for people."""

    batch: BatchName
    collection: Collection
    run: RunName
    generation: Token
    attempt: Token | None  # the fan-out that last tried the failed titles; None without one
    files: Annotated[tuple[LandedFile, ...], FailFast(), Field(max_length=2 * FILES_LIMIT)]  # some may be empty
    outcomes: Annotated[
        dict[TitleId, Annotated[OutcomeJson, AfterValidator(_complete)]], Field(min_length=1, max_length=BATCH_SIZE)
    ]
    landed_at: Text

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the batch, in its order."""
        return tuple(self.outcomes)

    @property
    def failed(self) -> bool:
        """Whether any title has failed: then the batch is not done."""
        return any(outcome["outcome"] == "failed" for outcome in self.outcomes.values())

    @property
    def recorded(self) -> dict[str, Kind]:
        """Id to kind of each record in the files: of found titles, and of failed ones whose record was kept."""
        return {id_: outcome["kind"] for id_, outcome in self.outcomes.items() if has_record(outcome)}


def has_record(outcome: Mapping[str, Any]) -> bool:
    """Whether a title with this outcome has a record in the lake."""
    return outcome["outcome"] == "found" or (outcome["outcome"] == "failed" and outcome.get("kept") is True)


def is_settled(outcome: Mapping[str, Any]) -> bool:
    """Whether other runs of the day need not ask for a title with this outcome.

    That includes a failed title whose earlier record was kept: another run would land it a second time.
    """
    return outcome["outcome"] == "missing" or has_record(outcome)


def outcome_json(id_: str, outcome: Outcome, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The outcome of `id_` as the receipt has it; `kept` is kind and TMDB id of a failed title's earlier record."""
    match outcome:
        case Found(kind, tmdb_id):
            other_id = outcome.other_id(id_)
            more = {} if other_id is None else {"other_id": other_id[:100]}
            return {"outcome": "found", "kind": kind, "tmdb_id": tmdb_id} | more
        case Missing(reason, show_id):
            return {"outcome": "missing", "reason": reason} | ({} if show_id is None else {"show_id": show_id})
        case Failed(reason):
            return {"outcome": "failed", "reason": reason} | ({"kept": True, **kept} if kept else {})
        case Fresh(run):
            return {"outcome": "fresh", "run": run}


def decode_receipt(layout: Layout, key: str, body: bytes | None) -> Receipt:
    """The receipt in `body`, as read from `key` of the run of `layout`.

    A CorruptLakeError if it is not of that run and key, names a file of another batch, or is inconsistent.
    """
    receipt = decode_document(key, body, Receipt, "a receipt", run=layout.run)
    name = Batch(receipt.collection, receipt.ids).name
    if name != receipt.batch or key != layout.receipt_key(receipt.collection, name):
        raise CorruptLakeError(f"{key} is a receipt of other ids: they make {receipt.collection}/{name}")
    parsed = [layout.parse(file.key) for file in receipt.files]
    twice = len({file.key for file in receipt.files}) < len(parsed)
    if twice or any(file is None or file.batch != name for file in parsed):
        raise CorruptLakeError(f"{key} names a file that is not of its batch, or one twice")
    titles, records = len(receipt.recorded), sum(file.records for file in receipt.files)
    if titles != records:
        raise CorruptLakeError(f"{key} contradicts itself: {titles} titles with a record, {records} records")
    return receipt
