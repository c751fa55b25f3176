"""Doctor: checks everything a harvest needs, and says what to fix.

Every check does the real thing: the CSVs are read, TMDB is asked, and each permission is tried (`permissions`).
"""

from __future__ import annotations

import asyncio
import platform
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from harvester.commands.permissions import OPTIONAL_PERMISSION, PermissionChecks
from harvester.commands.resources import CSV_SETTINGS, Resources, source_options, source_texts, with_key
from harvester.commands.result import result_json
from harvester.errors import Exit, HarvestError, SettingsError, StoreError, StoreErrorKind
from harvester.model.csv_path import STDIN
from harvester.model.layout import RUNS
from harvester.runtime.clock import utc_now
from harvester.settings.provenance import provenance, unknown_names
from harvester.settings.redaction import redact
from harvester.settings.settings import ENV_FILE, Settings, load_settings
from harvester.settings.validators import SECRET_REF
from harvester.sources.registry import source_of
from harvester.tmdb.client import is_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

State = Literal["good", "note", "bad", "not set", "not tried"]
"""`note`: it works, but could be better. Only `bad` makes a harvest fail."""

SKEW_NOTE_SECONDS = 60
SKEW_LIMIT_SECONDS = 300
"""Clock skew from which on it is a note, and bad. S3 refuses requests signed more than 15 minutes off."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, what was found, and what to do about it, if anything."""

    what: str
    state: State
    seen: str
    fix: str = ""

    def without(self, secrets: Sequence[str]) -> Finding:
        """The finding with secrets redacted; to be called before the text is wrapped, which may cut a secret in two."""
        return replace(self, seen=redact(self.seen, secrets), fix=redact(self.fix, secrets))


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no finding is `bad`."""
        return all(finding.state != "bad" for finding in self.findings)

    @property
    def exit_code(self) -> Exit:
        """What the command line exits with."""
        return Exit.CLOSED if self.healthy else Exit.WRONG

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        findings = [asdict(finding) for finding in self.findings]
        return result_json("healthy" if self.healthy else "wrong", self.exit_code, findings=findings)


async def run_checks(flags: dict[str, Any], secrets: list[str] | None = None) -> AsyncIterator[Finding]:
    """Yield each finding as it is made; `flags` by field name. TMDB's key is added to `secrets` once fetched."""
    yield _python()
    for unknown in unknown_names():
        fix = f"Correct it, if you mean {unknown.nearest}." if unknown.nearest else "Remove it, if it is meant for us."
        yield Finding(unknown.setting, "note", f"is no setting, and has no effect  ({unknown.where})", fix)
    try:
        settings = load_settings(**flags)
    except SettingsError as error:
        for problem in error.problems:
            name, _, text = problem.partition(" ")
            yield Finding(name, "bad", text, "Correct it; the rest is checked then.")
        return
    for finding in _settings(settings, provenance(**flags)):
        yield finding
    if exposed := await asyncio.to_thread(_exposed):
        yield exposed
    for checks in (_inputs(settings), _tmdb(settings, [] if secrets is None else secrets), _bucket(settings)):
        async for finding in checks:
            yield finding


def _python() -> Finding:
    parts = {"aiohttp": "aiohttp._http_parser", "uvloop": "uvloop"}
    slow = [name for name, module in parts.items() if find_spec(module) is None]
    seen = f"{platform.python_version()} on {platform.system()} {platform.machine()}, aiohttp {version('aiohttp')}"
    if slow:
        fix = f"Install the compiled parts of {' and '.join(slow)}: it works without, and slower."
        return Finding("Python", "note", seen, fix)
    return Finding("Python", "good", f"{seen} in C, uvloop {version('uvloop')}")


def _settings(settings: Settings, origins: dict[str, str]) -> Iterator[Finding]:
    """A finding for each setting: its value, unless it is secret, and where it came from."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None:
            yield Finding(name.upper(), "good", f"{_shown(name, value)}  ({origins[name]})")
        elif name in ("tmdb_api_key", "s3_bucket"):
            yield Finding(name.upper(), "bad", "not set", f"Set it in the environment or in {ENV_FILE}.")
        else:
            yield Finding(name.upper(), "not set", "not set")
    try:
        settings.require_input()
    except SettingsError as error:
        yield Finding("MOVIES_CSV, SERIES_CSV", "bad", str(error), "Give two different files, or only one.")


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        if SECRET_REF.fullmatch(secret):
            return f"kept in {secret}"
        kind = ("a v4 read token" if is_token(secret) else "a v3 key") if name == "tmdb_api_key" else "secret"
        return f"{kind}, {len(secret)} characters"
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _exposed() -> Finding | None:
    """A note if git would commit the file with the keys; None where there is no such file, repository or git."""
    if not ENV_FILE.is_file():
        return None
    command = ("git", "check-ignore", "--quiet", str(ENV_FILE))
    with suppress(OSError, subprocess.TimeoutExpired):
        ignored = subprocess.run(command, check=False, capture_output=True, timeout=10).returncode  # noqa: S603
        if ignored == 1:  # 0: it is ignored; 128: there is no repository
            fix = f"Add {ENV_FILE} to .gitignore; if it has been committed, ask TMDB and AWS for new keys."
            return Finding(str(ENV_FILE), "note", "has keys in it, and git would commit it", fix)
    return None


async def _inputs(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what is in each CSV."""
    for collection, text in source_texts(settings).items():
        setting = CSV_SETTINGS[collection].upper()
        if text == STDIN:
            yield Finding(setting, "not tried", "standard input is read only once, by the harvest")
            continue
        try:
            account = await source_of(text, source_options(settings)).read(set())
        except HarvestError as error:
            yield Finding(setting, "bad", str(error))
            continue
        seen = f"{account.rows:,} rows: {len(account.ids):,} ids, {account.duplicates:,} duplicates, "
        if not account.rejected:
            yield Finding(setting, "good", f"{seen}none rejected")
            continue
        fix = f"Line {account.rejects[0].line} is the first without an IMDb id; `plan` shows more. They are left out."
        yield Finding(setting, "note", f"{seen}{account.rejected:,} rejected", fix)


async def _tmdb(settings: Settings, secrets: list[str]) -> AsyncIterator[Finding]:
    if settings.tmdb_api_key is None:
        yield Finding("TMDB", "not tried", "there is no key")
        return
    known: dict[str, str] = {}
    try:
        settings = await with_key(settings, known)
        secrets += known.values()
        started = time.monotonic()
        async with Resources(settings).tmdb() as tmdb:
            await tmdb.check_key()
            milliseconds, clock = (time.monotonic() - started) * 1_000, _clock("TMDB", tmdb.server_time)
    except HarvestError as error:
        yield Finding("TMDB", "bad", str(error))
        return
    yield Finding("TMDB", "good", f"{settings.tmdb_base_url} accepts the key, after {milliseconds:.0f} ms")
    yield clock


async def _bucket(settings: Settings) -> AsyncIterator[Finding]:
    if settings.s3_bucket is None:
        yield Finding("S3", "not tried", "there is no bucket")
        return
    day = utc_now()[:10]
    try:
        async with Resources(settings).lake() as bucket:
            checks = PermissionChecks(bucket, prefix=settings.s3_prefix, template=settings.s3_key_template, day=day)
            for permission, attempt in checks.tries.items():
                try:
                    yield Finding(permission, "good", await attempt())
                except StoreError as error:
                    yield _refused(permission, error)
                    if error.kind is not StoreErrorKind.DENIED:  # not only this permission is missing
                        yield Finding("S3", "not tried", "the other permissions, until this is fixed")
                        return
            yield _clock("S3", await bucket.server_time(f"{settings.s3_prefix}/{RUNS}/"))
    except StoreError as error:
        yield _refused("S3", error)


def _refused(what: str, error: StoreError) -> Finding:
    seen = f"cannot {error.action}: {error.code}"
    if what == OPTIONAL_PERMISSION and error.kind is StoreErrorKind.DENIED:
        return Finding(what, "note", seen, "Only `verify --repair` needs it (README, Permissions).")
    return Finding(what, "bad", seen, error.advice)


def _clock(server: str, server_time: datetime | None) -> Finding:
    if server_time is None:
        return Finding("clock", "not tried", f"{server} does not say what time it is")
    seconds = round((datetime.now(timezone.utc) - server_time).total_seconds())
    if abs(seconds) <= SKEW_NOTE_SECONDS:
        return Finding("clock", "good", f"within {max(abs(seconds), 1)} s of {server}'s")
    seen = f"{abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} {server}'s"
    fix = "Set this machine's clock: S3 refuses what is signed 15 minutes off, and the date in the keys follows it."
    return Finding("clock", "bad" if abs(seconds) > SKEW_LIMIT_SECONDS else "note", seen, fix)
