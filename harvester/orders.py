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
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import unquote_plus

from harvester.errors import InputError, SettingsError
from harvester.layout import GENERATION, RUN_NAME
from harvester.opening import CSV_NAMES
from harvester.shards import CHILDREN, Shard

if TYPE_CHECKING:
    from collections.abc import Mapping

Action = Literal["plan", "harvest", "close"]

SETTINGS = (
    "movies_csv",
    "series_csv",
    "csv_id_column",
    "tmdb_language",
    "tmdb_append",
    "tmdb_rate",
    "tmdb_concurrency",
    "s3_prefix",
    "output_format",
)
"""What an event may set. Where TMDB and the bucket are, and who we are there, is not for whoever sends events."""

FOLDERS = {"movies": "movies_csv", "filmes": "movies_csv", "series": "series_csv", "séries": "series_csv"}
"""Names of folders and files, without regard to case, and the setting that a CSV below is for."""

OURS = {"action", "settings", "again", "event", "execution", "children", "sources", "run", "token", "attempt", "shard"}
"""Keys of an event of ours."""


@dataclass(frozen=True, slots=True)
class Order:
    """What an event asks for.

    Attributes:
        settings: Before those of the environment, by field name.
        sources: The only CSVs that are meant, by field name; those of the settings if there are none.
        children: How many may harvest the shards of a plan at a time.
        execution: Of the state machine that plans; the tokens of lease and generation follow from it.
        only: The run that is to be closed.
        token: Of the lease that its plan has taken.
        attempt: Of closing it; titles that failed in it are not tried again.
        shard: What one child is to harvest.
    """

    action: Action = "harvest"
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    again: bool = False
    children: int = CHILDREN
    execution: str | None = None
    only: str | None = None
    token: str | None = None
    attempt: str | None = None
    shard: Shard | None = None


def read_order(event: Any) -> Order | None:
    """What `event` asks for; None where it is S3's, and not of a CSV that has been created.

    Raises:
        InputError: Nobody knows what it asks for.
        SettingsError: It sets what it may not.
    """
    if event is None:  # an invocation without a payload
        return Order()
    if not isinstance(event, dict):
        raise InputError("the event", f"is no JSON object but {event!r:.200}")
    action = event.get("action", "harvest")
    if action not in get_args(Action):
        raise InputError("the event", f"has the action {action!r:.200}: give plan, harvest or close, or none")
    if "Records" in event or event.get("source") in ("aws.s3", "Amazon S3") or event.get("Service") == "Amazon S3":
        sources = _uploaded(event)
        return Order(sources=sources) if sources else None
    if event.get("detail-type") == "Scheduled Event":
        return Order()
    if strange := event.keys() - OURS:
        raise InputError("the event", f"has {', '.join(sorted(map(repr, strange))):.500}, which says nothing to us")
    began = event.get("event", {})  # what the state machine was started with
    if isinstance(began, dict) and "event" in began:
        raise InputError("the event", "has an event within its event: give what the state machine was started with")
    first = read_order(began) if "event" in event else Order()
    if first is None:
        raise InputError("the event", "that began this is of no CSV: let only those of CSVs begin it")
    if ("run" in event) != (action == "close") or ("shard" in event and action != "harvest"):
        raise InputError("the event", f"does not go with {action}: close needs a run, harvest may have a shard")
    return Order(
        action=action,
        settings=first.settings | _settings(event.get("settings", {})),
        sources=first.sources | _sources(event.get("sources", {})),
        again=(first.again or _again(event)) and action != "close",  # called once more, it would begin anew
        children=_children((event | began).get("children", CHILDREN)),
        execution=_text(event, "execution") if action == "plan" else None,
        only=_matching(event, "run", RUN_NAME.pattern) if action == "close" else None,
        token=_matching(event, "token", GENERATION) if action == "close" else None,
        attempt=_matching(event, "attempt", GENERATION) if action == "close" else None,
        shard=Shard.of(event["shard"]) if "shard" in event else None,
    )


def _settings(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise SettingsError(f"The event has the settings {given!r:.200}: give an object of them, by name")
    if strange := given.keys() - set(SETTINGS):
        raise SettingsError(f"The event may not set {', '.join(sorted(strange))}, but only {', '.join(SETTINGS)}")
    if dark := [name for name, value in given.items() if isinstance(value, str) and not value.isprintable()]:
        raise SettingsError(f"The event sets {dark[0]} to {given[dark[0]]!r:.200}, which has unprintable characters")
    return dict(given)


def _sources(given: Any) -> dict[str, str]:
    sound = isinstance(given, dict) and given.keys() <= set(FOLDERS.values())
    if not (sound and all(isinstance(source, str) and source.isprintable() for source in given.values())):
        raise InputError("the event", f"has the sources {given!r:.200}: give movies_csv, series_csv, or both")
    return dict(given)


def _again(event: Mapping[str, Any]) -> bool:
    again = event.get("again", False)
    if not isinstance(again, bool):
        raise InputError("the event", f"has {again!r:.200} for again: give true or false")
    return again


def _text(event: Mapping[str, Any], name: str) -> str | None:
    given = event.get(name)
    if not (given is None or isinstance(given, str)):
        raise InputError("the event", f"has {given!r:.200} for {name}: give a text, or leave it away")
    return given or None


def _matching(event: Mapping[str, Any], name: str, pattern: str) -> str | None:
    given = _text(event, name)
    if given is None and name != "run":
        return None
    if not re.fullmatch(pattern, given or ""):
        raise InputError("the event", f"has {given!r:.200} for {name}: give back what the answer before said")
    return given


def _children(given: Any) -> int:
    try:
        children = int(given)
    except (TypeError, ValueError, OverflowError):
        children = 0
    if not 1 <= children <= 1_000:
        raise InputError("the event", f"has {given!r:.200} for children: give a number from 1 to 1,000")
    return children


def _uploaded(event: Mapping[str, Any]) -> dict[str, str]:
    """The CSVs of an event of S3's, by the setting they are for.

    S3's own events have keys as a form would send them (`Filmes+e+s%C3%A9ries`), EventBridge's as they are.
    """
    try:
        if "Records" in event:
            found = [r["s3"] for r in event["Records"] if str(r["eventName"]).startswith("ObjectCreated")]
            objects = [(str(s3["bucket"]["name"]), unquote_plus(str(s3["object"]["key"]))) for s3 in found]
        elif event.get("detail-type") == "Object Created":
            objects = [(str(event["detail"]["bucket"]["name"]), str(event["detail"]["object"]["key"]))]
        else:
            objects = []
    except (KeyError, TypeError) as error:
        raise InputError("the event", f"is not as S3 sends them: {error!r:.200}") from error
    created = [(_setting_of(key), f"s3://{bucket}/{key}") for bucket, key in objects if key.lower().endswith(CSV_NAMES)]
    sources = dict(created)
    if len(sources) < len(created):
        raise InputError("the event", f"has two CSVs for one setting, {created!r:.500}: send one at a time")
    return sources


def _setting_of(key: str) -> str:
    """Which CSV it is, by the nearest of its folders that says so, or its own name."""
    path = PurePosixPath(key)
    for name in (*reversed(path.parent.parts), path.name.partition(".")[0]):
        if setting := FOLDERS.get(unicodedata.normalize("NFC", name).casefold()):  # macOS takes the é apart
            return setting
    raise InputError(key, f"is in no folder that says what it holds: {', '.join(FOLDERS)}")
