"""S3 URLs: taken apart into what they are put together from."""

from __future__ import annotations

import pytest

from harvester.model.s3_url import S3Url, is_s3_url


@pytest.mark.parametrize(
    ("text", "url", "is_folder"),
    [
        ("s3://lake/movies.csv", S3Url("lake", "movies.csv"), False),
        ("s3://lake/Filmes e séries/a+b.csv", S3Url("lake", "Filmes e séries/a+b.csv"), False),
        ("s3://my.lake-1/Raw//x/", S3Url("my.lake-1", "Raw//x/"), True),
        ("s3://lake//", S3Url("lake", "/"), True),
    ],
)
def test_a_url_is_read_back_as_it_was_written(text: str, url: S3Url, *, is_folder: bool) -> None:
    """Bucket and key as they stand: nothing is decoded, and only the first slash separates."""
    assert S3Url.parse(text) == url
    assert (str(url), url.is_folder, is_s3_url(text)) == (text, is_folder, True)


@pytest.mark.parametrize(
    "text",
    ["s3://", "s3://lake", "s3://lake/", "s3:///a.csv", "s3://La_ke/a.csv", "s3://lake/a\x00b.csv", "lake/a.csv"],
)
def test_a_text_without_a_valid_bucket_and_key_is_no_url(text: str) -> None:
    """A whole bucket neither: the latest CSV of it could be anything."""
    assert S3Url.parse(text) is None


def test_a_bucket_alone_is_named_without_a_slash() -> None:
    """As messages name it."""
    assert str(S3Url("lake")) == "s3://lake"
