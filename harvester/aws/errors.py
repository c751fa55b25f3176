"""AWS's errors as `StoreError`: what was tried, AWS's code for the error, its kind, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import botocore.exceptions
from botocore import xform_name

from harvester.errors import SAFE, StoreError, StoreErrorKind
from harvester.runtime.net import NO_NETWORK
from harvester.settings.redaction import redact, redact_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

ADVICE = {
    "NoSuchBucket": "Create the bucket, or correct S3_BUCKET.",
    "AccessDenied": "Grant this action to the credentials in use (README, section on permissions).",
    "InvalidAccessKeyId": "Correct the AWS credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE).",
    "SignatureDoesNotMatch": "Correct the AWS credentials (AWS_SECRET_ACCESS_KEY).",
    "ExpiredToken": "The AWS session has expired: log in again (`aws sso login`), then run again.",
    "NoCredentialsError": "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    "ProfileNotFound": "Correct AWS_PROFILE, or make the profile with `aws configure`.",
    "EndpointConnectionError": "Check the network and AWS_ENDPOINT_URL_S3.",
    "SSLError": "Check http:// or https:// in AWS_ENDPOINT_URL_S3, and AWS_CA_BUNDLE for its certificate.",
    "RequestTimeTooSkewed": "Set this machine's clock: S3 refuses what is signed over 15 minutes off.",
    "PermanentRedirect": "The bucket is in another region: correct AWS_REGION.",
}
"""What to do next, by S3's error code or the class name of botocore's error."""

KINDS = {
    "NoSuchBucket": StoreErrorKind.NO_BUCKET,
    **dict.fromkeys(("NoSuchKey", "404"), StoreErrorKind.NO_OBJECT),
    "NoSuchUpload": StoreErrorKind.NO_UPLOAD,
    "AccessDenied": StoreErrorKind.DENIED,
    **dict.fromkeys(("OperationAborted", "ConditionalRequestConflict", "409", "HTTP 409"), StoreErrorKind.CONFLICT),
    **dict.fromkeys(("PreconditionFailed", "412"), StoreErrorKind.PRECONDITION),
}
"""Kind of an error by S3's code (its documentation); without a body botocore has only the status."""


def store_error(action: str, code: str, message: str = "") -> StoreError:
    """The error of `action`, with S3's or botocore's `code`; its `message` is the advice if `ADVICE` has none."""
    sentence = f"{message.rstrip('.')}. " if message else ""
    advice = ADVICE.get(code) or f"{sentence}{SAFE}"
    return StoreError(action, code, advice, kind=KINDS.get(code, StoreErrorKind.OTHER))


def refusal(action: str, operation: str, error: botocore.exceptions.ClientError, secrets: Sequence[str]) -> StoreError:
    """The error of `action`, which called `operation` of S3's API, from S3's response, with `secrets` redacted."""
    if (called := xform_name(error.operation_name)) != operation:  # of STS or the single sign-on
        action = f"get credentials ({called}) to {action}"
    details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code = str(details.get("Code") or f"HTTP {metadata.get('HTTPStatusCode')}")
    if (operation, code) == ("head_object", "403"):  # a response to HEAD has no body, so no code of S3's
        code = "AccessDenied"
    texts = (redact_shapes(redact(text, secrets)) for text in (code, str(details.get("Message", ""))))
    return store_error(action, *texts)


def no_answer(action: str, error: Exception, endpoint: str, advice: str | None = None) -> StoreError:
    """The error of `action`, where the server at the URL `endpoint` did not answer, or got no request."""
    code = type(error).__name__
    if isinstance(error, botocore.exceptions.ConnectionError | botocore.exceptions.HTTPClientError):
        # Botocore's own messages for these contain the whole URL.
        return StoreError(action, code, f"{endpoint} {_what_it_does(error)}. {advice or ADVICE.get(code, SAFE)}")
    return store_error(action, code, redact_shapes(str(error)))


def _what_it_does(error: botocore.exceptions.BotoCoreError) -> str:
    cause = error.kwargs.get("error")
    if isinstance(error, botocore.exceptions.SSLError) or isinstance(cause, aiohttp.ClientSSLError):
        return "does not speak TLS, or its certificate is not trusted"
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return "has a name that cannot be resolved"
    if isinstance(cause, aiohttp.ClientConnectorError):
        no_network = cause.os_error.errno in NO_NETWORK
        return "cannot be reached: there is no route to it" if no_network else "refuses the connection"
    if type(cause) is aiohttp.ClientError:
        return f"redirects to another URL ({cause})"
    timeouts = (botocore.exceptions.ConnectTimeoutError, botocore.exceptions.ReadTimeoutError)
    return "does not answer in time" if isinstance(error, timeouts) else "breaks the connection"
