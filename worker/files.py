"""Files named on the command line: read with a plain error, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.contracts.errors import BadField


def read_input(path: Path) -> bytes:
    """The file's bytes. Raises BadField where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadField(f"{path}: it cannot be read ({error.strerror})", field="input") from None


@contextmanager
def destination(path: Path | None) -> Iterator[None]:
    """Make sure beforehand that `path` can be written (None: nothing to check). Raises BadField."""
    if path is not None:
        if path.is_dir():
            raise BadField(f"{path}: it is a folder; name a file", field="output")
        try:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".immunize-"):
                pass
        except OSError as error:
            raise _unwritable(path, error) from None
    yield


def write_whole(path: Path, data: bytes) -> None:
    """Write to a temporary name beside `path`, then rename. Raises BadField; nothing is left behind."""
    staging = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            staging.write_bytes(data)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> BadField:
    return BadField(f"{path}: it cannot be written there ({error.strerror}); name a folder that exists and is writable")
