"""Documents: our JSON objects in the lake, each with a format number and, except for the lease, a checksum.

The content of the lake is data from outside. A document is validated by a dataclass whose annotations say the type,
range and form of every field. Its checksum, SHA-256 over all other keys, shows whether it has been edited. Unknown keys
are ignored, and kept when a document is written again.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from harvester.errors import CorruptLakeError, NewerFormatError
from harvester.model.layout import BATCH_NAME, GENERATION, RUN_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

FORMAT = 1

DOCUMENT_BYTES = 2**26
"""Bytes of a document at most. A manifest has 38 bytes a batch, so one of 10 million ids has 4 MB."""

RunName = Annotated[str, Field(pattern=f"^{RUN_NAME.pattern}$")]
BatchName = Annotated[str, Field(pattern=f"^{BATCH_NAME}$")]
Token = Annotated[str, Field(pattern=f"^{GENERATION}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
KEYS_LIMIT = 1_000
TEXT_LENGTH = 4_096
Text = Annotated[str, Field(max_length=TEXT_LENGTH)]
Word = Annotated[str, Field(min_length=1, max_length=200)]


def encode_document(document: Any) -> bytes:
    """The JSON of a dataclass, with the keys in its field `unknown`, if it has one."""
    whole = {each.name: getattr(document, each.name) for each in fields(document)}  # asdict would copy all values
    whole = {"format": FORMAT} | whole.pop("unknown", {}) | whole
    return orjson.dumps(whole | {"checksum": _checksum(whole)})


def decode_document(
    key: str, body: bytes | None, form: type[T], what: str, *, run: str | None = None, with_checksum: bool = True
) -> T:
    """The document in `body`, as read from `key`. Keys that `form` lacks go into its field `unknown`, if it has one.

    Raises:
        CorruptLakeError: It is missing, invalid, edited, or of another run than `run`; `what` names it in the message.
        NewerFormatError: Its format number is higher than ours.
    """
    if body is None:
        raise CorruptLakeError(f"{key} is not there")
    try:
        whole = orjson.loads(body)
        number = whole.get("format") if isinstance(whole, dict) else None
        if type(number) is not int or number < FORMAT:
            raise CorruptLakeError(f"{key} is not {what}: its format is {number!r:.50}")
        if number > FORMAT:
            raise NewerFormatError(key, number)
        if with_checksum and "checksum" not in whole:
            raise CorruptLakeError(f"{key} is not {what}: it has no checksum")
        if with_checksum and whole.pop("checksum") != _checksum(whole):
            raise CorruptLakeError(f"{key} has been edited: its checksum does not match")
        objects = [value for value in whole.values() if isinstance(value, dict)]
        objects += [value for each in objects for value in each.values() if isinstance(value, dict)]
        if any(len(each) > KEYS_LIMIT for each in objects):  # pydantic keeps an error for each invalid key
            raise CorruptLakeError(f"{key} is not {what}: it has an object of over {KEYS_LIMIT} keys")
        document: Any = _validator(form).validate_json(body, strict=True)  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CorruptLakeError(f"{key} is not {what}: {where:.100} {first['msg']:.200}") from None
    except (ValueError, TypeError) as error:  # orjson reads deeper nesting than it writes
        raise CorruptLakeError(f"{key} is not {what}: {error!s:.200}") from error
    if run is not None and document.run != run:
        raise CorruptLakeError(f"{key} is {what} of another run, {document.run}")
    names = {each.name for each in fields(document)}
    unknown = {name: value for name, value in whole.items() if name not in names | {"format"}}
    decoded: T = replace(document, unknown=unknown) if "unknown" in names else document
    return decoded


@cache
def _validator(form: Any) -> TypeAdapter[Any]:
    """The validator of a dataclass, made on first use: three of them take 16 ms of a cold start."""
    return TypeAdapter(form)


def _checksum(whole: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(whole)).hexdigest()
