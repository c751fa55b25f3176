"""The shape of the code, read from the code: layers, third parties, and what only one module may do."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harvester

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(harvester.__file__).parent
LINES = 400

LAYERS = {
    "core": [
        "__init__",
        "errors",
        "settings.redaction",
        "model.ids",
        "model.inputs",
        "sources.csv",
        "model.batch",
        "model.layout",
        "model.exact_json",
        "tmdb.responses",
        "model.record",
        "model.ids_file",
        "model.documents",
        "model.receipt",
        "settings.validators",
        "model.manifest",
        "settings.settings",
    ],
    "time": [
        "tmdb.rate_limiter",
        "tmdb.circuit_breaker",
        "tmdb.retry",
        "runtime.clock",
        "runtime.concurrency",
        "runtime.current_run",
        "runtime.json_log",
        "runtime.shutdown",
    ],
    "edges": [
        "tmdb.transport",
        "tmdb.client",
        "aws.errors",
        "store.multipart",
        "store.file_body",
        "store.s3",
        "runs.lease",
        "aws.client",
        "aws.secrets",
    ],
    "flow": [
        "runs.data_files",
        "runs.other_runs",
        "runs.checkpoint",
        "runs.run",
        "runs.open",
        "commands.resources",
        "commands.result",
        "commands.harvest",
        "commands.plan",
        "commands.shards",
        "commands.verify",
        "commands.missing",
        "runs.repair",
        "commands.upload",
        "commands.permissions",
        "commands.doctor",
    ],
    "doors": [
        "cli.app",
        "cli.options",
        "cli.runner",
        "cli.streams",
        "cli.signals",
        "cli.logs",
        "__main__",
        "aws_lambda.handler",
        "aws_lambda.events",
        "reports.progress_log",
        "cli.progress",
        "reports.text",
        "fakes",
        "demo",
    ],
}
"""DESIGN 4: a module imports from its own layer or one above it in this table."""

ORDER = list(LAYERS)
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}

IMPURE = {"asyncio", "time", "os", "socket", "ssl", "http", "subprocess", "threading", "signal", "random", "secrets"}
"""Standard modules of clocks, chance, processes and networks: nothing of the core needs them."""

THIRD_PARTIES = {
    "pydantic": {
        "settings.validators",
        "settings.settings",
        "commands.doctor",
        "commands.shards",
        "model.documents",
        "model.receipt",
        "model.manifest",
        "runs.lease",
    },
    "typing_extensions": {"model.receipt"},
    "pydantic_settings": {"settings.settings"},
    "aiohttp": {"tmdb.transport", "tmdb.client", "store.s3", "aws.client", "aws.errors", "fakes", "demo"},
    "yarl": {"fakes", "demo"},
    "aiobotocore": {"aws.client", "fakes", "demo"},
    "botocore": {"store.s3", "aws.client", "aws.errors", "aws.secrets", "fakes", "demo"},
    "tenacity": {"tmdb.retry", "store.s3"},
    "typer": {"cli.app", "cli.options"},
    "rich": {"cli.logs", "cli.progress", "reports.text", "fakes", "demo"},
    "uvloop": {"cli.runner"},
    "orjson": set(LAYER_OF),
}
"""Third-party package to the modules that may import it; one that is not named here has to be argued for."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The module's name in the table; `fakes/` and `demo/` are one door each, and an `__init__` is as all are."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[-1] if parts[-1] == "__init__" else parts[0] if parts[0] in ("fakes", "demo") else ".".join(parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of whatever a module imports, for types alone too, wherever in it."""
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.Import(names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(level=0, module=str(module), names=names):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.ImportFrom():
                yield node.lineno, "a relative import"


def found(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(PACKAGE.parent)}:{line} {what}"


def own(name: str) -> str | None:
    """The module of ours that an import names; None for another package's."""
    first, *rest = name.split(".")
    if first != "harvester":
        return None
    for size in range(len(rest), 0, -1):
        path = PACKAGE.joinpath(*rest[:size]).with_suffix(".py")
        if path.is_file():
            return name_of(path)
    return "__init__"


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


each_module = pytest.mark.parametrize("path", modules(), ids=named)
each_of_the_core = pytest.mark.parametrize(
    "path", [path for path in modules() if LAYER_OF.get(name_of(path)) == "core"], ids=named
)
each_behind_the_doors = pytest.mark.parametrize(
    "path", [path for path in modules() if LAYER_OF.get(name_of(path)) != "doors"], ids=named
)


def test_the_reader_of_imports_sees_them_all() -> None:
    """The tests below are as good as this: imports at the top, for types and inside functions are read."""
    seen = {name for path in modules() for _, name in imports_of(path)}
    assert {"typer", "orjson", "harvester.model.ids.Collection", "asyncio", "pydantic.SecretStr", "uvloop"} <= seen
    assert [
        own(name) for name in ("harvester.__version__", "harvester.model.ids.KINDS", "harvester.demo.walkthrough.tell")
    ] == [
        "__init__",
        "model.ids",
        "demo",
    ]


@each_module
def test_every_module_has_a_layer_and_imports_from_no_later_one(path: Path) -> None:
    """Core, time, edges, flow, doors: nobody reaches down the table, not even for a type."""
    assert name_of(path) in LAYER_OF, "a new module belongs in DESIGN's table and in LAYERS"
    place = ORDER.index(LAYER_OF[name_of(path)])
    assert [
        found(path, line, f"imports {name}")
        for line, name in imports_of(path)
        if path != PACKAGE / "__init__.py"  # it imports for types, and what is asked for
        and (module := own(name)) is not None
        and ORDER.index(LAYER_OF.get(module, "doors")) > place
    ] == []


def test_the_readme_has_every_module_in_its_layer() -> None:
    """The map that a newcomer is given is that of the folder."""
    text = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    table = {
        row[1]: re.findall(r"`([\w.]+)/?`", row[2])
        for row in re.finditer(r"^\| (\w+) \| (`.+?) \|", text, re.MULTILINE)
    }
    there = {name_of(path) for path in modules()} - {"__init__", "__main__"}
    for layer, names in LAYERS.items():
        assert sorted(table[layer]) == sorted(there.intersection(names))


@each_module
def test_imports_are_absolute(path: Path) -> None:
    """Every import names its whole path, so that layers can be read off it."""
    assert [found(path, line, name) for line, name in imports_of(path) if name == "a relative import"] == []


@each_module
def test_third_parties_stay_where_the_design_has_them(path: Path) -> None:
    """Each library enters through its own module; a new one is argued for in the table above."""
    unexpected = []
    for line, name in imports_of(path):
        package = name.partition(".")[0]
        if package in sys.stdlib_module_names or package == "harvester":
            continue
        if name_of(path) not in THIRD_PARTIES.get(package, set()):
            unexpected.append(found(path, line, f"imports {name}"))
    assert unexpected == []


@each_of_the_core
def test_the_core_knows_no_loop_clock_environment_or_network(path: Path) -> None:
    """What the core answers follows from what it is given, so that all of it is tested without waiting."""
    unexpected = [
        found(path, line, f"imports {name}")
        for line, name in imports_of(path)
        if name.partition(".")[0] in IMPURE or name.startswith("urllib.request")
    ]
    clocks = {"now", "utcnow", "today", "getenv", "environ", "sleep"}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            unexpected.append(found(path, node.lineno, "is asynchronous"))
        if isinstance(node, ast.Attribute) and node.attr in clocks:
            unexpected.append(found(path, node.lineno, f"asks .{node.attr}"))
    assert unexpected == []


@each_behind_the_doors
def test_the_environment_is_read_at_the_doors_only(path: Path) -> None:
    """`os.environ` and `os.getenv` below a door would be a setting that no table names."""
    assert [
        found(path, node.lineno, f"reads .{node.attr}")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    ] == []
    assert [found(path, line, name) for line, name in imports_of(path) if name in {"os.environ", "os.getenv"}] == []


@each_module
def test_only_fan_out_starts_tasks(path: Path) -> None:
    """A task that nobody waits for hangs or dies unseen: every one is started by `fan_out`."""
    starters = {"create_task", "ensure_future", "gather", "TaskGroup", "run_coroutine_threadsafe", "as_completed"}
    seen = []
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.Attribute(attr=word) | ast.Name(id=word) | ast.alias(name=word) if word in starters:
                seen.append(found(path, node.lineno, word))
    if name_of(path) == "runtime.concurrency":
        assert seen
    else:
        assert seen == []


@each_module
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """A module begins with a docstring, and that with a sentence."""
    first = (ast.get_docstring(tree_of(path)) or "").partition("\n\n")[0]
    assert first.endswith((".", "?"))


@each_module
def test_every_module_can_be_read_in_one_sitting(path: Path) -> None:
    """No module has over 400 lines; one that would is two."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES
