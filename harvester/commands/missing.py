"""Missing: the rejected rows, missing ids and failed ids of a run, each with its reason and source line."""

from __future__ import annotations

import csv
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from harvester.commands.resources import Resources
from harvester.commands.result import result_json, run_ref
from harvester.errors import CorruptLakeError, Exit, SettingsError
from harvester.model.ids_file import decode_rows
from harvester.runs.data_files import Warnings
from harvester.runs.documents import (
    DOCUMENTS_AT_ONCE,
    read_ids,
    read_manifest,
    read_outcomes,
    read_summary,
    receipt_or_none,
    runs_to_read,
)
from harvester.runtime.clock import utc_now
from harvester.runtime.concurrency import fan_out
from harvester.runtime.current_run import CURRENT_RUN, RunRef

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harvester.model.ids import Collection
    from harvester.model.layout import Layout
    from harvester.model.manifest import Summary
    from harvester.settings.settings import Settings
    from harvester.store.store import Store


@dataclass(frozen=True, slots=True)
class MissingRow:
    """A rejected row, or an id that is missing or failed; the header is `line` 1.

    `text` is that of a rejected row: of the first thousand only, and cut at 200 characters. `show_id` is TMDB's number
    of the series that an episode or season belongs to.
    """

    outcome: Literal["rejected", "missing", "failed"]
    collection: Collection
    line: int
    id: str | None
    reason: str
    show_id: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class MissingReport:
    """All such rows of a run, in source order. `to_do`: ids that have no outcome yet.

    `fresh`: the number of ids that another run of the day has, per run.
    """

    ref: RunRef
    rows: list[MissingRow]
    to_do: int
    fresh: Counter[str]
    started_at: str  # UTC, as is `ended_at`
    ended_at: str

    @property
    def run(self) -> str:
        """`{date}-{fingerprint}`."""
        return self.ref.run

    @property
    def status(self) -> Literal["some_missing", "unfinished", "none_missing"]:
        """Whether any row is listed, and if not, whether there may be some later."""
        return "some_missing" if self.rows else "unfinished" if self.to_do else "none_missing"

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """The number of rows by outcome and reason."""
        return Counter((row.outcome, row.reason) for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return result_json(
            self.status,
            Exit.CLOSED,
            self.ref,
            started_at=self.started_at,
            ended_at=self.ended_at,
            to_do=self.to_do,
            fresh=self.fresh,
            rows=[asdict(row) for row in self.rows],
        )


async def missing(settings: Settings, *, run: str | None = None) -> MissingReport:
    """What is rejected, missing or failed in `run`, or in the run that was at work last; only the lake is read.

    Raises:
        CorruptLakeError: There is no such run, or its manifest or ids cannot be read.
    """
    CURRENT_RUN.set(None)
    started_at = utc_now()
    settings.require("s3_bucket")
    resources = Resources(settings)
    layout = resources.layout()
    async with resources.lake() as bucket:
        [name] = await runs_to_read(bucket, layout, run=run)
        layout = replace(layout, run=name)
        CURRENT_RUN.set(run_ref(bucket, layout))
        manifest = await read_manifest(bucket, layout)
        warnings = Warnings()
        summary = await read_summary(bucket, layout, manifest.generation, warnings)
        outcomes = await _outcomes(bucket, layout, manifest.generation, summary, warnings)
        key = layout.ids_key(manifest.generation)
        body, sha256 = await read_ids(bucket, key)
    if sha256 != manifest.ids_sha256:
        raise CorruptLakeError(f"{key} is not the ids of this run: its SHA-256 is not the manifest's")
    rows, to_do, fresh = [], 0, Counter[str]()
    try:
        for row in decode_rows(body):
            origin = row["collection"], row["line"]
            outcome = outcomes.get(row.get("id"), {})
            to_do += "id" in row and not outcome and "fresh" not in row
            if "fresh" in row or outcome.get("outcome") == "fresh":
                fresh[row.get("fresh") or outcome["run"]] += 1
            elif "rejected" in row:
                rows.append(MissingRow("rejected", *origin, None, row["rejected"], text=row.get("text")))
            elif outcome.get("outcome") in ("missing", "failed"):
                name, reason = outcome["outcome"], outcome["reason"]
                rows.append(MissingRow(name, *origin, row["id"], reason, outcome.get("show_id")))
    except ValueError as error:
        raise CorruptLakeError(f"{key} is not the ids of this run: {error}") from error
    ref = run_ref(bucket, layout, reconciled=summary is not None)
    return MissingReport(ref, rows, to_do, fresh, started_at, utc_now())


async def _outcomes(
    bucket: Store, layout: Layout, generation: str, summary: Summary | None, warnings: Warnings
) -> dict[str | None, Mapping[str, Any]]:
    """The outcome of each id: from `outcomes.jsonl.gz` if its checksum is right, or else from the receipts."""
    written = await read_outcomes(bucket, layout, summary.digests.outcomes) if summary else None
    if written is not None:
        with suppress(ValueError):  # it was damaged before the checksum was taken
            return dict(written)
    outcomes: dict[str | None, Mapping[str, Any]] = {}

    async def add_receipt(key: str) -> None:
        receipt = await receipt_or_none(bucket, layout, key, warnings)
        if receipt and receipt.generation == generation:
            outcomes.update(receipt.outcomes)

    await fan_out(add_receipt, await bucket.objects(layout.receipts), at_once=DOCUMENTS_AT_ONCE)
    return outcomes


def write_csv(rows: list[MissingRow], path: Path) -> None:
    """Write the rows to a CSV file, with a header.

    Raises:
        SettingsError: The file cannot be written, or exists and was not written by `missing`.
    """
    header = [field.name for field in fields(MissingRow)]
    try:
        with path.open("a+b") as file:
            file.seek(0)
            first_line = file.readline()
        if first_line and not first_line.startswith(",".join(header).encode()):
            raise SettingsError(f"--csv {str(path)!r} is some other file: give a new name")
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(map(astuple, rows))
    except OSError as error:
        raise SettingsError(f"--csv {str(path)!r} cannot be written: {error.strerror or error}") from error
