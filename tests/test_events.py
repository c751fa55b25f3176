"""Events: what is read in them, and that nothing else is."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harvester.aws_lambda.events import Invocation, parse_event
from harvester.commands.shards import Shard
from harvester.errors import InputError, NewerFormatError, SettingsError
from harvester.settings.settings import EVENT_SETTINGS, Settings, load_settings

KEY = "Raw/Filmes+e+s%C3%A9ries/Movies/2026/11/22/movies.csv"

SHARD = {
    "format": 1,
    "run": "2026-11-22-0123abcd",
    "generation": "5d1c0ffee5ca1ab1",
    "token": "c0ffee0123456789",
    "attempt": "a77e3970123abcde",
    "rate": 10.0,
    "batches": {"Movies": [["tt0000001", "tt0000002"]], "Series": [["tt0000003"]]},
}
EXECUTION = "arn:aws:states:us-east-1:000000000000:execution:tmdb-harvest:5ca1ab1e-0000"


def sent(key: str = KEY, *, name: str = "ObjectCreated:CompleteMultipartUpload") -> dict[str, Any]:
    """What S3 sends by itself (docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html)."""
    s3 = {"s3SchemaVersion": "1.0", "bucket": {"name": "lake", "arn": "…"}, "object": {"key": key, "size": 5}}
    return {"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": s3}]}


def by_eventbridge(key: str, *, name: str = "Object Created") -> dict[str, Any]:
    """What S3 sends by way of EventBridge."""
    detail = {"version": "0", "bucket": {"name": "lake"}, "object": {"key": key, "size": 5}, "reason": "PutObject"}
    return {"version": "0", "id": "17793124", "detail-type": name, "source": "aws.s3", "detail": detail}


def scheduled(source: str = "aws.events") -> dict[str, Any]:
    return {"version": "0", "id": "53dc4d37", "detail-type": "Scheduled Event", "source": source, "detail": {}}


@pytest.mark.parametrize(
    "event", [{}, None, {"action": "harvest"}, scheduled(), scheduled("aws.scheduler"), {"event": {}}, {"event": None}]
)
def test_nothing_in_particular_is_a_harvest_by_the_settings(event: dict[str, Any]) -> None:
    """An empty event and what a schedule sends ask for a harvest of the CSVs that the environment names."""
    assert parse_event(event) == Invocation()


@pytest.mark.parametrize(
    ("event", "sources"),
    [
        (sent(), {"movies_csv": "s3://lake/Raw/Filmes e séries/Movies/2026/11/22/movies.csv"}),
        (sent("Raw/Series/a%2Bb.CSV"), {"series_csv": "s3://lake/Raw/Series/a+b.CSV"}),
        (sent("Filmes/x.csv.gz", name="ObjectCreated:Put"), {"movies_csv": "s3://lake/Filmes/x.csv.gz"}),
        (sent("S%C3%89RIES/2026/x.csv"), {"series_csv": "s3://lake/SÉRIES/2026/x.csv"}),
        (sent("Se%CC%81ries/x.csv"), {"series_csv": "s3://lake/Se\u0301ries/x.csv"}),
        (sent("Movies/Series/x.csv"), {"series_csv": "s3://lake/Movies/Series/x.csv"}),
        (sent("Movies/series.csv"), {"movies_csv": "s3://lake/Movies/series.csv"}),
        (sent("inbox/series.csv.gz"), {"series_csv": "s3://lake/inbox/series.csv.gz"}),
        (by_eventbridge("Raw/Movies/a+b%20c é.csv"), {"movies_csv": "s3://lake/Raw/Movies/a+b%20c é.csv"}),
    ],
)
def test_a_csv_that_has_been_created_is_harvested_as_what_its_folder_says(
    event: dict[str, Any], sources: dict[str, str]
) -> None:
    """S3 writes keys as forms do and EventBridge as they are; the nearest folder decides, or else the file's name."""
    assert parse_event(event) == Invocation(sources=sources)


@pytest.mark.parametrize(
    "event",
    [
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-22T10:00:00Z", "Bucket": "lake"},
        sent(name="ObjectRemoved:Delete"),
        sent("Raw/API/Movies/2026/11/22/tt0000009-tt0000941-408b65d2.json"),
        sent("Raw/Movies/"),
        by_eventbridge("Raw/Movies/movies.csv", name="Object Deleted"),
        by_eventbridge("Raw/Movies/movies.parquet"),
        {"Records": []},
    ],
)
def test_what_is_not_of_a_new_csv_is_ignored(event: dict[str, Any]) -> None:
    """S3's greeting, what has been removed, our own files: ignored, and no error to be retried."""
    assert parse_event(event) is None


def test_what_others_send_over_eventbridge_is_refused() -> None:
    """A rule that matches too much would have every change of an instance begin a harvest."""
    event = {"version": "0", "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "detail": {}}
    with pytest.raises(InputError, match="which is unknown"):
        parse_event(event)


def test_two_csvs_of_one_kind_in_one_event_are_refused() -> None:
    """One of them would be forgotten without a word."""
    event = {"Records": sent("Movies/1.csv")["Records"] + sent("Movies/2.csv")["Records"]}
    with pytest.raises(InputError, match=r"two CSVs for one setting.*1\.csv.*2\.csv"):
        parse_event(event)
    both = {"Records": sent("Movies/1.csv")["Records"] + sent("Series/2.csv")["Records"]}
    assert parse_event(both) == Invocation(
        sources={"movies_csv": "s3://lake/Movies/1.csv", "series_csv": "s3://lake/Series/2.csv"}
    )


def test_the_steps_of_the_state_machine() -> None:
    """Plan, harvest and close, as `distributed_map.asl.json` calls them; what a step does not need is not taken."""
    settings = {"tmdb_language": "pt-BR", "tmdb_append": "credits"}
    began = {"settings": settings, "again": True}
    step = {"action": "plan", "children": "6", "execution": EXECUTION}
    planned = Invocation("plan", settings=settings, again=True, children=6, execution=EXECUTION)
    assert parse_event(step | {"event": began}) == planned
    by_upload = Invocation("plan", sources={"movies_csv": "s3://lake/Movies/x.csv"}, children=6, execution=EXECUTION)
    assert parse_event(step | {"event": sent("Movies/x.csv")}) == by_upload
    invocation = parse_event({"action": "harvest", "shard": SHARD, "settings": settings})
    assert invocation == Invocation("harvest", settings=settings, shard=Shard.of(SHARD))
    assert invocation.shard is not None
    assert invocation.shard.cut()[1].ids == ("tt0000003",)
    step = {"action": "close", "run": SHARD["run"], "sources": {"movies_csv": "s3://a/b.csv"}, "settings": settings}
    step |= {"token": SHARD["token"]}
    closing = Invocation(
        "close",
        settings=settings,
        sources={"movies_csv": "s3://a/b.csv"},
        run=str(SHARD["run"]),
        token=str(SHARD["token"]),
    )
    assert parse_event(step | {"attempt": None}) == closing  # as it is called first
    assert parse_event(step | {"attempt": SHARD["attempt"]}) == replace(closing, attempt=str(SHARD["attempt"]))


def test_what_is_of_another_step_is_not_taken() -> None:
    """An execution is of a plan, token and attempt are of a close: no other step is given a lease that way."""
    tokens = {"execution": EXECUTION, "token": SHARD["token"], "attempt": SHARD["attempt"]}
    assert parse_event(tokens) == Invocation()
    assert parse_event({"action": "harvest", "shard": SHARD} | tokens) == Invocation("harvest", shard=Shard.of(SHARD))
    assert parse_event({"action": "plan"} | tokens) == Invocation("plan", execution=EXECUTION)


@pytest.mark.parametrize("more", [{"batches": "of another kind"}, SHARD], ids=["of another form", "of this form"])
def test_the_shard_of_a_newer_harvester_is_refused_in_a_sentence(more: dict[str, Any]) -> None:
    """A higher format is named, whatever else is in it; unknown keys of this one are ignored."""
    with pytest.raises(NewerFormatError, match=r"^the shard has format 2, and this harvester reads format 1") as caught:
        parse_event({"action": "harvest", "shard": more | {"format": 2}})
    assert caught.value.exit_code == 2
    for other in (2.0, "2", 0, None, True):
        with pytest.raises(InputError, match="is no shard as `plan` writes it: its format is"):
            parse_event({"action": "harvest", "shard": SHARD | {"format": other}})
    invocation = parse_event({"action": "harvest", "shard": SHARD | {"colour": "blue"}})
    assert invocation == Invocation("harvest", shard=Shard.of(SHARD))


def test_what_it_was_started_with_decides_about_the_children_and_the_step_about_settings() -> None:
    """A state machine knows a number of children from its template; who starts it may know better."""
    assert parse_event({"action": "plan", "children": "4", "event": {"children": 9}}) == Invocation("plan", children=9)
    event = {"settings": {"tmdb_rate": 20}, "event": {"settings": {"tmdb_rate": 10, "s3_prefix": "x"}}}
    assert parse_event(event) == Invocation(settings={"tmdb_rate": 20, "s3_prefix": "x"})


def test_to_close_is_never_to_harvest_again() -> None:
    """A lost answer has the run closed twice; with `again` the second time would harvest anew."""
    invocation = parse_event({"action": "close", "run": SHARD["run"], "again": True, "event": {"again": True}})
    assert invocation == Invocation("close", run=str(SHARD["run"]))


@pytest.mark.parametrize("name", EVENT_SETTINGS)
def test_a_setting_that_shapes_the_harvest_may_be_set(name: str) -> None:
    """Each that is allowed is one of ours, and comes before the environment's."""
    assert name in Settings.model_fields
    assert parse_event({"settings": {name: "x"}}) == Invocation(settings={name: "x"})


@pytest.mark.parametrize(
    "name", sorted({*Settings.model_fields, "S3_BUCKET", "nome_do_bucket_s3", ""} - set(EVENT_SETTINGS))
)
def test_where_everything_is_and_who_we_are_may_not_be_set(name: str) -> None:
    """A sender of events could have TMDB's key sent to a server, or the records to a bucket, of their own."""
    for event in ({"settings": {name: "x"}}, {"action": "plan", "event": {"settings": {name: "x"}}}):
        with pytest.raises(SettingsError, match=f"may not set {name}, but only tmdb_language, tmdb_append"):
            parse_event(event)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ([{}], "is no JSON object but"),
        ({"acton": "plan"}, "has 'acton', which is unknown"),
        ({"action": "Plan"}, "has the action 'Plan': give plan, harvest or close"),
        ({"action": ["plan"]}, "has the action"),
        ({"action": "plan", "children": "four"}, "has 'four' for children: give a number from 1 to 1,000"),
        ({"action": "plan", "children": 0}, "has 0 for children"),
        ({"action": "plan", "children": 1e999}, "has inf for children"),
        ({"action": "plan", "children": None}, "has None for children"),
        ({"action": "plan", "event": sent() | {"children": "x"}}, "has 'x' for children"),
        ({"again": "true"}, "has 'true' for again: give true or false"),
        ({"sources": {"movies": "s3://a/b.csv"}}, "give movies_csv, series_csv, or both"),
        ({"sources": {"movies_csv": 5}}, "has .* for sources: give movies_csv"),
        ({"sources": {"movies_csv": "\ud800"}}, "for sources: give"),
        ({"action": "close"}, "close needs a run"),
        ({"action": "harvest", "run": "2026-11-22-0123abcd"}, "close needs a run"),
        ({"action": "plan", "shard": SHARD}, "harvest may have a shard"),
        ({"action": "harvest", **SHARD}, "is unknown"),
        ({"action": "harvest", "shard": SHARD | {"rate": 0}}, "is no shard as `plan` writes it: rate"),
        ({"action": "harvest", "shard": SHARD | {"rate": 1e999}}, "is no shard"),
        ({"action": "harvest", "shard": SHARD | {"rate": float("nan")}}, "is no shard"),
        ({"action": "harvest", "shard": SHARD | {"run": None}}, "is no shard"),
        ({"action": "harvest", "shard": SHARD | {"run": "../x"}}, "is no shard"),
        ({"action": "harvest", "shard": SHARD | {"run": f"{SHARD['run']}\n"}}, "is no shard"),
        (
            {"action": "harvest", "shard": SHARD | {"generation": "../x"}},
            "is no shard as `plan` writes it: generation",
        ),
        ({"action": "harvest", "shard": SHARD | {"token": None}}, "is no shard as `plan` writes it: token"),
        ({"action": "harvest", "shard": SHARD | {"attempt": "\ud800"}}, "is no shard as `plan` writes it: attempt"),
        ({"action": "harvest", "shard": SHARD | {"batches": {"Movies": [["tt0000001"] * 101]}}}, "is no shard"),
        ({"action": "plan", "execution": 5}, "has 5 for execution: give a text, or leave it out"),
        ({"action": "close", "run": "../2026-11-22-0123abcd"}, "for run"),
        ({"action": "close", "run": "x-0123abcd"}, "for run"),
        ({"action": "close", "run": f"{SHARD['run']}\n"}, "for run"),
        ({"action": "close", "run": None}, "for run"),
        (
            {"action": "close", "run": SHARD["run"], "token": "two words"},
            "has 'two words' for token: give the value that the previous step",
        ),
        (
            {"action": "close", "run": SHARD["run"], "attempt": ["c0ffee00"]},
            "for attempt: give the value that the previous step",
        ),
        ({"action": "harvest", "shard": SHARD | {"batches": {"Movies": [["../../x"]]}}}, "is no shard"),
        ({"action": "harvest", "shard": SHARD | {"batches": {"Movies": [[]]}}}, r"is no shard.*batches\.Movies\.0"),
        ({"action": "harvest", "shard": SHARD | {"batches": {"Filmes": [["tt1"]]}}}, "is no shard"),
        ({"action": "harvest", "shard": SHARD | {"batches": {"Movies": [[5] * 9_999]}}}, "is no shard"),
        ({"event": []}, "is no JSON object"),
        ({"event": {"event": {}}}, "an event within its event"),
        ({"action": "plan", "event": sent(name="ObjectRemoved:Delete")}, "about no new CSV"),
        (sent("inbox/x.csv"), "inbox/x.csv: is in no folder that names its collection: movies, filmes, series, séries"),
        ({"Records": [{"eventSource": "aws:sqs", "body": "{}"}]}, "is not as S3 sends it: KeyError"),
        ({"Records": None}, "is not as S3 sends it"),
    ],
)
def test_an_event_without_a_meaning_is_an_input_error(event: Any, words: str) -> None:
    """A misspelt event would otherwise harvest for hours; the sentence says what was seen, in less than a page."""
    with pytest.raises(InputError, match=words) as caught:
        parse_event(event)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("settings", [None, [], "tmdb_rate=5", 5])
def test_settings_are_an_object(settings: Any) -> None:
    """What is no object of settings is refused as one, not taken for none."""
    with pytest.raises(SettingsError, match="give an object of them"):
        parse_event({"settings": settings})


def test_an_unreadable_setting_is_refused() -> None:
    """Half a character, as JSON can hold it, can be no key in S3 and no path."""
    for name in ("movies_csv", "s3_prefix"):
        with pytest.raises(SettingsError, match=f"sets {name} to"):
            parse_event({"settings": {name: "\ud800"}})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["movies.csv", "Movies/1.csv"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
WORDS = ["action", "settings", "again", "event", "execution", "children", "sources", "run", "token", "attempt", "shard"]
WORDS += ["Records", "source", "Service", "detail", "detail-type", "bucket", "object", "key", "name", "s3", "eventName"]
WORDS += [*SHARD, *EVENT_SETTINGS]
VALUES = ["plan", "harvest", "close", "aws.s3", "Amazon S3", "Object Created", "ObjectCreated:Put", "Movies/1.csv"]
NEARLY_EVENTS = st.recursive(
    JSON | st.sampled_from(VALUES) | st.sampled_from([sent(), SHARD]),
    lambda inner: st.dictionaries(st.sampled_from(WORDS), inner, max_size=5) | st.lists(inner, max_size=2),
    max_leaves=20,
)


@given(JSON | NEARLY_EVENTS)
@example(json.loads('{"event":' * 400 + "{}" + "}" * 400))
def test_any_json_is_an_invocation_or_none_or_an_error_with_a_sentence(event: Any) -> None:
    """Whatever is sent: never anything but that, and settings that are valid or refused."""
    with suppress(InputError, NewerFormatError, SettingsError):
        invocation = parse_event(event)
        assert invocation is None or load_settings(**invocation.settings)
