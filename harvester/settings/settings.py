"""The settings: each with its names, flag, help, limits and default; read from flag > environment > `.env` > TOML.

One `_field(…)` declares everything about a setting. The command line's options, the README's table, and the names that
a Lambda event may set follow from it. A field's name in upper case is its environment variable, in lower case
its key in `config/harvester.toml`. TMDB's key and the AWS credentials are `SecretStr`: nothing prints them by accident.
"""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from harvester.errors import SettingsError
from harvester.model.record_options import OUTPUT_FORMATS, DataTemplate, OutputFormat, RecordOptions
from harvester.settings import validators
from harvester.settings.redaction import redact, redact_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable

TOML_FILE = Path("config/harvester.toml")
ENV_FILE = Path(".env")
MESSAGE_LIMIT = 1_000
"""Characters of the message about one wrong setting."""


@dataclass(frozen=True, slots=True)
class Option:
    """How a setting can be set other than by its environment variable: by a flag, or by a Lambda event."""

    flag: str | None
    panel: str  # of the command line's help
    help: str
    event: bool  # whether a Lambda event may set it: never where TMDB and the bucket are, nor credentials


def _field(
    description: str,  # the README's words
    default: Any = None,
    *,
    flag: str | None = None,
    panel: str = "",
    help: str = "",  # noqa: A002  # typer's name for it
    event: bool = False,
    names: tuple[str, ...] = (),  # all that it is read from, if more than its own
    **limits: Any,
) -> Any:
    """A setting with its `Option`; other keywords are its limits."""
    alias = AliasChoices(*names) if names else None
    option: Any = {"flag": flag, "panel": panel, "help": help, "event": event}
    return Field(default, description=description, validation_alias=alias, json_schema_extra=option, **limits)


class Settings(BaseSettings):
    """Every setting. Each may be absent, because no command needs all: `require` checks for some."""

    model_config = SettingsConfigDict(
        toml_file=TOML_FILE,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    tmdb_api_key: Annotated[SecretStr, AfterValidator(validators.api_key)] | None = _field(
        "required; 32-hex v3 key or `eyJ…` v4 read token, recognized by its shape; "
        "or where it is kept: `ssm:/path`, `secret:name`"
    )
    tmdb_base_url: Annotated[str, AfterValidator(validators.base_url)] = _field(
        "where TMDB is",
        "https://api.themoviedb.org/3",
        flag="--base-url",
        panel="TMDB",
        help="Where TMDB is",
    )
    tmdb_language: validators.Language | None = _field(
        "language of the records, such as `pt-BR`",
        flag="--language",
        panel="TMDB",
        help="Such as pt-BR",
        event=True,
    )
    tmdb_append: Annotated[validators.Parts, NoDecode] = _field(
        "`append_to_response` parts, at most 20, such as `credits,keywords`",
        (),
        flag="--append",
        panel="TMDB",
        help="Such as credits,keywords",
        event=True,
    )
    tmdb_rate: float = _field(
        "requests per second, at most; above 1 a whole number",
        40.0,
        flag="--rate",
        panel="TMDB",
        help="Requests per second at most",
        event=True,
        gt=0,
        le=10_000,
    )
    tmdb_concurrency: int = _field(
        "requests in flight, and connections",
        20,
        flag="--concurrency",
        panel="TMDB",
        help="Requests in flight",
        event=True,
        ge=1,
        le=1_000,
    )
    movies_csv: str | None = _field(
        "the movies: a path, `s3://bucket/key` (or a folder: the latest in it) or `-`; `.gz` too",
        flag="--movies",
        panel="Input",
        help="Movies: path, s3://… or -",
        event=True,
        names=("movies_csv", "caminho_do_arquivo_local_movies"),
    )
    series_csv: str | None = _field(
        "the series, likewise; at least one of the two",
        flag="--series",
        panel="Input",
        help="Series, likewise",
        event=True,
        names=("series_csv", "caminho_do_arquivo_local_series"),
    )
    csv_id_column: str | None = _field(
        "header of the id column, where it is not found by name",
        flag="--id-column",
        panel="Input",
        help="Header of the id column",
        event=True,
    )
    s3_bucket: validators.Bucket | None = _field(
        "required; the bucket for everything that is written",
        flag="--bucket",
        panel="Bucket",
        help="Bucket for the records",
        names=("s3_bucket", "nome_do_bucket_s3"),
    )
    s3_prefix: Annotated[str, AfterValidator(validators.prefix)] = _field(
        "folder of the harvest in the bucket; no part begins with `_` or `.`",
        "Raw/API",
        flag="--prefix",
        panel="Bucket",
        help="Folder in the bucket",
        event=True,
    )
    s3_key_template: DataTemplate = _field(
        "key of a data file; begins with `{prefix}/`, has collection and date in this order, "
        "ends in `/{batch}` and an extension",
        "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
    )
    s3_csv_template: Annotated[str, AfterValidator(validators.csv_template)] = _field(
        "key of an uploaded CSV, outside `S3_PREFIX`; its `{name}` is `movies.csv` or `series.csv`",
        "Raw/Local/CSV/{collection}/{yyyy}/{mm}/{dd}/{name}",
    )
    output_format: OutputFormat = _field(
        " or ".join(f"`{name}` ({content})" for name, content in OUTPUT_FORMATS.items()),
        "jsonl",
        flag="--format",
        panel="Bucket",
        help=" or ".join(OUTPUT_FORMATS),
        event=True,
    )
    aws_region: str | None = _field(
        "region of the bucket; the SDK's own, like all below",
        names=("aws_region", "aws_default_region", "regiao_do_bucket"),
    )
    aws_profile: str | None = _field(
        "profile of `~/.aws/config`, for single sign-on too", names=("aws_profile", "nome_do_perfil_sso")
    )
    aws_access_key_id: validators.Credential | None = _field("key, where there is no profile and no role")
    aws_secret_access_key: validators.Credential | None = _field("its secret")
    aws_session_token: validators.Credential | None = _field("its token, if it is a temporary one")
    aws_endpoint_url_s3: validators.Endpoint | None = _field(
        "another S3 than AWS's", names=("aws_endpoint_url_s3", "aws_endpoint_url")
    )

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag > environment > `.env` > TOML."""
        flags, environment, env_file = (sources[f"{name}_settings"] for name in ("init", "env", "dotenv"))
        return flags, environment, env_file, TomlConfigSettingsSource(cls)

    def require(self, *names: str) -> None:
        """Raise a `SettingsError` if one of these fields is not set; it says how to set it."""
        for name in names:
            if getattr(self, name) is None:
                flag = flag_of(name)
                how = f"give {flag}, or set {name.upper()}" if flag else f"set {name.upper()}"
                raise SettingsError(f"{name.upper()} is not set: {how} in the environment, in .env or in {TOML_FILE}")

    def require_input(self) -> None:
        """Raise a `SettingsError` if there is no CSV to read, or only one under both names."""
        if self.movies_csv is None and self.series_csv is None:
            raise SettingsError("There is no CSV to read: give --movies or --series, or set MOVIES_CSV or SERIES_CSV")
        if self.movies_csv == self.series_csv:
            raise SettingsError(
                f"MOVIES_CSV and SERIES_CSV are both {self.movies_csv!r}: give two different files, or only one"
            )

    @property
    def credentials(self) -> tuple[str, str, str | None] | None:
        """Access key, secret and session token if the first two are set; None: the SDK looks for others."""
        fields = (self.aws_access_key_id, self.aws_secret_access_key, self.aws_session_token)
        key, secret, token = (field.get_secret_value() if field else None for field in fields)
        return (key, secret, token) if key and secret else None

    @property
    def api_key_ref(self) -> str | None:
        """The reference to TMDB's key, if the settings have one instead of the key: `ssm:/path` or `secret:name`."""
        key = self.tmdb_api_key.get_secret_value() if self.tmdb_api_key else ""
        return key if validators.SECRET_REF.fullmatch(key) else None

    def with_api_key(self, key: str) -> Settings:
        """These settings with TMDB's `key`, which was fetched; a `SettingsError` if it cannot be a key."""
        key = key.strip()
        if not validators.KEY.fullmatch(key):
            problem = f"holds neither a v3 key nor a v4 read token, but {len(key)} other characters"
            raise SettingsError(f"TMDB_API_KEY: {self.api_key_ref} {problem}: put the key there")
        return self.model_copy(update={"tmdb_api_key": SecretStr(key)})

    @property
    def record_options(self) -> RecordOptions:
        """The options that determine the content and names of a harvest's files, beside its ids."""
        append = tuple(sorted(self.tmdb_append))
        return RecordOptions(self.tmdb_language, append, self.output_format, self.s3_key_template)


def option_of(name: str) -> Option:
    """The `Option` of a field."""
    extra: Any = Settings.model_fields[name].json_schema_extra
    return Option(**extra)


def flag_of(name: str) -> str | None:
    """The command line's flag of a field; None if it has none."""
    return option_of(name).flag


def names_of(name: str) -> tuple[str, ...]:
    """The environment variables of a field, in upper case; the first that is set counts."""
    field = Settings.model_fields.get(name)
    alias = field.validation_alias if field else None
    return tuple(str(each).upper() for each in (alias.choices if isinstance(alias, AliasChoices) else [name]))


ALL_NAMES = frozenset(variable for name in Settings.model_fields for variable in names_of(name))
"""Every environment variable that is a setting."""

EVENT_SETTINGS = tuple(name for name in Settings.model_fields if option_of(name).event)
"""The fields that a Lambda event may set."""

SECRETS = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The `known` name that is most like `name`; None if none is."""
    from difflib import get_close_matches  # imported on use: few starts need it

    return next(iter(get_close_matches(name, known, n=1)), None)


def load_settings(**flags: Any) -> Settings:
    """The settings in force; `flags` by field name, None where a flag is not given.

    Raises:
        SettingsError: Names every wrong setting by its environment variable, or a file that cannot be read; no secret.
        TypeError: There is no setting of this name.
    """
    if unknown := sorted(flags.keys() - Settings.model_fields.keys()):
        raise TypeError(f"load_settings() got {', '.join(unknown)}, which is no setting")
    try:
        toml = TomlConfigSettingsSource(Settings).toml_data
        if unexpected := sorted(toml.keys() - Settings.model_fields.keys()):
            nearest = [(name, nearest_name(name, Settings.model_fields)) for name in unexpected]
            listed = ", ".join(f"{name} (nearest: {known})" if known else name for name, known in nearest)
            raise SettingsError(f"{TOML_FILE} has {listed}, which is no setting (see the README)")
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        secrets = raw_secrets(**flags)
        raise SettingsError(*(_sentence(problem, secrets) for problem in error.errors())) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        # The content of the file may be a secret, so none of it is quoted.
        why = f"byte {error.start} is not UTF-8" if isinstance(error, UnicodeDecodeError) else redact_shapes(str(error))
        raise SettingsError(f"{TOML_FILE} or {ENV_FILE} cannot be read: {why}") from None


SOURCES: dict[str, type[PydanticBaseSettingsSource]] = {
    str(TOML_FILE): TomlConfigSettingsSource,
    str(ENV_FILE): DotEnvSettingsSource,
    "environment": EnvSettingsSource,
}
"""The sources except flags, the one of lowest rank first."""


def raw_secrets(**flags: Any) -> list[str]:
    """The values of all secret settings, valid or not, from every source: to be redacted before anything is printed."""
    sources: list[dict[str, Any]] = [flags]
    for source in SOURCES.values():
        with suppress(tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
            sources.append(source(Settings)())
    values = [source.get(name) for source in sources for name in SECRETS]
    texts = [str(getattr(value, "get_secret_value", lambda value=value: value)()).strip() for value in values if value]
    return [text for text in texts if not validators.SECRET_REF.fullmatch(text)]


def _sentence(problem: Any, secrets: list[str]) -> str:
    """One wrong setting in a sentence; with its value unless it is a secret."""
    field = str(problem["loc"][0]).lower()
    name, *others = names_of(field)
    if others:
        name += f" (or {', '.join(others)})"
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if field in SECRETS or field not in Settings.model_fields:
        return f"{name} {message}"
    value = problem["input"]
    if "URL" in name:  # it may have a password or a key in it
        value = re.sub(r"//.*@|[?#&;].{8,}", "…", str(value))
    text = redact_shapes(redact(f"{name} {message} (it is {value!r})", secrets))
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"
