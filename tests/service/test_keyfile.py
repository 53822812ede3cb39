"""The file of API keys: read whole, written whole."""

from __future__ import annotations

import json
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service import keyfile
from service.apikeys import TenantLimits, new_key
from service.contracts.errors import BadField
from service.keyfile import KeyFileBroken

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEPT, KEY = new_key("acme", ("submit", "read"), NOW, None)
LINE = KEPT.model_dump_json(exclude_none=True)


def edited(**changes: object) -> str:
    return json.dumps({name: value for name, value in (json.loads(LINE) | changes).items() if value is not None})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def add(file: Path, tenant: str = "acme") -> str:
    kept, _ = new_key(tenant, ("read",), NOW, None)
    with keyfile.changed(file) as found:
        found.keys[kept.key] = kept
    return kept.key


def test_what_is_written_is_read(file: Path) -> None:
    limits = TenantLimits(tenant="acme", rate=0.5, daily=0)
    with keyfile.changed(file) as found:
        found.keys[KEPT.key] = KEPT
        found.limits["acme"] = limits
    found, mark = keyfile.read(file)
    assert (found.keys, found.limits) == ({KEPT.key: KEPT}, {"acme": limits})
    assert mark == keyfile.mark(file)
    assert KEY.rpartition("_")[2] not in file.read_text()


BROKEN = {
    "no JSON": ("{", "line 1 of the key file: it: "),
    "cut off": (f"{LINE}\n{LINE[:50]}", "line 2 of the key file: it: "),
    "a list": ("[1]", "line 1 of the key file: it: "),
    "twice": (f"{LINE}\n\n{LINE}", "line 3 of the key file: it was there before"),
    "limits twice": ('{"tenant":"a"}\n{"tenant":"a","daily":1}', "line 2 of the key file: it was there before"),
    "another scope": (edited(scopes=["fly"]), "line 1 of the key file: scopes.0: "),
    "another field": (edited(colour="red"), "line 1 of the key file: colour: "),
    "no hash": (edited(sha256=None), "line 1 of the key file: sha256: "),
    "a plain secret": (edited(sha256=KEY), "line 1 of the key file: sha256: "),
    "a tenant like a path": (edited(tenant="../x"), "line 1 of the key file: tenant: "),
    "a time without a zone": (edited(created="2026-01-01T00:00:00"), "line 1 of the key file: created: "),
    "a negative limit": ('{"tenant":"a","daily":-1}', "line 1 of the key file: daily: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_of_by_its_line_and_nothing_more(case: str) -> None:
    text, told = BROKEN[case]
    with pytest.raises(KeyFileBroken) as caught:
        keyfile.parse(text)
    assert caught.value.detail.startswith(told)
    for secret in (KEY, KEPT.sha256, KEPT.key):
        assert secret not in caught.value.detail


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileBroken, match="not UTF-8"):
        keyfile.read(file)


def test_it_is_the_owners_alone(file: Path) -> None:
    previous = os.umask(0)
    try:
        add(file)
        file.chmod(0o644)
        add(file)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_writers_take_turns_and_lose_nothing(file: Path) -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(add(file) for _ in range(5))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(made) == 30
    assert set(keyfile.read(file)[0].keys) == set(made)


def test_readers_never_see_half_of_it(file: Path) -> None:
    add(file)
    over = threading.Event()

    def write() -> None:
        for _ in range(30):
            add(file)
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = [len(keyfile.read(file)[0].keys)]
    while not over.is_set():
        seen.append(len(keyfile.read(file)[0].keys))
    thread.join(timeout=60)
    assert seen == sorted(seen)
    assert seen[0] >= 1


def test_what_fails_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(file)
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadField, match="No space left on device"):
        add(file)
    with pytest.raises(RuntimeError), keyfile.changed(file) as found:  # noqa: PT012
        found.keys.clear()
        raise RuntimeError
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]  # noqa: PTH208


def test_a_broken_file_is_not_written_over(file: Path) -> None:
    file.write_text("{")
    with pytest.raises(KeyFileBroken):
        add(file)
    assert file.read_text() == "{"


def test_a_link_goes_on_pointing_there(file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file.symlink_to(tmp_path / "elsewhere" / "keys")
    key = add(file)
    assert file.is_symlink()
    assert set(keyfile.read(file)[0].keys) == {key}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadField, match="No such file or directory") as caught:
        add(tmp_path / "nowhere" / "keys")
    assert str(tmp_path) not in caught.value.detail
