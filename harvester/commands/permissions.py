"""Permission checks: each permission that a harvest needs in the bucket, tried by a request that needs it.

Objects are written below `_harvest/doctor/` and removed again. In the data folders an upload is only begun and aborted,
so that readers never see anything. What a killed check has left is removed by the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harvester.errors import StoreError
from harvester.model.layout import RUNS, Layout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from harvester.store.store import Store

OPTIONAL_PERMISSION = "s3:DeleteObject"
"""Needed by `verify --repair` alone, not by a harvest."""

_BODY = b'{"what": "written by `harvester doctor`, which removes it again"}\n'


class PermissionChecks:
    """The checks of one bucket: `tries` has a call for each permission; it returns what was done."""

    def __init__(self, bucket: Store, *, prefix: str, template: str, day: str) -> None:
        self._bucket = bucket
        self._layout = Layout(prefix, template, f"{day}-00000000")
        self._folder = f"{prefix}/{RUNS}/doctor/"
        self._small, self._landed = f"{self._folder}probe.json", f"{self._folder}landed.json"
        self._was_put = False
        self.tries: dict[str, Callable[[], Awaitable[str]]] = {
            "s3:ListBucket": self._list_objects,
            "s3:ListBucketMultipartUploads": self._list_uploads,
            "s3:PutObject": self._put,
            "s3:GetObject": self._get,
            "s3:PutObject, in parts": self._land,
            "s3:AbortMultipartUpload": self._abort,
            OPTIONAL_PERMISSION: self._delete,
        }

    async def _list_objects(self) -> str:
        runs = await self._bucket.folders(f"{self._layout.prefix}/{RUNS}/")
        return f"{len(runs):,} folders below {self._layout.prefix}/{RUNS}/"

    async def _list_uploads(self) -> str:
        for folder in (self._folder, *self._layout.data_folders):
            for key, upload in await self._bucket.uploads(folder):
                if "/doctor/" in key:
                    await self._bucket.abort(key, upload)
        return f"below {', '.join(self._layout.data_folders)}"

    async def _put(self) -> str:
        await self._bucket.put(self._small, _BODY)
        self._was_put = True
        return self._small

    async def _get(self) -> str:
        if await self._bucket.read(self._small) != _BODY and self._was_put:
            raise StoreError(f"read {self._small}", "not what was put there", "Is this endpoint really S3?")
        return self._small

    async def _land(self) -> str:
        await self._bucket.land(self._landed, _BODY)
        return self._landed

    async def _abort(self) -> str:
        for folder in self._layout.data_folders:
            key = f"{folder}_harvester/doctor/probe.json"
            await self._bucket.abort(key, await self._bucket.begin(key))
        return f"below {', '.join(self._layout.data_folders)}"

    async def _delete(self) -> str:
        await self._bucket.delete(self._small)
        await self._bucket.delete(self._landed)
        return "both probes"
