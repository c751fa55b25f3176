"""The S3 server of the demo: it starts, behaves as S3 does where we rely on it, and never outlives us."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import ClientError

import harvester.fakes.s3_server as s3_server_module
from harvester.fakes.s3_server import TWIN, S3Server, ServerFailedError, s3_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """One server for the tests that only read and write; each under keys of its own."""
    async with s3_server(tmp_path_factory.mktemp("s3"), buckets=["lake"]) as running:
        yield running


def client_of(server: S3Server, **others: str) -> Any:
    """A client for `server`, with anything in `others` in place of what it would be given."""
    return get_session().create_client(
        "s3",
        **{
            "endpoint_url": server.endpoint,
            "region_name": "us-east-1",
            "aws_access_key_id": server.access_key,
            "aws_secret_access_key": server.secret_key,
            **others,
        },
    )


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: S3Server) -> AsyncIterator[Any]:
    """A client of the shared server."""
    async with client_of(server) as opened:
        yield opened


async def read(client: Any, key: str) -> bytes:
    """The whole object at `key`."""
    response = await client.get_object(Bucket="lake", Key=key)
    async with response["Body"] as body:
        return bytes(await body.read())


def sockets_of(ports: Iterable[int]) -> list[Path]:
    """The Unix sockets that SeaweedFS has made for these ports and their twins."""
    names = [f"seaweedfs-*-{port + more}.sock" for port in ports for more in (0, TWIN)]
    return [path for name in names for path in Path("/tmp").glob(name)]


async def exit_of(pid: int) -> None:
    """Return when the process has ended, our child or not; Linux only."""
    handle = os.pidfd_open(pid)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def test_its_environment_is_all_an_ordinary_client_needs(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client given nothing but the environment reaches the server, whatever the user's own AWS settings were."""
    monkeypatch.setenv("AWS_PROFILE", "not-in-any-file")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-account")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    async with AioSession().create_client("s3") as client:
        await client.put_object(Bucket="lake", Key="environment", Body=b"reached")
        assert await read(client, "environment") == b"reached"


async def test_a_profile_of_its_own_names_the_same_server(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is given the profile by name, and so looks past the keys in the environment, is let in too."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    async with AioSession(profile=os.environ["AWS_PROFILE"]).create_client("s3") as client:
        assert "lake" in [bucket["Name"] for bucket in (await client.list_buckets())["Buckets"]]


async def test_nothing_is_in_a_new_bucket(tmp_path: Path) -> None:
    """What was put to see whether the server is ready is gone when it is."""
    async with s3_server(tmp_path, buckets=["lake", "pond"]) as server, client_of(server) as client:
        for bucket in server.buckets:
            assert (await client.list_objects_v2(Bucket=bucket))["KeyCount"] == 0


async def test_a_multipart_upload_comes_back_whole(client: Any) -> None:
    """Two parts land as one object, byte for byte."""
    parts = [os.urandom(5 * MIB), os.urandom(1000)]
    upload = {"Bucket": "lake", "Key": "round/trip"}
    upload["UploadId"] = (await client.create_multipart_upload(**upload))["UploadId"]
    done = []
    for number, body in enumerate(parts, 1):
        response = await client.upload_part(**upload, PartNumber=number, Body=body)
        done.append({"PartNumber": number, "ETag": response["ETag"]})
    await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
    assert await read(client, "round/trip") == b"".join(parts)


async def test_open_uploads_are_listed_by_prefix(client: Any) -> None:
    """Uploads that were neither completed nor aborted can be found under a prefix, and only they, in any order."""
    opened = {
        key: (await client.create_multipart_upload(Bucket="lake", Key=key))["UploadId"]
        for key in ("open/a", "open/b", "other/a")
    }
    listed = await client.list_multipart_uploads(Bucket="lake", Prefix="open/")
    expected = {(key, opened[key]) for key in ("open/a", "open/b")}
    assert expected == {(upload["Key"], upload["UploadId"]) for upload in listed["Uploads"]}


async def test_a_wrong_secret_is_refused(server: S3Server) -> None:
    """Signatures are checked, as AWS would."""
    if server.kind == "moto":
        pytest.skip("moto checks no signatures")
    async with client_of(server, aws_secret_access_key="wrong") as client:
        with pytest.raises(ClientError) as refused:
            await client.put_object(Bucket="lake", Key="refused", Body=b"")
    assert refused.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


async def test_what_landed_survives_a_kill(tmp_path: Path) -> None:
    """After a SIGKILL and a new start the same address has the same objects, and the uploads still open."""
    async with s3_server(tmp_path, buckets=["lake"]) as server, client_of(server) as client:
        if server.kind == "moto":
            pytest.skip("moto keeps everything in memory")
        body = os.urandom(MIB)
        await client.put_object(Bucket="lake", Key="kept", Body=body)
        upload_id = (await client.create_multipart_upload(Bucket="lake", Key="open"))["UploadId"]
        first = server.process
        await server.kill()
        assert first.returncode == -signal.SIGKILL
        await server.start_again()
        assert await read(client, "kept") == body
        uploads = (await client.list_multipart_uploads(Bucket="lake"))["Uploads"]
        assert [upload_id] == [upload["UploadId"] for upload in uploads]


async def test_another_server_may_take_the_folder_over(tmp_path: Path) -> None:
    """What one server kept is served by the next in the same folder, at another address and with another secret."""
    async with s3_server(tmp_path, buckets=["lake"]) as first, client_of(first) as client:
        if first.kind == "moto":
            pytest.skip("moto keeps everything in memory")
        await client.put_object(Bucket="lake", Key="kept", Body=b"by the first")
    async with s3_server(tmp_path, buckets=["lake"]) as second, client_of(second) as client:
        assert second.secret_key != first.secret_key
        assert await read(client, "kept") == b"by the first"


async def test_it_ends_with_its_context(tmp_path: Path) -> None:
    """After the context no process, no socket and no listener is left."""
    async with s3_server(tmp_path) as server:
        pass
    assert server.process.returncode is not None
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.ports[0])
    assert sockets_of(server.ports) == []


async def test_it_ends_when_its_user_is_cancelled(tmp_path: Path) -> None:
    """A cancelled task takes its server with it."""
    started: asyncio.Future[S3Server] = asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with s3_server(tmp_path) as server:
            started.set_result(server)
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    server = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.process.returncode is not None


@pytest.mark.skipif(sys.platform == "win32", reason="no sessions on Windows")
async def test_the_terminals_ctrl_c_does_not_reach_it(server: S3Server) -> None:
    """The server is in a session of its own: Ctrl-C interrupts the harvest, not the bucket."""
    assert os.getsid(server.process.pid) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_a_sigkill_of_ours_leaves_no_orphan(tmp_path: Path) -> None:
    """The server dies with the process that started it, even where that one could clean nothing up."""
    script = (
        "import asyncio, pathlib, sys\n"
        "from harvester.fakes.s3_server import s3_server\n"
        "async def main():\n"
        "    async with s3_server(pathlib.Path(sys.argv[1])) as server:\n"
        "        print(server.process.pid, *server.ports, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    server_pid, *ports = map(int, (await parent.stdout.readline()).split())
    ended = asyncio.create_task(exit_of(server_pid))
    await asyncio.sleep(0)  # let it open the pid while the process is there
    parent.kill()
    await parent.communicate()
    await ended
    for path in sockets_of(ports):  # no process is left to do it
        path.unlink()


async def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """A port that is in use is named at once, and nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerFailedError, match=f"Port {port} or its twin {port + 10_000} is taken"):
            async with s3_server(tmp_path, port=port):
                pass


@pytest.mark.parametrize(
    "answer", [b'201 Created\r\nContent-Length: 14\r\n\r\n{"name":"put"}', b"200 OK\r\n\r\n", b"\0"]
)
async def test_a_port_that_another_takes_in_the_last_moment_is_left_to_it(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the other server there answers, ours tries again with other ports."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 " + answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as other:
        taken, find, handed_out = other.sockets[0].getsockname()[1], s3_server_module._free_ports, []

        def free_ports(first: int | None) -> tuple[int, ...]:
            ports = find(first)
            handed_out.append(ports if handed_out else (taken, *ports[1:]))
            return handed_out[-1]

        monkeypatch.setattr(s3_server_module, "_free_ports", free_ports)
        async with s3_server(tmp_path, buckets=["lake"]) as server, client_of(server) as client:
            assert (len(handed_out), server.ports) == (2, handed_out[1])
            await client.put_object(Bucket="lake", Key="a", Body=b"a")


async def test_a_server_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    """A server that ends by itself is an error with the last it said, not a wait of 30 s; no socket of it stays."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "filerldb2").write_text("no folder")
    with pytest.raises(ServerFailedError, match=r"(?s)ended 5 times.*filerldb2"):
        async with s3_server(tmp_path):
            pass
    log = (tmp_path / "server.log").read_text(encoding="utf-8")
    ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", log)}
    assert len(ports) >= 5
    assert sockets_of(ports) == []
