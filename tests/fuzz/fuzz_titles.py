"""A fuzz target: for any bytes of a CSV, every row is counted, or the file is refused in a sentence.

    python tests/fuzz/fuzz_titles.py -max_total_time=300 -max_len=65536

Needs atheris, coverage-guided (PyPI, Linux); without it the property is still tested, by tests/test_properties.py.
"""

from __future__ import annotations

import gzip
import re
import sys
import tempfile
from contextlib import nullcontext

try:
    import atheris
except ImportError:  # only `check` works without it
    atheris = None

with atheris.instrument_imports() if atheris else nullcontext():
    from harvester.errors import InputError
    from harvester.model.inputs import InputIds
    from harvester.sources.csv import read_ids

GZIP = b"\x1f\x8b"

SEEDS = (
    "id|t\ntt0000001|Ação\ntt0000001|b\nbad|c\n\n2|d\n".encode(),
    b'\xef\xbb\xbf"title, original","imdb_id"\r\n"a\r\n""b""","tt0000001"\r\n,304141.0\r\n',
    b'tconst\tt\ntt0000001\t"open\ntt0000002\t\\N\n',
    b'Const;x\ntt0000001;"open\n',
    b"id,t\ntt0000001,a\rtt0000002,b\n",
    b"id\n1\n\0\n\xe7\n",
    b"\xff\xfei\0d\0",
    b"<!DOCTYPE html>\n<html>",
    gzip.compress(b"id|t\ntt0000001|a\n", mtime=0),
    gzip.compress(b"id|t\ntt0000001|a\n", mtime=0)[:-5],
)


def check(content: bytes) -> None:
    """Check that the file is read or refused correctly, and that gzip makes no difference."""
    reading = read(content)
    plain = not content.startswith(GZIP)
    lines = content.count(b"\n") + 1 if plain else sys.maxsize
    if isinstance(reading, InputIds):
        is_accounted_for(reading, lines)
    else:
        is_a_sentence(reading, lines)
    if plain:
        assert comparable(read(gzip.compress(content, 1))) == comparable(reading)


def read(content: bytes) -> InputIds | InputError:
    """The ids that the reader finds in a file of these bytes, or its error."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        file.write(content)
        file.flush()
        try:
            return read_ids(file.name, name="the.csv")
        except InputError as error:
            return error


def is_accounted_for(ids: InputIds, lines: int) -> None:
    """Check that rows = ids + duplicates + rejects, ids are valid and unique, rejects have their lines, in order."""
    assert ids.rows == len(ids.ids) + ids.duplicates + ids.rejected
    assert 1 <= len(ids.ids) <= ids.rows < lines
    assert ids.duplicates >= 0
    assert len(set(ids.ids)) == len(ids.ids)
    assert all(re.fullmatch(r"tt[0-9]{7,10}", id_) for id_ in ids.ids)
    assert len(ids.rejects) == min(ids.rejected, 1_000)
    numbers = [reject.line for reject in ids.rejects]
    assert numbers == sorted(set(numbers))
    assert all(2 <= number <= lines for number in numbers)
    assert all(len(reject.text) <= 200 for reject in ids.rejects)


def is_a_sentence(error: InputError, lines: int) -> None:
    """Check that the error is one printable line, and names a line that the file has."""
    assert error.source == "the.csv"
    assert error.problem.isprintable()
    assert len(error.problem) < 1_200
    assert error.line is None or 1 <= error.line <= lines


def comparable(reading: InputIds | InputError) -> tuple[object, ...]:
    """The values of a reading, for comparison with another one."""
    if isinstance(reading, InputIds):
        return reading.ids, reading.rows, reading.rejected, reading.rejects
    return reading.line, reading.problem


if __name__ == "__main__":
    from fuzzing import fuzz

    fuzz(atheris, check, SEEDS)
