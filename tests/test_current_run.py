"""The run at work: each command names its own, or none, however many one task calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harvester.commands.harvest import harvest
from harvester.commands.missing import missing
from harvester.commands.plan import plan
from harvester.commands.shards import Shard, harvest_shard, plan_shards
from harvester.commands.upload import upload
from harvester.commands.verify import verify
from harvester.errors import SettingsError
from harvester.fakes.catalog import Catalog
from harvester.fakes.tmdb import fake_tmdb
from harvester.runtime.current_run import CURRENT_RUN
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.settings.settings import Settings

SHARD = Shard("2026-11-22-3f9a1c2e", "0" * 16, "0" * 16, "0" * 16, 1.0, {})

CALLS: dict[str, Callable[[Settings], Any]] = {
    "harvest": lambda settings: harvest(settings, shutdown=Shutdown()),
    "plan": plan,
    "verify": verify,
    "missing": missing,
    "upload": lambda settings: upload(settings, shutdown=Shutdown()),
    "plan_shards": plan_shards,
    "harvest_shard": lambda settings: harvest_shard(settings, SHARD, shutdown=Shutdown()),
}


async def test_a_command_does_not_begin_under_the_run_of_the_one_before(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    """Called in the same task, it names no run until its own is known."""
    (tmp_path / "m.csv").write_text("id|t\ntt0000001|x\n", encoding="utf-8")
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies_csv=str(tmp_path / "m.csv"))
        report = await harvest(settings, shutdown=Shutdown())
    at_work = CURRENT_RUN.get()
    assert at_work is not None
    assert at_work.run == report.run
    for name, call in CALLS.items():
        CURRENT_RUN.set(at_work)
        with pytest.raises(SettingsError):
            await call(settings.model_copy(update={"s3_bucket": None}))
        assert (name, CURRENT_RUN.get()) == (name, None)
