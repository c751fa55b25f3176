"""Key templates: texts with fields that become keys; checked, filled, and parsed back.

There are two kinds: of data files (`_DATA_TEMPLATE`), with all their fields, and of uploaded CSVs (`_CSV_TEMPLATE`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from harvester.model.ids import KINDS

PATH_LIMIT = 600
"""Bytes in UTF-8 of a prefix, and of a template; S3 allows 1,024 for a key."""

DATE_FIELDS = ("yyyy", "mm", "dd")

_PATTERNS = {
    "prefix": ".+",
    "collection": "|".join(KINDS),
    "yyyy": "[0-9]{4}",
    "mm": "[0-9]{2}",
    "dd": "[0-9]{2}",
    "batch": "[^/]+",
    "name": ".+",
}
"""Field to the regular expression of its values."""

_FIELD = re.compile(r"\{(\w+)}")
_DATA_TEMPLATE = re.compile(
    r"\{prefix}/[^{}]*\{collection}[^{}]*\{yyyy}[^{}]*\{mm}[^{}]*\{dd}[^{}]*/\{batch}\.([A-Za-z0-9]+)"
)
_CSV_TEMPLATE = re.compile(r"([^{}]|\{(collection|yyyy|mm|dd|name)})*/\{name}")

_ARCHIVE = re.compile(
    "t?(bz2?|gz|lz|xz|zst)|7z|arj?|bgz|br|brotli|bzip2|cab|cpio|deflate|ear|gzip|jar|lz4|lzma|lzop?|rar|snappy|sz|tar|taz|"
    "war|z|zipx?|zlib|zstd",
    re.IGNORECASE,
)
"""Extensions of compressed files. Hadoop, Spark, Athena, DuckDB and pandas decompress by the name."""


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A template that `of_data_files` or `of_csvs` has accepted."""

    text: str

    @classmethod
    @lru_cache(maxsize=16)  # each layout of a run asks for its template, for every key
    def of_data_files(cls, text: str) -> KeyTemplate:
        """The template of a data file's key; a ValueError says what is wrong. `text` may come from outside.

        Keys made from it are below the prefix, visible to readers, and different for each collection, date and batch.
        """
        check_path(text)
        if (found := _DATA_TEMPLATE.fullmatch(text)) is None:
            raise ValueError(
                "must begin with {prefix}/, then have {collection}, {yyyy}, {mm} and {dd}, each once and in this "
                "order, and end in /{batch} and one extension, such as /{batch}.json; no other braces"
            )
        if _ARCHIVE.fullmatch(found[1]):
            raise ValueError(f"must not end in .{found[1]}: readers would unpack the files; use .json")
        return cls(text)

    @classmethod
    def of_csvs(cls, text: str, *, prefix: str) -> KeyTemplate:
        """The template of an uploaded CSV's key; a ValueError says what is wrong.

        On no day is a CSV's key below the harvest's `prefix`, nor the prefix in the folder that the keys of all days
        share.
        """
        check_path(text)
        if "{collection}" not in text or not _CSV_TEMPLATE.fullmatch(text):
            raise ValueError(
                "must have {collection} and end in /{name}, with no field but these, {yyyy}, {mm} and {dd}"
            )
        template, folders = cls(text), prefix.split("/")
        for collection in KINDS:
            shared = "".join(template.start(collection=collection).rpartition("/")[:2])
            parts = [_pattern(part, collection=collection) for part in text.split("/")]
            below = len(folders) < len(parts) and all(map(re.Pattern.fullmatch, parts, folders))
            if below or (shared and prefix.startswith(shared)):
                rule = "no CSV may lie below the prefix, nor the prefix in the CSVs' folder"
                raise ValueError(f"overlaps with S3_PREFIX {prefix!r}: {rule}. Change one of the two")
        return template

    def fill(self, **values: str) -> str:
        """The key with these values."""
        return _FIELD.sub(lambda field: values[field[1]], self.text)

    def start(self, **values: str) -> str:
        """The common start of all keys with these values: the template filled up to the first field without a value."""
        missing = next((field for field in _FIELD.finditer(self.text) if field[1] not in values), None)
        return KeyTemplate(self.text[: missing.start()] if missing else self.text).fill(**values)

    def parse(self, key: str, **known: str) -> dict[str, str] | None:
        """The values that, with the `known` ones, fill the template to this `key`; None if there are none."""
        if (found := _pattern(self.text, **known).fullmatch(key)) is None:
            return None
        values = found.groupdict()
        return values if self.fill(**known, **values) == key else None  # a template may name the year twice


@lru_cache(maxsize=256)
def _pattern(template: str, **known: str) -> re.Pattern[str]:
    """The regular expression of a template's keys, with a group for the first place of each field not `known`."""
    pattern, end, seen = "", 0, set[str]()
    for field in _FIELD.finditer(template):
        name = field[1]
        value = re.escape(known[name]) if name in known else _PATTERNS[name]
        group = "?:" if name in known or name in seen else f"?P<{name}>"
        pattern += f"{re.escape(template[end : field.start()])}({group}{value})"
        seen.add(name)
        end = field.end()
    return re.compile(pattern + re.escape(template[end:]))


def date_values(day: str) -> dict[str, str]:
    """The values of the date fields for a day such as 2026-11-22."""
    return dict(zip(DATE_FIELDS, day.split("-"), strict=True))


def check_path(path: str) -> None:
    """Raise a ValueError if a folder or template is too long or unprintable, or if readers would skip a part of it."""
    if (size := len(path.encode(errors="replace"))) > PATH_LIMIT:
        raise ValueError(f"has {size:,} bytes: shorten it to {PATH_LIMIT}")
    if not path.isprintable() or "\\" in path:
        raise ValueError("must have printable characters only, with / between its parts and no \\")
    for part in path.split("/"):
        if not part or part[0] in "_.":
            raise ValueError(f"has a part {part!r}: no part may be empty, nor begin with _ or . (readers skip those)")
