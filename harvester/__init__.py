"""Harvest TMDB for every IMDb id of two CSVs into S3, and reconcile the totals.

Public names are loaded lazily (PEP 562): `from harvester import harvest` imports only the module that defines it.
"""

TYPE_CHECKING = False  # `typing` would be the one import
if TYPE_CHECKING:
    from harvester.commands.harvest import HarvestReport as HarvestReport
    from harvester.commands.harvest import LeaseOptions as LeaseOptions
    from harvester.commands.harvest import harvest as harvest
    from harvester.commands.missing import MissingReport as MissingReport
    from harvester.commands.missing import missing as missing
    from harvester.commands.plan import plan as plan
    from harvester.commands.upload import UploadReport as UploadReport
    from harvester.commands.upload import upload as upload
    from harvester.commands.verify import VerificationReport as VerificationReport
    from harvester.commands.verify import verify as verify
    from harvester.errors import Exit as Exit
    from harvester.errors import HarvestError as HarvestError
    from harvester.reports.progress_log import ProgressLog as ProgressLog
    from harvester.runtime.clock import Clock as Clock
    from harvester.runtime.observer import BackOffBegun as BackOffBegun
    from harvester.runtime.observer import BatchLanded as BatchLanded
    from harvester.runtime.observer import Event as Event
    from harvester.runtime.observer import Observer as Observer
    from harvester.runtime.observer import RequestDone as RequestDone
    from harvester.runtime.observer import RetryBegun as RetryBegun
    from harvester.runtime.observer import RunBegun as RunBegun
    from harvester.runtime.observer import RunEnded as RunEnded
    from harvester.runtime.observer import TitleDone as TitleDone
    from harvester.runtime.shutdown import Shutdown as Shutdown
    from harvester.settings.settings import Settings as Settings
    from harvester.settings.settings import load_settings as load_settings

__version__ = "0.1.0"

_MODULES = {
    "BackOffBegun": "runtime.observer",
    "BatchLanded": "runtime.observer",
    "Clock": "runtime.clock",
    "Event": "runtime.observer",
    "Exit": "errors",
    "HarvestError": "errors",
    "LeaseOptions": "commands.harvest",
    "MissingReport": "commands.missing",
    "Observer": "runtime.observer",
    "ProgressLog": "reports.progress_log",
    "HarvestReport": "commands.harvest",
    "RequestDone": "runtime.observer",
    "RetryBegun": "runtime.observer",
    "RunBegun": "runtime.observer",
    "RunEnded": "runtime.observer",
    "Settings": "settings.settings",
    "Shutdown": "runtime.shutdown",
    "TitleDone": "runtime.observer",
    "UploadReport": "commands.upload",
    "VerificationReport": "commands.verify",
    "harvest": "commands.harvest",
    "load_settings": "settings.settings",
    "missing": "commands.missing",
    "plan": "commands.plan",
    "upload": "commands.upload",
    "verify": "commands.verify",
}
"""The module that defines each public name."""

__all__ = [*_MODULES]  # noqa: PLE0604


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
