"""The Lambda's packages: what `config/aws/build.sh` makes is what Lambda can run, and the same each time."""

from __future__ import annotations

import hashlib
import os
import platform
import struct
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
from packages import build, copy_tree

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [pytest.mark.aws, pytest.mark.timeout(600)]  # wheels are fetched

LIMIT = 262_144_000
MACHINES = {"x86_64": 62, "arm64": 183}
"""`e_machine` in the header of an ELF file: EM_X86_64, EM_AARCH64."""

IMPORT = """
import sys
sys.path[:0] = [{task!r}, {layer!r}]
import harvester.aws_lambda.handler
print(*(module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)), sep="\\n")
"""


def names(*zips: Path) -> set[PurePosixPath]:
    """The files in these zips, those of the layer without the folder they all stand in."""
    found = set()
    for file in zips:
        with zipfile.ZipFile(file) as packed:
            found |= {PurePosixPath(name.removeprefix("python/")) for name in packed.namelist()}
    return found


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def unpacked(zips: Iterable[Path], folder: Path) -> Path:
    for file in zips:
        with zipfile.ZipFile(file) as packed:
            packed.extractall(folder)
    return folder


def test_the_same_tree_makes_the_same_bytes_for_any_user_and_whatever_lies_about(made: Path, tmp_path: Path) -> None:
    """From another folder, later, with other rights and with secrets lying about, both zips are byte for byte equal."""
    copy = copy_tree(made.with_name("tree"), tmp_path / "another" / "tree")
    for folder in (copy, copy / "harvester"):
        (folder / ".env").write_text("TMDB_API_KEY=secret\n", encoding="utf-8")
    second = build("again", "--arch", "x86_64", root=copy, cwd=tmp_path, umask=0o077)
    assert second.returncode == 0, second.stderr
    again = tmp_path / "again"
    assert {name: digest(made / name) for name in ("function.zip", "x86_64/layer.zip")} == {
        name: digest(again / name) for name in ("function.zip", "x86_64/layer.zip")
    }
    assert not (again / "arm64").exists()


@pytest.mark.parametrize("arch", MACHINES)
def test_function_and_layer_are_below_what_lambda_takes(made: Path, arch: str) -> None:
    """Unpacked, both together are below 250 MB, and each zip can be sent in one call, which takes 50 MB."""
    zips = [made / "function.zip", made / arch / "layer.zip"]
    sizes = []
    for file in zips:
        with zipfile.ZipFile(file) as packed:
            sizes.append(sum(entry.file_size for entry in packed.infolist()))
    assert 0 < sum(sizes) <= LIMIT
    assert max(file.stat().st_size for file in zips) <= 50 * 2**20


@pytest.mark.parametrize("arch", MACHINES)
def test_every_library_is_of_the_layer_s_architecture(made: Path, arch: str) -> None:
    """No compiled library is for another machine than the layer's."""
    machines = {}
    with zipfile.ZipFile(made / arch / "layer.zip") as packed:
        for name in packed.namelist():
            head = packed.read(name)[:20]
            if head.startswith(b"\x7fELF"):
                (machines[name],) = struct.unpack_from("<H", head, 18)
            else:
                assert ".so" not in PurePosixPath(name).suffixes, f"{name} is no library"
    assert set(machines.values()) == {MACHINES[arch]}
    packages = {name.split("/")[1] for name in machines}
    assert {"aiohttp", "orjson", "pydantic_core", "yarl"} <= packages


@pytest.mark.parametrize("arch", MACHINES)
def test_nothing_is_in_them_that_the_function_does_not_need(made: Path, arch: str) -> None:
    """Neither what only the command line needs, nor the demo, nor tests, nor a .env, nor a file of the machine's."""
    found = names(made / "function.zip", made / arch / "layer.zip")
    assert {name.parts[0] for name in found}.isdisjoint(
        {
            "typer",
            "rich",
            "uvloop",
            "pygments",
            "markdown_it",
            "mdurl",
            "shellingham",
            "moto",
            "pytest",
            "bin",
            "tests",
        }
    )
    unwanted = {"demo", "tests", "test", ".env", "RECORD", "direct_url.json"}
    assert [str(name) for name in found if unwanted.intersection(name.parts)] == []
    services = {name.parts[2] for name in found if name.parts[:2] == ("botocore", "data") and len(name.parts) > 3}
    assert services == {"s3", "secretsmanager", "signin", "ssm", "sso", "sso-oidc", "sts"}


@pytest.mark.parametrize("arch", MACHINES)
def test_every_module_is_compiled_once_and_for_all(made: Path, arch: str) -> None:
    """Each module has its bytecode beside it, to be taken unchecked: Lambda's folders cannot be written to."""
    tag = sys.implementation.cache_tag
    for file in (made / "function.zip", made / arch / "layer.zip"):
        with zipfile.ZipFile(file) as packed:
            here = set(packed.namelist())
            modules = [PurePosixPath(name) for name in here if name.endswith(".py")]
            compiled = [str(module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc") for module in modules]
            assert [name for name in compiled if name not in here] == []
            flags = {struct.unpack_from("<I", packed.read(name), 4)[0] for name in compiled}
            assert flags == {0b01}  # by hash, unchecked (PEP 552)


def test_the_handler_imports_from_them_alone(made: Path, tmp_path: Path) -> None:
    """With nothing but Python itself beside them, the handler imports, and nothing comes from anywhere else."""
    arch = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
    task = unpacked([made / "function.zip"], tmp_path / "task")
    opt = unpacked([made / arch / "layer.zip"], tmp_path / "opt")
    code = IMPORT.format(task=str(task), layer=str(opt / "python"))
    completed = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert completed.returncode == 0, completed.stderr
    files = [Path(line) for line in completed.stdout.splitlines()]
    standard = Path(os.__file__).parent
    assert [str(file) for file in files if not file.is_relative_to(tmp_path) and standard not in file.parents] == []
    assert [str(file) for file in files if "site-packages" in file.parts] == []
    assert task / "harvester" / "aws_lambda" / "handler.py" in files


def test_what_cannot_be_built_is_refused_in_a_sentence_and_replaces_nothing(tmp_path: Path) -> None:
    """A Python that Lambda does not have, a folder that is a file: a sentence, at once, and no traceback."""
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    old = build("--python", "3.9", cwd=tmp_path)
    taken = build("taken", cwd=tmp_path)
    assert (old.returncode, taken.returncode) == (2, 1)
    assert "invalid choice: '3.9'" in old.stderr
    assert "taken" in taken.stderr
    assert "Traceback" not in old.stderr + taken.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]
