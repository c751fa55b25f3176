"""Documents: what is written comes back, what was edited or is newer is refused, what is not known is left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from test_manifest import LAYOUT, MANIFEST, SUMMARY
from test_receipt import OUTCOMES, a_receipt, key_of, with_checksum

from harvester.errors import CorruptLakeError, Exit, NewerFormatError
from harvester.model.documents import FORMAT, Count, Text, decode_document, encode_document
from harvester.model.layout import Layout
from harvester.model.manifest import decode_manifest, decode_summary
from harvester.model.receipt import decode_receipt

if TYPE_CHECKING:
    from collections.abc import Callable

RECEIPT = a_receipt(OUTCOMES)
RECEIPT_KEY = key_of(RECEIPT)
KINDS: dict[str, tuple[str, Any, Callable[[bytes | None], Any]]] = {
    "manifest": (LAYOUT.manifest_key, MANIFEST, lambda body: decode_manifest(LAYOUT, body)),
    "receipt": (RECEIPT_KEY, RECEIPT, lambda body: decode_receipt(LAYOUT, RECEIPT_KEY, body)),
    "summary": (LAYOUT.summary_key, SUMMARY, lambda body: decode_summary(LAYOUT, body)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, Any, Callable[[bytes | None], Any]]:
    """Key, a valid document, and how it is read: of each kind that the design names."""
    return KINDS[request.param]


Kind = tuple[str, Any, "Callable[[bytes | None], Any]"]


def test_a_document_comes_back_as_it_was_written(kind: Kind) -> None:
    """Encoded and decoded, it is equal; the same document is the same bytes."""
    _, document, decode = kind
    assert decode(encode_document(document)) == document
    assert encode_document(decode(encode_document(document))) == encode_document(document)


def test_a_document_says_its_format_first_and_its_checksum_last(kind: Kind) -> None:
    """`"format": 1` is in manifest, receipt and summary."""
    whole = orjson.loads(encode_document(kind[1]))
    assert (next(iter(whole)), list(whole)[-1], whole["format"], FORMAT) == ("format", "checksum", 1, 1)


@pytest.mark.parametrize("newer", [2, 3, 2**31, 2**64 - 1])
def test_a_higher_format_is_refused_in_a_sentence(kind: Kind, newer: int) -> None:
    """With exit 2, by its key, and with what to do; whatever else it says, and without a checksum that we know."""
    key, document, decode = kind
    whole = orjson.loads(encode_document(document)) | {"format": newer}
    for body in (orjson.dumps(whole), with_checksum(whole), orjson.dumps({"format": newer, "run": ["new"]})):
        with pytest.raises(NewerFormatError) as caught:
            decode(body)
        assert caught.value.exit_code == Exit.USAGE
        assert str(caught.value) == f"{key} has format {newer}, and this harvester reads format 1: install a newer one"


@pytest.mark.parametrize("other", [0, -1, 1.0, 2.0, 1.5, True, "1", "2", None, [1], [2], {"format": 2}, 1e300])
def test_what_is_no_format_of_ours_is_no_document(kind: Kind, other: Any) -> None:
    """A lower format or something else than a whole number is a CorruptLakeError that names the key."""
    key, document, decode = kind
    with pytest.raises(CorruptLakeError) as caught:
        decode(with_checksum(orjson.loads(encode_document(document)) | {"format": other}))
    assert str(caught.value).startswith(key)


def test_a_document_without_a_format_is_none(kind: Kind) -> None:
    """What an earlier harvester wrote, or another program, is not taken for format 1."""
    key, document, decode = kind
    whole = orjson.loads(encode_document(document))
    del whole["format"]
    with pytest.raises(CorruptLakeError, match="format") as caught:
        decode(with_checksum(whole))
    assert str(caught.value).startswith(key)


def test_an_edit_breaks_the_checksum(kind: Kind) -> None:
    """Also one that contradicts nothing, in a key that is not known, or in the order of keys; and so does its lack."""
    key, document, decode = kind
    whole = orjson.loads(encode_document(document))
    edits: list[dict[str, Any]] = [
        whole | {"colour": "red"},
        {name: value for name, value in whole.items() if name != "checksum"},
        whole | {"checksum": None},
        whole | {"checksum": whole["checksum"].upper()},
        whole | {"checksum": [whole["checksum"]]},
        dict(reversed(whole.items())),
    ]
    for edited in edits:
        with pytest.raises(CorruptLakeError, match=r"has been edited|it has no checksum") as caught:
            decode(orjson.dumps(edited))
        assert str(caught.value).startswith(key)


def test_keys_that_are_not_known_are_ignored(kind: Kind) -> None:
    """A later version of format 1 may say more; what is known of it is what counts."""
    _, document, decode = kind
    more = {"colour": "red", "deep": {"a": [1, None, 0.5]}, "records": 0, "Format": 2}
    decoded = decode(with_checksum(orjson.loads(encode_document(document)) | more))
    for name in ("run", "generation"):
        assert getattr(decoded, name) == getattr(document, name)
    assert getattr(decoded, "unknown", more) == more


@pytest.mark.parametrize("name", ["manifest", "summary"])
def test_keys_that_are_not_known_are_kept_when_the_document_is_written_anew(name: str) -> None:
    """What a later version of format 1 says of a run is not lost when an earlier one goes on with it."""
    _, document, decode = KINDS[name]
    more = {"colour": "red", "deep": {"a": [1, None, 0.5]}, "records": 0}
    body = with_checksum(orjson.loads(encode_document(document)) | more)
    rewritten = orjson.loads(encode_document(decode(body)))
    assert rewritten == orjson.loads(body) | {"checksum": rewritten["checksum"]}
    assert decode(orjson.dumps(rewritten)) == decode(body)


@pytest.mark.parametrize(
    "body", [b"", b" ", b"nonsense", b"[]", b"5", b"null", b'"text"', b"{}", b'{"format":1}', b"\xff", b"{" * 10**5]
)
def test_what_is_no_document_is_named_by_its_key(kind: Kind, body: bytes) -> None:
    """A cut, foreign or empty object is a CorruptLakeError that begins with the key, never a traceback."""
    key, _, decode = kind
    with pytest.raises(CorruptLakeError) as caught:
        decode(body)
    assert str(caught.value).startswith(f"{key} is not a ")
    assert len(str(caught.value)) < 1_000


def test_a_document_that_is_not_there_is_named_by_its_key(kind: Kind) -> None:
    """No object is no empty object."""
    key, _, decode = kind
    with pytest.raises(CorruptLakeError) as caught:
        decode(None)
    assert str(caught.value) == f"{key} is not there"


@pytest.mark.parametrize("levels", [100, 200, 250, 254, 255, 300, 1_000, 1_020, 1_024, 5_000, 10**5])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("name", ["colour", "run", "unknown"])
def test_a_document_however_deep_is_read_or_refused(
    kind: Kind, name: str, brackets: tuple[str, str], levels: int
) -> None:
    """JSON nested deeper than can be written is a CorruptLakeError with the key in it, no error of a library."""
    key, document, decode = kind
    opened, closed = brackets
    deep = opened * levels + ("0" if closed == "}" else "") + closed * levels
    body = encode_document(document).removesuffix(b"}") + f',"{name}":{deep}}}'.encode()
    with pytest.raises(CorruptLakeError) as caught:
        decode(body)
    assert str(caught.value).startswith(key)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400, "-" + "9" * 4_400, "NaN", "Infinity", "01", "1_0"])
@pytest.mark.parametrize("name", ["colour", "format", "fresh", "generation"])
def test_a_number_however_large_is_read_or_refused(kind: Kind, name: str, number: str) -> None:
    """A number that no field can be, and that cannot be written, ends in a CorruptLakeError that names the key."""
    key, document, decode = kind
    whole = orjson.loads(encode_document(document))
    whole.pop(name, None)
    body = orjson.dumps(whole).removesuffix(b"}") + f',"{name}":{number}}}'.encode()
    with pytest.raises(CorruptLakeError) as caught:
        decode(body)
    assert str(caught.value).startswith(key)


@pytest.mark.parametrize(
    "text", ['"\\ud800"', '"\\udfff\\ud800"', '"\xff"', '"\n"', '"' + "x" * 10**6 + '"', '"\\u0000"']
)
@pytest.mark.parametrize("name", ["colour", "run", "generation"])
def test_a_text_however_odd_is_read_or_refused(kind: Kind, name: str, text: str) -> None:
    """Half a surrogate, raw bytes, a megabyte: a CorruptLakeError that names the key and stays a sentence."""
    key, document, decode = kind
    whole = orjson.loads(encode_document(document))
    whole.pop(name, None)
    body = orjson.dumps(whole).removesuffix(b"}") + f',"{name}":{text}}}'.encode("latin-1")
    with pytest.raises(CorruptLakeError) as caught:
        decode(body)
    assert str(caught.value).startswith(key)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(("name", "value"), [("run", "2026-11-22-00000000"), ("generation", "ffffffff"), ("format", 7)])
def test_a_key_that_is_there_twice_is_read_as_the_checksum_has_it(kind: Kind, name: str, value: Any) -> None:
    """Two readers of JSON may see two documents in one; what is read is what the checksum covers."""
    _, document, decode = kind
    key = f'"{name}":'.encode()
    body = encode_document(document).replace(key, key + orjson.dumps(value) + b"," + key, 1)
    assert body != encode_document(document)
    assert orjson.loads(body) == orjson.loads(encode_document(document))
    assert decode(body) == document


@dataclass(frozen=True, slots=True)
class _Note:
    text: Text
    count: Count
    unknown: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "change",
    [
        {"text": 5},
        {"text": None},
        {"text": "x" * 4_097},
        {"count": "2"},
        {"count": 2.0},
        {"count": True},
        {"count": None},
        {"count": -1},
        {"count": 2**63},
    ],
)
def test_a_field_of_another_type_or_range_is_named(change: dict[str, Any]) -> None:
    """Nothing is converted: the message says which field it is, and not its value."""
    whole = orjson.loads(encode_document(_Note("a", 1))) | change
    [name] = change
    with pytest.raises(CorruptLakeError, match=f"^a/note.json is not a note: {name} ") as caught:
        decode_document("a/note.json", with_checksum(whole), _Note, "a note")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("count", [0, 1, 2**53 + 1, 2**63 - 1])
@pytest.mark.parametrize("text", ["", "x" * 4_096, "Ação \u2028 🎬", "\0"])
def test_any_value_of_its_type_and_range_comes_back(text: str, count: int) -> None:
    """Nothing is rounded, cut or escaped away."""
    note = _Note(text, count, {"colour": "red"})
    assert decode_document("a/note.json", encode_document(note), _Note, "a note") == note


def test_a_layout_of_another_prefix_reads_no_document_of_this_one() -> None:
    """A receipt's files are those of its own layout: under another prefix or template it is none."""
    for layout in (
        Layout("Raw/API2", LAYOUT.template, LAYOUT.run),
        Layout("Raw/API", LAYOUT.template, "2026-11-23-3f9a1c2e"),
    ):
        with pytest.raises(CorruptLakeError):
            decode_receipt(layout, layout.receipt_key("Movies", RECEIPT.batch), encode_document(RECEIPT))
