"""Source: what a user names by a text, and what yields title ids."""

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
"""The text that names the source of each collection; a collection without a source is no key."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What sources need beside their text: the header of the id column, if it was given, and a way to open a bucket."""

    id_column: str | None
    open_bucket: Callable[[str], AbstractAsyncContextManager[Store]]


class Source(Protocol):
    """Where title ids come from."""

    async def read(self, seen: set[TitleId]) -> InputIds:
        """Distinct ids in order of first sight, and an account of every row.

        `seen` are the ids of sources read before, which count as duplicates here; this one's are added.

        Raises:
            InputError: what the text names cannot be read as a list of ids.
            StoreError: S3 refused, or was not reached.
        """


SourceFactory: TypeAlias = Callable[[str, SourceOptions], Source | None]
"""The source that a text names, or None if the text is of another kind of source."""
