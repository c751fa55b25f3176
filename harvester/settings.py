"""Settings: every knob with its unit and limits, read from flag > environment > `.env` > TOML > default.

The fields below are the README's table. A field's name in upper case is its environment variable, in lower case its
key in `config/harvester.toml`. The environment itself is read where a door makes `Settings`, nowhere else. The two
kinds of secret here, TMDB's key and the AWS credentials, are `SecretStr`: nothing prints them by accident.
"""

from __future__ import annotations

import re
import string
import tomllib
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
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
from harvester.redaction import redact, redact_shapes

TOML_FILE = Path("config/harvester.toml")
ENV_FILE = Path(".env")

PARTS_LIMIT = 20
"""Parts of one `append_to_response`; TMDB answers 400, code 27, to more (docs/append-to-response)."""

_KEY = re.compile(r"[0-9a-fA-F]{32}|eyJ[\w-]+\.[\w-]+\.[\w-]+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_LANGUAGE = re.compile(r"[a-z]{2}(-[A-Za-z0-9]{2,4})?")
_PART = re.compile(r"[a-z_]+(/[a-z0-9_]+)?")
_PLACES = frozenset(["prefix", "collection", "yyyy", "mm", "dd", "batch"])


def _api_key(key: SecretStr) -> SecretStr:
    secret = key.get_secret_value().strip()
    if not _KEY.fullmatch(secret):
        raise ValueError(
            "is neither a v3 key (32 hexadecimal digits) nor a v4 read token (eyJ….….…); "
            f"it has {len(secret)} characters"
        )
    return SecretStr(secret)


def _base_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[\w./~-]*)?", url):
        raise ValueError("must look like https://api.themoviedb.org/3")
    if not (url.startswith("https:") or _is_near(urlsplit(url).hostname or "")):
        raise ValueError("must begin with https://, or the key would cross the internet for all to read")
    return url.rstrip("/")


def _is_near(host: str) -> bool:
    """Whether `host` is this machine or one of a private network; nobody is asked, so a name decides by its shape."""
    try:
        return ip_address(host).is_private
    except ValueError:
        single = re.fullmatch(r"[a-z][a-z0-9-]*", host)  # 134744072 and 0x08080808 are ways to write 8.8.8.8
        return single is not None or host.endswith((".internal", ".local", ".localhost"))


def _endpoint(url: str) -> str:
    if not re.fullmatch(r"https?://[^/?#@\s]+/?", url):
        raise ValueError("must look like http://localhost:9000")
    return url


def _prefix(prefix: str) -> str:
    if not prefix.strip("/"):
        raise ValueError("must name a folder, like Raw/API")
    return prefix.strip("/")


def _matching(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"must be {wanted}")
        return text

    return AfterValidator(check)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    if len(parts) > PARTS_LIMIT:
        raise ValueError(f"has {len(parts)} parts; TMDB takes {PARTS_LIMIT}")
    for part in parts:
        if not _PART.fullmatch(part):
            raise ValueError(f"has a part {part!r}; parts look like credits or watch/providers")
    return tuple(dict.fromkeys(parts))


def _template(template: str) -> str:
    try:
        parsed = [place for place in string.Formatter().parse(template) if place[1] is not None]
    except ValueError as error:
        raise ValueError(f"is not a template ({error})") from error
    places = {name for _, name, _, _ in parsed}
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise ValueError("must not format its places: {mm}, not {mm:02d}")
    if not {"collection", "batch"} <= places <= _PLACES:
        raise ValueError(f"must have {{collection}} and {{batch}}, and nothing but {', '.join(sorted(_PLACES))}")
    if not re.search(r"/\{batch\}\.\w+\Z", template):  # by its name alone a file is known as a batch's
        raise ValueError("must end in /{batch} and an extension, such as /{batch}.json")
    return template


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

    tmdb_api_key: Annotated[SecretStr, AfterValidator(_api_key)] | None = Field(
        None, description="required; 32-hex v3 key or `eyJ…` v4 read token, told apart by shape"
    )
    tmdb_base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        "https://api.themoviedb.org/3", description="where TMDB is", json_schema_extra={"flag": "--base-url"}
    )
    tmdb_language: Annotated[str, _matching(_LANGUAGE, "like pt-BR")] | None = Field(
        None, description="language of the records, such as `pt-BR`", json_schema_extra={"flag": "--language"}
    )
    tmdb_append: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_parts)] = Field(
        (),
        description="`append_to_response` parts, at most 20, such as `credits,keywords`",
        json_schema_extra={"flag": "--append"},
    )
    tmdb_rate: float = Field(
        40.0,
        gt=0,
        le=10_000,
        description="requests per second, the ceiling of the pace",
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
        description="the movies: a path, `s3://bucket/key` or `-`; `.gz` too",
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
    s3_bucket: Annotated[str, _matching(_BUCKET, "a bucket's name: 3 to 63 of a-z 0-9 . -")] | None = Field(
        None,
        validation_alias=AliasChoices("s3_bucket", "nome_do_bucket_s3"),
        description="required; the bucket everything lands in",
        json_schema_extra={"flag": "--bucket"},
    )
    s3_prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        "Raw/API",
        description="folder of the harvest in the bucket",
        json_schema_extra={"flag": "--prefix"},
    )
    s3_key_template: Annotated[str, AfterValidator(_template)] = Field(
        "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        description="key of a data file; ends in `/{batch}` and an extension",
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
    aws_endpoint_url_s3: Annotated[str, AfterValidator(_endpoint)] | None = Field(
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

    def of_records(self) -> dict[str, Any]:
        """The settings that shape what lands, as the plan keeps them."""
        names = ("tmdb_base_url", "tmdb_language", "tmdb_append", "s3_prefix", "s3_key_template", "output_format")
        return {name: getattr(self, name) for name in names}


def is_bucket(name: str) -> bool:
    """Whether S3 can have a bucket of this name."""
    return bool(_BUCKET.fullmatch(name))


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
    return [str(getattr(value, "get_secret_value", lambda value=value: value)()).strip() for value in values if value]


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
    return redact_shapes(redact(f"{name} {what} (it is {seen!r})", secrets))
