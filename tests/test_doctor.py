"""The doctor: everything is tried, what is wrong is named with what to do, and nothing is left behind."""

from __future__ import annotations

import asyncio
import platform
import re
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from harvester.commands.doctor import DoctorReport, Finding, run_checks
from harvester.fakes.s3_proxy import refusing, s3_proxy
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.settings.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiohttp import web

    from harvester.fakes.s3_proxy import Call, Forward
    from harvester.fakes.s3_server import S3Server
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]


async def examined(settings: Settings, **more: Any) -> DoctorReport:
    """What the doctor finds with these settings as flags."""
    flags = {name: value for name in Settings.model_fields if (value := getattr(settings, name)) is not None}
    return DoctorReport(tuple([finding async for finding in run_checks(flags | more)]))


def of(doctor_report: DoctorReport, what: str) -> str:
    """State, what was seen, and what to do about it, of everything that is called so."""
    return "; ".join(
        f"{each.state}: {each.seen} {each.fix}".strip() for each in doctor_report.findings if each.what == what
    )


async def left_behind(bucket: Bucket) -> list[str]:
    return [*await bucket.objects(""), *[key for key, _ in await bucket.uploads("")]]


async def test_a_healthy_set_up_is_healthy(bucket: Bucket, settings_for: Make) -> None:
    """Python, settings, CSVs, TMDB, each permission and both clocks are looked at, and the bucket is as before."""
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=["tt0000001"], series=["tt0000002"])
        doctor_report = await examined(settings)
        assert tmdb.asked.total() == 1
    assert doctor_report.healthy
    assert {finding.state for finding in doctor_report.findings} == {"good", "not set"}
    assert of(doctor_report, "Python").startswith(f"good: {platform.python_version()} on {platform.system()} ")
    assert of(doctor_report, "MOVIES_CSV").endswith("good: 2 rows: 1 ids, 1 duplicates, none rejected")
    assert of(doctor_report, "TMDB").startswith(f"good: {tmdb.url} accepts the key")
    assert [finding.what for finding in doctor_report.findings if ":" in finding.what] == [
        "s3:ListBucket",
        "s3:ListBucketMultipartUploads",
        "s3:PutObject",
        "s3:GetObject",
        "s3:PutObject, in parts",
        "s3:AbortMultipartUpload",
        "s3:DeleteObject",
    ]
    assert re.fullmatch(r"good: within \d+ s of TMDB's; good: within \d+ s of S3's", of(doctor_report, "clock"))
    assert await left_behind(bucket) == []


async def test_every_setting_is_named_with_where_it_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flag, environment, `.env`, TOML and default are distinguished, and no secret is shown."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/harvester.toml").write_text('s3_prefix = "Raw/Toml"\ntmdb_rate = 7\n', encoding="utf-8")
    (tmp_path / ".env").write_text(f"TMDB_API_KEY={KEY}\nTMDB_RATE=8\nREGIAO_DO_BUCKET=sa-east-1\n", encoding="utf-8")
    monkeypatch.setenv("TMDB_RATE", "9")
    findings = [finding async for finding in run_checks({"tmdb_language": "pt-BR"})]
    shown = {finding.what: finding.seen for finding in findings}
    assert shown["TMDB_LANGUAGE"] == "pt-BR  (flag)"
    assert shown["TMDB_RATE"] == "9  (environment)"
    assert shown["AWS_REGION"] == "sa-east-1  (.env)"
    assert shown["S3_PREFIX"] == "Raw/Toml  (config/harvester.toml)"
    assert shown["OUTPUT_FORMAT"] == "jsonl  (default)"
    assert shown["TMDB_API_KEY"] == "a v3 key, 32 characters  (.env)"
    assert KEY not in str(findings)


async def test_a_variable_that_is_no_setting_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the nearest name and without its value; it keeps no harvest from its end."""
    monkeypatch.setenv("TMDB_API_KYE", KEY)
    (tmp_path / ".env").write_text("OUTPUT_OF_THE_MILL=secretly\n", encoding="utf-8")
    doctor_report = DoctorReport(tuple([finding async for finding in run_checks({})]))
    assert of(doctor_report, "TMDB_API_KYE") == (
        "note: is no setting, and has no effect  (environment) Correct it, if you mean TMDB_API_KEY."
    )
    assert of(doctor_report, "OUTPUT_OF_THE_MILL").startswith("note: is no setting, and has no effect  (.env)")
    assert KEY not in str(doctor_report)
    assert "secretly" not in str(doctor_report)


async def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, a bucket and a CSV nothing can be tried, and each is asked for."""
    doctor_report = DoctorReport(tuple([finding async for finding in run_checks({})]))
    bad = [finding.what for finding in doctor_report.findings if finding.state == "bad"]
    assert bad == ["TMDB_API_KEY", "S3_BUCKET", "MOVIES_CSV, SERIES_CSV"]
    assert [finding.what for finding in doctor_report.findings if finding.state == "not tried"] == ["TMDB", "S3"]
    assert doctor_report.as_json()["status"] == "wrong"


async def test_wrong_settings_are_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrong setting is a finding of its own, and the value of a secret one is not shown."""
    monkeypatch.setenv("TMDB_API_KEY", "not-a-key-but-secret")
    findings = [finding async for finding in run_checks({"tmdb_rate": -1, "output_format": "xml"})]
    assert [finding.what for finding in findings if finding.state == "bad"] == [
        "TMDB_API_KEY",
        "TMDB_RATE",
        "OUTPUT_FORMAT",
    ]
    assert "not-a-key-but-secret" not in str(findings)


async def test_each_csv_is_looked_at_for_itself(bucket: Bucket, settings_for: Make, tmp_path: Path) -> None:
    """One that cannot be read does not hide what is to be said of the other."""
    (tmp_path / "odd.csv").write_text("id|t\ntt0000001|x\noops|x\n", encoding="utf-8")
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies_csv="nowhere.csv", series_csv=str(tmp_path / "odd.csv"))
        doctor_report = await examined(settings)
    assert not doctor_report.healthy
    assert "bad: nowhere.csv: cannot be read (No such file or directory)" in of(doctor_report, "MOVIES_CSV")
    assert "note: 2 rows: 1 ids, 0 duplicates, 1 rejected Line 3 is the first" in of(doctor_report, "SERIES_CSV")


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ({"tmdb_api_key": "f" * 32}, "bad: TMDB refuses the key (HTTP 401, code 7"),
        ({"tmdb_base_url": "http://127.0.0.1:9/3"}, "bad: TMDB is unavailable: http://127.0.0.1:9/3/authentication"),
    ],
)
async def test_trouble_with_tmdb_is_reported(
    bucket: Bucket, settings_for: Make, trouble: dict[str, Any], message: str
) -> None:
    """A refused key and a TMDB that does not answer are findings, and the bucket is looked at all the same."""
    async with fake_tmdb() as tmdb:
        doctor_report = await examined(settings_for(tmdb.url, movies=["tt0000001"], **trouble))
    assert message in of(doctor_report, "TMDB")
    assert of(doctor_report, "s3:DeleteObject").startswith("good")
    assert not doctor_report.healthy


LEFT_BEHIND = {"abort": ["probe.json"], "delete": ["landed.json", "probe.json"]}
"""What cannot be cleared away without a permission: an upload, or what was put; the next doctor does."""


@pytest.mark.parametrize(
    ("operation", "permission"),
    [
        ("list", "s3:ListBucket"),
        ("uploads", "s3:ListBucketMultipartUploads"),
        ("put", "s3:PutObject"),
        ("get", "s3:GetObject"),
        ("create", "s3:PutObject, in parts"),
        ("complete", "s3:PutObject, in parts"),
        ("abort", "s3:AbortMultipartUpload"),
        ("delete", "s3:DeleteObject"),
    ],
)
async def test_each_permission_that_is_lacking_is_named(
    s3: S3Server, bucket: Bucket, settings_for: Make, operation: str, permission: str
) -> None:
    """What S3 refuses is named with what to do, and the others are tried all the same and cleared away."""
    state = "note" if operation == "delete" else "bad"  # a harvest deletes nothing
    async with fake_tmdb() as tmdb, s3_proxy(s3.endpoint) as link:
        link.rules[operation] = refusing(403, "AccessDenied")
        settings = settings_for(tmdb.url, movies=["tt0000001"], aws_endpoint_url_s3=link.url)
        doctor_report = await examined(settings)
        left = [key.rpartition("/")[2] for key in await left_behind(bucket)]
        assert left == LEFT_BEHIND.get(operation, [])
        if left:
            link.rules.clear()
            assert (await examined(settings)).healthy
            assert await left_behind(bucket) == []
    assert of(doctor_report, permission).startswith(f"{state}: cannot ")
    assert "AccessDenied" in of(doctor_report, permission)
    assert ("Only `verify --repair` needs it" in of(doctor_report, permission)) == (operation == "delete")
    assert doctor_report.healthy == (state == "note")
    assert of(doctor_report, "s3:ListBucketMultipartUploads") != ""
    assert of(doctor_report, "s3:DeleteObject") != ""


async def test_a_bucket_that_is_not_there_is_reported_once(bucket: Bucket, settings_for: Make) -> None:
    """What is no matter of one permission ends the trying, instead of saying the same seven times."""
    async with fake_tmdb() as tmdb:
        doctor_report = await examined(settings_for(tmdb.url, movies=["tt0000001"]), s3_bucket="no-such-bucket")
    assert "NoSuchBucket Create the bucket, or correct S3_BUCKET." in of(doctor_report, "s3:ListBucket")
    assert of(doctor_report, "S3") == "not tried: the other permissions, until this is fixed"
    assert of(doctor_report, "s3:PutObject") == ""


async def test_a_killed_doctor_is_cleared_away_by_the_next(bucket: Bucket, settings_for: Make) -> None:
    """Probes that were left behind go, and no other upload is touched."""
    await bucket.put("Raw/API/_harvest/doctor/probe.json", b"{}")
    await bucket.begin("Raw/API/_harvest/doctor/landed.json")
    await bucket.begin("Raw/API/Movies/of-another-program.json")
    async with fake_tmdb() as tmdb:
        assert (await examined(settings_for(tmdb.url, movies=["tt0000001"]))).healthy
    assert await left_behind(bucket) == ["Raw/API/Movies/of-another-program.json"]


@pytest.mark.parametrize(("minutes", "state"), [(0, "good"), (3, "note"), (10, "bad")])
async def test_a_clock_that_is_wrong_is_reported(
    s3: S3Server, bucket: Bucket, settings_for: Make, minutes: int, state: str
) -> None:
    """S3 refuses what is signed 15 minutes off, so the doctor says it before; it is seen at TMDB as well."""

    async def late(call: Call, forward: Forward) -> web.StreamResponse:
        response = await forward()
        response.headers["Date"] = formatdate(time.time() - 60 * minutes, usegmt=True)
        return response

    # The proxy works in front of any HTTP server.
    async with fake_tmdb() as tmdb, s3_proxy(s3.endpoint) as link, s3_proxy(tmdb.url.removesuffix("/3")) as line:
        for whose in ("TMDB", "S3"):
            link.rules, line.rules = {"*": late} if whose == "S3" else {}, {"*": late} if whose == "TMDB" else {}
            settings = settings_for(f"{line.url}/3", movies=["tt0000001"], aws_endpoint_url_s3=link.url)
            doctor_report = await examined(settings)
            by_whom = dict(zip(("TMDB", "S3"), of(doctor_report, "clock").split("; "), strict=True))
            assert by_whom.pop(whose).startswith(f"{state}: ")
            assert (f"ahead of {whose}'s Set this machine's clock" in of(doctor_report, "clock")) == (minutes > 0)
            assert [seen.partition(":")[0] for seen in by_whom.values()] == ["good"]
            assert doctor_report.healthy == (state != "bad")


async def test_a_file_of_keys_that_git_would_take_is_noted(tmp_path: Path) -> None:
    """Of 61 such projects 17 leak their key: `.env` belongs into .gitignore."""
    assert await (await asyncio.create_subprocess_exec("git", "init", "--quiet", cwd=tmp_path)).wait() == 0
    (tmp_path / ".env").write_text(f"TMDB_API_KEY={KEY}\n", encoding="utf-8")
    findings = {finding.what: finding.state async for finding in run_checks({})}
    assert findings[".env"] == "note"
    (tmp_path / ".gitignore").write_text(".env\n", encoding="utf-8")
    assert ".env" not in {finding.what async for finding in run_checks({})}


def test_a_finding_is_reported_without_secrets() -> None:
    """A server that repeats a key in what it says is quoted without it."""
    finding = Finding("TMDB", "bad", f"it says {KEY}", f"not {KEY}").without([KEY])
    assert (finding.seen, finding.fix) == ("it says [secret]", "not [secret]")


async def test_what_a_harvest_would_refuse_of_the_csvs_is_reported(tmp_path: Path) -> None:
    """One file given twice keeps a harvest from its beginning; what comes by standard input is left to it."""
    (tmp_path / "one.csv").write_text("id\ntt0000001\n", encoding="utf-8")
    findings = [finding async for finding in run_checks({"movies_csv": "one.csv", "series_csv": "one.csv"})]
    [twice] = [finding.seen for finding in findings if finding.what == "MOVIES_CSV, SERIES_CSV"]
    assert twice == "MOVIES_CSV and SERIES_CSV are both 'one.csv': give two different files, or only one"
    findings = [finding async for finding in run_checks({"movies_csv": "-"})]
    assert [finding.state for finding in findings if finding.what == "MOVIES_CSV"] == ["good", "not tried"]
