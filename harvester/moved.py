"""Moved titles: those that turn out to be of the other kind than their CSV has them.

A movie that TMDB knows only as a series moves: its batch notes what `/find` said of it and lands without it, and it is
harvested among the series, in a batch of titles that have moved like it. Those batches are cut while nothing else is
under way: when everything else is done, or first of all when a run goes on. So they are cut alike however often the
run is killed, and what has landed of one is replaced, not doubled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.answers import Match
from harvester.batches import Batch, cut
from harvester.titles import COLLECTIONS

if TYPE_CHECKING:
    from harvester.receipts import Plan, Receipt


class Moved:
    """The moved titles of one run.

    Attributes:
        matches: What `/find` said of each, by its id.
        planned: Who has moved from each batch of the plan, in its order. Any other batch is one of moved titles.
    """

    def __init__(self, plan: Plan) -> None:
        self.matches: dict[str, Match] = {}
        self.planned: dict[tuple[str, str], tuple[str, ...]] = {
            (collection, name): () for collection, names in plan.batches.items() for name in names
        }
        self._cut: set[str] = set()
        self._again: dict[tuple[str, str], Batch] = {}

    def take(self, receipt: Receipt, *, again: bool = False) -> None:
        """Learn who has moved from a batch; or if it is of moved titles, who is in it, and whether to do it `again`."""
        self.matches |= {id_: Match(told["kind"], told["tmdb_id"]) for id_, told in receipt.moved.items()}
        batch = (receipt.collection, receipt.batch)
        if batch in self.planned:
            self.planned[batch] = tuple(receipt.moved)
            return
        self._cut.update(receipt.ids)
        if again:
            self._again[batch] = Batch(receipt.collection, receipt.ids)
        else:
            self._again.pop(batch, None)

    def meets(self, receipt: Receipt) -> bool:
        """Whether one of the titles of this batch is in another batch of moved titles already."""
        return not self._cut.isdisjoint(receipt.ids)

    def batches(self) -> list[Batch]:
        """The batches to do: those to be done again, then new ones of all titles that are in none yet."""
        waiting = [id_ for ids in self.planned.values() for id_ in ids if id_ not in self._cut]
        new = [
            batch
            for kind, collection in COLLECTIONS.items()
            for batch in cut(collection, (id_ for id_ in waiting if self.matches[id_].kind == kind))
        ]
        return [*self._again.values(), *new]
