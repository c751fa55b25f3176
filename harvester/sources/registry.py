"""Sources: which one a text names, and the ids of all sources of a run.

A new source is a file in this package and a line in `SOURCES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.sources.csv import LocalCsv
from harvester.sources.s3_csv import S3Csv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.model.ids import Collection, TitleId
    from harvester.model.inputs import InputIds
    from harvester.sources.source import Source, SourceFactory, SourceOptions, SourceTexts

SOURCES: Sequence[SourceFactory] = (
    S3Csv.of,
    LocalCsv.of,  # last: it accepts any text as a path
)


def source_of(text: str, options: SourceOptions, sources: Sequence[SourceFactory] = SOURCES) -> Source:
    """The first of the `sources` that accepts `text`; an InputError if `text` is invalid for it."""
    return next(source for factory in sources if (source := factory(text, options)) is not None)


async def read_inputs(
    texts: SourceTexts, options: SourceOptions, sources: Sequence[SourceFactory] = SOURCES
) -> dict[Collection, InputIds]:
    """The ids of each collection, in the order of `texts`; an id of two collections is a duplicate in the later one.

    Raises:
        InputError: a source cannot be read; the message names it.
        StoreError: S3 refused, or was not reached.
    """
    seen: set[TitleId] = set()
    return {collection: await source_of(text, options, sources).read(seen) for collection, text in texts.items()}
