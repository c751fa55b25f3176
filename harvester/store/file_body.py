"""File body: a local CSV file to upload, read once for its SHA-256 and again, part by part, to be sent.

It is hashed both times, so that a file that changes in between is never stored under the first hash.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harvester.errors import InputError, readable
from harvester.model.csv_path import STDIN, path_name
from harvester.model.s3_url import is_s3_url
from harvester.runtime.concurrency import in_thread
from harvester.runtime.net import GZIP_MAGIC
from harvester.store.multipart import part_bytes

if TYPE_CHECKING:
    from contextlib import ExitStack

    from harvester.store.multipart import Parts

ADVICE = "give the path of a CSV file"


@dataclass(frozen=True, slots=True)
class CsvFile:
    """An open file, with its size and hash when `open_csv` read it; `zipped`: its content is gzip."""

    source: str
    file: io.BufferedReader
    bytes: int
    sha256: str
    zipped: bool

    async def parts(self) -> Parts:
        """The parts of the file, read again; at the end an `InputError` if it has changed since."""
        digest, length = hashlib.sha256(), part_bytes(self.bytes)
        for number, start in enumerate(range(0, self.bytes, length), 1):
            yield number, await in_thread(partial(self._read, start, min(length, self.bytes - start), digest))
        if digest.hexdigest() != self.sha256 or os.fstat(self.file.fileno()).st_size != self.bytes:
            problem = "has changed while it was read, and is not stored: upload it when it is whole"
            raise InputError(self.source, problem)

    def _read(self, start: int, length: int, digest: hashlib._Hash) -> io.BytesIO:
        blocks, left = [], length
        try:
            while block := os.pread(self.file.fileno(), left, start + length - left):
                blocks.append(block)
                left -= len(block)
        except OSError as error:
            problem = f"cannot be read any more ({error.strerror or error}), and is not stored"
            raise InputError(self.source, problem) from error
        content = b"".join(blocks)  # does not copy a single block
        digest.update(content)
        return io.BytesIO(content)


def open_csv(source: str, opened: ExitStack) -> CsvFile:
    """The file at `source`, read once, and open until `opened` closes; an `InputError` if it is not usable."""
    if source == STDIN:
        raise InputError(source, f"standard input cannot be uploaded, since a file is read twice: {ADVICE}")
    if is_s3_url(source):
        raise InputError(
            readable(source), "is in S3, and a file is uploaded: give its path, or let harvest take it from there"
        )
    name = path_name(source, advice=ADVICE)
    try:
        mode = Path(source).stat().st_mode  # before `open`, which waits for the writer of a pipe
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no file, but a pipe or a device"
            raise InputError(name, f"is {what}: {ADVICE}")
        file = opened.enter_context(Path(source).open("rb"))  # noqa: SIM115  # `opened` closes it
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size, zipped = file.tell(), os.pread(file.fileno(), len(GZIP_MAGIC), 0) == GZIP_MAGIC
    except OSError as error:
        raise InputError(name, f"cannot be read ({error.strerror or error}): {ADVICE}") from error
    if not size:
        raise InputError(name, "is empty: was the download or the export finished?")
    return CsvFile(name, file, size, sha256, zipped)
