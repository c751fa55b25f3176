"""Orders: what an event that AWS hands to the Lambda asks for.

- `{}`, or what a schedule of EventBridge sends: harvest the CSVs that the environment names;
- S3's `ObjectCreated` of a CSV, sent by S3 itself or by EventBridge: harvest that one, as what its folder says;
- `{"action": "plan" | "harvest" | "close", …}`: a step of a fan-out (see `shards`).

All but S3's may have `settings`, which come before those of the environment, and `again`. Anything else is an error: a
misspelt event would otherwise harvest for hours.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import unquote_plus

from harvester.commands.resources import CSV_SETTINGS
from harvester.commands.shards import CHILDREN, Shard
from harvester.errors import InputError, SettingsError
from harvester.model.layout import GENERATION, RUN_NAME
from harvester.model.s3_url import S3Url
from harvester.sources.s3_csv import CSV_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harvester.model.ids import Collection

Action = Literal["plan", "harvest", "close"]

CSVS, PACE = tuple(CSV_SETTINGS.values()), ("tmdb_rate", "tmdb_concurrency")
SETTINGS = (*CSVS, "csv_id_column", "tmdb_language", "tmdb_append", *PACE, "s3_prefix", "output_format")
"""What an event may set: not where TMDB and the bucket are, nor who we are there."""

FOLDERS: dict[str, Collection] = {"movies": "Movies", "filmes": "Movies", "series": "Series", "séries": "Series"}
"""Names of folders and files, without regard to case, and the collection that a CSV below is of."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What an event asks for.

    `settings` come before those of the environment, and `sources`, if there are any, are the only CSVs: both by field
    name. At most so many `children` harvest at a time. The tokens of lease and generation follow from the `execution`.
    To be closed is the `run`, in the lease that this `token` has, without titles that failed in this `attempt`.
    """

    action: Action = "harvest"
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    again: bool = False
    children: int = CHILDREN
    execution: str | None = None
    run: str | None = None
    token: str | None = None
    attempt: str | None = None
    shard: Shard | None = None


EVENT_KEYS = {"event", *(each.name for each in fields(Invocation))}
"""Keys of an event of ours."""

STEPS = {"execution": "plan", "run": "close", "token": "close", "attempt": "close"}
"""Keys that are taken from events of one action alone."""


def _are_sources(given: Any) -> bool:
    sound = isinstance(given, dict) and given.keys() <= set(CSVS)
    return sound and all(isinstance(source, str) and source.isprintable() for source in given.values())


def _is(pattern: str, given: Any) -> bool:
    return isinstance(given, str) and re.fullmatch(pattern, given) is not None


CHECKS: dict[str, tuple[Callable[[Any], object], str]] = {
    "sources": (_are_sources, "movies_csv, series_csv, or both"),
    "again": (lambda given: isinstance(given, bool), "true or false"),
    "children": (lambda given: re.fullmatch("[1-9][0-9]{0,2}|1000", str(given)), "a number from 1 to 1,000"),
    "execution": (lambda given: isinstance(given, str | None), "a text, or leave it away"),
    "run": (lambda given: _is(RUN_NAME.pattern, given), "back what the answer before said"),
    "token": (lambda given: given is None or _is(GENERATION, given), "back what the answer before said"),
    "attempt": (lambda given: given is None or _is(GENERATION, given), "back what the answer before said"),
}
"""By key: whether a value is sound, and what to give instead."""


def parse_event(event: Any) -> Invocation | None:
    """What `event` asks for; None if it is S3's and not of a new CSV. An InputError or SettingsError if it is none."""
    if event is None:  # an invocation without a payload
        return Invocation()
    if not isinstance(event, dict):
        raise InputError("the event", f"is no JSON object but {event!r:.200}")
    action = event.get("action", "harvest")
    if action not in get_args(Action):
        raise InputError("the event", f"has the action {action!r:.200}: give plan, harvest or close, or none")
    if "Records" in event or event.get("source") in ("aws.s3", "Amazon S3") or event.get("Service") == "Amazon S3":
        sources = _uploaded(event)
        return Invocation(sources=sources) if sources else None
    if event.get("detail-type") == "Scheduled Event":
        return Invocation()
    began = event.get("event")  # what the state machine was started with
    if isinstance(began, dict) and "children" in began:
        event = event | {"children": began["children"]}
    _check(event, action)
    first = parse_event(began)
    if first is None:
        raise InputError("the event", "that began this is of no CSV: let only those of CSVs begin it")
    return Invocation(
        action=action,
        settings=first.settings | _settings(event.get("settings", {})),
        sources=first.sources | event.get("sources", {}),
        again=(first.again or event.get("again", False)) and action != "close",  # called once more, it would begin anew
        children=int(event.get("children", CHILDREN)),
        shard=Shard.of(event["shard"]) if "shard" in event else None,
        **{name: event[name] for name, its in STEPS.items() if its == action and name in event},
    )


def _check(event: dict[str, Any], action: Action) -> None:
    if unexpected := event.keys() - EVENT_KEYS:
        raise InputError("the event", f"has {', '.join(sorted(map(repr, unexpected))):.500}, which says nothing to us")
    if isinstance(event.get("event"), dict) and "event" in event["event"]:
        raise InputError("the event", "has an event within its event: give what the state machine was started with")
    if ("run" in event) != (action == "close") or ("shard" in event and action != "harvest"):
        raise InputError("the event", f"does not go with {action}: close needs a run, harvest may have a shard")
    for name, (sound, wanted) in CHECKS.items():
        if name in event and not sound(event[name]):
            raise InputError("the event", f"has {event[name]!r:.200} for {name}: give {wanted}")


def _settings(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise SettingsError(f"The event has the settings {given!r:.200}: give an object of them, by name")
    if unexpected := given.keys() - set(SETTINGS):
        raise SettingsError(f"The event may not set {', '.join(sorted(unexpected))}, but only {', '.join(SETTINGS)}")
    for name, value in given.items():
        if isinstance(value, str) and not value.isprintable():
            raise SettingsError(f"The event sets {name} to {value!r:.200}, which has unprintable characters")
    return given


def _uploaded(event: Mapping[str, Any]) -> dict[str, str]:
    """The CSVs of an event of S3's, by the setting they are for.

    S3 itself sends keys in the encoding of forms (`Filmes+e+s%C3%A9ries`), EventBridge as they are.
    """
    try:
        if "Records" in event:
            details = [r["s3"] for r in event["Records"] if str(r["eventName"]).startswith("ObjectCreated")]
        else:
            details = [event["detail"]] if event.get("detail-type") == "Object Created" else []
        decode = unquote_plus if "Records" in event else str
        objects = [(str(each["bucket"]["name"]), decode(str(each["object"]["key"]))) for each in details]
    except (KeyError, TypeError) as error:
        raise InputError("the event", f"is not as S3 sends them: {error!r:.200}") from error
    created = [
        (_setting_of(key), str(S3Url(bucket, key))) for bucket, key in objects if key.lower().endswith(CSV_NAMES)
    ]
    sources = dict(created)
    if len(sources) < len(created):
        raise InputError("the event", f"has two CSVs for one setting, {created!r:.500}: send one at a time")
    return sources


def _setting_of(key: str) -> str:
    """The setting a CSV is for, by the nearest of its folders that says so, or its own name."""
    path = PurePosixPath(key)
    for name in (*reversed(path.parent.parts), path.name.partition(".")[0]):
        if collection := FOLDERS.get(unicodedata.normalize("NFC", name).casefold()):  # macOS takes the é apart
            return CSV_SETTINGS[collection]
    raise InputError(key, f"is in no folder that says what it holds: {', '.join(FOLDERS)}")
