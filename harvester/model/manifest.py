"""Manifest, totals and summary: the input of a run, which generation of it counts, and the outcomes of its rows.

The fingerprint in a run's name covers its ids and record options. A generation is one pass over its ids; it has a
random token, which each of its receipts repeats. No two times are ever compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import FailFast, Field

from harvester.errors import CorruptLakeError
from harvester.model.documents import TEXT_LENGTH, BatchName, Count, RunName, Sha256, Text, Token, Word, decode_document
from harvester.model.ids import Collection  # noqa: TC001  # pydantic needs it
from harvester.model.record_options import RecordOptions  # noqa: TC001  # pydantic needs it

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.model.inputs import InputIds
    from harvester.model.layout import Layout
    from harvester.model.receipt import Receipt

_BY_REASON = ("missing", "failed")


@dataclass(frozen=True, slots=True)
class InputCounts:
    """Counts of a CSV: its rows, and the ids, duplicates and rejected rows among them."""

    source: Text
    rows: Count
    ids: Count
    duplicates: Count
    rejected: Count

    @classmethod
    def of(cls, ids: InputIds) -> InputCounts:
        """The counts of a CSV that has been read."""
        return cls(ids.source[:TEXT_LENGTH], ids.rows, len(ids.ids), ids.duplicates, ids.rejected)


@dataclass(slots=True)
class Totals:
    """Counts of the input, of its outcomes, and of what landed."""

    rows: int = 0
    duplicates: int = 0
    rejected: int = 0
    ids: int = 0
    found: int = 0
    missing: Counter[str] = field(default_factory=Counter)  # by reason
    failed: Counter[str] = field(default_factory=Counter)  # by reason
    fresh: int = 0
    other_ids: int = 0  # found titles that TMDB has under another IMDb id
    batches: int = 0
    files: int = 0
    bytes: int = 0

    def add_input(self, counts: InputCounts) -> None:
        """Add the counts of a CSV."""
        self.rows += counts.rows
        self.ids += counts.ids
        self.duplicates += counts.duplicates
        self.rejected += counts.rejected

    def add_receipt(self, receipt: Receipt) -> None:
        """Add the files and outcomes of a batch."""
        self.batches += 1
        self.files += len(receipt.files)
        self.bytes += sum(file.bytes for file in receipt.files)
        for outcome in receipt.outcomes.values():
            self.add_outcome(outcome)

    def add_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Add the outcome of a title."""
        name = outcome["outcome"]
        if name in _BY_REASON:
            getattr(self, name)[outcome["reason"]] += 1
        else:
            setattr(self, name, getattr(self, name) + 1)
        self.other_ids += "other_id" in outcome

    def add(self, other: Totals) -> None:
        """Add the totals of another run."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def with_outcome(self) -> int:
        """Ids that have an outcome."""
        return self.found + self.missing.total() + self.failed.total() + self.fresh

    @property
    def reconciles(self) -> bool:
        """Whether rows = ids + duplicates + rejected, and ids = found + missing + failed + fresh."""
        return self.rows == self.ids + self.duplicates + self.rejected and self.ids == self.with_outcome

    def as_json(self) -> dict[str, Any]:
        """As in the summary and `--json`: missing and failed as sums, and at the end by reason, A to Z."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        by_reason = {f"{name}_by_reason": dict(sorted(values[name].items())) for name in _BY_REASON}
        return values | {name: values[name].total() for name in _BY_REASON} | by_reason

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Totals:
        """The totals of values that `as_json` made; a KeyError or TypeError for other values."""
        by_reason: dict[str, Any] = {name: Counter(values[f"{name}_by_reason"]) for name in _BY_REASON}
        return cls(**{each.name: int(values[each.name]) for each in fields(cls)} | by_reason)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is about, and which generation of it counts; `created_at` is UTC, for people."""

    run: RunName
    generation: Token
    created_at: Text
    input: Annotated[dict[Collection, InputCounts], Field(min_length=1)]
    options: RecordOptions
    batches: dict[Collection, Annotated[list[BatchName], FailFast()]]  # names in order
    fresh: Count  # ids that were marked as fresh when the generation began
    ids_sha256: Sha256  # of the file of its ids
    unknown: dict[str, Any] = field(default_factory=dict)  # keys of other versions

    @property
    def names(self) -> frozenset[str]:
        """The names of all batches."""
        return frozenset(name for names in self.batches.values() for name in names)

    def totals(self) -> Totals:
        """The totals of the input and its fresh ids, before any batch."""
        totals = Totals(fresh=self.fresh)
        for counts in self.input.values():
            totals.add_input(counts)
        return totals


def decode_manifest(layout: Layout, body: bytes | None) -> Manifest:
    """The manifest in `body`, as read from the key of the run of `layout`; a CorruptLakeError if it is another."""
    key = layout.manifest_key
    manifest = decode_document(key, body, Manifest, "a manifest", run=layout.run)
    if manifest.input.keys() != manifest.batches.keys():
        raise CorruptLakeError(f"{key} is not a manifest: its input and its batches are of other collections")
    for counts in manifest.input.values():
        if counts.rows != counts.ids + counts.duplicates + counts.rejected:
            raise CorruptLakeError(f"{key} contradicts itself: its rows are not ids + duplicates + rejected")
    return manifest


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256, in hexadecimal, over what the lake had when the totals were reconciled."""

    files: Sha256  # `listing_digest` of the data files
    receipts: Sha256  # `listing_digest` of the receipts
    outcomes: Sha256  # of the bytes of `outcomes.jsonl.gz`


@dataclass(frozen=True, slots=True)
class Summary:
    """The reconciled totals of a generation, as `Totals.as_json` makes them."""

    run: RunName
    generation: Token
    closed_at: Text
    totals: dict[str, Count | dict[Word, Count]]
    digests: Digests
    unknown: dict[str, Any] = field(default_factory=dict)


def decode_summary(layout: Layout, body: bytes | None) -> Summary:
    """The summary in `body`, as read from that of the run of `layout`; a CorruptLakeError if it is not of that run."""
    key = layout.summary_key
    summary = decode_document(key, body, Summary, "a summary", run=layout.run)
    try:
        totals = Totals.of_json(summary.totals).as_json()
    except (KeyError, TypeError) as error:
        raise CorruptLakeError(f"{key} has no totals: {error!r:.100}") from error
    if summary.totals | totals != summary.totals:
        raise CorruptLakeError(f"{key} contradicts itself in its totals")
    return summary
