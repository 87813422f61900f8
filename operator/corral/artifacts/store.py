"""Where large outputs are.

The operator alone holds it: workers hand in their outputs with their answers, and need neither a
volume nor the store's credentials. In the store, below its root:

=======================================  =======================================================
``<namespace>/<runID>/<sha256>``         a value of a run: compact JSON in UTF-8
``<namespace>/memo/<key>``               a result for later runs: its SHA-256, a line feed, itself
``.corral``                              a mark: what lacks it is not the store it was
=======================================  =======================================================

Names are hashes of contents, so writing twice changes nothing, and what was tampered with or cut
off is noticed when it is read.
"""

import asyncio
import errno
import hashlib
import re
from collections.abc import Awaitable, Callable
from time import perf_counter, time
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from corral.artifacts.errors import ArtifactMissingError, ArtifactStoreError, redacted, said
from corral.artifacts.files import Entry, open_files
from corral.breaker import Breaker, RestingError
from corral.plan.artifacts import MEMO, check_place
from corral.telemetry import metrics

T = TypeVar("T")

MARK = ".corral"
_MARK_CONTENT = b"corral artifacts 1\n"
_MEMO_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ATTEMPTS = 3
_AT_ONCE = 32
_FAILURES = 5
_FOR_GOOD = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that another try would only meet again."""


class _PassingError(ArtifactStoreError):
    """Worth another try."""


class ArtifactStore:
    """A store, by its URL. Safe for concurrent use in one event loop.

    Every call is over within ``timeout`` twice, and at once while the store rests: after five
    failures in a row it is not asked for ``rest`` seconds.

    Args:
        url: ``file:///folder``, ``memory://name`` (this process's), ``s3://bucket/prefix``, or
            what else fsspec knows and is installed. S3's endpoint, region and credentials come
            from the AWS variables (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, …).
        timeout: seconds for one try.
        rest: seconds.

    Raises:
        ArtifactStoreError: nothing can be made of the URL.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, rest: float = 5.0) -> None:
        self.url = redacted(url)
        """For people: without credentials."""
        self._timeout = timeout
        try:
            self._files = open_files(url, timeout)
        except (ValueError, ImportError) as error:
            raise ArtifactStoreError(
                f"the artifact store {self.url!r} can't be used: {said(error)}"
            ) from None
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._breaker = Breaker(
            _FAILURES,
            rest,
            [FileNotFoundError, asyncio.CancelledError],
            metrics.ARTIFACT_STORE_USABLE.set,
        )
        self._last_error = ""
        self._marked = False

    async def put(self, namespace: str, run_id: str, sha256: str, content: bytes) -> None:
        """Stores a value; once it returns, the value is there whole.

        Raises:
            ValueError: a name is none, or ``content`` has another hash.
            ArtifactStoreError: it could not be stored.
        """
        check_place(namespace, run_id, sha256)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"the content does not have the SHA-256 {sha256}")
        await self._write("put", f"{namespace}/{run_id}/{sha256}", content)

    async def get(self, namespace: str, run_id: str, sha256: str) -> bytes:
        """A value's bytes, of that hash.

        Raises:
            ValueError: a name is none.
            ArtifactMissingError: it is not there, or is not what was stored.
            ArtifactStoreError: the store could not be read.
        """
        check_place(namespace, run_id, sha256)
        path = f"{namespace}/{run_id}/{sha256}"
        try:
            content = await self._call("get", lambda: self._files.read(path))
        except FileNotFoundError:
            raise await self._absence(path) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ArtifactMissingError(
                f"the artifact {path} in {self.url} is damaged: its content has another hash"
            )
        return content

    async def copy(self, namespace: str, from_run: str, to_run: str, sha256: str) -> None:
        """Gives a run a value that another run of the namespace has.

        Raises:
            ValueError: a name is none.
            ArtifactMissingError: the other run has no such value.
            ArtifactStoreError: it could not be copied.
        """
        check_place(namespace, from_run, sha256)
        check_place(namespace, to_run)
        if from_run == to_run:
            return
        source, target = (f"{namespace}/{run}/{sha256}" for run in (from_run, to_run))
        try:
            await self._call("copy", lambda: self._files.copy(source, target))
        except FileNotFoundError:
            raise await self._absence(source) from None

    async def delete_run(self, namespace: str, run_id: str) -> None:
        """Deletes all that a run has stored; nothing happens where that is nothing.

        Raises:
            ValueError: a name is none.
            ArtifactStoreError: it could not be deleted, or not all of it.
        """
        check_place(namespace, run_id)
        await self._remove("delete_run", f"{namespace}/{run_id}")

    async def runs(self) -> list[tuple[str, str]]:
        """The runs that have stored something: namespace and id, sorted.

        Raises:
            ArtifactStoreError: the store could not be read.
        """
        return [
            (namespace, entry)
            for namespace in await self._folders("")
            for entry in await self._folders(namespace)
            if _is_place(namespace, entry)
        ]

    async def put_memo(self, namespace: str, key: str, content: bytes) -> None:
        """Keeps a result for later runs, in place of one that is there.

        Raises:
            ValueError: a name is none.
            ArtifactStoreError: it could not be stored.
        """
        digest = hashlib.sha256(content).hexdigest().encode()
        await self._write("put_memo", _memo_path(namespace, key), digest + b"\n" + content)

    async def get_memo(self, namespace: str, key: str) -> bytes | None:
        """A result that was kept; None where there is none, or a damaged one.

        Raises:
            ValueError: a name is none.
            ArtifactStoreError: the store could not be read.
        """
        path = _memo_path(namespace, key)
        try:
            kept = await self._call("get_memo", lambda: self._files.read(path))
        except FileNotFoundError:
            return None
        digest, _, content = kept.partition(b"\n")
        return content if hashlib.sha256(content).hexdigest().encode() == digest else None

    async def delete_old_memos(self, age: float) -> int:
        """Deletes results that were kept more than ``age`` seconds ago; returns how many.

        Raises:
            ArtifactStoreError: not all could be deleted.
        """
        deleted = 0
        for namespace in await self._folders(""):
            folder = f"{namespace}/{MEMO}"
            for entry in await self._entries(folder):
                if entry.modified is not None and entry.modified < time() - age:
                    await self._remove("delete_memo", f"{folder}/{entry.name}")
                    deleted += 1
        return deleted

    async def check(self) -> None:
        """Writes the store's mark, and reads it back.

        Raises:
            ArtifactStoreError: that does not work; the message says what the store said.
        """
        await self._write("check", MARK, _MARK_CONTENT)
        try:
            found = await self._call("check", lambda: self._files.read(MARK))
        except FileNotFoundError:
            found = b""
        if found != _MARK_CONTENT:
            raise ArtifactStoreError(
                f"the artifact store {self.url} does not give back what was written to it"
            )

    async def close(self) -> None:
        """Lets go of connections and threads."""
        await self._files.close()

    async def _write(self, operation: str, path: str, content: bytes) -> None:
        try:
            if not self._marked:
                await self._call(operation, lambda: self._files.write(MARK, _MARK_CONTENT))
                self._marked = True
            await self._call(operation, lambda: self._files.write(path, content))
        except FileNotFoundError as error:
            self._marked = False
            raise ArtifactStoreError(
                f"the artifact store {self.url} is not there: {said(error)}"
            ) from None

    async def _remove(self, operation: str, path: str) -> None:
        try:
            await self._call(operation, lambda: self._files.remove(path))
        except FileNotFoundError:
            return

    async def _folders(self, path: str) -> list[str]:
        return sorted(entry.name for entry in await self._entries(path) if entry.is_folder)

    async def _entries(self, path: str) -> list[Entry]:
        try:
            return await self._call("list", lambda: self._files.entries(path))
        except FileNotFoundError:
            return []

    async def _absence(self, path: str) -> ArtifactStoreError:
        """What it means that something is not there: an empty bucket or volume lost nothing."""
        if not self._files.volatile:
            try:
                await self._call("check", lambda: self._files.read(MARK))
            except FileNotFoundError:
                return ArtifactStoreError(
                    f"the artifact store {self.url} has neither {path} nor the file {MARK}, which "
                    "the operator leaves in it: it is another store than before, or not mounted"
                )
        return ArtifactMissingError(f"the artifact {path} is not in {self.url}")

    async def _call(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Calls the file system, several times if need be.

        Raises:
            FileNotFoundError: the file system says so.
            ArtifactStoreError: whatever else it says, or nothing in time.
        """
        outcome, started = "error", perf_counter()
        try:
            async with self._places:
                async for attempt in AsyncRetrying(
                    stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(self._timeout),
                    wait=wait_exponential_jitter(initial=0.1, max=1, jitter=0.1),
                    retry=retry_if_exception_type(_PassingError),
                    reraise=True,
                ):
                    with attempt:
                        result = await self._try(work)
            outcome = "ok"
            return result
        except FileNotFoundError:
            outcome = "missing"
            raise
        finally:
            metrics.ARTIFACT_CALLS.labels(operation, outcome).inc()
            metrics.ARTIFACT_SECONDS.labels(operation).observe(perf_counter() - started)

    async def _try(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            async with self._breaker.call(), asyncio.timeout(self._timeout):
                return await work()
        except FileNotFoundError:
            raise
        except RestingError:
            raise ArtifactStoreError(
                f"the artifact store {self.url} has failed and is asked again in a few seconds: "
                f"{self._last_error}"
            ) from None
        except TimeoutError:
            self._last_error = f"no answer within {self._timeout:g} s"
            raise _PassingError(f"the artifact store {self.url}: {self._last_error}") from None
        except Exception as error:  # each file system has errors of its own
            self._last_error = said(error)
            lasting = isinstance(error, PermissionError) or (
                isinstance(error, OSError) and error.errno in _FOR_GOOD
            )
            kind = ArtifactStoreError if lasting else _PassingError
            raise kind(f"the artifact store {self.url}: {self._last_error}") from None


def _is_place(namespace: str, run_id: str) -> bool:
    try:
        check_place(namespace, run_id)
    except ValueError:
        return False
    return True


def _memo_path(namespace: str, key: str) -> str:
    check_place(namespace, "any")
    if not _MEMO_KEY.fullmatch(key):
        raise ValueError(f"key: {key!r} has other characters than A-Z, a-z, 0-9, '.', '_' and '-'")
    return f"{namespace}/{MEMO}/{key}"
