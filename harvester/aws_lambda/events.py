"""Events: from the JSON that AWS passes to the Lambda to an `Invocation`.

- `{}`, or the event of an EventBridge schedule: harvest the CSVs that the environment names;
- S3's `ObjectCreated` of a CSV, sent by S3 itself or by EventBridge: harvest that one, its collection by its folder;
- `{"action": "plan" | "harvest" | "close", …}`: a step of a fan-out (see `shards`).

All but S3's may have `again`, and `settings`, which override those of the environment. Anything else is an error: a
misspelt event would otherwise harvest for hours.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import unquote_plus

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harvester.commands.resources import CSV_SETTINGS
from harvester.commands.shards import CHILDREN, Shard
from harvester.errors import InputError, SettingsError
from harvester.model.documents import RunName, Token  # noqa: TC001  # pydantic reads them
from harvester.model.s3_url import S3Url
from harvester.settings.settings import EVENT_SETTINGS
from harvester.sources.s3_csv import CSV_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.model.ids import Collection

Action = Literal["plan", "harvest", "close"]

CSVS = tuple(CSV_SETTINGS.values())

FOLDERS: dict[str, Collection] = {"movies": "Movies", "filmes": "Movies", "series": "Series", "séries": "Series"}
"""Names of folders and files, in any case, and the collection of the CSVs in them."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What an event asks for.

    Both by field name: `settings` override those of the environment, and `sources`, if any, are the only CSVs. At most
    so many `children` harvest at a time. The tokens of lease and generation follow from the `execution`. `close`
    finishes the `run` under the lease of this `token`, without titles that failed in this `attempt`.
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


def _sources(sources: dict[str, str]) -> dict[str, str]:
    if not (sources.keys() <= set(CSVS) and all(map(str.isprintable, sources.values()))):
        raise ValueError
    return sources


class _Event(BaseModel):
    """Keys of an event of any action. A description is the advice for a wrong value.

    `execution`, `token` and `attempt` are checked for all actions; each is used by one.
    """

    # Built on first use: few cold starts have an event with keys.
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    EVENT_KEYS: ClassVar[tuple[str, ...]] = ()
    """Keys that only this action uses."""

    action: Action = "harvest"
    event: Any = None  # what the state machine was started with
    settings: Any = {}  # checked by `_settings`, with errors of its own
    sources: Annotated[dict[str, str], AfterValidator(_sources), Field(description=f"{', '.join(CSVS)}, or both")] = {}
    again: Annotated[bool, Field(description="true or false")] = False
    children: Annotated[
        str,
        Field(
            strict=False,
            coerce_numbers_to_str=True,
            pattern="^([1-9][0-9]{0,2}|1000)$",
            description="a number from 1 to 1,000",
        ),
    ] = str(CHILDREN)
    execution: Annotated[str | None, Field(description="a text, or leave it out")] = None
    token: Annotated[Token | None, Field(description="the value that the previous step answered, unchanged")] = None
    attempt: Annotated[Token | None, Field(description="the value that the previous step answered, unchanged")] = None


class _Plan(_Event):
    EVENT_KEYS = ("execution",)


class _Harvest(_Event):
    shard: Any = None


class _Close(_Event):
    EVENT_KEYS = ("run", "token", "attempt")

    run: Annotated[RunName, Field(description="the value that the previous step answered, unchanged")]


EVENTS: dict[Action, type[_Event]] = {"plan": _Plan, "harvest": _Harvest, "close": _Close}


def parse_event(event: Any) -> Invocation | None:
    """What `event` asks for; None if it is S3's, but not of a new CSV. InputError or SettingsError if it is invalid."""
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
    start_event = event.get("event")
    if isinstance(start_event, dict) and "event" in start_event:
        raise InputError("the event", "has an event within its event: give what the state machine was started with")
    if isinstance(start_event, dict) and "children" in start_event:
        event = event | {"children": start_event["children"]}
    try:
        step = EVENTS[action].model_validate(event)
    except ValidationError as error:
        raise _problem(error, event, action) from None
    started_with = parse_event(start_event)
    if started_with is None:
        problem = "shows that the state machine was started by a message of S3 about no new CSV: start it for CSVs only"
        raise InputError("the event", problem)
    return Invocation(
        action=action,
        settings=started_with.settings | _settings(step.settings),
        sources=started_with.sources | step.sources,
        again=(started_with.again or step.again) and action != "close",  # a repeated close would begin anew
        children=int(step.children),
        shard=Shard.of(event["shard"]) if "shard" in event else None,
        **{name: getattr(step, name) for name in step.EVENT_KEYS},
    )


def _problem(error: ValidationError, event: dict[str, Any], action: Action) -> InputError:
    """What is wrong with `event`: its unknown keys, or else its first wrong value."""
    known = {name for model in EVENTS.values() for name in model.model_fields}
    if unexpected := event.keys() - known:
        return InputError("the event", f"has {', '.join(sorted(map(repr, unexpected))):.500}, which is unknown")
    problem = error.errors(include_url=False, include_input=False)[0]
    name = str(problem["loc"][0])
    declared = EVENTS[action].model_fields.get(name)
    if declared is None or name not in event:
        rule = "close needs a run, harvest may have a shard"
        return InputError("the event", f"does not go with {action}: {rule}")
    return InputError("the event", f"has {event[name]!r:.200} for {name}: give {declared.description}")


def _settings(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise SettingsError(f"The event has the settings {settings!r:.200}: give an object of them, by name")
    if unexpected := settings.keys() - set(EVENT_SETTINGS):
        only = ", ".join(EVENT_SETTINGS)
        raise SettingsError(f"The event may not set {', '.join(sorted(unexpected))}, but only {only}")
    for name, value in settings.items():
        if isinstance(value, str) and not value.isprintable():
            raise SettingsError(f"The event sets {name} to {value!r:.200}, which has unprintable characters")
    return settings


def _uploaded(event: Mapping[str, Any]) -> dict[str, str]:
    """The CSVs of an event of S3's, by the setting that each is for.

    S3 itself sends keys form-encoded (`Filmes+e+s%C3%A9ries`), EventBridge as they are.
    """
    try:
        if "Records" in event:
            records = event["Records"]
            details = [each["s3"] for each in records if str(each["eventName"]).startswith("ObjectCreated")]
        else:
            details = [event["detail"]] if event.get("detail-type") == "Object Created" else []
        decode = unquote_plus if "Records" in event else str
        objects = [(str(each["bucket"]["name"]), decode(str(each["object"]["key"]))) for each in details]
    except (KeyError, TypeError) as error:
        raise InputError("the event", f"is not as S3 sends it: {error!r:.200}") from error
    created = [
        (_setting_of(key), str(S3Url(bucket, key))) for bucket, key in objects if key.lower().endswith(CSV_NAMES)
    ]
    sources = dict(created)
    if len(sources) < len(created):
        raise InputError("the event", f"has two CSVs for one setting, {created!r:.500}: send one at a time")
    return sources


def _setting_of(key: str) -> str:
    """The setting that a CSV is for, by the nearest folder with a name of `FOLDERS`, or else by its own name."""
    path = PurePosixPath(key)
    for name in (*reversed(path.parent.parts), path.name.partition(".")[0]):
        if collection := FOLDERS.get(unicodedata.normalize("NFC", name).casefold()):  # macOS writes é as two characters
            return CSV_SETTINGS[collection]
    raise InputError(key, f"is in no folder that names its collection: {', '.join(FOLDERS)}")
