"""Settings: the order of their sources, their limits, and secrets that nothing shows."""

from __future__ import annotations

import itertools
import os
import re
import traceback
from contextlib import suppress
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from pydantic import ValidationError

from harvester.errors import Exit, SettingsError
from harvester.model.key_template import PATH_LIMIT, KeyTemplate
from harvester.model.record_options import APPEND_LIMIT, RecordOptions
from harvester.settings.provenance import UnknownName, provenance, sdk_variables, unknown_names
from harvester.settings.settings import ALL_NAMES, Settings, flag_of, load_settings
from harvester.settings.validators import prefix as validate_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

V3_KEY = "0123456789abcdef0123456789ABCDEF"
V4_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJhdWQiOiI0NSIsInN1YiI6IjEifQ.c2lnbmF0dXJlLV8"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
AWS_TOKEN = "FwoGZXIvYXdzEXAMPLETOKEN"
AWS_ID = "AKIAIOSFODNN7EXAMPLE"
SECRETS = [V3_KEY, AWS_SECRET, AWS_TOKEN, AWS_ID]


def dotenv(text: str) -> None:
    """Write `.env` where the harvester is started."""
    Path(".env").write_text(text, encoding="utf-8")


def toml(text: str) -> None:
    """Write `config/harvester.toml` where the harvester is started."""
    Path("config").mkdir(exist_ok=True)
    Path("config/harvester.toml").write_text(text, encoding="utf-8")


def wrong(**flags: Any) -> str:
    """What is said of settings that are wrong."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**flags)
    assert caught.value.exit_code == Exit.USAGE
    return str(caught.value)


def test_without_anything_the_defaults_are_those_of_the_design() -> None:
    """Nothing set is fine, and DESIGN 3.2 says what is then in force."""
    settings = load_settings()
    assert settings.model_dump() == {
        "tmdb_api_key": None,
        "tmdb_base_url": "https://api.themoviedb.org/3",
        "tmdb_language": None,
        "tmdb_append": (),
        "tmdb_rate": 40.0,
        "tmdb_concurrency": 20,
        "movies_csv": None,
        "series_csv": None,
        "csv_id_column": None,
        "s3_bucket": None,
        "s3_prefix": "Raw/API",
        "s3_key_template": "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "s3_csv_template": "Raw/Local/CSV/{collection}/{yyyy}/{mm}/{dd}/{name}",
        "output_format": "jsonl",
        "aws_region": None,
        "aws_profile": None,
        "aws_access_key_id": None,
        "aws_secret_access_key": None,
        "aws_session_token": None,
        "aws_endpoint_url_s3": None,
    }


def test_flags_are_those_of_the_design() -> None:
    """Each setting's flag, and none for secrets, the template and AWS's own."""
    flags = {name: flag_of(name) for name in Settings.model_fields}
    assert {name: flag for name, flag in flags.items() if flag} == {
        "tmdb_base_url": "--base-url",
        "tmdb_language": "--language",
        "tmdb_append": "--append",
        "tmdb_rate": "--rate",
        "tmdb_concurrency": "--concurrency",
        "movies_csv": "--movies",
        "series_csv": "--series",
        "csv_id_column": "--id-column",
        "s3_bucket": "--bucket",
        "s3_prefix": "--prefix",
        "output_format": "--format",
    }


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tmdb_language", ["pt-BR", "en-US", "fr", "de"]),
        ("tmdb_rate", [1.0, 2.0, 3.0, 4.0]),
        ("s3_bucket", ["from-flag", "from-environment", "from-dotenv", "from-toml"]),
        ("movies_csv", ["flag.csv", "environment.csv", "dotenv.csv", "toml.csv"]),
        ("aws_region", ["sa-east-1", "us-east-1", "us-west-2", "eu-west-1"]),
    ],
)
def test_flag_before_environment_before_dotenv_before_toml_before_default(
    monkeypatch: pytest.MonkeyPatch, name: str, values: list[Any]
) -> None:
    """Each source is in force as soon as those before it say nothing."""
    flag, environment, in_dotenv, in_toml = values
    monkeypatch.setenv(name.upper(), str(environment))
    dotenv(f"{name.upper()}={in_dotenv}\n")
    toml(f"{name} = {in_toml!r}\n")
    found = [getattr(load_settings(**{name: flag}), name), getattr(load_settings(**{name: None}), name)]
    monkeypatch.delenv(name.upper())
    found.append(getattr(load_settings(), name))
    Path(".env").unlink()
    found.append(getattr(load_settings(), name))
    Path("config/harvester.toml").unlink()
    found.append(getattr(load_settings(), name))
    assert found == [*values, Settings.model_fields[name].default]


OLDER = {
    "NOME_DO_BUCKET_S3": "s3_bucket",
    "REGIAO_DO_BUCKET": "aws_region",
    "NOME_DO_PERFIL_SSO": "aws_profile",
    "CAMINHO_DO_ARQUIVO_LOCAL_MOVIES": "movies_csv",
    "CAMINHO_DO_ARQUIVO_LOCAL_SERIES": "series_csv",
    "AWS_DEFAULT_REGION": "aws_region",
}


@pytest.mark.parametrize(("older", "name"), OLDER.items())
def test_older_names_stay_valid(monkeypatch: pytest.MonkeyPatch, older: str, name: str) -> None:
    """The Portuguese names (and the SDK's second ones) count in the environment, in `.env`, in either case."""
    dotenv(f"{older}=from-dotenv\n")
    assert getattr(load_settings(), name) == "from-dotenv"
    dotenv(f"{older.lower()}=from-lower-case\n")
    assert getattr(load_settings(), name) == "from-lower-case"
    monkeypatch.setenv(older, "from-environment")
    assert getattr(load_settings(), name) == "from-environment"
    assert getattr(load_settings(**{name: "from-flag"}), name) == "from-flag"


@pytest.mark.parametrize(("older", "name"), OLDER.items())
def test_an_older_name_ranks_with_its_source(monkeypatch: pytest.MonkeyPatch, older: str, name: str) -> None:
    """The environment comes before `.env` and TOML, whichever of its names a setting has there."""
    monkeypatch.setenv(older, "from-environment")
    toml(f'{name} = "from-toml"\n')
    assert getattr(load_settings(), name) == "from-environment"
    dotenv(f"{name.upper()}=from-dotenv\n")
    assert getattr(load_settings(), name) == "from-environment"


@pytest.mark.parametrize(("older", "name"), OLDER.items())
def test_the_newer_of_two_names_wins_within_a_source(older: str, name: str) -> None:
    """Where one source has both names, the one of the README counts."""
    dotenv(f"{older}=older\n{name.upper()}=newer\n")
    assert getattr(load_settings(), name) == "newer"


def test_lower_case_credentials_of_a_dotenv_are_read() -> None:
    """What AWS's console offers to copy, `aws_access_key_id = …`, can be pasted into `.env`."""
    dotenv(f"aws_access_key_id = {AWS_ID}\naws_secret_access_key={AWS_SECRET}\naws_session_token={AWS_TOKEN}\n")
    assert load_settings().credentials == (AWS_ID, AWS_SECRET, AWS_TOKEN)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"aws_access_key_id": AWS_ID}, None),
        ({"aws_secret_access_key": AWS_SECRET}, None),
        ({"aws_session_token": AWS_TOKEN}, None),
        ({"aws_access_key_id": AWS_ID, "aws_secret_access_key": AWS_SECRET}, (AWS_ID, AWS_SECRET, None)),
    ],
)
def test_credentials_are_a_pair_or_none(given: dict[str, str], expected: object) -> None:
    """Half a pair is no credentials: the SDK then finds its own."""
    assert load_settings(**given).credentials == expected


def test_empty_values_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """`NAME=` in the environment or `.env` (as compose files and templates have it) is no value."""
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
    dotenv("".join(f"{older}=\n" for older in OLDER) + "TMDB_RATE=\n")
    assert load_settings() == Settings.model_construct()


def test_an_empty_variable_does_not_hide_a_value_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty in the environment, the value of `.env` counts; empty there too, that of the TOML file."""
    toml('s3_bucket = "from-toml"\n')
    monkeypatch.setenv("S3_BUCKET", "")
    dotenv("S3_BUCKET=\n")
    assert load_settings().s3_bucket == "from-toml"
    dotenv("S3_BUCKET=from-dotenv\n")
    assert load_settings().s3_bucket == "from-dotenv"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TMDB_BASE_URL", "api.themoviedb.org/3"),
        ("TMDB_BASE_URL", "ftp://api.themoviedb.org/3"),
        ("TMDB_BASE_URL", "https://"),
        ("TMDB_BASE_URL", "https://api.themoviedb.org/3#x"),
        ("TMDB_LANGUAGE", "portuguese"),
        ("TMDB_LANGUAGE", "pt_BR"),
        ("TMDB_LANGUAGE", "PT"),
        ("TMDB_APPEND", "credits,Key Words"),
        ("TMDB_APPEND", "credits&api_key=1"),
        ("TMDB_APPEND", "../movie"),
        ("TMDB_RATE", "fast"),
        ("TMDB_RATE", "0"),
        ("TMDB_RATE", "-1"),
        ("TMDB_RATE", "nan"),
        ("TMDB_RATE", "inf"),
        ("TMDB_RATE", "10001"),
        ("TMDB_CONCURRENCY", "0"),
        ("TMDB_CONCURRENCY", "1001"),
        ("TMDB_CONCURRENCY", "2.5"),
        ("TMDB_CONCURRENCY", "many"),
        ("S3_BUCKET", "My_Bucket"),
        ("S3_BUCKET", "ab"),
        ("S3_BUCKET", "s3://lake"),
        ("S3_BUCKET", "lake/Raw"),
        ("S3_PREFIX", "/"),
        ("OUTPUT_FORMAT", "parquet"),
        ("OUTPUT_FORMAT", "JSONL"),
    ],
)
def test_a_wrong_value_is_reported_by_its_environment_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Whatever source it came from, a wrong setting is reported by the name of the README and its value."""
    monkeypatch.setenv(name, value)
    message = wrong()
    assert message.startswith(f"{name} ")
    assert repr(value) in message
    monkeypatch.delenv(name)
    assert wrong(**{name.lower(): value}) == message
    toml(f"{name.lower()} = '{value}'\n")
    assert wrong() == message


def test_all_that_is_wrong_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start names every setting to fix, not the first alone."""
    monkeypatch.setenv("TMDB_RATE", "0")
    dotenv("OUTPUT_FORMAT=xml\n")
    toml('s3_bucket = "X"\n')
    message = wrong(tmdb_language="Klingon")
    assert [name for name in ("TMDB_RATE", "OUTPUT_FORMAT", "S3_BUCKET", "TMDB_LANGUAGE") if name not in message] == []


def test_a_wrong_value_of_an_older_name_is_reported_by_the_name_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who set NOME_DO_BUCKET_S3 is not sent to look for S3_BUCKET, which they have never heard of."""
    monkeypatch.setenv("NOME_DO_BUCKET_S3", "Meu_Bucket")
    message = wrong()
    assert "NOME_DO_BUCKET_S3" in message
    assert "'Meu_Bucket'" in message


def test_a_key_that_is_no_setting_is_reported() -> None:
    """A misspelt key of the TOML file is refused with the nearest name: it would leave a default in force, unseen."""
    toml('tmdb_rte = 10\ntmdb_language = "pt-BR"\n[more]\ns3_bucket = "x"\n')
    message = wrong()
    assert "config/harvester.toml has more, tmdb_rte (nearest: tmdb_rate), which is no setting" in message
    assert "tmdb_language" not in message


@pytest.mark.parametrize("text", ["tmdb_rate = \n", "= 5\n", "tmdb_rate = 1\ntmdb_rate = 2\n", 's3_bucket = "open\n'])
def test_a_broken_toml_file_is_reported(text: str) -> None:
    """A TOML file that cannot be read is a settings error with its name, not a traceback."""
    toml(text)
    assert "config/harvester.toml" in wrong()


def test_files_that_are_not_utf_8_are_reported() -> None:
    """Latin-1 in the TOML file or in `.env` is a settings error that names the file."""
    Path(".env").write_bytes("MOVIES_CSV=Séries.csv\n".encode("latin-1"))
    assert ".env" in wrong()
    Path(".env").unlink()
    toml("")
    Path("config/harvester.toml").write_bytes('movies_csv = "Séries.csv"\n'.encode("latin-1"))
    assert "config/harvester.toml" in wrong()


def test_a_variable_that_is_no_setting_is_named_with_the_nearest_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A misspelt name is found in `.env` and the environment, in either case, and its value is nowhere."""
    monkeypatch.setenv("TMDB_RTE", "1234")
    monkeypatch.setenv("TMDB_COLOUR", "")
    dotenv("S3_REGION=1234\nseries_cvs=1234\nTMDB_RTE=1234\nOUTPUT_OF_THE_MILL=1234\nTMDB_RATE=40\n")
    assert load_settings() == Settings.model_construct()
    assert unknown_names() == [
        UnknownName("OUTPUT_OF_THE_MILL", ".env", None),
        UnknownName("S3_REGION", ".env", "AWS_REGION"),
        UnknownName("SERIES_CVS", ".env", "SERIES_CSV"),
        UnknownName("TMDB_RTE", ".env", "TMDB_RATE"),
        UnknownName("TMDB_RTE", "environment", "TMDB_RATE"),
    ]


def test_the_settings_of_other_programs_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither names that begin otherwise, nor those that TensorFlow, Kubernetes and Docker give an S3."""
    dotenv("DATABASE_URL=postgres://x\nAWS_EC2_METADATA_DISABLED=true\nNOME_DO_BUCKET_S3=lake\n")
    for name in ("S3_ENDPOINT", "S3_USE_HTTPS", "S3_SERVICE_HOST", "S3_PORT", "S3_PORT_9000_TCP_ADDR", "TMDB_PORT"):
        monkeypatch.setenv(name, "x")
    assert unknown_names() == []


@pytest.mark.parametrize("key", [V3_KEY, V4_TOKEN, AWS_ID])
def test_a_key_in_the_place_of_a_name_is_not_repeated(key: str) -> None:
    """A line of `.env` without its `=` is a name to its reader, in whatever case it is shown."""
    dotenv(f"TMDB_API_KEY_{key}\nTMDB_{key}=x\nTMDB_API_KEY:{key}\n")
    assert unknown_names() == []


def test_a_file_that_cannot_be_read_names_nothing() -> None:
    """`load_settings` says what is wrong with it."""
    Path(".env").write_bytes(b"TMDB_RTE=5\nMOVIES_CSV=S\xe9ries.csv\n")
    assert unknown_names() == []
    assert sdk_variables({}) == {}


def test_the_sdk_is_lent_its_variables_of_the_dotenv() -> None:
    """Those that are not set in the environment, in either case, without the empty ones, and no other program's."""
    dotenv(f"AWS_CA_BUNDLE=a.pem\nAWS_ROLE_ARN=\naws_access_key_id={AWS_ID}\nAWS_MAX_ATTEMPTS=3\nS3_BUCKET=lake\n")
    assert sdk_variables({"AWS_MAX_ATTEMPTS": "5"}) == {"AWS_CA_BUNDLE": "a.pem", "AWS_ACCESS_KEY_ID": AWS_ID}


def test_what_the_sdk_is_lent_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment comes before `.env` by whichever name, and what came from `.env` is said to."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "from-environment")
    dotenv("AWS_REGION=from-dotenv\nAWS_PROFILE=from-dotenv\nAWS_ENDPOINT_URL=http://localhost:9000\n")
    before, where = load_settings(), provenance()
    lent = sdk_variables(os.environ)
    assert lent == {"AWS_PROFILE": "from-dotenv", "AWS_ENDPOINT_URL": "http://localhost:9000"}
    for name, value in lent.items():
        monkeypatch.setenv(name, value)
    assert (load_settings(), provenance()) == (before, where)
    assert (where["aws_region"], where["aws_profile"], where["tmdb_rate"]) == ("environment", ".env", "default")


def test_a_value_that_is_in_both_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment outranks `.env`, also where they agree; only the SDK's variables are copied."""
    monkeypatch.setenv("TMDB_RATE", "20")
    dotenv("TMDB_RATE=20\nTMDB_CONCURRENCY=7\n")
    where = provenance()
    assert (where["tmdb_rate"], where["tmdb_concurrency"]) == ("environment", ".env")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("credits,keywords", ("credits", "keywords")),
        (" credits , watch/providers,", ("credits", "watch/providers")),
        ("credits,keywords,credits", ("credits", "keywords")),
        ("season/1,external_ids", ("season/1", "external_ids")),
        (",", ()),
    ],
)
def test_appended_parts_are_a_list_with_commas(
    monkeypatch: pytest.MonkeyPatch, given: str, expected: tuple[str, ...]
) -> None:
    """From the environment or a flag they are words with commas, each once and in order."""
    monkeypatch.setenv("TMDB_APPEND", given)
    assert load_settings().tmdb_append == expected
    assert load_settings(tmdb_append=given).tmdb_append == expected


def test_appended_parts_may_be_a_list_in_toml() -> None:
    """TOML has lists of its own, and takes the words with commas too."""
    toml('tmdb_append = ["credits", "watch/providers"]\n')
    assert load_settings().tmdb_append == ("credits", "watch/providers")
    toml('tmdb_append = "credits,keywords"\n')
    assert load_settings().tmdb_append == ("credits", "keywords")


def test_more_than_20_parts_are_refused() -> None:
    """TMDB answers 400 to a 21st part, for every title: it is reported before the first request."""
    assert APPEND_LIMIT == 20
    parts = [f"season/{number}" for number in range(1, 22)]
    assert load_settings(tmdb_append=",".join(parts[:20])).tmdb_append == tuple(parts[:20])
    message = wrong(tmdb_append=",".join(parts))
    assert "TMDB_APPEND has 21 parts" in message
    assert "20" in message


DAY = "{prefix}/{collection}/{yyyy}/{mm}/{dd}"

GOOD = {
    "s3_key_template": [
        "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/year={yyyy}/month={mm}/day={dd}/{batch}.json",
        "{prefix}/{collection}/{yyyy}-{mm}-{dd}/{batch}.json",
        "{prefix}/{collection}{yyyy}{mm}{dd}/{batch}.jsonl",
        "{prefix}/Séries e filmes/日本/{collection}_x/{yyyy}._{mm}/{dd}/more/{batch}.NDJSON",
        DAY + "/{batch}.gzjson",
        DAY + "x" * (PATH_LIMIT - len(DAY + "/{batch}.json")) + "/{batch}.json",
    ],
    "s3_prefix": [
        "Raw/API",
        "Elsewhere",
        "Raw/Local/CSVs",
        "Raw/Local/CSV-API/Movies",
        "Raw/Outra pasta/2026/é日本",
        "a_b/c.d/e.",
        "x" * PATH_LIMIT,
        "é" * (PATH_LIMIT // 2),
    ],
    "s3_csv_template": [
        "Raw/Local/CSV/{collection}/{yyyy}/{mm}/{dd}/{name}",
        "{collection}/{name}",
        "CSV/{collection}/{name}",
        "Raw/API-csv/{collection}/{name}",
        "Raw/API{collection}/{name}",
        "Raw/CSV {collection}/{yyyy}-{mm}/{yyyy}-{mm}-{dd}/é/{name}",
        "{yyyy}/{collection}/{name}",
        "API/Raw/{collection}/{name}",
    ],
}
"""Keys and folders that work, each with the defaults of the other settings."""

NO_PATHS = [
    "{prefix}/x\\y",
    "{prefix}/\\",
    "{prefix}//x",
    "/{prefix}/x",
    "{prefix}/_x",
    "{prefix}/.x",
    "{prefix}/_",
    "{prefix}/.",
    "{prefix}/..",
    "{prefix}/x/_harvest",
    "{prefix}/_x{x}",
    "{prefix}/x\ny",
    "{prefix}/x\r",
    "{prefix}/x\ty",
    "{prefix}/x\0y",
    "{prefix}/x\x7fy",
    "{prefix}/x\N{NO-BREAK SPACE}y",
    "{prefix}/x\N{ZERO WIDTH SPACE}y",
    "{prefix}/x\N{RIGHT-TO-LEFT OVERRIDE}y",
    "{prefix}/x\N{LINE SEPARATOR}y",
    "{prefix}/x\udcffy",
    "{prefix}/" + "x" * PATH_LIMIT,
    "{prefix}/" + "é" * (PATH_LIMIT // 2),
]
"""Beginnings that no key has: readers skip them, a hand cannot type them, or S3 does not take them."""

NO_BRACES = [
    "{",
    "}",
    "{}",
    "{0}",
    "{{",
    "}}",
    "{{x}}",
    "{day}",
    "{x.y}",
    "{x[0]}",
    "{x!r}",
    "{x:>9}",
    "{x:{x}}",
    "{ x }",
]

ARCHIVES = "zip gz tgz bz2 xz zst lz4 br 7z rar tar snappy lzo z tbz2 txz lzma zstd gzip deflate sz jar ZIP Gz Z 7Z tAr"

BAD = {
    "s3_key_template": [
        "",
        "x",
        "/",
        "{batch}",
        "{batch}.json",
        "Finance/{batch}.json",
        "Finance/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}",
        "{prefix}/{batch}.json",
        "{prefix}/{collection}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{mm}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{dd}/{batch}.json",
        "{prefix}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "x/" + DAY + "/{batch}.json",
        "x" + DAY + "/{batch}.json",
        "/" + DAY + "/{batch}.json",
        "{prefix}-x/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{PREFIX}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/{dd}/{mm}/{yyyy}/{batch}.json",
        "{prefix}/{yyyy}/{mm}/{dd}/{collection}/{batch}.json",
        "{prefix}/{batch}/{collection}/{yyyy}/{mm}/{dd}.json",
        "{prefix}/{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{dd}/{batch}.json",
        DAY + "/{batch}/{batch}.json",
        DAY + "/{name}/{batch}.json",
        DAY + "/{batch}",
        DAY + "/{batch}.",
        DAY + "/{batch}.json ",
        DAY + "/{batch}.json\n",
        DAY + "/{batch}.json/",
        DAY + "/{batch}/x.json",
        DAY + "/{batch}x.json",
        DAY + "/{batch}-.json",
        DAY + "/x{batch}.json",
        DAY + "-{batch}.json",
        DAY + "{batch}.json",
        DAY + "/{batch}.tar.gz",
        DAY + "/{batch}.json.gz",
        DAY + "/{batch}.gz.json",
        DAY + "/{batch}.js-on",
        DAY + "/{batch}.jsón",
        DAY + "/{{batch}}.json",
        DAY + "/{batch!r}.json",
        DAY + "/{batch.json",
        DAY + "/}{batch}.json",
        "{{prefix}}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix}/{collection}/{yyyy}/{mm:02d}/{dd}/{batch}.json",
        "{prefix!r:{prefix}}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix:>99999999999}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        *(f"{DAY}/{{batch}}.{extension}" for extension in ARCHIVES.split()),
        *(DAY.replace("{prefix}", path) + "/{batch}.json" for path in NO_PATHS),
        *(DAY + f"/{braces}/{{batch}}.json" for braces in NO_BRACES),
        *(DAY + f"/x{braces}x/{{batch}}.json" for braces in NO_BRACES),
    ],
    "s3_prefix": [
        "",
        "/",
        "//",
        *(
            path.removeprefix("{prefix}/")
            for path in NO_PATHS
            if path[0] == "{" and "//" not in path and len(path) < 100
        ),
        *(path.replace("{prefix}", "Raw") for path in NO_PATHS if path[0] == "{"),
        *NO_BRACES,
        *(f"Raw/x{braces}x/API" for braces in NO_BRACES),
        "Raw/{collection}",
    ],
    "s3_csv_template": [
        "",
        "{name}",
        "x/{name}",
        "{collection}",
        "{collection}/x.csv",
        "{collection}/{name}.csv",
        "{collection}/x-{name}",
        "{collection}{name}",
        "{collection}/{name}/",
        "{collection}/{name}\n",
        "{collection}/{batch}/{name}",
        "{prefix}/{collection}/{name}",
        *(path.replace("{prefix}", "CSV") + "/{collection}/{name}" for path in NO_PATHS),
        *(f"CSV/{braces}/{{collection}}/{{name}}" for braces in NO_BRACES),
        *(f"CSV/x{braces}x/{{collection}}/{{name}}" for braces in NO_BRACES),
    ],
}
"""Keys and folders that cannot work."""


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_a_prefix_or_template_that_works_is_taken_as_it_is(name: str, value: str) -> None:
    """Hive's folders or one folder a day, another alphabet, a dot or an underscore within: the user's choice."""
    assert getattr(load_settings(**{name: value}), name) == value


@pytest.mark.parametrize("name", BAD)
def test_a_prefix_or_template_that_cannot_work_is_refused(name: str) -> None:
    """Reported before TMDB is asked, with its value: all days in one folder, or what readers skip, is found late."""
    assert [value for value in BAD[name] if not _is_refused(name, value)] == []


def _is_refused(name: str, value: str) -> bool:
    try:
        load_settings(**{name: value})
    except SettingsError as error:
        message = str(error)
        return message.startswith(f"{name.upper()} ") and repr(value)[:600] in message and "overlaps" not in message
    return False


def test_what_others_wrote_is_refused_at_once_however_large_it_would_become() -> None:
    """A template from a manifest is never formatted, and one of a megabyte is not repeated whole."""
    for template in (DAY + "/{batch:>99999999999}.json", "{prefix:>99999999999}", "{prefix!r:{prefix}}", "{" * 2**20):
        with pytest.raises(ValueError, match=r"must|600"):
            KeyTemplate.of_data_files(template)
    for name in ("s3_key_template", "s3_csv_template", "s3_prefix"):
        assert len(wrong(**{name: "é{x}\n" * 2**18})) < 1_100


@pytest.mark.parametrize(
    ("prefix", "template"),
    [
        ("Raw", None),
        ("Raw/Local", None),
        ("Raw/Local/CSV", None),
        ("/Raw/Local/CSV/", None),
        ("Raw/Local/CSV/Movies", None),
        ("Raw/Local/CSV/Series", None),
        ("Raw/Local/CSV/Movies/x", None),
        ("Raw/Local/CSV/Series/2026/11/22", None),
        (None, "Raw/API/{collection}/{name}"),
        (None, "Raw/API/csv/{collection}/{name}"),
        (None, "Raw/API/{collection}/{yyyy}/{mm}/{dd}/{name}"),
        (None, "Raw/{yyyy}/{collection}/{name}"),
        ("Movies", "{collection}/{name}"),
        ("Series/Raw", "{collection}/{name}"),
        ("Movies-csv/x", "{collection}-csv/{name}"),
        ("CSV/xMovies/x", "CSV/x{collection}/{name}"),
        ("CSV", "CSV/x{collection}/{name}"),
        ("2026", "{yyyy}/{collection}/{name}"),
        ("2026/11-22", "{yyyy}/{mm}-{dd}/{collection}/{name}"),
        ("2026/Series", "{yyyy}/{collection}/{name}"),
    ],
)
def test_csvs_and_harvest_keep_out_of_each_others_folders(prefix: str | None, template: str | None) -> None:
    """The harvest would take a CSV for a foreign file, or the upload a record for a CSV: the error names both."""
    message = wrong(s3_prefix=prefix, s3_csv_template=template)
    fields = Settings.model_fields
    assert message.startswith("S3_CSV_TEMPLATE overlaps with S3_PREFIX ")
    assert repr((prefix or fields["s3_prefix"].default).strip("/")) in message
    assert repr(template or fields["s3_csv_template"].default) in message
    assert "Change one of the two" in message


@pytest.mark.parametrize(
    ("prefix", "template"),
    [
        ("Raw/API", "Raw/CSV/{collection}/{name}"),
        ("Raw", "CSV/{collection}/{name}"),
        ("Movie", "{collection}/{name}"),
        ("CSV/x", "CSV/x{collection}/{name}"),
        ("CSV/Other", "CSV/{collection}/{name}"),
        ("20260/Movies", "{yyyy}/{collection}/{name}"),
        ("2026/Other", "{yyyy}/{collection}/{name}"),
        ("2026/Movies/lake", "{yyyy}/{collection}/{name}"),
    ],
)
def test_csvs_and_harvest_may_be_neighbours(prefix: str, template: str) -> None:
    """Folders that only look alike, or stand side by side in a third, are no overlap."""
    settings = load_settings(s3_prefix=prefix, s3_csv_template=template)
    assert (settings.s3_prefix, settings.s3_csv_template) == (prefix, template)


FOLDERS = st.lists(st.sampled_from(["Raw", "Movies", "Series", "2026", "11"]), min_size=1, max_size=4)
CSV_FOLDERS = st.lists(
    st.sampled_from(["Raw", "Movies", "2026", "{collection}", "{yyyy}", "{mm}", "{dd}", "{collection}{mm}"]), max_size=4
)


@given(folders=FOLDERS, csv_folders=CSV_FOLDERS)
def test_the_folders_overlap_just_where_a_key_says_so(folders: list[str], csv_folders: list[str]) -> None:
    """What is refused has a CSV's key below the prefix or the prefix in the CSVs' folder; what is taken has neither."""
    prefix, template = "/".join(folders), "/".join([*csv_folders, "{collection}", "{name}"])
    overlap = False
    for collection in ("Movies", "Series"):
        key = template.format(collection=collection, yyyy="2026", mm="11", dd="11", name="movies.csv")
        other = template.format(collection=collection, yyyy="3333", mm="02", dd="22", name="x")
        shared = commonpath([key, other])
        overlap |= key.startswith(f"{prefix}/") or (shared != "" and f"{prefix}/".startswith(f"{shared}/"))
    try:
        load_settings(s3_prefix=prefix, s3_csv_template=template)
    except SettingsError:
        assert overlap
    else:
        assert not overlap


BETWEEN = st.sampled_from(["/", "", "-", "/x=", ".1/é"])


@given(
    prefix=st.sampled_from(["Raw/API", "é/1"]) | st.text("aé1/_. ", max_size=3).map("Raw".__add__),
    between=st.tuples(st.sampled_from(["", "x=", "é/1"]), BETWEEN, BETWEEN, BETWEEN, st.sampled_from(["", "-x", "/é"])),
    odd=st.sampled_from(["", "1"]) | st.text("a1é/_.{}\\\n", max_size=2),
    at=st.integers(0, 4),
)
def test_keys_of_an_accepted_template_lie_below_the_prefix_and_never_meet(
    prefix: str, between: tuple[str, ...], odd: str, at: int
) -> None:
    """Every key begins with the prefix, readers skip no part of it, and it distinguishes collection, date and batch."""
    texts = [text + odd if index == at else text for index, text in enumerate(between)]
    fields = ["{collection}", "{yyyy}", "{mm}", "{dd}", "/{batch}.json"]
    template = "{prefix}/" + "".join(text + field for text, field in zip(texts, fields, strict=True))
    try:
        folder, template = validate_prefix(prefix), KeyTemplate.of_data_files(template).text
    except ValueError:
        reject()
    days = [
        ("2026", "11", "12"),
        ("2026", "12", "11"),
        ("2011", "12", "26"),
        ("1112", "20", "26"),
        ("1220", "11", "26"),
    ]
    batches = ["tt0000001-tt0000009-0000000a", "tt0000001-tt00000090-0000000a", "tt0000001-tt0000009-0000000b"]
    keys = [
        template.format(prefix=folder, collection=collection, yyyy=yyyy, mm=mm, dd=dd, batch=batch)
        for collection, (yyyy, mm, dd), batch in itertools.product(("Movies", "Series"), days, batches)
    ]
    assert len(set(keys)) == len(keys)
    assert [key for key in keys if not key.startswith(f"{folder}/")] == []
    assert [key for key in keys if re.search(r"(^|/)([_./]|$)", key)] == []


def test_slashes_around_prefix_and_base_url_do_not_matter() -> None:
    """`Raw/API/` is `Raw/API`: no key ever has an empty folder."""
    settings = load_settings(s3_prefix="/lake/Raw/", tmdb_base_url="http://127.0.0.1:8080/3/")
    assert (settings.s3_prefix, settings.tmdb_base_url) == ("lake/Raw", "http://127.0.0.1:8080/3")


@pytest.mark.parametrize("key", [V3_KEY, V4_TOKEN, f"  {V3_KEY}\n", f"{V4_TOKEN} "])
def test_both_shapes_of_tmdbs_key_are_taken(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """32 hexadecimal digits (v3) and `eyJ….….…` (v4), with the white space a copy brings along."""
    monkeypatch.setenv("TMDB_API_KEY", key)
    stored = load_settings().tmdb_api_key
    assert stored is not None
    assert stored.get_secret_value() == key.strip()


@pytest.mark.parametrize(
    "key", [V3_KEY[:-1], V3_KEY + "0", "g" * 32, "eyJhbGciOiJIUzI1NiJ9", V4_TOKEN[3:], f"Bearer {V4_TOKEN}", "changeme"]
)
def test_what_has_neither_shape_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """The error names the shapes and how long the value is, and not one that may be a key with a slip."""
    monkeypatch.setenv("TMDB_API_KEY", key)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith("TMDB_API_KEY is neither a v3 key")
    assert f"{len(key)} characters" in message
    assert key not in "".join(traceback.format_exception(caught.value))


def with_secrets(**more: Any) -> Settings:
    return load_settings(
        tmdb_api_key=V3_KEY,
        aws_access_key_id=AWS_ID,
        aws_secret_access_key=AWS_SECRET,
        aws_session_token=AWS_TOKEN,
        **more,
    )


SHOWN: dict[str, Callable[[Settings], object]] = {
    "repr": repr,
    "str": str,
    "format": lambda settings: f"{settings}",
    "dump": lambda settings: settings.model_dump(),
    "json": lambda settings: settings.model_dump_json(),
    "record_options": lambda settings: settings.record_options,
}


@pytest.mark.parametrize("way", SHOWN)
def test_no_way_to_show_settings_shows_a_secret(way: str) -> None:
    """TMDB's key and AWS's credentials are stars wherever settings are printed or kept."""
    shown = str(SHOWN[way](with_secrets()))
    assert [secret for secret in SECRETS if secret in shown] == []


def test_an_error_beside_secrets_does_not_show_them() -> None:
    """With good secrets and a wrong setting, neither message nor traceback has a secret."""
    with pytest.raises(SettingsError) as caught:
        with_secrets(tmdb_rate="fast", s3_key_template="{batch}")
    text = "".join(traceback.format_exception(caught.value))
    assert [secret for secret in SECRETS if secret in text] == []


@pytest.mark.parametrize(
    "url",
    [
        f"https://api.themoviedb.org/3?api_key={V3_KEY}",
        f"https://me:{V3_KEY}@api.themoviedb.org/3",
        f"https://api.themoviedb.org/3/movie/550?language=pt&api_key={V3_KEY}",
    ],
)
def test_a_url_with_a_key_in_it_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """TMDB's site shows URLs with the key in their query: pasted as base URL, they are reported without it."""
    monkeypatch.setenv("TMDB_BASE_URL", url)
    message = wrong()
    assert message.startswith("TMDB_BASE_URL ")
    assert V3_KEY not in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tmdb_api_key", "TMDB_API_KEY is not set: set TMDB_API_KEY in"),
        ("s3_bucket", "S3_BUCKET is not set: give --bucket, or set S3_BUCKET in"),
    ],
)
def test_what_a_command_needs_is_asked_for_by_name(name: str, said: str) -> None:
    """A missing setting is reported with its flag, if it has one, and every place it can be set in."""
    settings = load_settings()
    with pytest.raises(SettingsError) as caught:
        settings.require("tmdb_rate", name)
    assert str(caught.value).startswith(said)
    assert [place for place in (".env", "config/harvester.toml") if place not in str(caught.value)] == []
    with_secrets(s3_bucket="lake").require("tmdb_api_key", "s3_bucket")


def test_a_harvest_needs_a_csv_and_not_the_same_twice() -> None:
    """At least one of the two, and two different ones."""
    for one in ({"movies_csv": "m.csv"}, {"series_csv": "s.csv"}, {"movies_csv": "m.csv", "series_csv": "s.csv"}):
        load_settings(**one).require_input()
    with pytest.raises(SettingsError, match="--movies or --series"):
        load_settings().require_input()
    with pytest.raises(SettingsError, match=r"'m\.csv'"):
        load_settings(movies_csv="m.csv", series_csv="m.csv").require_input()


def test_settings_do_not_change_once_made() -> None:
    """What was in force when a run began stays so."""
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.tmdb_rate = 50.0


def test_the_manifest_keeps_what_shapes_records_and_keys() -> None:
    """Language, appended parts, format and key template: where they differ, it is another run."""
    template = "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json"
    options = load_settings(tmdb_append="credits", tmdb_language="pt-BR").record_options
    assert options == RecordOptions("pt-BR", ("credits",), "jsonl", template)


def test_an_endpoint_is_a_url_under_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3's own name comes before the SDK's general one, and a host without a scheme is a wrong setting."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    assert load_settings().aws_endpoint_url_s3 == "http://localhost:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:9001")
    assert load_settings().aws_endpoint_url_s3 == "http://localhost:9001"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "localhost:9001")
    with pytest.raises(SettingsError, match=r"AWS_ENDPOINT_URL_S3 .*must look like http://localhost:9000"):
        load_settings()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize(
    "text", ["te\udcffst", "chave-não", "a\tb", "a\nb"], ids=["no UTF-8", "no ASCII", "tab", "line"]
)
def test_a_credential_that_no_header_can_carry_is_reported_by_its_name(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word of it: a byte that is not UTF-8 came out as a bug of ours."""
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == f"{name} has a character that is not printable ASCII"


@pytest.mark.parametrize("name", sorted(ALL_NAMES))
def test_whatever_bytes_a_variable_has_it_is_a_setting_or_a_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that is not UTF-8 is half a character to Python; it never escapes as an error of another kind."""
    monkeypatch.setenv(name, "b\udcff")
    with suppress(SettingsError):
        load_settings()


def test_a_mistyped_setting_of_a_python_caller_is_refused() -> None:
    """A default in its place would harvest something else than was meant."""
    with pytest.raises(TypeError, match=r"load_settings\(\) got tmdb_langage, which is no setting"):
        load_settings(tmdb_langage="pt-BR")
