"""Source: the protocol of what yields title ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from harvester.model.ids import Collection, TitleId

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from harvester.model.inputs import InputIds
    from harvester.store.store import Store

SourceTexts: TypeAlias = Mapping[Collection, str]
"""The text that names the source, by collection; a collection without a source is absent."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What sources need besides their text: the header of the id column, if given, and a way to open a bucket."""

    id_column: str | None
    open_bucket: Callable[[str], AbstractAsyncContextManager[Store]]


class Source(Protocol):
    """Where title ids come from."""

    async def read(self, seen: set[TitleId]) -> InputIds:
        """Distinct ids in order of first occurrence, and counts of all rows.

        `seen` are the ids of sources read before, which count as duplicates here; the new ids are added.

        Raises:
            InputError: the source cannot be read as a list of ids.
            StoreError: S3 refused, or was not reached.
        """


SourceFactory: TypeAlias = Callable[[str, SourceOptions], Source | None]
"""Returns the source that a text names, or None if the text is for another kind of source."""
