"""The keys that hold now, while the file changes."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from service.contracts.errors import BadField
from service.keyring import Keyring
from tests.helpers import wait_for
from tests.service.keys import KeyFile


@pytest.fixture
def keyring(keys: KeyFile, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    """One that looks at the file each time."""
    monkeypatch.setattr("service.keyring.LOOK_SECONDS", 0)
    return Keyring(keys.path)


def test_keys_come_and_go_without_a_restart(keyring: Keyring, keys: KeyFile) -> None:
    first = keys.key("acme")
    found = keyring.find(first)
    assert found is not None
    assert found.tenant == "acme"
    second = keys.key("other")
    assert keyring.find(second) is not None
    keys.revoke(first)
    assert keyring.find(first) is None
    assert keyring.find(second) is not None
    assert keyring.limits("acme") is None
    keys.limit("acme", daily=5)
    keyring.find("")
    limits = keyring.limits("acme")
    assert limits is not None
    assert limits.daily == 5


def test_a_key_without_expiry_and_one_that_has_expired(keyring: Keyring, keys: KeyFile) -> None:
    assert keyring.find(keys.key(expired=True)) is None
    assert keyring.find(keys.key(revoked=True)) is None


def test_the_file_is_looked_at_once_a_second_at_most(keys: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    mark = "service.keyfile.mark"
    real = os.stat

    def counting(file: Path) -> tuple[int, ...]:
        looks.append(0)
        return (real(file).st_ino,)

    monkeypatch.setattr(mark, counting)
    clock = [100.0]
    monkeypatch.setattr("service.keyring.time.monotonic", lambda: clock[0])
    keyring = Keyring(keys.path)
    for clock[0] in (100.0, 100.5, 100.99):
        keyring.find("")
    assert looks == []
    for clock[0] in (101.0, 101.5, 101.99, 102.0):
        keyring.find("")
    assert len(looks) == 2


def test_a_change_is_seen_within_about_a_second(keys: KeyFile) -> None:
    keyring = Keyring(keys.path)
    key = keys.key()
    wait_for(lambda: keyring.find(key), "the new key is known", seconds=5)


@pytest.mark.parametrize("broken", ["{", "gone", "a folder"])
def test_a_broken_file_keeps_what_was_read_before(
    broken: str, keyring: Keyring, keys: KeyFile, caplog: pytest.LogCaptureFixture
) -> None:
    key = keys.key()
    assert keyring.find(key)
    good = keys.path.read_text()
    keys.path.unlink()
    if broken == "a folder":
        keys.path.mkdir()
    elif broken != "gone":
        keys.path.write_text(good + broken)
    caplog.clear()
    for _ in range(5):
        assert keyring.find(key)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1, "said once, not at every look"
    assert errors[0].startswith("IMMUNIZE_API_KEYS_FILE: ")
    assert errors[0].endswith("; the keys that were read before still hold")
    assert str(keys.path) not in errors[0]

    keys.path.rmdir() if broken == "a folder" else keys.path.unlink(missing_ok=True)
    keys.path.write_text("")
    assert keyring.find(key) is None, "an empty file holds no key"
    keys.path.write_text(good)
    assert keyring.find(key)


@pytest.mark.parametrize("broken", ["{", "gone", "a folder"])
def test_a_broken_file_at_the_start(broken: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    if broken == "a folder":
        file.mkdir()
    elif broken != "gone":
        file.write_text(broken)
    with pytest.raises(BadField) as caught:
        Keyring(file)
    assert caught.value.detail.startswith("IMMUNIZE_API_KEYS_FILE: ")
    assert str(tmp_path) not in caught.value.detail


def test_many_threads_while_the_file_changes(keyring: Keyring, keys: KeyFile) -> None:
    lasting = keys.key()
    lost: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            if keyring.find(lasting) is None:
                lost.append(1)

    assert keyring.find(lasting)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        keys.key()
    over.set()
    for thread in threads:
        thread.join(timeout=30)
    assert lost == []
