"""Manifest and summary: what a run is about and how its totals were reconciled, read back as it was or not at all."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from test_receipt import GENERATION, LAYOUT, NOW, OTHER_RUN, RUN, a_receipt, with_checksum
from test_totals import some_totals

from harvester.errors import CorruptLakeError, Exit
from harvester.model.batch import BATCH_SIZE
from harvester.model.documents import encode_document
from harvester.model.manifest import Digests, InputCounts, Manifest, Summary, Totals, decode_manifest, decode_summary
from harvester.model.record_options import RecordOptions
from harvester.runs.documents import listing_digest
from harvester.settings.settings import load_settings
from harvester.store.store import Listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harvester.model.ids import Collection

OPTIONS = RecordOptions(None, ("credits", "keywords"), "jsonl", LAYOUT.template)
MANIFEST = Manifest(
    run=RUN,
    generation=GENERATION,
    created_at=NOW,
    input={"Movies": InputCounts("Ação \u2028.csv", 11, 9, 1, 1), "Series": InputCounts("s3://x/s.csv", 1, 0, 1, 0)},
    options=OPTIONS,
    batches={"Movies": [a_receipt().batch], "Series": []},
    fresh=2,
    ids_sha256="12" * 32,
)
SUMMARY = Summary(
    run=RUN,
    generation=GENERATION,
    closed_at=NOW,
    totals=some_totals(5).as_json(),
    digests=Digests("ab" * 32, "cd" * 32, "ef" * 32),
)


def read(whole: dict[str, Any]) -> Manifest:
    return decode_manifest(LAYOUT, with_checksum(whole))


def whole_manifest() -> dict[str, Any]:
    whole = orjson.loads(encode_document(MANIFEST))
    assert isinstance(whole, dict)
    return whole


def whole_summary() -> dict[str, Any]:
    whole = orjson.loads(encode_document(SUMMARY))
    assert isinstance(whole, dict)
    return whole


def test_a_manifest_is_written_as_the_design_has_it() -> None:
    """Run, generation, the account of each CSV, record options and batches, with batch size; ids stand elsewhere."""
    whole = whole_manifest()
    assert whole == {
        "format": 1,
        "run": RUN,
        "generation": GENERATION,
        "created_at": NOW,
        "input": {
            "Movies": {"source": "Ação \u2028.csv", "rows": 11, "ids": 9, "duplicates": 1, "rejected": 1},
            "Series": {"source": "s3://x/s.csv", "rows": 1, "ids": 0, "duplicates": 1, "rejected": 0},
        },
        "options": {
            "language": None,
            "append": ["credits", "keywords"],
            "output_format": "jsonl",
            "key_template": LAYOUT.template,
            "batch_size": 100,
        },
        "batches": {"Movies": [a_receipt().batch], "Series": []},
        "fresh": 2,
        "ids_sha256": "12" * 32,
        "checksum": whole["checksum"],
    }


def test_a_manifest_knows_its_batches_and_what_came_in() -> None:
    """Its names are those of both collections, and its totals have the input and the fresh ids, before any batch."""
    assert MANIFEST.names == {a_receipt().batch}
    totals = MANIFEST.totals()
    assert (totals.rows, totals.ids, totals.duplicates, totals.rejected, totals.fresh) == (12, 9, 2, 1, 2)
    totals.add_receipt(a_receipt())
    assert totals.reconciles


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"no {name}": lambda whole, name=name: whole.pop(name) for name in list(whole_manifest())[1:-1]},
    **{f"{name} of null": lambda whole, name=name: whole.update({name: None}) for name in list(whole_manifest())[1:-1]},
    **{f"{name} of a list": lambda whole, name=name: whole.update({name: []}) for name in list(whole_manifest())[1:-1]},
    "another run": lambda whole: whole.update(run=OTHER_RUN),
    "no run's name": lambda whole: whole.update(run="today"),
    "a run's name and more": lambda whole: whole.update(run=f"{RUN}\n"),
    "a generation that leads elsewhere": lambda whole: whole.update(generation="../../../x"),
    "a short generation": lambda whole: whole.update(generation="abcdef0"),
    "a long generation": lambda whole: whole.update(generation="a" * 65),
    "no input at all": lambda whole: whole.update(input={}, batches={}),
    "an unknown collection": lambda whole: whole["input"].update(Totals=whole["input"]["Movies"]),
    "a collection less": lambda whole: whole["input"].pop("Series"),
    "batches of a collection less": lambda whole: whole["batches"].pop("Series"),
    "a row more": lambda whole: whole["input"]["Movies"].update(rows=12),
    "ids below nothing": lambda whole: whole["input"]["Movies"].update(ids=-1, rows=1),
    "rows of words": lambda whole: whole["input"]["Movies"].update(rows="11"),
    "a source without end": lambda whole: whole["input"]["Movies"].update(source="x" * 4_097),
    "a batch of a number": lambda whole: whole["batches"]["Movies"].append(5),
    "a batch that leads elsewhere": lambda whole: whole["batches"]["Movies"].append("../x"),
    "a batch's name and more": lambda whole: whole["batches"]["Movies"].append(f"{a_receipt().batch}\n"),
    "batches of null": lambda whole: whole["batches"].update(Series=None),
    "fresh below nothing": lambda whole: whole.update(fresh=-1),
    "a malformed digest of its ids": lambda whole: whole.update(ids_sha256="AB" * 32),
    "an unknown format of files": lambda whole: whole["options"].update(output_format="parquet"),
    "no options' format": lambda whole: whole["options"].pop("output_format"),
    "an empty language": lambda whole: whole["options"].update(language=""),
    "21 parts": lambda whole: whole["options"].update(append=[f"p{n}" for n in range(21)]),
    "parts of one text": lambda whole: whole["options"].update(append="credits"),
    "a batch size of words": lambda whole: whole["options"].update(batch_size="100"),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_not_believed(contradiction: str) -> None:
    """Wrong counts, unexpected or absent values, even with a valid checksum: a CorruptLakeError that names the key."""
    whole = whole_manifest()
    CONTRADICTIONS[contradiction](whole)
    with pytest.raises(CorruptLakeError) as caught:
        read(whole)
    assert str(caught.value).startswith(LAYOUT.manifest_key)
    assert caught.value.exit_code == Exit.WRONG


@pytest.mark.parametrize(
    "template",
    [
        # shared/cases/break-01 and break-03, and their siblings
        "{batch}",
        "Finance/{batch}.json",
        "{prefix!r:{prefix}}",
        "{prefix:>99999999999}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{mm}/{dd:>999999999}/{batch}.json",
        "{prefix.__class__}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection[0]}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{day}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch.json",
        "{}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{{collection}}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/../{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/_x/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.gz",
        "{prefix}/" + "x" * 600 + "/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "",
        5,
        None,
        [],
    ],
)
def test_a_manifest_with_a_template_that_no_setting_can_be_is_none(template: Any) -> None:
    """Its template is held to the same rules as the setting, and never filled in before."""
    whole = whole_manifest()
    whole["options"]["key_template"] = template
    with pytest.raises(CorruptLakeError, match="key_template") as caught:
        read(whole)
    assert str(caught.value).startswith(LAYOUT.manifest_key)


def test_a_manifest_without_rows_or_batches_is_one_all_the_same() -> None:
    """A CSV with a header alone, or all of whose ids are fresh, has no batch."""
    empty = replace(MANIFEST, input={"Movies": InputCounts("m.csv", 0, 0, 0, 0)}, batches={"Movies": []}, fresh=0)
    assert decode_manifest(LAYOUT, encode_document(empty)) == empty
    assert (empty.names, empty.totals()) == (frozenset(), Totals())


def test_a_summary_is_written_as_the_design_has_it() -> None:
    """Run, generation, time, totals, and the digests of what stood in the lake."""
    whole = whole_summary()
    assert whole == {
        "format": 1,
        "run": RUN,
        "generation": GENERATION,
        "closed_at": NOW,
        "totals": some_totals(5).as_json(),
        "digests": {"files": "ab" * 32, "receipts": "cd" * 32, "outcomes": "ef" * 32},
        "checksum": whole["checksum"],
    }


TOTALS = list(some_totals(5).as_json())
SUMMARY_CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"no {name}": lambda whole, name=name: whole.pop(name) for name in list(whole_summary())[1:-1]},
    **{f"{name} of null": lambda whole, name=name: whole.update({name: None}) for name in list(whole_summary())[1:-1]},
    **{f"{name} of a list": lambda whole, name=name: whole.update({name: []}) for name in list(whole_summary())[1:-1]},
    **{f"no {name} in the totals": lambda whole, name=name: whole["totals"].pop(name) for name in TOTALS},
    **{f"{name} of words": lambda whole, name=name: whole["totals"].update({name: "5"}) for name in TOTALS},
    **{f"{name} below nothing": lambda whole, name=name: whole["totals"].update({name: -1}) for name in TOTALS},
    **{
        f"{name} of an object": lambda whole, name=name: whole["totals"].update({name: {}})
        for name in TOTALS
        if "_by_" not in name
    },
    "missing by a number": lambda whole: whole["totals"].update(missing_by_reason=5),
    "failed by a reason of words": lambda whole: whole["totals"].update(failed_by_reason={"timeout": "2"}),
    "failed by a reason below nothing": lambda whole: whole["totals"].update(failed_by_reason={"timeout": -2}),
    "failed by a reason without end": lambda whole: whole["totals"].update(failed_by_reason={"x" * 201: 2}),
    "another run": lambda whole: whole.update(run=OTHER_RUN),
    "a malformed digest": lambda whole: whole["digests"].update(files="AB" * 32),
    "a digest less": lambda whole: whole["digests"].pop("outcomes"),
}


@pytest.mark.parametrize("contradiction", SUMMARY_CONTRADICTIONS)
def test_a_summary_that_contradicts_itself_is_not_believed(contradiction: str) -> None:
    """Unexpected or absent values, even with a valid checksum: a CorruptLakeError that names the key."""
    whole = whole_summary()
    SUMMARY_CONTRADICTIONS[contradiction](whole)
    with pytest.raises(CorruptLakeError) as caught:
        decode_summary(LAYOUT, with_checksum(whole))
    assert str(caught.value).startswith(LAYOUT.summary_key)
    assert caught.value.exit_code == Exit.WRONG


INPUT: dict[Collection, Sequence[str]] = {"Movies": ["tt0000001", "tt0000002"], "Series": ["tt0000003"]}


def a_fingerprint(ids: dict[Collection, Sequence[str]] | None = None, **changes: Any) -> str:
    return replace(OPTIONS, **changes).fingerprint(INPUT if ids is None else ids)


def test_a_fingerprint_is_eight_hexadecimal_digits_and_stays() -> None:
    """The same input and settings are the same run, today and in a year: 4 bytes of SHA-256, pinned."""
    # printf "Movies\ntt0000001\ntt0000002\nSeries\ntt0000003\nlanguage None\nappend ('credits', 'keywords')\n\
    # output_format jsonl\nkey_template {prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json\nbatch_size 100" | sha256sum
    assert a_fingerprint() == "7aa07d5b"


def test_a_fingerprint_is_the_same_for_what_makes_the_same_records() -> None:
    """The order of the appended parts, and of the collections, changes no record; nor does where they come from."""
    same = [
        a_fingerprint({"Series": INPUT["Series"], "Movies": INPUT["Movies"]}),
        a_fingerprint({"Movies": tuple(INPUT["Movies"]), "Series": tuple(INPUT["Series"])}),
        *(
            load_settings(
                tmdb_append=parts, s3_prefix=prefix, tmdb_rate=rate, s3_bucket=bucket
            ).record_options.fingerprint(INPUT)
            for parts, prefix, rate, bucket in [
                ("keywords,credits", "Raw/API", 1, "one"),
                ("credits,keywords,credits", "Other", 40, "two"),
            ]
        ),
    ]
    assert same == [a_fingerprint()] * 4


def test_a_fingerprint_changes_with_whatever_changes_records() -> None:
    """Another id, order, collection, language, part, format, layout or batch size is another run."""
    one, two, three = "tt0000001", "tt0000002", "tt0000003"
    prints = [
        a_fingerprint(),
        a_fingerprint({"Movies": [one, two], "Series": ["tt0000004"]}),
        a_fingerprint({"Movies": [two, one], "Series": [three]}),
        a_fingerprint({"Movies": [one], "Series": [three]}),
        a_fingerprint({"Movies": [one], "Series": [two, three]}),
        a_fingerprint({"Movies": [three], "Series": [one, two]}),
        a_fingerprint({"Movies": [one, two, three]}),
        a_fingerprint({"Series": [one, two, three]}),
        a_fingerprint({"Movies": [one, two]}),
        a_fingerprint(language="pt-BR"),
        a_fingerprint(language="pt"),
        a_fingerprint(append=()),
        a_fingerprint(append=("credits",)),
        a_fingerprint(append=("credits", "images", "keywords")),
        a_fingerprint(output_format="array"),
        a_fingerprint(key_template=LAYOUT.template.replace("{yyyy}", "year={yyyy}")),
        a_fingerprint(key_template=LAYOUT.template.replace(".json", ".jsonl")),
        a_fingerprint(batch_size=50),
    ]
    assert [count for count in Counter(prints).values() if count > 1] == []


def test_the_batch_size_is_the_one_that_ids_are_cut_by() -> None:
    """A version that cuts otherwise makes other runs, and never goes on with one of these."""
    assert load_settings().record_options.batch_size == OPTIONS.batch_size == BATCH_SIZE


def test_a_digest_covers_key_size_and_etag_in_the_order_of_keys() -> None:
    """However the objects were listed; a change of any of the three, one object more or one less is another digest."""
    listed = {"b": Listed(2, "y"), "a": Listed(1, "x")}
    assert listing_digest(listed) == hashlib.sha256(b"a\t1\tx\nb\t2\ty\n").hexdigest()
    assert listing_digest(dict(reversed(listed.items()))) == listing_digest(listed)
    others = [
        {"a": Listed(1, "x")},
        {**listed, "c": Listed(0, "")},
        {"a": Listed(1, "x"), "b": Listed(2, "z")},
        {"a": Listed(1, "x"), "b": Listed(3, "y")},
        {"a": Listed(1, "x"), "d": Listed(2, "y")},
        {},
    ]
    assert len({listing_digest(other) for other in [listed, *others]}) == len(others) + 1
