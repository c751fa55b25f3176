"""The result contract: the keys that every `--json` result and every answer of the Lambda have in common.

| key | is |
|---|---|
| `status` | how it ended, in a word; `error` where something was raised: then `error` and `message` say what |
| `exit_code` | what the command line exits with (see `errors.Exit`) |
| `version` | of the harvester |
| `run` | `{date}-{fingerprint}`; null where `verify --day` has read several |
| `lake` | `s3://bucket/prefix` of the run |
| `summary_key` | key of the `summary.json` that reconciles the run; null while there is none, and in errors |
| `started_at`, `ended_at` | of the command, UTC, ISO 8601 with milliseconds |
| `totals` | of `harvest` and `verify`: flat numbers, always all of them, and reasons in `…_by_reason` |
| `upload` | of `upload --then-harvest`: the upload's own result; everything else is the harvest's |

`run` to `ended_at` are there where there is a run. In `totals`, `rows = ids + duplicates + rejected + filtered` and
`ids = found + missing + failed + fresh` (plus, in an unfinished run, the ids to do).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from harvester import __version__
from harvester.runtime.current_run import RunRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.errors import Exit
    from harvester.model.layout import Layout
    from harvester.model.manifest import Totals
    from harvester.store.store import Store

CommandResult: TypeAlias = "tuple[Exit, dict[str, Any], Callable[[], object]]"
"""What a command of the command line returns: an exit code, the result for `--json` (empty if already printed), and a
function that prints the result as text."""

INPUT = ("rows", "ids", "duplicates", "rejected")
"""The totals that come before `filtered`."""


def result_json(
    status: str,
    exit_code: Exit,
    ref: RunRef | None = None,
    *,
    started_at: str | None = None,
    ended_at: str | None = None,
    **values: Any,
) -> dict[str, Any]:
    """A result: the common keys first, then the `values` of its command."""
    result: dict[str, Any] = {"status": status, "exit_code": int(exit_code), "version": __version__}
    if ref:
        result |= asdict(ref) | {"started_at": started_at, "ended_at": ended_at}
    return result | values


def run_ref(bucket: Store, layout: Layout, *, reconciled: bool = False) -> RunRef:
    """The run of `layout` in `bucket`, with its summary if it is `reconciled`."""
    return RunRef(layout.run, bucket.url(layout.prefix), layout.summary_key if reconciled else None)


def totals_json(totals: Totals) -> dict[str, Any]:
    """The totals as results have them; `filtered` is 0: nothing filters rows yet."""
    values = totals.as_json()
    return {name: values[name] for name in INPUT} | {"filtered": 0} | values
