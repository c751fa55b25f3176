"""Events: what an event that AWS hands to the Lambda asks for.

- `{}`, or what a schedule of EventBridge sends: harvest the CSVs that the environment names;
- S3's `ObjectCreated` of a CSV, sent by S3 itself or by EventBridge: harvest that one, as what its folder says;
- `{"action": "plan" | "harvest" | "close", …}`: a step of a fan-out (see `shards`).

All but S3's may have `settings`, which come before those of the environment, and `again`. Anything else is an error: a
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


def _sources(sources: dict[str, str]) -> dict[str, str]:
    if not (sources.keys() <= set(CSVS) and all(map(str.isprintable, sources.values()))):
        raise ValueError
    return sources


class _Event(BaseModel):
    """Keys of an event of any action. A description says what to give instead of a wrong value.

    `execution`, `token` and `attempt` are checked in all of them, and count in one.
    """

    # Built when it is needed: few cold starts are for an event with keys.
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    COUNTING: ClassVar[tuple[str, ...]] = ()
    """Keys that count in events of this action alone."""

    action: Action = "harvest"
    event: Any = None  # what the state machine was started with
    settings: Any = {}  # `_settings` has another error for them
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
    execution: Annotated[str | None, Field(description="a text, or leave it away")] = None
    token: Annotated[Token | None, Field(description="back what the answer before said")] = None
    attempt: Annotated[Token | None, Field(description="back what the answer before said")] = None


class _Plan(_Event):
    COUNTING = ("execution",)


class _Harvest(_Event):
    shard: Any = None


class _Close(_Event):
    COUNTING = ("run", "token", "attempt")

    run: Annotated[RunName, Field(description="back what the answer before said")]


EVENTS: dict[Action, type[_Event]] = {"plan": _Plan, "harvest": _Harvest, "close": _Close}


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
    began = event.get("event")
    if isinstance(began, dict) and "event" in began:
        raise InputError("the event", "has an event within its event: give what the state machine was started with")
    if isinstance(began, dict) and "children" in began:
        event = event | {"children": began["children"]}
    try:
        step = EVENTS[action].model_validate(event)
    except ValidationError as error:
        raise _problem(error, event, action) from None
    first = parse_event(began)
    if first is None:
        raise InputError("the event", "that began this is of no CSV: let only those of CSVs begin it")
    return Invocation(
        action=action,
        settings=first.settings | _settings(step.settings),
        sources=first.sources | step.sources,
        again=(first.again or step.again) and action != "close",  # called once more, it would begin anew
        children=int(step.children),
        shard=Shard.of(event["shard"]) if "shard" in event else None,
        **{name: getattr(step, name) for name in step.COUNTING},
    )


def _problem(error: ValidationError, event: dict[str, Any], action: Action) -> InputError:
    """What is wrong with `event`: the keys that no action has, or else the first value that is not as it should be."""
    known = {name for model in EVENTS.values() for name in model.model_fields}
    if unexpected := event.keys() - known:
        return InputError("the event", f"has {', '.join(sorted(map(repr, unexpected))):.500}, which says nothing to us")
    problem = error.errors(include_url=False, include_input=False)[0]
    name = str(problem["loc"][0])
    its = EVENTS[action].model_fields.get(name)
    if its is None or name not in event:
        rule = "close needs a run, harvest may have a shard"
        return InputError("the event", f"does not go with {action}: {rule}")
    return InputError("the event", f"has {event[name]!r:.200} for {name}: give {its.description}")


def _settings(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise SettingsError(f"The event has the settings {given!r:.200}: give an object of them, by name")
    if unexpected := given.keys() - set(EVENT_SETTINGS):
        only = ", ".join(EVENT_SETTINGS)
        raise SettingsError(f"The event may not set {', '.join(sorted(unexpected))}, but only {only}")
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
