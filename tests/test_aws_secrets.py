"""TMDB's key from AWS, against a server that speaks the protocol of its secret stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from loops import Leaping, run_on
from runtime_api import FakeSecrets, fake_secrets
from shells import answerless

from harvester.aws.secrets import fetch_key
from harvester.commands.resources import with_key
from harvester.errors import HarvestError, SettingsError, StoreError
from harvester.settings.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = "5ec7e7ab1e0ddba11c0ffee0ca5cade5"
TOKEN = "eyJNYXJrZWQ.VG9rZW4.b2YtVE1EQg"
ACCESS, SECRET = "AKIA5EC7E7MARKEDKEY1", "s3cR/et+Mark/ed+Key/of+AWS/th4t+no0ne/Sees"
ARN = "arn:aws:secretsmanager:us-east-1:000000000000:secret:tmdb/key-a1b2c3"


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeSecrets]:
    """A fake of AWS's secret stores, at which the SDK's own settings point."""
    async with fake_secrets() as running:
        lead_to(running.url, monkeypatch)
        yield running


def lead_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("SSM", "SECRETS_MANAGER"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.mark.parametrize(
    ("secret_ref", "parameters", "secrets"),
    [
        ("ssm:/tmdb/key", {"/tmdb/key": KEY}, {}),
        ("ssm:tmdb", {"tmdb": f" {KEY}\n"}, {}),
        ("secret:tmdb", {}, {"tmdb": KEY}),
        (f"secret:{ARN}", {}, {ARN: KEY}),
        ("secret:tmdb", {}, {"tmdb": f'{{"TMDB_API_KEY": "{KEY}", "other": "x"}}'}),
        ("secret:tmdb", {}, {"tmdb": f'{{"key": "{KEY}"}}'}),
    ],
)
async def test_a_key_is_read_where_it_is_kept(
    secret_ref: str, parameters: dict[str, str], secrets: dict[str, Any], server: FakeSecrets
) -> None:
    """A parameter or a secret, plain or as the console makes it: the settings hold the key, after one request."""
    server.parameters, server.secrets = parameters, secrets
    known: dict[str, str] = {}
    for _ in range(2):
        settings = await with_key(load_settings(tmdb_api_key=secret_ref), known)
        assert settings.tmdb_api_key is not None
        assert settings.tmdb_api_key.get_secret_value() == KEY
        assert KEY not in repr(settings)
    assert server.asked == [secret_ref.partition(":")[2]]
    assert known == {secret_ref: KEY}


async def test_a_key_that_is_given_is_not_looked_for(server: FakeSecrets) -> None:
    """Without ssm: or secret: nobody is asked; without anything it is said what to set."""
    settings = load_settings(tmdb_api_key=TOKEN)
    assert await with_key(settings, {}) is settings
    assert server.asked == []
    with pytest.raises(SettingsError, match="TMDB_API_KEY is not set: set TMDB_API_KEY in the environment"):
        await with_key(load_settings(), {})


@pytest.mark.parametrize(
    ("secret_ref", "refusal", "kind", "words"),
    [
        (
            "ssm:/x",
            None,
            SettingsError,
            "cannot read TMDB's key from ssm:/x: ParameterNotFound. Put the key there with",
        ),
        ("secret:x", None, SettingsError, "secret:x: ResourceNotFoundException. Put the key there with `aws secrets"),
        ("ssm:/x", (400, "AccessDeniedException"), SettingsError, "Grant ssm:GetParameter or secretsmanager:Get"),
        ("secret:x", (400, "AccessDeniedException"), SettingsError, "Grant ssm:GetParameter or secretsmanager:Get"),
        ("secret:x", (400, "DecryptionFailure"), SettingsError, "Repair the KMS key"),
        ("ssm:/x", (400, "UnrecognizedClientException"), StoreError, "UnrecognizedClientException. If this does not"),
        ("ssm:/x", (400, "ExpiredTokenException"), StoreError, "check the AWS credentials"),
    ],
)
async def test_a_key_that_aws_refuses_is_an_error_with_its_code_and_advice(
    secret_ref: str, refusal: Any, kind: type[HarvestError], words: str, server: FakeSecrets
) -> None:
    """An error that the owner must correct is a SettingsError; one that may pass, or of credentials, a StoreError."""
    server.refusal = refusal
    with pytest.raises(kind) as caught:
        await with_key(load_settings(tmdb_api_key=secret_ref), {})
    assert words in str(caught.value)
    assert ACCESS not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_busy_aws_is_retried_and_then_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty children that start at once exceed the rate of Parameter Store: that is not a wrong setting."""

    async def scenario() -> None:
        async with fake_secrets() as server:
            lead_to(server.url, monkeypatch)
            for status, code in ((400, "ThrottlingException"), (500, "InternalServerError")):
                server.refusal = (status, code)
                with pytest.raises(StoreError, match=f"ssm:/x: {code}"):
                    await fetch_key("ssm:/x")
            assert len(server.asked) == 10

    run_on(Leaping(), scenario())


@pytest.mark.parametrize("secret_ref", ["ssm:/x", "secret:x"])
def test_an_unreachable_aws_is_named_by_its_address(secret_ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual cause is a Lambda in a VPC without a route to AWS."""

    async def scenario() -> None:
        with answerless() as address:
            lead_to(f"http://{address}", monkeypatch)
            with pytest.raises(StoreError) as caught:
                await fetch_key(secret_ref)
        assert f"http://{address} refuses the connection. Check the network and AWS_REGION." in str(caught.value)

    run_on(Leaping(), scenario())


async def test_without_credentials_the_error_says_so(server: FakeSecrets, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is made, and the message is the same as for the bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(StoreError, match=r"NoCredentialsError\. Set AWS_PROFILE"):
        await fetch_key("ssm:/x")
    assert server.asked == []


@pytest.mark.parametrize(
    "value",
    [
        "",
        "hunter2-hunter2",
        f"{KEY}{KEY}",
        f'{{"a": "{KEY}", "b": "{KEY}"}}',
        f'["{KEY}"]',
        '{"TMDB_API_KEY": 5}',
        {"SecretBinary": "aHVudGVyMg=="},
    ],
)
async def test_a_value_that_is_no_key_is_refused_and_not_shown(value: Any, server: FakeSecrets) -> None:
    """It may be another secret, put there by mistake: the message gives its length only."""
    server.secrets["x"] = value
    known: dict[str, str] = {}
    with pytest.raises(SettingsError) as caught:
        await with_key(load_settings(tmdb_api_key="secret:x"), known)
    several = "TMDB_API_KEY: secret:x holds 2 values, and none is called TMDB_API_KEY: add it"
    neither = "TMDB_API_KEY: secret:x holds neither a v3 key nor a v4 read token, but "
    assert str(caught.value) == several if '"b"' in value else neither in str(caught.value)
    assert not any(part in str(caught.value) for part in (KEY, "hunter2", "aHVudGVyMg"))
    assert known == {}
