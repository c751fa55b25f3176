"""Provenance of settings, unknown names, and the AWS SDK's variables in `.env`."""

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

_FIRST_WORDS = sorted(
    {name.partition("_")[0].upper() for name in Settings.model_fields} - {"AWS"}
)  # the SDK has other names with AWS

NAME = re.compile(f"({'|'.join(_FIRST_WORDS)})(_[A-Z0-9]{{1,15}})+")
"""A name that looks like a setting of ours. Parts are at most 15 characters: a line of `.env` without `=` counts as a
name, and may be a key, which must not be shown."""

FOREIGN = re.compile(
    "S3_(ENDPOINT|REGION|USE_HTTPS|VERIFY_SSL|CA_FILE|CA_PATH|(CONNECT|REQUEST)_TIMEOUT_MSEC)"
    "|[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP)(_(ADDR|PORT|PROTO))?)?)"
)
"""Environment variables of others that begin like ours: TensorFlow's for S3, and those that Kubernetes and Docker make
from the name of a service or a linked container, such as `S3_SERVICE_HOST`."""


@dataclass(frozen=True, slots=True)
class UnknownName:
    """A variable that begins like a setting but is none; without its value, which may be a secret."""

    setting: str
    where: str
    nearest: str | None


def provenance(**flags: Any) -> dict[str, str]:
    """Where each setting in force comes from, by field name. Call it after `load_settings`, which checks them.

    A setting of the SDK's with the same value in the environment and in `.env` comes from `.env`: the command line
    copies the SDK's variables (`sdk_variables`).
    """
    origins = dict.fromkeys(Settings.model_fields, "default")
    values: dict[str, Any] = {}
    for origin, source in SOURCES.items():
        found = {name: value for name, value in source(Settings)().items() if name in origins}
        shared = {name for name, value in found.items() if origin == "environment" and value == values.get(name)}
        copies = {name for name in shared if name.startswith("aws_")}
        origins |= dict.fromkeys(found.keys() - copies, origin)
        values |= found
    return origins | {name: "flag" for name, value in flags.items() if value is not None}


def unknown_names() -> list[UnknownName]:
    """The variables of the environment and of `.env` that begin like a setting but are none, sorted."""
    variables = {(name, "environment") for name in _variables(EnvSettingsSource) if not FOREIGN.fullmatch(name)}
    variables |= {(name, str(ENV_FILE)) for name in _variables(DotEnvSettingsSource)}
    unknown = sorted(each for each in variables if NAME.fullmatch(each[0]) and each[0] not in ALL_NAMES)
    return [UnknownName(name, origin, _nearest(name)) for name, origin in unknown]


def _nearest(name: str) -> str | None:
    """The setting that was probably meant; one of AWS's only if the name begins with `S3_`."""
    return nearest_name(name, [each for each in ALL_NAMES if name.startswith("S3_") or not each.startswith("AWS_")])


def sdk_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `.env` for the AWS SDK, which reads the `environment` only, and that are not set there.

    They change no setting: a name is left out if the environment has the same setting under a name of lower rank.
    """
    present = {name.upper() for name in environment}
    lower_ranked = {
        name: names[rank + 1 :] for names in map(names_of, Settings.model_fields) for rank, name in enumerate(names)
    }
    return {
        name: value
        for name, value in _variables(DotEnvSettingsSource).items()
        if value and name.startswith("AWS_") and present.isdisjoint({name, *lower_ranked.get(name, ())})
    }


def _variables(source: type[EnvSettingsSource]) -> dict[str, str | None]:
    """The variables of a source by name in upper case, without empty ones; none if the file cannot be read."""
    with suppress(tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
        return {name.upper(): value for name, value in source(Settings).env_vars.items()}
    return {}
