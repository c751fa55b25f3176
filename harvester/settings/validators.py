"""Forms: what the text of each setting must look like.

Each returns its argument, tidied, or raises a `ValueError` that goes after the setting's name, without any secret.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo

from harvester.model.ids import KINDS

APPEND_LIMIT = 20
"""Parts of one `append_to_response`; TMDB answers 400, code 27, to more (docs/append-to-response)."""

KEY = re.compile(r"[0-9a-fA-F]{32}|eyJ[\w-]+\.[\w-]+\.[\w-]+")  # of TMDB's
SECRET_REF = re.compile(r"(?:ssm|secret):[\w/+=.@:!-]+")  # where such a key is kept
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # a name that S3 can have

PATH_LIMIT = 600
"""Bytes in UTF-8 of the prefix, and of a template; S3 takes 1,024 of a key."""

_ARCHIVE = re.compile(
    "t?(bz2?|gz|lz|xz|zst)|7z|arj?|bgz|br|brotli|bzip2|cab|cpio|deflate|ear|gzip|jar|lz4|lzma|lzop?|rar|snappy|sz|tar|taz|"
    "war|z|zipx?|zlib|zstd",
    re.IGNORECASE,
)
"""Extensions of packed files. Hadoop, Spark, Athena, DuckDB and pandas unpack by the name."""

DATE = {"yyyy": "([0-9]{4})", "mm": "([0-9]{2})", "dd": "([0-9]{2})"}
_KEY_TEMPLATE = re.compile(
    r"\{prefix}/[^{}]*\{collection}[^{}]*\{yyyy}[^{}]*\{mm}[^{}]*\{dd}[^{}]*/\{batch}\.([A-Za-z0-9]+)"
)
_CSV_TEMPLATE = re.compile(r"([^{}]|\{(collection|yyyy|mm|dd|name)})*/\{name}")


def api_key(key: SecretStr) -> SecretStr:
    """TMDB's key, or where it is kept."""
    secret = key.get_secret_value().strip()
    if not (KEY.fullmatch(secret) or SECRET_REF.fullmatch(secret)):
        must = "v3 key (32 hexadecimal digits) nor a v4 read token (eyJ….….…), nor says where one is kept"
        raise ValueError(f"is neither a {must} (ssm:/path, secret:name); it has {len(secret)} characters")
    return SecretStr(secret)


def credential(secret: SecretStr) -> SecretStr:
    """A key, secret or token for S3, which go into HTTP headers."""
    text = secret.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("has a character that is not printable ASCII")
    return secret


Credential = Annotated[SecretStr, AfterValidator(credential)]


def base_url(url: str) -> str:
    """A URL of TMDB's API, without a slash at its end."""
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[\w./~-]*)?", url):
        raise ValueError("must look like https://api.themoviedb.org/3")
    if not (url.startswith("https:") or _is_near(urlsplit(url).hostname or "")):
        raise ValueError("must begin with https://, or the key would cross the internet for all to read")
    return url.rstrip("/")


def _is_near(host: str) -> bool:
    """Whether `host` is this machine or one of a private network; no name is resolved, its shape decides."""
    try:
        return ip_address(host).is_private
    except ValueError:
        single = re.fullmatch(r"[a-z][a-z0-9-]*", host)  # 134744072 and 0x08080808 are ways to write 8.8.8.8
        return single is not None or host.endswith((".internal", ".local", ".localhost"))


def prefix(folder: str) -> str:
    """A folder in the bucket, without slashes around it."""
    folder = folder.strip("/")
    if not folder:
        raise ValueError("must name a folder, like Raw/API")
    _check_path(folder)
    if re.search("[{}]", folder):
        raise ValueError("must have no braces: it is a folder, no template")
    return folder


def matching(pattern: str | re.Pattern[str], must: str) -> AfterValidator:
    """A text that matches `pattern`; it `must` be so, in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must {must}")
        return text

    return AfterValidator(check)


Bucket = Annotated[str, matching(BUCKET, "be a bucket's name: 3 to 63 of a-z 0-9 . -")]
Language = Annotated[str, matching(r"[a-z]{2}(-[A-Za-z0-9]{2,4})?", "be like pt-BR")]
Endpoint = Annotated[str, matching(r"https?://[^/?#@\s]+/?", "look like http://localhost:9000")]


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _parts(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > APPEND_LIMIT:
        raise ValueError(f"has {len(names)} parts; TMDB takes {APPEND_LIMIT}")
    for part in names:
        if not re.fullmatch(r"[a-z_]+(/[a-z0-9_]+)?", part):
            raise ValueError(f"has a part {part!r}; parts look like credits or watch/providers")
    return tuple(dict.fromkeys(names))


Parts = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_parts)]
"""Parts of `append_to_response`, given as a list or as a text with commas; each once."""


def key_template(template: str) -> str:
    """The template of a data file's key, also where it is text from outside: it is never formatted.

    Keys made from it lie below the prefix, are visible to readers, and differ wherever collection, date or batch do.
    """
    _check_path(template)
    if (found := _KEY_TEMPLATE.fullmatch(template)) is None:
        raise ValueError(
            "must begin with {prefix}/, then have {collection}, {yyyy}, {mm} and {dd}, each once and in this order, "
            "and end in /{batch} and one extension, such as /{batch}.json; no other braces"
        )
    if _ARCHIVE.fullmatch(found[1]):
        raise ValueError(f"must not end in .{found[1]}: readers would unpack the files; use .json")
    return template


def key_pattern(template: str, **values: str) -> str:
    """A regular expression of the keys that `template` makes of `values`, themselves expressions, and of any date."""
    return re.sub(r"\\{(\w+)\\}", lambda field: (DATE | values)[field[1]], re.escape(template))


def csv_template(template: str, info: ValidationInfo) -> str:
    """The template of an uploaded CSV's key, by which CSVs and harvest stay apart; `s3_prefix` is validated before it.

    No CSV's key lies below the prefix, whatever the day, nor the prefix in the folder that the keys of all days share.
    """
    _check_path(template)
    if "{collection}" not in template or not _CSV_TEMPLATE.fullmatch(template):
        raise ValueError("must have {collection} and end in /{name}, with no field but these, {yyyy}, {mm} and {dd}")
    prefix = str(info.data.get("s3_prefix", ""))  # not there if it is wrong itself
    folders = prefix.split("/")
    for collection in KINDS:
        shared = "".join(template.replace("{collection}", collection).partition("{")[0].rpartition("/")[:2])
        parts = key_pattern(template, collection=collection, name=".+").split("/")
        below = len(folders) < len(parts) and all(map(re.fullmatch, parts, folders))
        if below or (shared and prefix.startswith(shared)):
            rule = "no CSV may lie below the prefix, nor the prefix in the CSVs' folder"
            raise ValueError(f"overlaps with S3_PREFIX {prefix!r}: {rule}. Change one of the two")
    return template


def _check_path(path: str) -> None:
    """Refuse a folder or a template that is long or unprintable, or of which readers would skip a part."""
    if (size := len(path.encode(errors="replace"))) > PATH_LIMIT:
        raise ValueError(f"has {size:,} bytes: shorten it to {PATH_LIMIT}")
    if not path.isprintable() or "\\" in path:
        raise ValueError("must have printable characters only, with / between its parts and no \\")
    for part in path.split("/"):
        if not part or part[0] in "_.":
            raise ValueError(f"has a part {part!r}: no part may be empty, nor begin with _ or . (readers skip those)")
