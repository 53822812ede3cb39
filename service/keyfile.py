"""The file of API keys: JSON, a line each of a key or of a tenant's own limits. Its writers take turns, and replace it
whole; its readers never see half of it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from service.apikeys import ApiKey, TenantLimits
from service.contracts.errors import BadField


@dataclass
class Keys:
    """What the file holds: keys by their id, limits by their tenant."""

    keys: dict[str, ApiKey] = field(default_factory=dict)
    limits: dict[str, TenantLimits] = field(default_factory=dict)


class KeyFileBroken(BadField):
    """The file is not what `immunize keys` writes. The sentence tells the line, and nothing of what it holds."""


def parse(text: str) -> Keys:
    """Raises KeyFileBroken."""
    found = Keys()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            if '"key"' in line:
                key = ApiKey.model_validate_json(line)
                twice = found.keys.setdefault(key.key, key) is not key
            else:
                limits = TenantLimits.model_validate_json(line)
                twice = found.limits.setdefault(limits.tenant, limits) is not limits
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise KeyFileBroken(f"line {number} of the key file: {where or 'it'}: {first['msg']}") from None
        if twice:
            raise KeyFileBroken(f"line {number} of the key file: it was there before; keep one of the two")
    return found


def read(file: Path) -> tuple[Keys, tuple[int, ...]]:
    """What it holds, and the mark that it had before it was read. Raises KeyFileBroken, and OSError."""
    with file.open("rb") as opened:
        seen = _mark(os.fstat(opened.fileno()))
        data = opened.read()
    try:
        return parse(data.decode()), seen
    except UnicodeDecodeError:
        raise KeyFileBroken("the key file is not UTF-8 text") from None


def mark(file: Path) -> tuple[int, ...]:
    """What changes whenever the file does. Raises OSError."""
    return _mark(file.stat())


@contextmanager
def changed(file: Path) -> Iterator[Keys]:
    """The file's keys, to be changed: what is in them at the end is written. Whoever else changes it waits."""
    file = file.resolve()  # a link goes on pointing there
    try:
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        _unusable(error)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            keys = read(file)[0] if file.exists() else Keys()
        except OSError as error:
            _unusable(error)
        yield keys
        try:
            _replace(file, "".join(each.model_dump_json(exclude_none=True) + "\n" for each in _lines(keys)))
            os.fsync(folder)
        except OSError as error:
            _unusable(error)
    finally:
        os.close(folder)


def _replace(file: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # 0600 from its first moment
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as written:
            written.write(text)
            written.flush()
            os.fsync(handle)
            if file.exists():  # root adds a key, and the gateway's user reads on
                before, now = file.stat(), os.fstat(handle)
                if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
                    os.fchown(handle, before.st_uid, before.st_gid)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _lines(keys: Keys) -> Iterator[ApiKey | TenantLimits]:
    yield from keys.limits.values()
    yield from keys.keys.values()


def _mark(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _unusable(error: OSError) -> NoReturn:
    raise BadField(
        f"the key file cannot be used ({error.strerror}); name one in a folder that can be written"
    ) from None
