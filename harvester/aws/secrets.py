"""Secrets: TMDB's key from AWS's Parameter Store or Secrets Manager, where settings have only a reference to it.

`ssm:/path` is a parameter, `secret:name` (or ARN) a secret. Its value is the key, or JSON with the key as
`TMDB_API_KEY` or as its only value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import botocore.exceptions
import orjson

from harvester.aws.client import open_client
from harvester.aws.errors import no_answer, store_error
from harvester.errors import SettingsError

if TYPE_CHECKING:
    from harvester.aws.client import Access

_MISNAMED = ("ValidationException", "InvalidRequestException", "InvalidParameterException", "ParameterVersionNotFound")
_ADVICE = {
    "ParameterNotFound": "Put the key there with `aws ssm put-parameter --type SecureString`, or correct TMDB_API_KEY.",
    "ResourceNotFoundException": "Put the key there with `aws secretsmanager create-secret`, or correct TMDB_API_KEY.",
    "AccessDeniedException": "Grant ssm:GetParameter or secretsmanager:GetSecretValue on it, and kms:Decrypt on its "
    "key if that is not AWS's own.",
    **dict.fromkeys(_MISNAMED, "Correct TMDB_API_KEY: nothing can be read under this name."),
    **dict.fromkeys(
        ("InvalidKeyId", "DecryptionFailure"), "Repair the KMS key that it is encrypted with, or put it there again."
    ),
}
"""What to do next, where a retry would not help; other codes are problems of AWS or of the credentials."""


async def fetch_key(secret_ref: str, **access: Unpack[Access]) -> str:
    """TMDB's key from `secret_ref`, by one request; a SettingsError with AWS's code if AWS refuses."""
    kind, _, name = secret_ref.partition(":")
    action = f"read TMDB's key from {secret_ref}"
    if name.startswith("arn:"):
        access["region"] = name.split(":")[3]  # it may differ from the bucket's
    service = "ssm" if kind == "ssm" else "secretsmanager"
    async with open_client(service, action=action, **access) as (client, _):
        try:
            if kind == "ssm":
                response = await client.get_parameter(Name=name, WithDecryption=True)
                return _key_in((response.get("Parameter") or {}).get("Value") or "", secret_ref)
            response = await client.get_secret_value(SecretId=name)
            return _key_in(response.get("SecretString") or "", secret_ref)
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code") or "no code")
            if code not in _ADVICE:
                raise store_error(action, code, "If this does not pass, check the AWS credentials") from None
            raise SettingsError(f"TMDB_API_KEY: cannot {action}: {code}. {_ADVICE[code]}") from None
        except botocore.exceptions.BotoCoreError as error:
            raise no_answer(action, error, client.meta.endpoint_url, "Check the network and AWS_REGION.") from None


def _key_in(text: str, secret_ref: str) -> str:
    """The key in `text`, which may be JSON of the form that Secrets Manager's console makes."""
    try:
        values = orjson.loads(text)
    except ValueError:
        return text
    if not isinstance(values, dict):
        return text
    if "TMDB_API_KEY" not in values and len(values) != 1:
        problem = f"{secret_ref} holds {len(values)} values, and none is called TMDB_API_KEY: add it"
        raise SettingsError(f"TMDB_API_KEY: {problem}")
    return str(values.get("TMDB_API_KEY") or next(iter(values.values())))
