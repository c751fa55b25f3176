"""What names a local CSV: a path, or `-` for standard input."""

from __future__ import annotations

from harvester.errors import InputError, readable

STDIN = "-"


def path_name(path: str, *, advice: str) -> str:
    """The `path` as messages show it, which may not be valid text itself; an InputError if it cannot be a path."""
    name = readable(path)
    if not path or "\0" in path:
        raise InputError(name or "--movies or --series", f"is no path: {advice}")
    return name
