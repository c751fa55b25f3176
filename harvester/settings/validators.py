"""Validators: what the text of each setting must look like.

Each returns its argument, normalized, or raises a `ValueError` whose text follows the setting's name and has no secret.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo

from harvester.model.key_template import KeyTemplate, check_path
from harvester.model.record_options import APPEND_LIMIT
from harvester.model.s3_url import BUCKET_NAME

KEY = re.compile(r"[0-9a-fA-F]{32}|eyJ[\w-]+\.[\w-]+\.[\w-]+")  # TMDB's
SECRET_REF = re.compile(r"(?:ssm|secret):[\w/+=.@:!-]+")  # a reference to a key kept in AWS


def api_key(key: SecretStr) -> SecretStr:
    """TMDB's key, or a reference to it."""
    secret = key.get_secret_value().strip()
    if not (KEY.fullmatch(secret) or SECRET_REF.fullmatch(secret)):
        kinds = "v3 key (32 hexadecimal digits) nor a v4 read token (eyJ….….…), nor says where one is kept"
        raise ValueError(f"is neither a {kinds} (ssm:/path, secret:name); it has {len(secret)} characters")
    return SecretStr(secret)


def credential(secret: SecretStr) -> SecretStr:
    """A key, secret or token for S3, which is sent in an HTTP header."""
    text = secret.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("has a character that is not printable ASCII")
    return secret


Credential = Annotated[SecretStr, AfterValidator(credential)]


def base_url(url: str) -> str:
    """A URL of TMDB's API, without a slash at the end."""
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[\w./~-]*)?", url):
        raise ValueError("must look like https://api.themoviedb.org/3")
    if not (url.startswith("https:") or _is_private(urlsplit(url).hostname or "")):
        raise ValueError("must begin with https://, or the key would be sent unencrypted")
    return url.rstrip("/")


def _is_private(host: str) -> bool:
    """Whether `host` is this machine or one of a private network, by its form; no name is resolved."""
    try:
        return ip_address(host).is_private
    except ValueError:
        single_label = re.fullmatch(r"[a-z][a-z0-9-]*", host)  # 134744072 and 0x08080808 are ways to write 8.8.8.8
        return single_label is not None or host.endswith((".internal", ".local", ".localhost"))


def prefix(folder: str) -> str:
    """A folder in the bucket, without slashes around it."""
    folder = folder.strip("/")
    if not folder:
        raise ValueError("must name a folder, like Raw/API")
    check_path(folder)
    if re.search("[{}]", folder):
        raise ValueError("must have no braces: it is a folder, no template")
    return folder


def matching(pattern: str | re.Pattern[str], must: str) -> AfterValidator:
    """A validator of texts that match `pattern`; `must` says it in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must {must}")
        return text

    return AfterValidator(check)


Bucket = Annotated[str, matching(BUCKET_NAME, "be a bucket's name: 3 to 63 of a-z 0-9 . -")]
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
"""Parts of `append_to_response`, from a list or a text with commas; duplicates removed."""


def csv_template(template: str, info: ValidationInfo) -> str:
    """The template of an uploaded CSV's key; it may not overlap with `s3_prefix`, which is validated before it."""
    return KeyTemplate.of_csvs(template, prefix=str(info.data.get("s3_prefix", ""))).text  # absent if it is invalid
