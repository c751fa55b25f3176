"""The command line, in a process of its own, as users run it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from shells import Shell, kept

from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import always, refusal, scripted, silence
from harvester.fakes.tmdb import KEY, FakeTmdb, fake_tmdb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from harvester.fakes.s3_server import S3Server
    from harvester.store.s3 import Bucket

MOVIES = [f"tt{number:07d}" for number in range(1, 351)]


@pytest.fixture
def shell_for(s3: S3Server, bucket: Bucket, tmp_path: Path) -> Any:
    """Makes a shell for a stand-in."""

    def make(tmdb: FakeTmdb) -> Shell:
        csv = tmp_path / "movies.csv"
        csv.write_text("id|tituloPrincipal\n" + "".join(f"{id_}|Ação\n" for id_ in MOVIES), encoding="utf-8")
        settings = {"TMDB_API_KEY": KEY, "TMDB_BASE_URL": tmdb.url, "S3_BUCKET": bucket.name, "MOVIES_CSV": str(csv)}
        return Shell(kept() | s3.environment() | settings | {"TMDB_RATE": "1000"}, tmp_path)

    return make


@pytest.fixture
def full_disk() -> Iterator[int]:
    """A file to write to, on a disk that has no room."""
    number = os.open("/dev/full", os.O_WRONLY)
    yield number
    os.close(number)


async def test_without_a_command_it_harvests_and_then_plan_and_verify_agree(shell_for: Any, bucket: Bucket) -> None:
    """`python -m harvester` closes the run with exit 0, `verify` verifies it, and `plan` finds nothing to do."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        shell = shell_for(tmdb)
        harvested = await shell.run()
        assert harvested.code == 0
        assert "Complete." in harvested.out
        assert "350 = 350 found + 0 missing + 0 failed" in " ".join(harvested.out.split())
        assert all(json.loads(line)["event"] for line in harvested.err.splitlines())
        verified = await shell.run("verify", "--json")
        assert (verified.code, verified.result["status"], verified.result["records"]) == (0, "proved", 350)
        planned = await shell.run("plan", "--json")
        assert (planned.code, planned.result["status"], planned.result["requests"]) == (0, "nothing_to_do", 0)
        assert "Nothing to do" in (await shell.run("harvest")).out
    assert len(await bucket.objects("Raw/API/Movies/")) == 4


async def test_flags_come_before_the_environment(shell_for: Any, bucket: Bucket) -> None:
    """A flag wins over an environment variable, and reaches what it names."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        ended = await shell_for(tmdb).run("--prefix", "Elsewhere", "--limit", "1", "--language", "pt-BR", "--json")
    assert (ended.code, ended.result["status"], ended.result["stopped_by"]) == (75, "stopped", "limit")
    key = next(iter(await bucket.objects("Elsewhere/Movies/")))
    assert b'"language":"pt-BR"' in (await bucket.read(key) or b"")


async def test_an_empty_variable_is_one_that_is_not_set(shell_for: Any) -> None:
    """Docker passes on what a template of an environment leaves empty; a profile without a name is none."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        shell = shell_for(tmdb).having(AWS_PROFILE="", AWS_DEFAULT_PROFILE="", AWS_SESSION_TOKEN="", S3_PREFIX="")
        ended = await shell.run("plan", "--json")
    assert (ended.code, ended.result["status"]) == (0, "to_do"), ended


async def test_a_variable_that_is_no_setting_is_warned_about(shell_for: Any) -> None:
    """One log line with the nearest name and where it stands, and without its value; the command goes on."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        ended = await shell_for(tmdb).having(TMDB_RTE="1234567").run("plan", "--json")
    [line] = [json.loads(line) for line in ended.err.splitlines() if "unknown_setting" in line]
    said = {name: line[name] for name in ("level", "event", "setting", "where", "nearest")}
    assert (ended.code, "1234567" in ended.err) == (0, False)
    assert said == {
        "level": "warning",
        "event": "unknown_setting",
        "setting": "TMDB_RTE",
        "where": "environment",
        "nearest": "TMDB_RATE",
    }


@asynccontextmanager
async def tls_in_front_of(address: str, ca: trustme.CA) -> AsyncIterator[str]:
    """The URL of the server at `address` (`host:port`), by TLS with a certificate of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    host, _, port = address.partition(":")

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_sdks_own_variables_work_from_a_dotenv(s3: S3Server, bucket: Bucket, tmp_path: Path) -> None:
    """A bundle of certificates and a file of profiles, which only the SDK reads, may stand in `.env`."""
    await bucket.put("movies.csv", b"id\ntt0000001\n")
    keys = f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    (tmp_path / "profiles").write_text(f"[profile lab]\nregion = us-east-1\n{keys}", encoding="utf-8")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    shell = Shell(kept() | {"AWS_CA_BUNDLE": ""}, tmp_path)
    async with tls_in_front_of(s3.endpoint.removeprefix("http://"), ca) as url:
        lines = f"S3_BUCKET={bucket.name}\nAWS_ENDPOINT_URL_S3={url}\nAWS_CONFIG_FILE=profiles\nAWS_PROFILE=lab\n"
        words = ("plan", "--movies", f"s3://{bucket.name}/movies.csv", "--json")
        (tmp_path / ".env").write_text(lines, encoding="utf-8")
        untrusted = await shell.run(*words)
        (tmp_path / ".env").write_text(f"{lines}AWS_CA_BUNDLE=ca.pem\n", encoding="utf-8")
        trusted = await shell.run(*words)
        doctor = await shell.run("doctor", "--json")
    assert (untrusted.code, untrusted.result["error"]) == (4, "StoreError")
    assert (trusted.code, trusted.result["input"]["Movies"]["ids"]) == (0, 1), trusted
    seen = {finding["what"]: finding["seen"] for finding in doctor.result["findings"]}
    assert seen["AWS_PROFILE"] == "lab  (.env)"
    assert seen["s3:ListBucket"]


@pytest.mark.parametrize(
    ("words", "environment", "code", "sentence"),
    [
        (["--nonsense"], {}, 2, "No such option"),
        (["reap"], {}, 2, "No such command"),
        ([], {"MOVIES_CSV": ""}, 2, "There is no CSV to read: give --movies or --series"),
        ([], {"MOVIES_CSV": "nowhere.csv"}, 2, "nowhere.csv: cannot be read (No such file or directory)"),
        ([], {"TMDB_API_KEY": ""}, 2, "TMDB_API_KEY is not set"),
        ([], {"TMDB_API_KEY": "oops"}, 2, "TMDB_API_KEY is neither a v3 key"),
        (["--rate", "0"], {}, 2, "TMDB_RATE"),
        (["--format", "xml"], {}, 2, "OUTPUT_FORMAT"),
        ([], {"S3_BUCKET": ""}, 2, "S3_BUCKET is not set: give --bucket"),
        ([], {"TMDB_API_KEY": "f" * 32}, 3, "TMDB refuses the key (HTTP 401, code 7"),
        ([], {"S3_BUCKET": "no-such-bucket"}, 4, "NoSuchBucket. Create the bucket, or correct S3_BUCKET."),
        ([], {"AWS_SECRET_ACCESS_KEY": "wrong"}, 4, "SignatureDoesNotMatch"),
        (
            ["--movies", "s3://no-such-bucket/a.csv"],
            {},
            2,
            "s3://no-such-bucket/a.csv: is in a bucket that does not exist",
        ),
        (["verify"], {}, 1, "There is no run below"),
        (["verify", "--repair"], {}, 1, "There is no run below"),
        (["verify", "--day", "2026-11-29"], {}, 1, "There is no run of 2026-11-29 below"),
        (["verify", "--day", "yesterday"], {}, 2, "--day 'yesterday' is no date: give one such as 2026-11-29"),
        (["verify", "--day", "2026-02-30"], {}, 2, "--day '2026-02-30' is no date: give one such as 2026-11-29"),
        (["verify", "--day", "2026-11-29", "--run", "2026-11-29-3f9a1c2e"], {}, 2, "--run and --day are both given"),
    ],
)
async def test_each_trouble_has_its_exit_code_and_one_sentence(
    shell_for: Any, words: list[str], environment: dict[str, str], code: int, sentence: str
) -> None:
    """Usage is 2, a refused key 3, a refusing bucket 4; TMDB is asked nothing before usage is right."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        shell = shell_for(tmdb)
        ended = await shell.having(**environment).run(*words)
        assert ended.code == code
        assert sentence in " ".join(ended.err.replace("│", " ").split())
        assert not ended.out
        assert tmdb.asked.total() == (1 if code == 3 else 0)


async def test_errors_are_json_too(shell_for: Any) -> None:
    """With `--json` a failure is one JSON object with the name of the error, the message and the exit code."""
    async with fake_tmdb() as tmdb:
        ended = await shell_for(tmdb).run("--json", "--movies", "nowhere.csv")
    assert ended.result["status"] == "error"
    assert (ended.result["error"], ended.result["exit_code"], ended.code) == ("InputError", 2, 2)


async def test_a_csv_in_the_bucket_and_one_on_standard_input_are_read_alike(shell_for: Any, bucket: Bucket) -> None:
    """`s3://bucket/key` and `-` stand for a CSV as a path does; a plus sign in a key is a plus sign."""
    await bucket.put("Filmes+e+series/movies.csv", b"id|t\ntt0000001|x\ntt0000002|x\n")
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        shell = shell_for(tmdb)
        ended = await shell.run("--movies", f"s3://{bucket.name}/Filmes+e+series/movies.csv", "--json")
        assert (ended.code, ended.result["totals"]["ids"]) == (0, 2)
        missing = await shell.run("--movies", f"s3://{bucket.name}/Filmes e series/movies.csv")
        assert (missing.code, "does not exist" in missing.err) == (2, True)


async def test_a_poison_title_ends_in_exit_5_by_name(shell_for: Any) -> None:
    """Finished, but some ids failed: they are named, and how to go on."""
    faults = scripted({("movie", MOVIES[7]): [always(refusal(404, code=11))]})
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), faults=faults) as tmdb:
        ended = await shell_for(tmdb).run()
    assert ended.code == 5
    assert f"{MOVIES[7]} failed: http_404" in ended.out
    assert "Run again to retry just their batches." in ended.out


async def test_a_tmdb_that_does_not_answer_ends_in_exit_6(shell_for: Any) -> None:
    """TMDB away: a sentence with what was seen, and nothing is failed by it."""
    async with fake_tmdb() as tmdb:
        shell = shell_for(tmdb)
        ended = await shell.having(TMDB_BASE_URL="http://127.0.0.1:9/3").run()
    assert ended.code == 6
    assert "TMDB is unavailable: http://127.0.0.1:9/3/authentication has no usable answer" in ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lands_the_open_batches_and_ends_in_75(shell_for: Any, number: signal.Signals) -> None:
    """A container's stop and Ctrl-C lose nothing: the next run asks for the rest only."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), latency=(0.01, 0.02)) as tmdb:
        shell = shell_for(tmdb)
        async with shell.start("--json") as running:
            await running.until(lambda: tmdb.asked.total() >= 20)
            running.send(number)
            ended = await running.ended()
        assert (ended.code, ended.result["stopped_by"]) == (75, number.name)
        assert "beginning no more batches" in ended.err
        assert tmdb.asked.total() - 1 == ended.result["totals"]["found"] > 0
        resumed = await shell.run("--json")
        assert (resumed.code, resumed.result["totals"]["found"]) == (0, 350)
        assert max(count for (route, _), count in tmdb.asked.items() if route == "movie") == 1


async def test_a_first_signal_after_the_limit_still_lands_the_open_batch(shell_for: Any) -> None:
    """The limit is no signal: what it has taken lands although one comes."""
    async with (
        fake_tmdb(catalog=Catalog(otherwise="movie"), latency=(0.01, 0.02)) as tmdb,
        shell_for(tmdb).start("--limit", "1", "--json") as running,
    ):
        await running.until(lambda: tmdb.asked.total() >= 20)
        running.send(signal.SIGTERM)
        ended = await running.ended()
    assert (ended.code, ended.result["stopped_by"], ended.result["totals"]["found"]) == (75, "limit", 100)


async def test_a_second_signal_ends_it_at_once(shell_for: Any) -> None:
    """Who insists is not kept waiting by a title that does not answer."""
    faults = scripted({("movie", MOVIES[0]): [silence(60)]})
    async with (
        fake_tmdb(catalog=Catalog(otherwise="movie"), faults=faults) as tmdb,
        shell_for(tmdb).start() as running,
    ):
        await running.until(lambda: tmdb.asked.total() >= 20)
        running.send(signal.SIGINT)
        await running.says("beginning no more batches")
        running.send(signal.SIGINT)
        ended = await running.ended()
    assert (ended.code, ended.out) == (75, "")  # drained, it would have shown its totals


async def test_a_log_without_a_reader_does_not_end_a_harvest(shell_for: Any, bucket: Bucket) -> None:
    """`2>&1 | head` closes our standard error after some lines; the rest is harvested all the same."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), latency=(0.01, 0.02)) as tmdb:
        shell = shell_for(tmdb)
        read, write = os.pipe()
        async with shell.start(stdout=write, stderr=write) as running:
            os.close(write)
            await running.until(lambda: tmdb.asked.total() >= 20)
            os.close(read)
            assert (await running.ended()).code == 0
    assert len(await bucket.objects("Raw/API/Movies/")) == 4


async def test_a_full_disk_under_the_log_does_not_end_a_harvest(shell_for: Any, bucket: Bucket, full_disk: int) -> None:
    """`2> log` on a disk without room: every title is harvested all the same, and the result is printed."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        ended = await shell_for(tmdb).run("--verbose", "--json", stderr=full_disk)
    assert (ended.code, ended.result["status"], ended.result["totals"]["found"]) == (0, "closed", 350)
    assert len(await bucket.objects("Raw/API/Movies/")) == 4


async def test_a_terminal_that_goes_away_does_not_end_a_harvest(shell_for: Any, bucket: Bucket) -> None:
    """A window is closed over the bar: every title is harvested all the same."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), latency=(0.01, 0.02)) as tmdb:
        ours, theirs = os.openpty()
        async with shell_for(tmdb).having(TERM="xterm-256color").start("--json", stderr=theirs) as running:
            os.close(theirs)
            shown = b""
            while b"titles to look up" not in shown:  # it raises once there is no writer any more
                shown += await asyncio.to_thread(os.read, ours, 2**16)
            os.close(ours)
            ended = await running.ended()
    assert (ended.code, ended.result["status"], len(await bucket.objects("Raw/API/Movies/"))) == (0, "closed", 4)


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["for people", "as JSON"])
async def test_a_full_disk_under_the_result_is_reported_and_changes_no_exit_code(
    shell_for: Any, full_disk: int, words: tuple[str, ...]
) -> None:
    """`> result` on a disk without room: what was harvested is safe, and the code is that of the harvest."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        ended = await shell_for(tmdb).run("--limit", "1", *words, stdout=full_disk)
    assert ended.code == 75
    assert ended.err.splitlines()[-1] == (
        "The result could not be written to standard output: No space left on device."
    )


async def test_killed_with_sigkill_the_next_start_closes_the_run(shell_for: Any, bucket: Bucket) -> None:
    """After a SIGKILL nothing is lost, doubled or orphaned, and what has a receipt is not asked for again."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), latency=(0.01, 0.02)) as tmdb:
        shell = shell_for(tmdb)
        async with shell.start() as running:
            await running.until(lambda: receipts(bucket))
            running.send(signal.SIGKILL)
            await running.ended()
        done = {id_ for key in await receipts(bucket) for id_ in json.loads(await bucket.read(key) or b"")["outcomes"]}
        asked = Counter(tmdb.asked)
        ended = await shell.run("--json")
        asked_again = Counter(tmdb.asked) - asked
        verification = await shell.run("verify", "--json")
    assert (ended.code, ended.result["totals"]["found"], verification.result["status"]) == (0, 350, "proved")
    assert {id_ for route, id_ in asked_again if route == "movie"} == set(MOVIES) - done
    assert await bucket.uploads("") == []


async def receipts(bucket: Bucket) -> list[str]:
    return [key for key in await bucket.objects("Raw/API/_harvest/") if "/receipts/" in key]


async def test_the_doctor_says_what_to_fix_and_ends_with_1_until_nothing_is(shell_for: Any) -> None:
    """A table for people, an exit code for scripts."""
    async with fake_tmdb() as tmdb:
        shell = shell_for(tmdb)
        healthy = await shell.run("doctor")
        assert (healthy.code, healthy.err) == (0, "")
        assert "Everything a harvest needs is there. Next: plan" in healthy.out
        ill = await shell.having(TMDB_API_KEY="f" * 32).run("doctor")
    assert ill.code == 1
    shown = " ".join(ill.out.split())
    assert "bad TMDB TMDB refuses the key (HTTP 401, code 7" in shown
    assert "1 problem to fix before a harvest." in shown
    for name in ("Python", "TMDB_API_KEY", "MOVIES_CSV", "s3:GetObject", "clock"):
        assert f"good {name}" in shown
