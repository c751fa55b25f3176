"""Books: the account of a run, from the rows that came in to the files that landed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.manifest import Account
    from harvester.receipts import Receipt


@dataclass(slots=True)
class Books:
    """What came in, what became of it, and what landed.

    They balance when `rows = ids + duplicates + rejected` and `ids = found + missing + failed + fresh`.
    """

    rows: int = 0
    ids: int = 0
    duplicates: int = 0
    rejected: int = 0
    found: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    fresh: int = 0
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
        match outcome["outcome"]:
            case "found":
                self.found += 1
            case "missing":
                self.missing[outcome["reason"]] += 1
            case "fresh":
                self.fresh += 1
            case _:
                self.failed[outcome["reason"]] += 1

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
            "fresh": self.fresh,
            "missing_by_reason": dict(sorted(self.missing.items())),
            "failed_by_reason": dict(sorted(self.failed.items())),
            "batches": self.batches,
            "files": self.files,
            "bytes": self.bytes,
        }

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Books:
        """The books that `as_json` has made these values of."""
        missing, failed = Counter(values["missing_by_reason"]), Counter(values["failed_by_reason"])
        numbers = ("rows", "ids", "duplicates", "rejected", "found", "fresh", "batches", "files", "bytes")
        return cls(missing=missing, failed=failed, **{name: int(values[name]) for name in numbers})
