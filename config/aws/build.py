# /// script
# requires-python = ">=3.11"
# ///
"""The Lambda's packages: a layer of its dependencies for each architecture, and the function itself.

    config/aws/build.sh [--python 3.13] [--arch arm64] [FOLDER]

What the layer holds is what uv.lock names, less what only the command line needs: wheels, fetched by pip, each file's
hash checked. Nothing is compiled but Python, so any machine builds for both architectures. The same lock, tree and
Python make the same bytes. Nothing in FOLDER is replaced before everything has been built, weighed and tried.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import platform
import shutil
import site
import stat
import sys
import sysconfig
import tempfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, CalledProcessError

ROOT = Path(__file__).resolve().parents[2]

HANDLER = "harvester.aws_lambda.handler"

GLIBC = {"3.11": 26, "3.12": 34, "3.13": 34}
"""Lambda's Pythons, and what they stand on: glibc 2.26 of Amazon Linux 2, or 2.34 of Amazon Linux 2023."""

MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
"""Architectures as Lambda calls them, and as Linux and wheels do."""

OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""What wheels for glibc 2.x were called before PEP 600."""

LIMIT = 250 * 2**20
"""Bytes of function and layers together, unpacked: 262,144,000 (docs.aws.amazon.com, Lambda quotas)."""

NOT_WANTED = ("typer", "rich", "uvloop")
"""Of the command line alone; what nothing else depends on goes with them."""

SERVICES = frozenset(["s3", "secretsmanager", "signin", "ssm", "sso", "sso-oidc", "sts"])
"""What botocore must know: S3, where TMDB's key may be kept, and what gives credentials. The other 400 services are
24 of 61 MB, and more than half of the zip."""

MOMENT = (1980, 1, 1, 0, 0, 0)
"""When every file of a zip was made; zip knows none before."""


class BuildError(Exception):
    """The packages cannot be made; the message says why, and nothing was replaced."""


@dataclass(frozen=True, slots=True)
class Made:
    """A zip that has been made.

    Attributes:
        path: Where it is to stand below the folder.
        unpacked: Bytes of all its files.
    """

    path: str
    file: Path
    unpacked: int


def main() -> int:
    """Make what the command line asks for, and say what was made; the exit code."""
    wanted = _parse()
    code = 0
    try:
        wanted.folder.mkdir(parents=True, exist_ok=True)  # at once, to be told at once where that cannot be
        asyncio.run(_build(wanted.folder, version=wanted.python, arches=wanted.arch or list(MACHINES)))
    except* (BuildError, OSError, CalledProcessError) as group:
        sys.stderr.write(f"{_why(group.exceptions[0])}\nNothing was replaced in {wanted.folder}.\n")
        code = 1
    except* KeyboardInterrupt:
        sys.stderr.write(f"Stopped. Nothing was replaced in {wanted.folder}.\n")
        code = 130
    return code


def _parse() -> argparse.Namespace:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser = argparse.ArgumentParser(
        prog="build.sh", description="Make the Lambda's layer.zip, for each architecture, and function.zip."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("dist"), help="where to (%(default)s)")
    parser.add_argument(
        "--python",
        choices=GLIBC,
        default=running if running in GLIBC else max(GLIBC),
        help="the function's runtime (%(default)s); only its own Python can compile for it",
    )
    parser.add_argument(
        "--arch", choices=MACHINES, action="append", help="only this architecture; may be given twice (both)"
    )
    return parser.parse_args()


async def _build(folder: Path, *, version: str, arches: list[str]) -> None:
    compiles = version == f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="harvester-build-") as name:
        scratch = Path(name)
        say(f"Fetching for python{version} on {' and '.join(arches)} ...")
        tools = await make_tools(scratch / "tools")
        exported = await export(tools)
        function = await make_function(scratch / "function", compiles=compiles)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    make_layer(scratch / arch, tools, exported, version=version, arch=arch, compiles=compiles)
                )
                for arch in arches
            ]
        layers = {arch: task.result() for arch, task in zip(arches, tasks, strict=True)}
        weigh(function, layers)
        tried = await try_handler(scratch, function, layers, version=version)
        put([function, *layers.values()], folder)
        (folder / "runtime").write_text(f"python{version}\n", encoding="utf-8")  # for the template's parameter
        show(folder, [function, *layers.values()])
    say(tried)
    if not compiles:
        say(f"Not precompiled, so cold starts are slower: that takes python{version} itself (PYTHON=python{version}).")
    say(f"\nNext: {next_step(folder, version=version, arches=arches)}")


def next_step(folder: Path, *, version: str, arches: list[str]) -> str:
    """The command that takes on from here: the template's, where it finds the packages, or one for a layer alone."""
    template = ROOT / "config" / "aws" / "template.yaml"
    if folder.resolve() == ROOT / "dist" and set(arches) == set(MACHINES):
        return (
            f"aws cloudformation package --template-file {os.path.relpath(template)} --s3-bucket YOUR-BUCKET"
            f" --output-template-file {folder}/packed.yaml"
            f"\nthen: aws cloudformation deploy --template-file {folder}/packed.yaml --stack-name tmdb"
            f" --capabilities CAPABILITY_IAM --parameter-overrides Runtime=python{version}"
        )
    return (
        f"aws lambda publish-layer-version --layer-name tmdb-harvester --zip-file fileb://{folder}/{arches[0]}/layer.zip"
        f" --compatible-runtimes python{version} --compatible-architectures {arches[0]}"
    )


def say(text: str) -> None:
    """One line of what people see."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """What `command` writes to standard output.

    Raises:
        CalledProcessError: It ended with another code than 0; what it wrote is in it.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=PIPE, env=os.environ | (environment or {})
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise CalledProcessError(process.returncode, [str(word) for word in command], out, err)
    return out.decode()


def _why(error: Exception) -> str:
    """The error in a sentence: of a command that failed, what it said last, or what it called an error."""
    if not isinstance(error, CalledProcessError):
        return str(error)
    lines = [line for line in error.stderr.decode(errors="replace").splitlines() if line.strip()]
    result = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
    names = " ".join(Path(word).name for word in error.cmd[:4])
    return f"`{names} …` ended with {error.returncode}: {' '.join(result) or 'it said nothing'}"


async def make_tools(folder: Path) -> Path:
    """The `python` of a new environment that has pip, uv and packaging; the last of them is importable here, too."""
    try:
        await asyncio.to_thread(venv.create, folder, with_pip=True, symlinks=os.name != "nt")
    except CalledProcessError as error:
        raise BuildError(
            f"{sys.executable} makes no virtual environment with pip in it (Debian: apt install python3-venv)."
        ) from error
    python = folder / "bin" / "python"
    await run(python, "-m", "pip", "install", "--quiet", "uv>=0.13", "packaging")
    site.addsitedir(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    return python


async def export(tools: Path) -> str:
    """What uv.lock has for the function: requirements with hashes and markers, as pip takes them."""
    uv = tools.with_name("uv")
    less = [word for name in NOT_WANTED for word in ("--prune", name)]
    where = ("--project", ROOT, "--python", sys.executable, "--no-config", "--quiet")
    return await run(uv, "export", *where, "--frozen", "--no-dev", "--no-emit-project", "--no-header", *less)


def requirements(exported: str, *, version: str, machine: str) -> list[str]:
    """Those of the exported lines that are for this Python and machine, without their markers.

    Pip itself asks the markers of the Python it runs on, whatever it fetches for.
    """
    from packaging.requirements import Requirement

    target = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }
    chosen = []
    for line in exported.replace("\\\n", " ").splitlines():
        text, *hashes = (part.strip() for part in line.split(" --hash="))
        if not hashes:
            continue  # a comment: who wants it
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate(target):
            chosen.append(" ".join([f"{one.name}{one.specifier}", *(f"--hash={result}" for result in hashes)]))
    return chosen


def platforms(*, glibc: int, machine: str) -> list[str]:
    """The tags of the wheels that run there, the newest first."""
    return [
        f"{name}_{machine}"
        for minor in range(glibc, 4, -1)
        for name in (f"manylinux_2_{minor}", OLD_NAMES.get(minor))
        if name
    ]


async def make_layer(scratch: Path, tools: Path, exported: str, *, version: str, arch: str, compiles: bool) -> Made:
    """The layer for one architecture: AWS lays it into /opt, and looks for Python's modules in /opt/python."""
    tree = scratch / "python"
    tree.mkdir(parents=True)
    wanted = scratch / "wanted.txt"
    machine = MACHINES[arch]
    wanted.write_text("\n".join(requirements(exported, version=version, machine=machine)), encoding="utf-8")
    tags = [word for tag in platforms(glibc=GLIBC[version], machine=machine) for word in ("--platform", tag)]
    target = ("--implementation", "cp", "--python-version", version, *tags, "--only-binary", ":all:")
    how = ("--quiet", "--no-compile", "--no-deps", "--require-hashes", "--target", tree)
    await run(tools, "-m", "pip", "install", *how, *target, "-r", wanted)
    trim(tree)
    if compiles:
        await compile_tree(tree, "/opt/python")
    return pack(tree, scratch / "layer.zip", f"{arch}/layer.zip", prefix="python/")


def trim(tree: Path) -> None:
    """Drop what no import needs, and what would tell where it was built."""
    shutil.rmtree(tree / "bin", ignore_errors=True)
    for record in tree.glob("*.dist-info/RECORD"):
        record.unlink()
    for tests in [*tree.glob("*/tests"), *tree.glob("*/test")]:
        shutil.rmtree(tests)
    for service in (tree / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)


async def make_function(tree: Path, *, compiles: bool) -> Made:
    """The harvester without its demo: it is pure Python, so its tree is what its wheel would hold."""
    package = ROOT / "harvester"
    for file in [*package.glob("*.py"), package / "py.typed", ROOT / "LICENSE"]:
        to = tree / file.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    if not (package / "aws_lambda" / "handler.py").is_file():
        raise BuildError(f"{package} has no aws_lambda/handler.py, so there is no handler to make a function of.")
    if compiles:
        await compile_tree(tree, "/var/task")
    return pack(tree, tree.with_suffix(".zip"), "function.zip")


async def compile_tree(tree: Path, place: str) -> None:
    """Compile every module of `tree`, which will stand at `place`, where nothing can be written.

    Python is to take them as they are ("unchecked"): by default it would compare the time of each source file. One
    process and one seed, or the bytes would differ from build to build.
    """
    quiet = ("-q", "-j", "1", "--invalidation-mode", "unchecked-hash")
    environment = {"PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": ""}
    await run(sys.executable, "-m", "compileall", *quiet, "-s", tree, "-p", place, tree, environment=environment)


def pack(tree: Path, file: Path, path: str, *, prefix: str = "") -> Made:
    """All of `tree` as a zip, below `prefix`: sorted, with one time and two modes, whoever packs it."""
    unpacked = 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for source in sorted(one for one in tree.rglob("*") if one.is_file()):
            entry = zipfile.ZipInfo(prefix + source.relative_to(tree).as_posix(), MOMENT)
            entry.create_system = 3  # Unix, also where it is not
            entry.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if ".so" in source.suffixes else 0o644
            entry.external_attr = (stat.S_IFREG | mode) << 16
            body = source.read_bytes()
            packed.writestr(entry, body, compresslevel=9)
            unpacked += len(body)
    return Made(path, file, unpacked)


def weigh(function: Made, layers: dict[str, Made]) -> None:
    """Be sure that Lambda takes them.

    Raises:
        BuildError: It would not.
    """
    for arch, layer in layers.items():
        if (total := function.unpacked + layer.unpacked) > LIMIT:
            raise BuildError(
                f"Unpacked, function and layer for {arch} are {_size(total)}; Lambda takes {_size(LIMIT)}. "
                "Find what has grown in uv.lock, or add it to NOT_WANTED in config/aws/build.py."
            )


async def try_handler(scratch: Path, function: Made, layers: dict[str, Made], *, version: str) -> str:
    """Whether the handler's module imports from the zips alone, in a sentence, where this machine can tell.

    Raises:
        BuildError: It does not.
    """
    here = {machine: arch for arch, machine in MACHINES.items()}.get(platform.machine(), platform.machine())
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.platform != "linux" or here not in layers or version != running:
        return f"Not tried: whether {HANDLER} imports; this is python{running} on {sys.platform}, {here}."
    for made, place in ((function, scratch / "task"), (layers[here], scratch / "opt")):
        with zipfile.ZipFile(made.file) as packed:
            packed.extractall(place)
    path = [str(scratch / "task"), str(scratch / "opt" / "python")]  # in Lambda's order
    code = (
        f"import sys, time; sys.path[:0] = {path!r}; begun = time.perf_counter(); "
        f"import {HANDLER}; {HANDLER}.handler; print(time.perf_counter() - begun)"
    )
    try:
        seconds = float(await run(sys.executable, "-I", "-S", "-B", "-c", code))  # nothing of this machine's site
    except CalledProcessError as error:
        result = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BuildError(f"{HANDLER} does not import from function.zip and {here}/layer.zip alone: {result}") from error
    return f"{HANDLER} imports from function.zip and {here}/layer.zip alone, in {seconds * 1000:.0f} ms."


def put(made: list[Made], folder: Path) -> None:
    """Put all of them where they belong, or none."""
    places = [(one.file, folder / one.path, (folder / one.path).with_suffix(".part")) for one in made]
    try:
        for file, place, part in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, part)
        for _, place, part in places:
            part.replace(place)
    finally:
        for _, _, part in places:
            part.unlink(missing_ok=True)


def show(folder: Path, made: list[Made]) -> None:
    """A table of what was made."""
    rows = [
        (
            str(folder / one.path),
            _size(one.file.stat().st_size),
            _size(one.unpacked),
            hashlib.sha256(one.file.read_bytes()).hexdigest(),
        )
        for one in made
    ]
    width = max(len(row[0]) for row in rows)
    say(f"\n{'':{width}}  {'zipped':>8}  {'unpacked':>8}  sha256")
    for name, zipped, unpacked, digest in rows:
        say(f"{name:{width}}  {zipped:>8}  {unpacked:>8}  {digest}")
    heaviest = made[0].unpacked + max(one.unpacked for one in made[1:])
    say(f"\nUnpacked, function and layer are {_size(heaviest)} at most; Lambda takes {_size(LIMIT)}.")


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
