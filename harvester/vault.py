"""The vault: TMDB's key out of AWS's Parameter Store or Secrets Manager, where settings only say where it is kept.

`ssm:/path` is a parameter, `secret:name` (or its ARN) a secret: the key itself, or a JSON object that has it as
`TMDB_API_KEY` or alone. One request, before anything is asked of TMDB.
"""

from __future__ import annotations

from typing import Any

import botocore.exceptions
import orjson

from harvester.aws_client import open_client
from harvester.errors import SettingsError, StoreError
from harvester.s3_trouble import UNREACHABLE, store_error, what_it_does

_HOW = {
    "ssm": ("get_parameter", "Name", {"WithDecryption": True}, ("Parameter", "Value")),
    "secretsmanager": ("get_secret_value", "SecretId", {}, ("SecretString",)),
}
"""By service: the call, what it calls the name, what else it is told, and where in its answer the text stands."""

_ADVICE = {
    "ParameterNotFound": "Put the key there with `aws ssm put-parameter --type SecureString`, or correct TMDB_API_KEY.",
    "ResourceNotFoundException": "Put the key there with `aws secretsmanager create-secret`, or correct TMDB_API_KEY.",
    "AccessDeniedException": "Grant ssm:GetParameter or secretsmanager:GetSecretValue on it, and kms:Decrypt on its "
    "key if that is not AWS's own.",
    **dict.fromkeys(
        ["ValidationException", "InvalidRequestException", "InvalidParameterException", "ParameterVersionNotFound"],
        "Correct TMDB_API_KEY: nothing can be read under this name.",
    ),
    **dict.fromkeys(
        ["InvalidKeyId", "DecryptionFailure"],
        "Mend the KMS key that it is encrypted with, or put it there anew.",
    ),
}
"""What to do next, where asking again would not help; anything else is AWS's trouble, or that of the credentials."""


async def fetch_key(
    kept: str,
    *,
    region: str | None = None,
    profile: str | None = None,
    credentials: tuple[str, str, str | None] | None = None,
) -> str:
    """TMDB's key, which is `kept` where the setting says.

    Raises:
        SettingsError: AWS does not give it; the message has AWS's word for why.
        StoreError: AWS cannot be reached, or the credentials are no good.
    """
    kind, _, name = kept.partition(":")
    service = "ssm" if kind == "ssm" else "secretsmanager"
    operation, called, more, place = _HOW[service]
    action = f"read TMDB's key from {kept}"
    if name.startswith("arn:"):
        region = name.split(":")[3]  # it may be kept elsewhere than the bucket
    async with open_client(service, action=action, region=region, profile=profile, credentials=credentials) as (
        client,
        _session,
    ):
        try:
            told: Any = await getattr(client, operation)(**{called: name}, **more)
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code") or "no word why")
            if code not in _ADVICE:
                raise store_error(action, code, "If this does not pass, check the AWS credentials") from None
            raise SettingsError(f"TMDB_API_KEY: cannot {action}: {code}. {_ADVICE[code]}") from None
        except UNREACHABLE as error:
            seen = f"{client.meta.endpoint_url} {what_it_does(error)}"
            raise StoreError(action, type(error).__name__, f"{seen}. Check the network and AWS_REGION.") from None
        except botocore.exceptions.BotoCoreError as error:
            raise store_error(action, type(error).__name__) from None
    for word in place:
        told = told.get(word) or {}
    return _alone(str(told or ""), kept)


def _alone(text: str, kept: str) -> str:
    """The key in `text`, which may be JSON as Secrets Manager's console makes it."""
    try:
        told = orjson.loads(text)
    except ValueError:
        return text
    if not isinstance(told, dict):
        return text
    values = list(told.values())
    if "TMDB_API_KEY" not in told and len(values) != 1:
        raise SettingsError(f"TMDB_API_KEY: {kept} holds {len(values)} values, and none is called TMDB_API_KEY: add it")
    return str(told.get("TMDB_API_KEY") or values[0])
