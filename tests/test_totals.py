"""Totals: every row and every id is counted once, and one too many or too few is seen."""

from __future__ import annotations

import json
from array import array
from dataclasses import fields

import pytest
from test_receipt import KEPT, OUTCOMES, a_file, a_receipt, batch_of

from harvester.model.inputs import InputIds
from harvester.model.manifest import InputCounts, Totals
from harvester.model.outcome import Failed, Found, Fresh, Missing


def account_of(*, rows: int, ids: int, rejected: int) -> InputCounts:
    """The account of a CSV as the manifest has it."""
    names = [f"tt{number:07d}" for number in range(1, ids + 1)]
    return InputCounts.of(InputIds("a.csv", names, rows, array("L", range(2, 2 + rejected))))


def test_the_totals_reconcile_when_every_row_and_id_is_accounted_for() -> None:
    """Rows = ids + duplicates + rejected, ids = found + missing + failed + fresh, over both CSVs and all batches."""
    totals = Totals()
    assert totals.reconciles
    totals.add_input(account_of(rows=10, ids=9, rejected=1))
    totals.add_input(account_of(rows=5, ids=4, rejected=0))
    assert (totals.rows, totals.ids, totals.duplicates, totals.rejected) == (15, 13, 1, 1)
    assert (totals.with_outcome, totals.reconciles) == (0, False)
    totals.add_receipt(a_receipt())
    assert (totals.with_outcome, totals.reconciles) == (7, False)
    totals.add_receipt(
        a_receipt([Found("tv", 1, {}), Failed("timeout"), Fresh("2026-11-22-00000001")], collection="Series")
    )
    assert (totals.with_outcome, totals.reconciles) == (10, False)
    totals.add_receipt(a_receipt([Failed("timeout"), KEPT], collection="Series"))
    assert (totals.with_outcome, totals.reconciles) == (12, False)
    totals.fresh += 1  # marked when the generation began: in no batch
    assert (totals.with_outcome, totals.reconciles) == (13, True)
    totals.add_receipt(a_receipt([Missing("unknown")], collection="Series"))
    assert (totals.with_outcome, totals.reconciles) == (14, False)


@pytest.mark.parametrize("name", ["rows", "ids", "duplicates", "rejected", "found", "fresh"])
@pytest.mark.parametrize("by", [-1, 1])
def test_totals_that_are_one_off_do_not_reconcile(name: str, by: int) -> None:
    """One row or title too many or too few anywhere is seen."""
    totals = Totals()
    totals.add_input(account_of(rows=9, ids=7, rejected=1))
    totals.add_receipt(a_receipt())
    assert totals.reconciles
    setattr(totals, name, getattr(totals, name) + by)
    assert not totals.reconciles


@pytest.mark.parametrize("name", ["missing", "failed"])
@pytest.mark.parametrize("by", [-1, 1])
def test_totals_that_are_one_reason_off_do_not_reconcile(name: str, by: int) -> None:
    """Missing and failed titles are counted by reason, and one too many or too few of one is seen."""
    totals = Totals()
    totals.add_input(account_of(rows=9, ids=8, rejected=1))
    totals.add_receipt(a_receipt([*OUTCOMES, Failed("unknown")]))
    assert totals.reconciles
    getattr(totals, name)["unknown"] += by
    assert not totals.reconciles


def test_a_reclassified_title_is_accounted_for_once_in_its_own_batch() -> None:
    """A movie's batch whose titles are series counts them as found, and nothing else has to."""
    totals = Totals()
    totals.add_input(account_of(rows=2, ids=2, rejected=0))
    totals.add_receipt(a_receipt([Found("tv", 1, {}), Found("tv", 2, {})]))
    assert (totals.found, totals.batches, totals.files, totals.reconciles) == (2, 1, 1, True)


def test_a_kept_title_counts_as_failed_and_its_record_stands_in_the_bytes() -> None:
    """It is tried again, so the run ends with failed titles, though its earlier record is still in the file."""
    totals = Totals()
    totals.add_input(account_of(rows=2, ids=2, rejected=0))
    totals.add_receipt(a_receipt([Found("movie", 1, {}), KEPT]))
    assert (totals.found, dict(totals.failed), totals.files, totals.bytes, totals.reconciles) == (
        1,
        {"http_500": 1},
        1,
        2_000,
        True,
    )


def test_the_totals_are_shown_as_the_summary_has_them() -> None:
    """These keys stand in `summary.json` and in `--json`; reasons are counted, in alphabetical order."""
    totals = Totals()
    totals.add_input(account_of(rows=16, ids=11, rejected=2))
    totals.add_receipt(a_receipt([*OUTCOMES, Failed("timeout"), Failed("http_500"), Failed("timeout")]))
    batch = batch_of(1, "Series")
    totals.add_receipt(
        a_receipt([Found("tv", 1, {})], files=[a_file(batch, 1, collection="Series")], collection="Series")
    )
    shown = totals.as_json()
    assert list(shown.items()) == [
        ("rows", 16),
        ("duplicates", 3),
        ("rejected", 2),
        ("ids", 11),
        ("found", 4),
        ("missing", 3),
        ("failed", 3),
        ("fresh", 1),
        ("other_ids", 0),
        ("batches", 2),
        ("files", 3),
        ("bytes", 4_000),
        ("missing_by_reason", {"episode": 1, "season": 1, "unknown": 1}),
        ("failed_by_reason", {"http_500": 1, "timeout": 2}),
    ]
    assert list(shown["missing_by_reason"]) == ["episode", "season", "unknown"]
    assert list(shown["failed_by_reason"]) == ["http_500", "timeout"]
    assert json.loads(json.dumps(shown)) == shown


def test_a_found_title_that_tmdb_has_under_another_id_is_counted_besides() -> None:
    """It is found, and of those one that has another IMDb id."""
    totals = Totals()
    totals.add_receipt(a_receipt([Found("movie", 1, {}), Found("movie", 2, {}, tmdb_imdb_id="tt9999999")]))
    assert (totals.found, totals.other_ids, totals.as_json()["other_ids"]) == (2, 1, 1)


def some_totals(by: int) -> Totals:
    """Totals in which every number differs."""
    totals = Totals()
    for number, each in enumerate(fields(Totals), by):
        if isinstance(getattr(totals, each.name), int):
            setattr(totals, each.name, number)
    totals.missing.update({"unknown": by, "season": 2 * by})
    totals.failed.update({"timeout": 3 * by, "http_500": by})
    return totals


def test_totals_come_back_from_what_is_shown_of_them() -> None:
    """A summary's totals are those that were reconciled, number by number."""
    for totals in (Totals(), some_totals(5)):
        assert Totals.of_json(totals.as_json()) == totals


def test_the_totals_of_a_day_are_the_sum_over_its_runs() -> None:
    """Every number and every reason of both runs is in the sum, and the second run's totals stay as they are."""
    totals, other = some_totals(1), some_totals(10)
    before, unchanged = totals.as_json(), other.as_json()
    totals.add(other)
    shown = totals.as_json()
    assert other.as_json() == unchanged
    for name, value in before.items():
        if isinstance(value, dict):
            assert shown[name] == {reason: value[reason] + unchanged[name][reason] for reason in value}
        else:
            assert shown[name] == value + unchanged[name]
