"""fsspec, as the store needs it: coroutines on paths below one root.

fsspec has asynchronous file systems (S3 and other object stores) and blocking ones (a folder, the
memory). The latter are called in threads of their own, so that a volume that hangs holds up nothing
but the store. Whatever a file system raises is let through.
"""

import asyncio
import os
import posixpath
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from fsspec.core import url_to_fs

T = TypeVar("T")

_THREADS = 8
_CONNECTIONS = 32
_CONNECT_TIMEOUT = 2.0


@dataclass(frozen=True)
class Entry:
    """What a folder holds. ``modified``: seconds since the epoch, None where nobody knows."""

    name: str
    is_folder: bool
    modified: float | None


class Files(Protocol):
    """Paths are relative to the root. What is not there is a FileNotFoundError."""

    volatile: bool
    """Whether all is gone when this process ends."""

    async def write(self, path: str, content: bytes) -> None:
        """Writes a file, whole or not at all; in place of one that is there."""

    async def read(self, path: str) -> bytes:
        """A file's content."""

    async def copy(self, source: str, target: str) -> None:
        """Copies a file."""

    async def remove(self, path: str) -> None:
        """Removes a file, or a folder with all that is in it."""

    async def entries(self, path: str) -> list[Entry]:
        """What is in a folder."""

    async def close(self) -> None:
        """Lets go of connections and threads."""


def open_files(url: str, timeout: float) -> Files:
    """The file system that a URL names; calls nobody yet.

    Args:
        url: such as ``file:///folder``, ``memory://name``, ``s3://bucket/prefix``.
        timeout: seconds for one answer, for file systems that can be told.

    Raises:
        ValueError: no such file system, or no root in it.
        ImportError: the package that fsspec has for it is not installed.
    """
    scheme, separator, place = url.partition("://")
    if not separator:
        raise ValueError("it has no scheme, such as file:// or s3://")
    if not place.strip("/"):
        raise ValueError("it names no folder or bucket")
    if scheme == "file" and not place.startswith("/"):
        raise ValueError("its folder must be absolute: file:///folder")
    open_url: Any = url_to_fs
    fs, root = open_url(url, skip_instance_cache=True, **_options(scheme, timeout))
    return _Native(fs, root) if fs.async_impl else _Threaded(fs, root, scheme)


def _options(scheme: str, timeout: float) -> dict[str, Any]:
    if scheme not in ("s3", "s3a"):
        return {"asynchronous": True} if scheme in ("gs", "gcs", "abfs", "az") else {}
    # boto reads AWS_DEFAULT_REGION alone; Kubernetes' and the other SDKs' word is AWS_REGION.
    region = os.environ.get("AWS_REGION")
    return {
        "asynchronous": True,
        "use_listings_cache": False,
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": {
            "connect_timeout": min(_CONNECT_TIMEOUT, timeout),
            "read_timeout": timeout,
            "max_pool_connections": _CONNECTIONS,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            # Other stores than AWS's refuse the newer checksums; contents are hashed anyway.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    }


class _Native:
    """An asynchronous file system. Object stores write whole objects or none."""

    volatile = False

    def __init__(self, fs: Any, root: str) -> None:
        self._fs = fs
        self._root = root
        fs.retries = 1  # s3fs would try five times by itself

    def _path(self, path: str) -> str:
        return posixpath.join(self._root, path) if path else self._root

    async def write(self, path: str, content: bytes) -> None:
        await self._fs._pipe_file(self._path(path), content)

    async def read(self, path: str) -> bytes:
        content: bytes = await self._fs._cat_file(self._path(path))
        return content

    async def copy(self, source: str, target: str) -> None:
        await self._fs._cp_file(self._path(source), self._path(target))

    async def remove(self, path: str) -> None:
        await self._fs._rm(self._path(path), recursive=True)

    async def entries(self, path: str) -> list[Entry]:
        return [_entry(found) for found in await self._fs._ls(self._path(path), detail=True)]

    async def close(self) -> None:
        client = getattr(self._fs, "_s3", None)
        if client is not None:
            await client.close()


class _Threaded:
    """A blocking file system."""

    def __init__(self, fs: Any, root: str, scheme: str) -> None:
        self._fs = fs
        self._root = root
        self.volatile = scheme == "memory"
        self._local = scheme in ("file", "local")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="artifacts")

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _path(self, path: str) -> str:
        return posixpath.join(self._root, path) if path else self._root

    async def write(self, path: str, content: bytes) -> None:
        await self._call(self._write, self._path(path), content)

    def _write(self, path: str, content: bytes) -> None:
        folder, name = posixpath.split(path)
        self._fs.makedirs(folder, exist_ok=True)
        draft = posixpath.join(folder, f".{name}.{uuid.uuid4().hex}")
        try:
            with self._fs.open(draft, "wb") as file:
                file.write(content)
                file.flush()
                if self._local:
                    # Else a node that dies may leave a name without a content.
                    os.fsync(file.fileno())
            self._fs.mv(draft, path)
        except BaseException:
            if self._fs.exists(draft):
                self._fs.rm_file(draft)
            raise

    async def read(self, path: str) -> bytes:
        content: bytes = await self._call(self._fs.cat_file, self._path(path))
        return content

    async def copy(self, source: str, target: str) -> None:
        await self.write(target, await self.read(source))

    async def remove(self, path: str) -> None:
        await self._call(lambda: self._fs.rm(self._path(path), recursive=True))

    async def entries(self, path: str) -> list[Entry]:
        found = await self._call(lambda: self._fs.ls(self._path(path), detail=True))
        return [_entry(each) for each in found]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _entry(found: Mapping[str, Any]) -> Entry:
    # fsspec leaves it to each file system how the time is called.
    when = next((found[key] for key in ("mtime", "LastModified", "created") if key in found), None)
    modified = when.timestamp() if isinstance(when, datetime) else when
    name = posixpath.basename(found["name"].rstrip("/"))
    return Entry(name, found["type"] == "directory", modified)
