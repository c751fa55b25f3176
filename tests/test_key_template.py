"""Key templates: what `fill` makes of values, `parse` reads back as these values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harvester.model.key_template import KeyTemplate, date_values

DATA = KeyTemplate.of_data_files("{prefix}/x+{collection}/{yyyy}-{mm}/{dd}/{batch}.json")
CSVS = KeyTemplate.of_csvs("Raw/CSV/{collection}/{yyyy}/{yyyy}{mm}/{name}", prefix="Raw/API")
DAY = date_values("2026-11-22")

TEXTS = st.text(min_size=1, max_size=9).filter(lambda text: "/" not in text and text.isprintable())


@given(prefix=TEXTS, batch=TEXTS, collection=st.sampled_from(["Movies", "Series"]))
def test_a_key_is_parsed_back_into_what_it_was_filled_with(prefix: str, batch: str, collection: str) -> None:
    """Values are texts, whatever they have in them: no brace of theirs is a field, no dot an expression."""
    key = DATA.fill(prefix=prefix, collection=collection, batch=batch, **DAY)
    assert key == f"{prefix}/x+{collection}/2026-11/22/{batch}.json"
    assert DATA.parse(key, prefix=prefix, **DAY) == {"collection": collection, "batch": batch}
    assert DATA.parse(key, prefix=prefix, batch=batch) == {"collection": collection, **DAY}
    assert DATA.parse(f"x{key}", prefix=prefix, **DAY) is None
    assert key.startswith(DATA.start(prefix=prefix, collection=collection, **DAY))


def test_the_start_ends_before_the_first_field_without_a_value() -> None:
    """What to list for all keys that have these values."""
    assert DATA.start(prefix="Raw", collection="Movies") == "Raw/x+Movies/"
    assert DATA.start() == ""
    assert CSVS.start(collection="Series", name="x", **DAY) == "Raw/CSV/Series/2026/202611/x"


def test_a_field_that_stands_twice_has_one_value() -> None:
    """A key of two years is not of this template."""
    of = {"collection": "Movies", "name": "movies.csv"}
    assert CSVS.parse("Raw/CSV/Movies/2026/202611/movies.csv", **of) == {"yyyy": "2026", "mm": "11"}
    assert CSVS.parse("Raw/CSV/Movies/2026/202511/movies.csv", **of) is None
