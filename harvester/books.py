"""Books: the account of a run, from the rows that came in to the files that landed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.manifest import Account
    from harvester.receipts import Receipt

_BY_REASON = ("missing", "failed")


@dataclass(slots=True)
class Books:
    """What came in, what became of it, and what landed."""

    rows: int = 0
    duplicates: int = 0
    rejected: int = 0
    ids: int = 0
    found: int = 0
    missing: Counter[str] = field(default_factory=Counter)  # by reason
    failed: Counter[str] = field(default_factory=Counter)  # by reason
    fresh: int = 0
    other_ids: int = 0  # of the found ones, those that TMDB has under another IMDb id
    batches: int = 0
    files: int = 0
    bytes: int = 0

    def take_input(self, account: Account) -> None:
        """Count a CSV."""
        self.rows += account.rows
        self.ids += account.ids
        self.duplicates += account.duplicates
        self.rejected += account.rejected

    def take(self, receipt: Receipt) -> None:
        """Count a batch."""
        self.batches += 1
        self.files += len(receipt.files)
        self.bytes += sum(file.bytes for file in receipt.files)
        for outcome in receipt.outcomes.values():
            self.take_outcome(outcome)

    def take_outcome(self, outcome: Mapping[str, Any]) -> None:
        """Count a title."""
        name = outcome["outcome"]
        if name in _BY_REASON:
            getattr(self, name)[outcome["reason"]] += 1
        else:
            setattr(self, name, getattr(self, name) + 1)
        self.other_ids += "other_id" in outcome

    def add(self, other: Books) -> None:
        """Count another run."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def accounted(self) -> int:
        """Ids that have an outcome."""
        return self.found + self.missing.total() + self.failed.total() + self.fresh

    @property
    def balance(self) -> bool:
        """Whether rows = ids + duplicates + rejected, and ids = found + missing + failed + fresh."""
        return self.rows == self.ids + self.duplicates + self.rejected and self.ids == self.accounted

    def as_json(self) -> dict[str, Any]:
        """As the summary and `--json` show them: missing and failed in total, and at the end by reason, A to Z."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        by_reason = {f"{name}_by_reason": dict(sorted(values[name].items())) for name in _BY_REASON}
        if not self.other_ids:  # as in the summaries that were written before there was this number
            del values["other_ids"]
        return values | {name: values[name].total() for name in _BY_REASON} | by_reason

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Books:
        """The books that `as_json` has made these values of; a KeyError or TypeError if it has not."""
        by_reason: dict[str, Any] = {name: Counter(values[f"{name}_by_reason"]) for name in _BY_REASON}
        whole = {"other_ids": 0, **values}
        return cls(**{each.name: int(whole[each.name]) for each in fields(cls)} | by_reason)
