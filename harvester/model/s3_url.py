"""S3 URLs: `s3://bucket/key`, taken apart and put together."""

from __future__ import annotations

import re
from dataclasses import dataclass

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # docs, bucket naming rules

_SCHEME = "s3://"


def is_s3_url(text: str) -> bool:
    """Whether `text` begins as an S3 URL does; `S3Url.parse` says whether it is a valid one."""
    return text.startswith(_SCHEME)


@dataclass(frozen=True, slots=True)
class S3Url:
    """An object, a folder of objects, or a whole bucket where `key` is empty; its `str` is the URL."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> S3Url | None:
        """The object or folder that `text` names; None if it has no valid bucket's name, or no key."""
        bucket, _, key = text.removeprefix(_SCHEME).partition("/")
        valid = is_s3_url(text) and BUCKET_NAME.fullmatch(bucket) and key and key.isprintable()
        return cls(bucket, key) if valid else None

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}" + (f"/{self.key}" if self.key else "")

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder, whose key ends in a slash."""
        return self.key.endswith("/")
