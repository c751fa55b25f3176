"""The Lambda's packages, built as `config/aws/build.sh` builds them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]


def build(*words: str | Path, root: Path = ROOT, cwd: Path, umask: int = -1) -> subprocess.CompletedProcess[str]:
    """Run the tree's `build.sh` in `cwd`, for the Python that runs the tests."""
    command = [root / "config" / "aws" / "build.sh", *words]
    env = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, cwd=cwd, env=env, umask=umask, check=False, capture_output=True, text=True)


def copy_tree(root: Path, to: Path) -> Path:
    """Copy the files that a build reads to `to`, with new times and permissions."""
    for name in ("harvester", "config"):
        shutil.copytree(root / name, to / name, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "uv.lock", "LICENSE", "README.md"):
        shutil.copyfile(root / name, to / name)
    (to / "config" / "aws" / "build.sh").chmod(0o700)
    return to


def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages for both architectures, built once for all workers."""
    scratch = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        scratch = scratch.parent
    folder = scratch / "packages"
    with (scratch / "packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            result = build(folder, root=copy_tree(ROOT, folder.with_name("tree")), cwd=scratch)
            assert result.returncode == 0, result.stderr
    return folder
