"""Settings: every knob with its unit and limits, read from flag > environment > `.env` > TOML > default.

The fields below are the README's table. A field's name in upper case is its environment variable, in lower case its
key in `config/harvester.toml`. The environment itself is read where a door makes `Settings`, nowhere else. The two
kinds of secret here, TMDB's key and the AWS credentials, are `SecretStr`: nothing prints them by accident.
"""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

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

from harvester import forms
from harvester.errors import SettingsError
from harvester.manifest import RecordOptions
from harvester.redaction import redact, redact_shapes

TOML_FILE = Path("config/harvester.toml")
ENV_FILE = Path(".env")
LONGEST_MESSAGE = 1_000
"""Characters said of one wrong setting."""


class Settings(BaseSettings):
    """Every setting. All can be absent, because no command needs all: `need` asks for one."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    tmdb_api_key: Annotated[SecretStr, AfterValidator(forms.api_key)] | None = Field(
        None,
        description="required; 32-hex v3 key or `eyJ…` v4 read token, told apart by shape; "
        "or where it is kept: `ssm:/path`, `secret:name`",
    )
    tmdb_base_url: Annotated[str, AfterValidator(forms.base_url)] = Field(
        "https://api.themoviedb.org/3", description="where TMDB is", json_schema_extra={"flag": "--base-url"}
    )
    tmdb_language: Annotated[str, forms.matching(forms.LANGUAGE, "like pt-BR")] | None = Field(
        None, description="language of the records, such as `pt-BR`", json_schema_extra={"flag": "--language"}
    )
    tmdb_append: Annotated[forms.Parts, NoDecode] = Field(
        (),
        description="`append_to_response` parts, at most 20, such as `credits,keywords`",
        json_schema_extra={"flag": "--append"},
    )
    tmdb_rate: float = Field(
        40.0,
        gt=0,
        le=10_000,
        description="requests per second, the ceiling of the pace; above 1 a whole number",
        json_schema_extra={"flag": "--rate"},
    )
    tmdb_concurrency: int = Field(
        20,
        ge=1,
        le=1_000,
        description="requests in flight, and connections",
        json_schema_extra={"flag": "--concurrency"},
    )
    movies_csv: str | None = Field(
        None,
        validation_alias=AliasChoices("movies_csv", "caminho_do_arquivo_local_movies"),
        description="the movies: a path, `s3://bucket/key` (or a folder: the latest in it) or `-`; `.gz` too",
        json_schema_extra={"flag": "--movies"},
    )
    series_csv: str | None = Field(
        None,
        validation_alias=AliasChoices("series_csv", "caminho_do_arquivo_local_series"),
        description="the series, likewise; at least one of the two",
        json_schema_extra={"flag": "--series"},
    )
    csv_id_column: str | None = Field(
        None,
        description="header of the id column, where it is not found by name",
        json_schema_extra={"flag": "--id-column"},
    )
    s3_bucket: Annotated[str, forms.matching(forms.BUCKET, "a bucket's name: 3 to 63 of a-z 0-9 . -")] | None = Field(
        None,
        validation_alias=AliasChoices("s3_bucket", "nome_do_bucket_s3"),
        description="required; the bucket everything lands in",
        json_schema_extra={"flag": "--bucket"},
    )
    s3_prefix: Annotated[str, AfterValidator(forms.prefix)] = Field(
        "Raw/API",
        description="folder of the harvest in the bucket; no part begins with `_` or `.`",
        json_schema_extra={"flag": "--prefix"},
    )
    s3_key_template: Annotated[str, AfterValidator(forms.key_template)] = Field(
        "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        description="key of a data file; begins with `{prefix}/`, has collection and date in this order, "
        "ends in `/{batch}` and an extension",
    )
    s3_csv_template: Annotated[str, AfterValidator(forms.csv_template), AfterValidator(forms.outside_prefix)] = Field(
        "Raw/Local/CSV/{collection}/{yyyy}/{mm}/{dd}/{name}",
        description="key of an uploaded CSV, outside `S3_PREFIX`; its `{name}` is `movies.csv` or `series.csv`",
    )
    output_format: Literal["jsonl", "array"] = Field(
        "jsonl",
        description="`jsonl` (a record a line: Athena, Glue, DuckDB, Spark) or `array` (one JSON array on one line)",
        json_schema_extra={"flag": "--format"},
    )
    aws_region: str | None = Field(
        None,
        validation_alias=AliasChoices("aws_region", "aws_default_region", "regiao_do_bucket"),
        description="region of the bucket; the SDK's own, like all below",
    )
    aws_profile: str | None = Field(
        None,
        validation_alias=AliasChoices("aws_profile", "nome_do_perfil_sso"),
        description="profile of `~/.aws/config`, for single sign-on too",
    )
    aws_access_key_id: SecretStr | None = Field(None, description="key, where there is no profile and no role")
    aws_secret_access_key: SecretStr | None = Field(None, description="its secret")
    aws_session_token: SecretStr | None = Field(None, description="its token, if it is a temporary one")
    aws_endpoint_url_s3: Annotated[str, AfterValidator(forms.endpoint)] | None = Field(
        None,
        validation_alias=AliasChoices("aws_endpoint_url_s3", "aws_endpoint_url"),
        description="another S3 than AWS's",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag > environment > `.env` > TOML."""
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls, TOML_FILE)

    def need(self, *names: str) -> None:
        """Be sure that these fields are set.

        Raises:
            SettingsError: One is not; the message says how to set it.
        """
        for name in names:
            if getattr(self, name) is None:
                flag = flag_of(name)
                how = f"give {flag}, or set {name.upper()}" if flag else f"set {name.upper()}"
                raise SettingsError(f"{name.upper()} is not set: {how} in the environment, in .env or in {TOML_FILE}")

    def need_titles(self) -> None:
        """Be sure that there is a CSV to read.

        Raises:
            SettingsError: There is none.
        """
        if self.movies_csv is None and self.series_csv is None:
            raise SettingsError("There is no CSV to read: give --movies or --series, or set MOVIES_CSV or SERIES_CSV")
        if self.movies_csv == self.series_csv:
            raise SettingsError(f"MOVIES_CSV and SERIES_CSV are both {self.movies_csv!r}: two files are needed, or one")

    @property
    def credentials(self) -> tuple[str, str, str | None] | None:
        """Access key, secret and session token, if the first two are set here; else the SDK finds its own."""
        if self.aws_access_key_id is None or self.aws_secret_access_key is None:
            return None
        token = self.aws_session_token.get_secret_value() if self.aws_session_token else None
        return self.aws_access_key_id.get_secret_value(), self.aws_secret_access_key.get_secret_value(), token

    @property
    def key_is_kept_in(self) -> str | None:
        """Where TMDB's key is kept, if the settings say that instead of the key: `ssm:/path` or `secret:name`."""
        key = self.tmdb_api_key.get_secret_value() if self.tmdb_api_key else ""
        return key if forms.is_kept(key) else None

    def holding(self, key: str) -> Settings:
        """These settings with TMDB's `key` itself, from where it is kept.

        Raises:
            SettingsError: It does not look like one.
        """
        if not forms.KEY.fullmatch(key.strip()):
            raise SettingsError(
                f"TMDB_API_KEY: {self.key_is_kept_in} holds neither a v3 key nor a v4 read token, "
                f"but {len(key.strip())} other characters: put the key there"
            )
        return self.model_copy(update={"tmdb_api_key": SecretStr(key.strip())})

    @property
    def record_options(self) -> RecordOptions:
        """What shapes the records and files of a harvest, beside its ids."""
        return RecordOptions(
            self.tmdb_language, tuple(sorted(self.tmdb_append)), self.output_format, self.s3_key_template
        )


def flag_of(name: str) -> str | None:
    """The command line's flag for a field; None if it has none."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["flag"]) if isinstance(extra, dict) else None


def names_of(name: str) -> tuple[str, ...]:
    """The environment variables a field is read from, in upper case, the first that is set winning."""
    field = Settings.model_fields.get(name)
    if field is not None and isinstance(field.validation_alias, AliasChoices):
        return tuple(str(choice).upper() for choice in field.validation_alias.choices)
    return (name.upper(),)


ALL_NAMES = frozenset(variable for name in Settings.model_fields for variable in names_of(name))
"""Every environment variable that is a setting."""


def load_settings(**flags: Any) -> Settings:
    """The settings in force; `flags` by field name, None where a flag is not given.

    Raises:
        SettingsError: One is wrong, or the TOML file cannot be read or has a key that is no setting. The message has
            every setting that is wrong, by its environment name, and never a secret.
    """
    try:
        _check_toml()
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        secrets = raw_secrets(**flags)
        raise SettingsError(*(_tell(problem, secrets) for problem in error.errors())) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{TOML_FILE} or {ENV_FILE} cannot be read: {_why(error)}") from None


def origins(**flags: Any) -> dict[str, str]:
    """Where each setting in force comes from, by field name; settings that `load_settings` has found sound."""
    sources = {
        str(TOML_FILE): TomlConfigSettingsSource(Settings, TOML_FILE)(),
        str(ENV_FILE): DotEnvSettingsSource(Settings)(),
        "environment": EnvSettingsSource(Settings)(),
        "flag": {name: value for name, value in flags.items() if value is not None},
    }
    where = dict.fromkeys(Settings.model_fields, "default")
    for source, told in sources.items():
        where |= dict.fromkeys(told.keys() & where.keys(), source)
    return where


def _check_toml() -> None:
    if TOML_FILE.is_file():
        with TOML_FILE.open("rb") as file:
            strange = set(tomllib.load(file)) - set(Settings.model_fields)
        if strange:
            raise SettingsError(f"{TOML_FILE} has {', '.join(sorted(strange))}, which is no setting (see the README)")


def raw_secrets(**flags: Any) -> list[str]:
    """Whatever is given for a secret setting, sound or not, so that it can be struck out before anything else."""
    sources: list[dict[str, Any]] = [flags, EnvSettingsSource(Settings)()]
    with suppress(UnicodeDecodeError, OSError):
        sources.append(DotEnvSettingsSource(Settings)())
    with suppress(tomllib.TOMLDecodeError, UnicodeDecodeError, OSError):
        sources.append(TomlConfigSettingsSource(Settings, TOML_FILE)())
    names = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    values = [source.get(name) for source in sources for name in names]
    texts = [str(getattr(value, "get_secret_value", lambda value=value: value)()).strip() for value in values if value]
    return [text for text in texts if not forms.is_kept(text)]


def _why(error: Exception) -> str:
    """What is wrong with a file, without a word of what stands in it."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return redact_shapes(str(error))


def _tell(problem: Any, secrets: list[str]) -> str:
    """One wrong setting in a sentence; the value only where it is no secret."""
    name = str(problem["loc"][0]).upper()
    what = str(problem["msg"]).removeprefix("Value error, ")
    what = what[0].lower() + what[1:]
    field = Settings.model_fields.get(name.lower())
    secret = field is None or "SecretStr" in str(field.annotation)
    if others := names_of(name.lower())[1:]:
        name = f"{name} (or {', '.join(others)})"
    if secret:
        return f"{name} {what}"
    seen = problem["input"]
    if "URL" in name:  # whoever puts a key into the URL does not want to see it here
        seen = re.sub(r"//.*@|[?#&;].{8,}", "…", str(seen))
    told = redact_shapes(redact(f"{name} {what} (it is {seen!r})", secrets))
    return told if len(told) <= LONGEST_MESSAGE else f"{told[:LONGEST_MESSAGE]}…"
