# /// script
# requires-python = ">=3.11"
# ///
"""Builds the Lambda's packages: a layer with its dependencies for each architecture, and the function itself.

    config/aws/build.sh [--python 3.13] [--arch arm64] [FOLDER]

The layer contains the packages in uv.lock without those that only the command line needs: wheels, downloaded by pip,
with each file's hash checked. Only Python is compiled, so any machine can build for both architectures. The same lock,
tree and Python give the same bytes. FOLDER is changed only after everything has been built, measured and tried.
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
"""Lambda's Pythons, and the minor version of their glibc: 2.26 on Amazon Linux 2, 2.34 on Amazon Linux 2023."""

MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
"""Architecture names: Lambda's, and those of Linux and wheels."""

OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Platform tags for glibc 2.x before PEP 600, by the minor version."""

LIMIT = 250 * 2**20
"""Bytes of function and layers together, unpacked: 262,144,000 (docs.aws.amazon.com, Lambda quotas)."""

NOT_WANTED = ("typer", "rich", "uvloop")
"""Packages that only the command line needs; dependencies that only they have are left out too."""

SERVICES = frozenset(["s3", "secretsmanager", "signin", "ssm", "sso", "sso-oidc", "sts"])
"""The services of botocore that are kept: S3, the stores of TMDB's key, and the sources of credentials. The other 400
are 24 of 61 MB, and more than half of the zip."""

MOMENT = (1980, 1, 1, 0, 0, 0)
"""The time stamp of every file in a zip: the earliest that the format has."""


class BuildError(Exception):
    """The packages cannot be built; the message says why, and nothing was replaced."""


@dataclass(frozen=True, slots=True)
class Package:
    """A zip that has been built.

    Attributes:
        path: Its path below the output folder.
        file: Where it is now.
        unpacked: Bytes of all its files.
    """

    path: str
    file: Path
    unpacked: int


def main() -> int:
    """Build what the command line asks for and print what was built; returns the exit code."""
    options = _parse()
    code = 0
    try:
        options.folder.mkdir(parents=True, exist_ok=True)  # first, so that a wrong folder fails at once
        asyncio.run(_build(options.folder, version=options.python, arches=options.arch or list(MACHINES)))
    except* (BuildError, OSError, CalledProcessError) as group:
        sys.stderr.write(f"{_why(group.exceptions[0])}\nNothing was replaced in {options.folder}.\n")
        code = 1
    except* KeyboardInterrupt:
        sys.stderr.write(f"Stopped. Nothing was replaced in {options.folder}.\n")
        code = 130
    return code


def _parse() -> argparse.Namespace:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser = argparse.ArgumentParser(
        prog="build.sh", description="Build the Lambda's function.zip, and its layer.zip for each architecture."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("dist"), help="output folder (%(default)s)")
    parser.add_argument(
        "--python",
        choices=GLIBC,
        default=running if running in GLIBC else max(GLIBC),
        help="the function's runtime (%(default)s); it is precompiled only if this Python is the same",
    )
    parser.add_argument(
        "--arch", choices=MACHINES, action="append", help="only this architecture; may be repeated (default: both)"
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
        say(f"Not precompiled, so cold starts are slower: run it with PYTHON=python{version} to precompile.")
    say(f"\nNext: {next_step(folder, version=version, arches=arches)}")


def next_step(folder: Path, *, version: str, arches: list[str]) -> str:
    """The next command: to deploy the template, if it finds the packages, else to publish one layer."""
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
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    """What `command` writes to standard output.

    Raises:
        CalledProcessError: It ended with a code other than 0; the error has its output.
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
    """The error in a sentence; for a failed command with its error lines, or else its last line."""
    if not isinstance(error, CalledProcessError):
        return str(error)
    lines = [line for line in error.stderr.decode(errors="replace").splitlines() if line.strip()]
    reasons = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
    names = " ".join(Path(word).name for word in error.cmd[:4])
    return f"`{names} …` ended with {error.returncode}: {' '.join(reasons) or 'without a message'}"


async def make_tools(folder: Path) -> Path:
    """The `python` of a new environment with pip, uv and packaging; `packaging` can be imported here too."""
    try:
        await asyncio.to_thread(venv.create, folder, with_pip=True, symlinks=os.name != "nt")
    except CalledProcessError as error:
        raise BuildError(
            f"{sys.executable} cannot make a virtual environment with pip (Debian: apt install python3-venv)."
        ) from error
    python = folder / "bin" / "python"
    await run(python, "-m", "pip", "install", "--quiet", "uv>=0.13", "packaging")
    site.addsitedir(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    return python


async def export(tools: Path) -> str:
    """The function's requirements from uv.lock, with hashes and markers, in pip's format."""
    uv = tools.with_name("uv")
    prunes = [word for name in NOT_WANTED for word in ("--prune", name)]
    project = ("--project", ROOT, "--python", sys.executable, "--no-config", "--quiet")
    return await run(uv, "export", *project, "--frozen", "--no-dev", "--no-emit-project", "--no-header", *prunes)


def requirements(exported: str, *, version: str, machine: str) -> list[str]:
    """The exported lines for this Python and machine, without their markers.

    Pip itself would evaluate the markers for the Python it runs on, not for the target.
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
            continue  # a comment that names the dependents
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(target):
            pinned = f"{requirement.name}{requirement.specifier}"
            chosen.append(" ".join([pinned, *(f"--hash={digest}" for digest in hashes)]))
    return chosen


def platforms(*, glibc: int, machine: str) -> list[str]:
    """The platform tags of wheels that run on this glibc and machine, newest first."""
    return [
        f"{name}_{machine}"
        for minor in range(glibc, 4, -1)
        for name in (f"manylinux_2_{minor}", OLD_NAMES.get(minor))
        if name
    ]


async def make_layer(scratch: Path, tools: Path, exported: str, *, version: str, arch: str, compiles: bool) -> Package:
    """The layer for one architecture: AWS unpacks it into /opt, and Python imports from /opt/python."""
    tree = scratch / "python"
    tree.mkdir(parents=True)
    listed = scratch / "wanted.txt"
    machine = MACHINES[arch]
    listed.write_text("\n".join(requirements(exported, version=version, machine=machine)), encoding="utf-8")
    tags = [word for tag in platforms(glibc=GLIBC[version], machine=machine) for word in ("--platform", tag)]
    target = ("--implementation", "cp", "--python-version", version, *tags, "--only-binary", ":all:")
    flags = ("--quiet", "--no-compile", "--no-deps", "--require-hashes", "--target", tree)
    await run(tools, "-m", "pip", "install", *flags, *target, "-r", listed)
    trim(tree)
    if compiles:
        await compile_tree(tree, "/opt/python")
    return pack(tree, scratch / "layer.zip", f"{arch}/layer.zip", prefix="python/")


def trim(tree: Path) -> None:
    """Remove files that no import needs, and those that depend on where it was built."""
    shutil.rmtree(tree / "bin", ignore_errors=True)
    for record in tree.glob("*.dist-info/RECORD"):
        record.unlink()
    for tests in [*tree.glob("*/tests"), *tree.glob("*/test")]:
        shutil.rmtree(tests)
    for service in (tree / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)


async def make_function(tree: Path, *, compiles: bool) -> Package:
    """The harvester without its demo and stand-ins. It is pure Python: its tree equals the contents of its wheel."""
    package = ROOT / "harvester"
    modules = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in ("demo", "fakes")]
    for file in [*modules, package / "py.typed", ROOT / "LICENSE"]:
        to = tree / file.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    if not (tree / "harvester" / "aws_lambda" / "handler.py").is_file():
        raise BuildError(f"{package} has no aws_lambda/handler.py, so the function would have no handler.")
    if compiles:
        await compile_tree(tree, "/var/task")
    return pack(tree, tree.with_suffix(".zip"), "function.zip")


async def compile_tree(tree: Path, target: str) -> None:
    """Compile every module of `tree`, which will be unpacked at `target`, a read-only folder.

    "unchecked": Python uses the compiled files as they are; by default it would compare the time of each source file.
    One process and a fixed hash seed, because the bytes would differ between builds otherwise.
    """
    quiet = ("-q", "-j", "1", "--invalidation-mode", "unchecked-hash")
    environment = {"PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": ""}
    await run(sys.executable, "-m", "compileall", *quiet, "-s", tree, "-p", target, tree, environment=environment)


def pack(tree: Path, file: Path, path: str, *, prefix: str = "") -> Package:
    """A zip of `tree`, below `prefix`: sorted, with fixed times and modes, so that every build gives the same bytes."""
    unpacked = 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for source in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(prefix + source.relative_to(tree).as_posix(), MOMENT)
            entry.create_system = 3  # Unix, whatever the building machine is
            entry.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if ".so" in source.suffixes else 0o644
            entry.external_attr = (stat.S_IFREG | mode) << 16
            body = source.read_bytes()
            packed.writestr(entry, body, compresslevel=9)
            unpacked += len(body)
    return Package(path, file, unpacked)


def weigh(function: Package, layers: dict[str, Package]) -> None:
    """Check the size limit of Lambda.

    Raises:
        BuildError: Function and layer are too large.
    """
    for arch, layer in layers.items():
        if (total := function.unpacked + layer.unpacked) > LIMIT:
            raise BuildError(
                f"Unpacked, function and layer for {arch} are {_size(total)}; Lambda accepts {_size(LIMIT)}. "
                "Find what has grown in uv.lock, or add it to NOT_WANTED in config/aws/build.py."
            )


async def try_handler(scratch: Path, function: Package, layers: dict[str, Package], *, version: str) -> str:
    """A sentence that says whether the handler imports from the zips alone, if this machine can test it.

    Raises:
        BuildError: It does not import.
    """
    here = {machine: arch for arch, machine in MACHINES.items()}.get(platform.machine(), platform.machine())
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.platform != "linux" or here not in layers or version != running:
        return f"Not tried: whether {HANDLER} imports; this is python{running} on {sys.platform}, {here}."
    for package, folder in ((function, scratch / "task"), (layers[here], scratch / "opt")):
        with zipfile.ZipFile(package.file) as packed:
            packed.extractall(folder)
    path = [str(scratch / "task"), str(scratch / "opt" / "python")]  # in Lambda's order
    code = (
        f"import sys, time; sys.path[:0] = {path!r}; begun = time.perf_counter(); "
        f"import {HANDLER}; {HANDLER}.handler; print(time.perf_counter() - begun)"
    )
    try:
        seconds = float(await run(sys.executable, "-I", "-S", "-B", "-c", code))  # without this machine's site-packages
    except CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BuildError(f"{HANDLER} does not import from function.zip and {here}/layer.zip alone: {reason}") from error
    return f"{HANDLER} imports from function.zip and {here}/layer.zip alone, in {seconds * 1000:.0f} ms."


def put(packages: list[Package], folder: Path) -> None:
    """Copy all packages into `folder`, or none."""
    copies = [(one.file, folder / one.path, (folder / one.path).with_suffix(".part")) for one in packages]
    try:
        for file, path, part in copies:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, part)
        for _, path, part in copies:
            part.replace(path)
    finally:
        for _, _, part in copies:
            part.unlink(missing_ok=True)


def show(folder: Path, packages: list[Package]) -> None:
    """Print a table of the packages."""
    rows = [
        (
            str(folder / one.path),
            _size(one.file.stat().st_size),
            _size(one.unpacked),
            hashlib.sha256(one.file.read_bytes()).hexdigest(),
        )
        for one in packages
    ]
    width = max(len(row[0]) for row in rows)
    say(f"\n{'':{width}}  {'zipped':>8}  {'unpacked':>8}  sha256")
    for name, zipped, unpacked, digest in rows:
        say(f"{name:{width}}  {zipped:>8}  {unpacked:>8}  {digest}")
    heaviest = packages[0].unpacked + max(one.unpacked for one in packages[1:])
    say(f"\nUnpacked, function and layer are {_size(heaviest)} at most; Lambda accepts {_size(LIMIT)}.")


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
