"""A CSV file on this machine: looked at before anything is sent, and read again, a part at a time, to be sent.

It is hashed both times, so that a file that somebody is still writing is never taken for what it was.
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

from harvester.errors import InputError
from harvester.fan_out import in_thread
from harvester.multipart import part_bytes

if TYPE_CHECKING:
    from harvester.multipart import Parts

GIVE = "give the path of a CSV file"


@dataclass(frozen=True, slots=True)
class CsvFile:
    """An open file that has been read once; made by `read_once`.

    Attributes:
        source: Its path, as given.
        bytes: How long it was.
        sha256: Of its bytes, in hexadecimal digits.
        zipped: Whether it is gzip, whatever it is called.
    """

    source: str
    file: io.BufferedReader
    bytes: int
    sha256: str
    zipped: bool

    async def parts(self) -> Parts:
        """The file, read again part by part.

        Raises:
            InputError: At the end, that it is not what it was; or that it cannot be read any more.
        """
        digest, length = hashlib.sha256(), part_bytes(self.bytes)
        for start in range(0, self.bytes, length):
            yield await in_thread(partial(self._read, start, min(length, self.bytes - start), digest))
        if digest.hexdigest() != self.sha256 or os.fstat(self.file.fileno()).st_size != self.bytes:
            raise InputError(
                self.source, "has changed while it was read, and is not stored: upload it when it is whole"
            )

    def _read(self, start: int, length: int, digest: hashlib._Hash) -> io.BytesIO:
        blocks, left = [], length
        try:
            while block := os.pread(self.file.fileno(), left, start + length - left):
                blocks.append(block)
                left -= len(block)
        except OSError as error:
            problem = f"cannot be read any more ({error.strerror or error}), and is not stored"
            raise InputError(self.source, problem) from error
        content = b"".join(blocks)  # of one block, that block: no copy
        digest.update(content)
        return io.BytesIO(content)


def open_csv(source: str) -> io.BufferedReader:
    """The file at `source`, opened, if it can be uploaded.

    Raises:
        InputError: It is in S3, is no file, or cannot be read.
    """
    name = _text(source)
    if source == "-":
        raise InputError(source, f"standard input cannot be uploaded, since a file is read twice: {GIVE}")
    if source.startswith("s3://"):
        raise InputError(name, "is in S3, and a file is uploaded: give its path, or let harvest take it from there")
    if not source or "\0" in source:
        raise InputError(name or "--movies or --series", f"is no path: {GIVE}")
    try:
        mode = Path(source).stat().st_mode  # before it is opened: a pipe would have us wait for its writer
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no file, but a pipe or a device"
            raise InputError(name, f"is {what}: {GIVE}")
        return Path(source).open("rb")
    except OSError as error:
        raise InputError(name, f"cannot be read ({error.strerror or error}): {GIVE}") from error


def read_once(source: str, file: io.BufferedReader) -> CsvFile:
    """What is in the `file` just opened at `source`.

    Raises:
        InputError: Nothing; or it cannot be read.
    """
    name = _text(source)
    try:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        zipped = os.pread(file.fileno(), 2, 0) == b"\x1f\x8b"
    except OSError as error:
        raise InputError(name, f"cannot be read ({error.strerror or error}): {GIVE}") from error
    if not size:
        raise InputError(name, "is empty: was the download or the export finished?")
    return CsvFile(name, file, size, sha256, zipped)


def _text(source: str) -> str:
    """The path as text, which it need not be."""
    return source.encode(errors="backslashreplace").decode()
