"""Record options: everything except the ids that shapes the records and files of a run."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, FailFast, Field

from harvester.model.batch import BATCH_SIZE
from harvester.model.documents import Count, Text, Word  # noqa: TC001  # pydantic needs them
from harvester.model.key_template import KeyTemplate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.model.ids import Collection


APPEND_LIMIT = 20
"""Parts of one `append_to_response` at most; for more TMDB answers 400, code 27 (docs/append-to-response)."""

OUTPUT_FORMATS = {
    "jsonl": "a record a line: Athena, Glue, DuckDB, Spark",
    "array": "one JSON array on one line",
}
"""The formats of data files by name, with what is in a file; `formats.registry.FORMATS` has an encoder for each."""

if TYPE_CHECKING:
    OutputFormat: TypeAlias = str
else:
    OutputFormat = Literal[tuple(OUTPUT_FORMATS)]

DataTemplate = Annotated[str, AfterValidator(lambda text: KeyTemplate.of_data_files(text).text)]
"""The template of a data file's key."""


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """The options that shape the records and files of a run. The order of the appended parts changes no record."""

    language: Word | None
    append: Annotated[tuple[Text, ...], FailFast(), Field(max_length=APPEND_LIMIT)]
    output_format: OutputFormat
    key_template: DataTemplate
    batch_size: Count = BATCH_SIZE

    def fingerprint(self, ids: Mapping[Collection, Sequence[str]]) -> str:
        """The first 4 bytes, in hexadecimal, of the SHA-256 over the ids in their order and these options."""
        digest = hashlib.sha256()
        for collection in sorted(ids):
            digest.update("\n".join([collection, *ids[collection], ""]).encode())
        digest.update("\n".join(f"{name} {value}" for name, value in asdict(self).items()).encode())
        return digest.hexdigest()[:8]
