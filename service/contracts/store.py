"""The store: where inputs, results and records lie. A folder or an S3 bucket, behind the same five methods.

`put` is whole or not at all, `get` of an absent key raises Missing, `delete` of an absent key is fine. Whatever else
fails (disk full, network away, access denied) raises NotReady: it may pass, and nothing was half-written.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from service.contracts.errors import NotFound, NotReady
from service.contracts.settings import Settings

TIDY = 5.0  # seconds between two looks
LEFT = 3600.0  # seconds after which a file that is being written was left by a process that died


class Missing(NotFound):
    """No object under that key."""


class Blobs(Protocol):
    """Bytes under keys. Keys are `/`-separated names of [A-Za-z0-9._-]."""

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None: ...

    def get(self, key: str) -> bytes: ...

    def delete(self, key: str) -> None: ...


class Store(Blobs, Protocol):
    """Blobs that can also be listed and linked to."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that start with `prefix`, in order."""

    def url(self, key: str, seconds: int) -> str | None:
        """An address from which anyone may fetch the object for that long, or None where there is no such thing."""


class FolderStore:
    """A store in a folder of this machine. Writes go to a temporary name, are synced, and then renamed.

    The folder `.staging` in it is its mark: without that the store counts as away (not mounted, say). `create` makes
    it.
    """

    def __init__(self, root: Path, *, create: bool = True) -> None:
        self._root = root
        self._staging = root / ".staging"
        self._tidied, self._old = -TIDY, set[Path]()
        if create:
            with _unavailable():
                self._staging.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:  # noqa: ARG002
        path = self._path(key)
        with _unavailable():
            handle, name = tempfile.mkstemp(dir=self._staging)  # first: it fails where the whole store is gone
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            _sync(path.parent)

    def get(self, key: str) -> bytes:
        with _unavailable():
            try:
                return self._path(key).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                self._staging.stat()  # fails where the whole store is gone (not mounted, say), and nothing is known
                raise Missing(f"nothing is stored under {key}") from None

    def delete(self, key: str) -> None:
        with _unavailable():
            self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        folder = self._root / prefix.rpartition("/")[0]
        with _unavailable():
            self._tidy()
            found = sorted(path.relative_to(self._root).as_posix() for path in folder.rglob("*") if path.is_file())
        for key in found:
            if key.startswith(prefix) and not key.startswith(".staging/"):
                yield key

    def url(self, key: str, seconds: int) -> str | None:  # noqa: ARG002
        return None

    def _tidy(self) -> None:
        """Now and then, delete what processes that died left half-written. Fails where the whole store is gone."""
        self._staging.stat()
        if time.monotonic() - self._tidied < TIDY:
            return
        self._tidied = time.monotonic()
        old = set()
        for left in self._staging.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > LEFT:
                    old.add(left)
                    if left in self._old:  # at the last look too: a clock that jumps makes nothing old twice
                        left.unlink()
        self._old = old

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not key or any(part in {"", ".", ".."} for part in parts) or parts[0] == ".staging":
            raise ValueError(f"not a key: {key!r}")
        return self._root.joinpath(*parts)


def open_store(settings: Settings, *, create: bool = True) -> Store:
    """The store that `store_url` names. A folder is made where there is none and `create` says so: what only works on
    jobs must not, or a store that is away for a while would seem to be there, and empty."""
    address = urlsplit(settings.store_url)
    if address.scheme == "file":
        return FolderStore(Path(unquote(address.path)), create=create)
    from service.contracts.s3 import S3Store  # boto3 takes half a second to import

    return S3Store(settings, bucket=address.netloc, prefix=address.path.strip("/"))


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotReady(f"the store cannot be used just now ({error.strerror}); try again", retry_after=5) from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
