"""S3 URLs: `s3://bucket/key`, parsed and formatted."""

from __future__ import annotations

import re
from dataclasses import dataclass

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # docs, bucket naming rules

_SCHEME = "s3://"


def is_s3_url(text: str) -> bool:
    """Whether `text` begins with `s3://`; `S3Url.parse` says whether it is a valid URL."""
    return text.startswith(_SCHEME)


@dataclass(frozen=True, slots=True)
class S3Url:
    """The URL of an object, of a folder of objects, or, with an empty `key`, of a bucket."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> S3Url | None:
        """The object or folder that `text` names; None if its bucket name is invalid or it has no key."""
        bucket, _, key = text.removeprefix(_SCHEME).partition("/")
        valid = is_s3_url(text) and BUCKET_NAME.fullmatch(bucket) and key and key.isprintable()
        return cls(bucket, key) if valid else None

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}" + (f"/{self.key}" if self.key else "")

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder, whose key ends in a slash."""
        return self.key.endswith("/")
