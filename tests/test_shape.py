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
ROOT = PACKAGE.parent
LINES = 400

IMPORT_RULE = (
    "errors < model < formats, settings, runtime < tmdb, aws < store < sources < runs < commands < reports "
    "< fakes < demo < cli, aws_lambda < __main__"
)
"""Left may not import right; packages between the same two signs do not import each other."""

RANK = {name: rank for rank, names in enumerate(IMPORT_RULE.split(" < ")) for name in names.split(", ")}

OLD_WORDS = frozenset(
    [
        *(
            "door",
            "doors",
            "wire",
            "vault",
            "orders",
            "opening",
            "survey",
            "standing",
            "paper",
            "stranger",
            "strangers",
        ),
        *("struck", "told", "mend", "mends", "mended", "whoever"),
    ]
)
"""Words of an earlier vocabulary; each has a standard term."""

GENERIC_WORDS = frozenset(["item", "obj", "data", "manager", "helper", "processor", "utils", "common"])
"""Words that say nothing: no module, package, class or function has one for its whole name."""

IMPURE = {"asyncio", "time", "os", "socket", "ssl", "http", "subprocess", "threading", "signal", "random", "secrets"}
"""Standard modules of clocks, chance, processes and networks: `model` and `formats` need none."""

THIRD_PARTIES = {
    "pydantic": {"model", "settings", "runs", "commands", "aws_lambda"},
    "pydantic_settings": {"settings"},
    "typing_extensions": {"model"},
    "dotenv": {"cli", "settings"},
    "aiohttp": {"tmdb", "aws", "store", "fakes", "demo"},
    "yarl": {"fakes", "demo"},
    "aiobotocore": {"aws", "fakes", "demo"},
    "botocore": {"aws", "store", "fakes", "demo"},
    "tenacity": {"tmdb", "store"},
    "typer": {"cli"},
    "rich": {"cli", "reports", "fakes", "demo"},
    "uvloop": {"cli"},
    "orjson": set(RANK),
}
"""Third-party package to the packages of ours that may import it; a new one is argued for here."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    """The package of a module, or the module itself where it lies beside the packages."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


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
    """The package of ours that an import names; None for another's, and for the version."""
    first, _, rest = name.partition(".")
    package = rest.partition(".")[0]
    return package if first == "harvester" and package in RANK else None


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


each_module = pytest.mark.parametrize("path", modules(), ids=named)
pure_modules = pytest.mark.parametrize(
    "path", [path for path in modules() if package_of(path) in ("model", "formats")], ids=named
)
below_the_entry_points = pytest.mark.parametrize(
    "path", [path for path in modules() if RANK.get(package_of(path), 0) < RANK["fakes"]], ids=named
)
below_the_commands = pytest.mark.parametrize(
    "path",
    [
        path
        for path in modules()
        if RANK.get(package_of(path), 99) < RANK["commands"] and package_of(path) != "settings"
    ],
    ids=named,
)


def test_the_reader_of_imports_sees_them_all() -> None:
    """The tests below are as good as this: imports at the top, for types and inside functions are read."""
    seen = {name for path in modules() for _, name in imports_of(path)}
    assert {"typer", "orjson", "harvester.model.ids.Collection", "asyncio", "pydantic.SecretStr", "uvloop"} <= seen
    names = ("harvester.__version__", "harvester.model.ids.KINDS", "harvester.demo.walkthrough.run", "aiohttp.web")
    assert [own(name) for name in names] == [None, "model", "demo", None]


@each_module
def test_packages_import_one_way(path: Path) -> None:
    """No package imports one that stands further right in the rule, nor its neighbour, not even for a type."""
    package = package_of(path)
    if package == "__init__":
        return
    assert package in RANK, "a new package belongs into the rule"
    assert [
        found(path, line, f"imports {name}")
        for line, name in imports_of(path)
        if (other := own(name)) and other != package and RANK[other] >= RANK[package]
    ] == []


def test_the_architecture_page_has_the_rule_and_every_module() -> None:
    """The map that a newcomer is given is that of the folder."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert IMPORT_RULE.replace(" < fakes", "\n< fakes") in page or IMPORT_RULE in page
    listed = set(re.findall(r"`((?:\w+/)?\w+\.py)`", page)) - {"tests/test_shape.py"}
    there = {str(path.relative_to(PACKAGE)) for path in modules() if path.name != "__init__.py"}
    assert there - listed == set()
    assert {name for name in listed if "/" in name} - there == set()


@below_the_commands
def test_nothing_below_the_commands_takes_the_settings(path: Path) -> None:
    """`Settings` are read in `commands` and above: what lies below takes the values that are made of them."""
    assert [
        found(path, line, name)
        for line, name in imports_of(path)
        if name.startswith(("harvester.settings.settings", "harvester.settings.provenance"))
    ] == []


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every function, class, parameter, attribute and variable."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Attribute(attr=name) | ast.Name(id=name) | ast.keyword(arg=str(name)):
                yield node.lineno, name


@pytest.mark.parametrize("folder", ["harvester", "tests", "config"])
def test_no_name_is_of_the_earlier_vocabulary(folder: str) -> None:
    """Modules, classes, functions, parameters and variables have the field's terms for names."""
    paths = [path for path in sorted((ROOT / folder).rglob("*.py")) if "__pycache__" not in path.parts]
    files = [str(path.relative_to(ROOT)) for path in paths if path.stem.removeprefix("test_").lower() in OLD_WORDS]
    assert files == []
    assert [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in paths
        for line, name in names_in(ast.parse(path.read_text(encoding="utf-8")))
        if name.strip("_").lower() in OLD_WORDS
    ] == []


@each_module
def test_no_definition_has_a_generic_name(path: Path) -> None:
    """Packages, modules, classes and functions say what they are about; locals and parameters may be short."""
    places = path.relative_to(PACKAGE).with_suffix("").parts
    assert [place for place in places if place.strip("_").lower() in GENERIC_WORDS] == []
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    assert [
        found(path, node.lineno, node.name)
        for node in ast.walk(tree_of(path))
        if isinstance(node, definitions) and node.name.strip("_").lower() in GENERIC_WORDS
    ] == []


PROSE = [
    *modules(),
    *(ROOT / name for name in ("README.md", "Dockerfile", "pyproject.toml")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(path for path in sorted((ROOT / "config").rglob("*")) if path.suffix in (".toml", ".py", ".yaml")),
]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_is_in_the_earlier_vocabulary(path: Path) -> None:
    """Docstrings, comments and messages are in the field's plain English."""
    words = re.compile(rf"\b({'|'.join(sorted(OLD_WORDS))})\b", re.IGNORECASE)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{path.name}:{number} {line.strip()}" for number, line in enumerate(lines, 1) if words.search(line)] == []


@each_module
def test_imports_are_absolute(path: Path) -> None:
    """Every import names its whole path, so that layers can be read off it."""
    assert [found(path, line, name) for line, name in imports_of(path) if name == "a relative import"] == []


@each_module
def test_third_parties_stay_where_they_belong(path: Path) -> None:
    """Each library enters through few packages; a new one is argued for in the table above."""
    unexpected = []
    for line, name in imports_of(path):
        library = name.partition(".")[0]
        if library in sys.stdlib_module_names or library == "harvester":
            continue
        if package_of(path) not in THIRD_PARTIES.get(library, set()):
            unexpected.append(found(path, line, f"imports {name}"))
    assert unexpected == []


@pure_modules
def test_the_model_knows_no_loop_clock_environment_or_network(path: Path) -> None:
    """What these answer follows from what it is given, so that all of it is tested without waiting."""
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


@below_the_entry_points
def test_the_environment_is_read_at_the_entry_points_only(path: Path) -> None:
    """`os.environ` and `os.getenv` below them would be a setting that no table names."""
    assert [
        found(path, node.lineno, f"reads .{node.attr}")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    ] == []
    assert [found(path, line, name) for line, name in imports_of(path) if name in {"os.environ", "os.getenv"}] == []


@each_module
def test_only_the_concurrency_module_starts_tasks(path: Path) -> None:
    """A task that nobody waits for hangs or dies unseen: every one is started in `runtime/concurrency.py`."""
    starters = {"create_task", "ensure_future", "gather", "TaskGroup", "run_coroutine_threadsafe", "as_completed"}
    seen = []
    for node in ast.walk(tree_of(path)):
        match node:
            case ast.Attribute(attr=word) | ast.Name(id=word) | ast.alias(name=word) if word in starters:
                seen.append(found(path, node.lineno, word))
    if named(path) == "runtime/concurrency.py":
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


@each_module
def test_codes_of_a_store_are_compared_nowhere(path: Path) -> None:
    """S3's codes are text of one store: `aws.errors` looks up their kind, and all else decides by `error.kind`."""
    assert [
        found(path, node.lineno, "compares .code")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Compare)
        and any(isinstance(side, ast.Attribute) and side.attr == "code" for side in [node.left, *node.comparators])
    ] == []
