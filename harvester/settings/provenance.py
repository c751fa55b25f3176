"""Where settings come from, which names are no setting, and which variables of `.env` are the AWS SDK's."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from harvester.settings.settings import ALL_NAMES, ENV_FILE, SOURCES, Settings, names_of, nearest_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIRST_WORDS = sorted({name.partition("_")[0].upper() for name in Settings.model_fields} - {"AWS"})  # the SDK has more

NAME = re.compile(f"({'|'.join(_FIRST_WORDS)})(_[A-Z0-9]{{1,15}})+")
"""What looks like the name of a setting of ours. A longer part is no word: a line of `.env` without its `=` is a name
to its reader, and may be a key."""

FOREIGN = re.compile(
    "S3_(ENDPOINT|REGION|USE_HTTPS|VERIFY_SSL|CA_FILE|CA_PATH|(CONNECT|REQUEST)_TIMEOUT_MSEC)"
    "|[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP)(_(ADDR|PORT|PROTO))?)?)"
)
"""Variables of the environment that begin like ours: TensorFlow's for S3, and those that Kubernetes and Docker make of
the name of a service or a linked container, such as `S3_SERVICE_HOST`."""


@dataclass(frozen=True, slots=True)
class UnknownName:
    """A variable that begins like a setting and is none; its value is nowhere."""

    setting: str
    where: str
    nearest: str | None


def provenance(**flags: Any) -> dict[str, str]:
    """Where each setting in force comes from, by field name, once `load_settings` has found them valid.

    What the environment and `.env` have alike is the latter's: the command line lends the SDK its variables of `.env`.
    """
    where = dict.fromkeys(Settings.model_fields, "default")
    values: dict[str, Any] = {}
    for place, source in SOURCES.items():
        found = {name: value for name, value in source(Settings)().items() if name in where}
        where |= {name: place for name, value in found.items() if place != "environment" or value != values.get(name)}
        values |= found
    return where | {name: "flag" for name, value in flags.items() if value is not None}


def unknown_names() -> list[UnknownName]:
    """The variables of the environment and of `.env` that begin like a setting and are none, by name."""
    seen = {(name, "environment") for name in _variables(EnvSettingsSource) if not FOREIGN.fullmatch(name)}
    seen |= {(name, str(ENV_FILE)) for name in _variables(DotEnvSettingsSource)}
    unknown = sorted(each for each in seen if NAME.fullmatch(each[0]) and each[0] not in ALL_NAMES)
    return [UnknownName(name, where, _nearest(name)) for name, where in unknown]


def _nearest(name: str) -> str | None:
    """The setting that was meant; only who speaks of S3 may have meant one of AWS's."""
    return nearest_name(name, [each for each in ALL_NAMES if name.startswith("S3_") or not each.startswith("AWS_")])


def sdk_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `.env` that the AWS SDK reads from the `environment` alone, and that are not set there.

    No setting changes by them: a name is left away where the environment has the same setting by a name of lower rank.
    """
    present = {name.upper() for name in environment}
    lower_ranked = {
        name: names[place + 1 :] for names in map(names_of, Settings.model_fields) for place, name in enumerate(names)
    }
    return {
        name: value
        for name, value in _variables(DotEnvSettingsSource).items()
        if value and name.startswith("AWS_") and present.isdisjoint({name, *lower_ranked.get(name, ())})
    }


def _variables(source: type[EnvSettingsSource]) -> dict[str, str | None]:
    """The variables of a source, by name in upper case, without the empty ones; none of a file that cannot be read."""
    with suppress(tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
        return {name.upper(): value for name, value in source(Settings).env_vars.items()}
    return {}
