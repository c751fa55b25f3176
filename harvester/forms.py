"""Forms: what the text of each setting must look like.

Each function hands back what it was given, tidied, or says in a `ValueError` what is wrong with it; pydantic puts the
setting's name before that. A secret is never in what they say.
"""

from __future__ import annotations

import re
import string
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

PARTS_LIMIT = 20
"""Parts of one `append_to_response`; TMDB answers 400, code 27, to more (docs/append-to-response)."""

KEY = re.compile(r"[0-9a-fA-F]{32}|eyJ[\w-]+\.[\w-]+\.[\w-]+")
_KEPT = re.compile(r"(?:ssm|secret):[\w/+=.@:!-]+")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
LANGUAGE = re.compile(r"[a-z]{2}(-[A-Za-z0-9]{2,4})?")
_PART = re.compile(r"[a-z_]+(/[a-z0-9_]+)?")
_PLACES = frozenset(["prefix", "collection", "yyyy", "mm", "dd", "batch"])
_CSV_PLACES = frozenset(["collection", "yyyy", "mm", "dd", "name"])


def is_kept(key: str) -> bool:
    """Whether `key` is not TMDB's key itself but says where it is kept: `ssm:/path` or `secret:name`."""
    return bool(_KEPT.fullmatch(key))


def is_bucket(name: str) -> bool:
    """Whether S3 can have a bucket of this name."""
    return bool(BUCKET.fullmatch(name))


def api_key(key: SecretStr) -> SecretStr:
    """TMDB's key, or where it is kept."""
    secret = key.get_secret_value().strip()
    if not (KEY.fullmatch(secret) or is_kept(secret)):
        raise ValueError(
            "is neither a v3 key (32 hexadecimal digits) nor a v4 read token (eyJ….….…), nor says where one is kept "
            f"(ssm:/path, secret:name); it has {len(secret)} characters"
        )
    return SecretStr(secret)


def base_url(url: str) -> str:
    """A URL of TMDB's API, without a slash at its end."""
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[\w./~-]*)?", url):
        raise ValueError("must look like https://api.themoviedb.org/3")
    if not (url.startswith("https:") or _is_near(urlsplit(url).hostname or "")):
        raise ValueError("must begin with https://, or the key would cross the internet for all to read")
    return url.rstrip("/")


def _is_near(host: str) -> bool:
    """Whether `host` is this machine or one of a private network; nobody is asked, so a name decides by its shape."""
    try:
        return ip_address(host).is_private
    except ValueError:
        single = re.fullmatch(r"[a-z][a-z0-9-]*", host)  # 134744072 and 0x08080808 are ways to write 8.8.8.8
        return single is not None or host.endswith((".internal", ".local", ".localhost"))


def endpoint(url: str) -> str:
    """A URL of a server, without a path."""
    if not re.fullmatch(r"https?://[^/?#@\s]+/?", url):
        raise ValueError("must look like http://localhost:9000")
    return url


def prefix(folder: str) -> str:
    """A folder in the bucket, without slashes around it."""
    if not folder.strip("/"):
        raise ValueError("must name a folder, like Raw/API")
    return folder.strip("/")


def matching(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    """A text that matches `pattern`, which is `wanted` in words."""

    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"must be {wanted}")
        return text

    return AfterValidator(check)


def split(value: object) -> object:
    """The words of a text between commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def parts(names: tuple[str, ...]) -> tuple[str, ...]:
    """Parts of `append_to_response`, each once."""
    if len(names) > PARTS_LIMIT:
        raise ValueError(f"has {len(names)} parts; TMDB takes {PARTS_LIMIT}")
    for part in names:
        if not _PART.fullmatch(part):
            raise ValueError(f"has a part {part!r}; parts look like credits or watch/providers")
    return tuple(dict.fromkeys(names))


Parts = Annotated[tuple[str, ...], BeforeValidator(split), AfterValidator(parts)]


def key_template(template: str) -> str:
    """The template of a data file's key."""
    _check_places(template, needed=("collection", "batch"), allowed=_PLACES)
    if not re.search(r"/\{batch\}\.\w+\Z", template):  # by its name alone a file is known as a batch's
        raise ValueError("must end in /{batch} and an extension, such as /{batch}.json")
    return template


def csv_template(template: str) -> str:
    """The template of an uploaded CSV's key."""
    _check_places(template, needed=("collection", "name"), allowed=_CSV_PLACES)
    if not template.endswith("/{name}"):
        raise ValueError("must end in /{name}")
    return template


def _check_places(template: str, *, needed: tuple[str, ...], allowed: frozenset[str]) -> None:
    try:
        parsed = [place for place in string.Formatter().parse(template) if place[1] is not None]
    except ValueError as error:
        raise ValueError(f"is not a template ({error})") from error
    places = {name for _, name, _, _ in parsed}
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise ValueError("must not format its places: {mm}, not {mm:02d}")
    if not set(needed) <= places <= allowed:
        musts = " and ".join(f"{{{name}}}" for name in needed)
        raise ValueError(f"must have {musts}, and nothing but {', '.join(sorted(allowed))}")
