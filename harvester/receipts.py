"""Receipts: what became of each id of a batch, and which files landed; written last, so that a batch with one is done.

A receipt with failed titles stands in the same place, with their reasons; the next run tries its batch again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import FailFast, Field
from typing_extensions import TypedDict

from harvester.answers import Failed, Found, Fresh, Missing
from harvester.batches import BATCH_SIZE, Batch
from harvester.documents import (
    BatchName,
    Count,
    RunName,
    Sha256,
    Text,
    TitleId,
    Token,
    Word,
    decode_document,
    encode_document,
)
from harvester.errors import BooksError
from harvester.layout import FILES_LIMIT
from harvester.titles import Collection, Kind  # noqa: TC001  # pydantic needs them

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.answers import Outcome
    from harvester.layout import Layout

RECEIPT_BYTES = 2**20
"""Bytes of a receipt at most; one of 100 ids and 2 files has 8 KB."""


class _Found(TypedDict):
    outcome: Literal["found"]
    kind: Kind
    tmdb_id: Count


class _Missing(TypedDict):
    outcome: Literal["missing"]
    reason: Word
    show_id: NotRequired[Count]


class _Failed(TypedDict):
    outcome: Literal["failed"]
    reason: Word


class _Kept(TypedDict):
    outcome: Literal["failed"]
    reason: Word
    kept: Literal[True]
    kind: Kind
    tmdb_id: Count


class _Fresh(TypedDict):
    outcome: Literal["fresh"]
    run: RunName


@dataclass(frozen=True, slots=True)
class LandedFile:
    """A data file as it landed: its size in bytes, its SHA-256 in hexadecimal, and S3's own mark of the content."""

    key: Text
    records: Annotated[int, Field(ge=0, le=BATCH_SIZE)]
    bytes: Count
    sha256: Sha256
    etag: Text


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of each id of one batch.

    Attributes:
        batch: The batch's name.
        generation: The generation of the run that it was written in.
        attempt: Which attempt of a fan-out tried the failed titles last; None outside of one.
        files: Where its records stand, those of its own collection first; empty files have no record any more.
        outcomes: Id to `{"outcome": "found" | "missing" | "failed" | "fresh", …}`, in the order of the batch.
        landed_at: UTC, ISO 8601, for people: nothing is decided by it.
    """

    batch: BatchName
    collection: Collection
    run: RunName
    generation: Token
    attempt: Token | None
    files: Annotated[tuple[LandedFile, ...], FailFast(), Field(max_length=2 * FILES_LIMIT)]
    outcomes: Annotated[
        dict[TitleId, _Found | _Missing | _Kept | _Failed | _Fresh], Field(min_length=1, max_length=BATCH_SIZE)
    ]
    landed_at: Text

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the batch, in its order."""
        return tuple(self.outcomes)

    @property
    def failed(self) -> bool:
        """Whether some title has failed: then the batch is not done."""
        return any(outcome["outcome"] == "failed" for outcome in self.outcomes.values())

    @property
    def found(self) -> int:
        """Titles found."""
        return sum(outcome["outcome"] == "found" for outcome in self.outcomes.values())

    @property
    def recorded(self) -> dict[str, Kind]:
        """The ids that have a record in one of the files, with its kind: found ones, and failed ones that were kept."""
        return {id_: outcome["kind"] for id_, outcome in self.outcomes.items() if has_record(outcome)}  # type: ignore[typeddict-item]


def has_record(outcome: Mapping[str, Any]) -> bool:
    """Whether a title with this outcome has a record in the lake."""
    return outcome["outcome"] == "found" or outcome.get("kept") is True


def stands(outcome: Mapping[str, Any]) -> bool:
    """Whether a title with this outcome need not be asked for by another run of the day.

    A failed one need not if its earlier record was kept: asked for by another run, it would stand there twice.
    """
    return outcome["outcome"] == "missing" or has_record(outcome)


def outcome_json(outcome: Outcome, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An outcome as the receipt has it; `kept` is kind and number of a failed title's earlier record."""
    match outcome:
        case Found(kind, tmdb_id):
            return {"outcome": "found", "kind": kind, "tmdb_id": tmdb_id}
        case Missing(reason, None):
            return {"outcome": "missing", "reason": reason}
        case Missing(reason, show_id):
            return {"outcome": "missing", "reason": reason, "show_id": show_id}
        case Failed(reason):
            return {"outcome": "failed", "reason": reason} | ({"kept": True, **kept} if kept else {})
        case Fresh(run):
            return {"outcome": "fresh", "run": run}


def encode_receipt(receipt: Receipt) -> bytes:
    """The JSON of a receipt."""
    return encode_document(receipt)


def decode_receipt(layout: Layout, key: str, body: bytes | None) -> Receipt:
    """The receipt in `body`, as read from `key` of the run of `layout`, found consistent in itself.

    Raises:
        BooksError: It is not a receipt of that run and key, or names a file that is not of its batch.
        NewerFormatError: A newer harvester has written it.
    """
    receipt = decode_document(key, body, Receipt, "a receipt")
    name = Batch(receipt.collection, receipt.ids).name
    if name != receipt.batch or key != layout.receipt_key(receipt.collection, name):
        raise BooksError(f"{key} is a receipt of other ids: they make {receipt.collection}/{name}")
    if receipt.run != layout.run:
        raise BooksError(f"{key} is a receipt of another run, {receipt.run}")
    parsed = [layout.parse(file.key) for file in receipt.files]
    twice = len({file.key for file in receipt.files}) < len(parsed)
    if twice or any(file is None or file.batch != name for file in parsed):
        raise BooksError(f"{key} names a file that is not of its batch, or one twice")
    titles, records = len(receipt.recorded), sum(file.records for file in receipt.files)
    if titles != records:
        raise BooksError(f"{key} contradicts itself: {titles} titles with a record, {records} records")
    return receipt


def receipt_of(
    batch: Batch,
    outcomes: Sequence[dict[str, Any]],
    *,
    files: Sequence[LandedFile],
    run: str,
    generation: str,
    attempt: str | None,
    landed_at: str,
) -> Receipt:
    """The receipt of `batch`, from the `outcomes` of its ids, in their order."""
    by_id: dict[str, Any] = dict(zip(batch.ids, outcomes, strict=True))
    return Receipt(batch.name, batch.collection, run, generation, attempt, tuple(files), by_id, landed_at)
