"""One suite for every store, then what is each one's own."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from service.contracts.errors import NotReady
from service.contracts.settings import Settings
from service.contracts.store import FolderStore, Missing, Store, open_store

STORES: dict[str, Callable[[Path, Callable[..., Settings]], Settings]] = {
    "folder": lambda folder, _: Settings(store_url=(folder / "a store").as_uri()),
    "s3": lambda _, s3: s3(),
    "s3 with a prefix": lambda _, s3: s3("deep/down"),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    s3 = request.getfixturevalue("s3") if request.param != "folder" else None
    return open_store(STORES[request.param](tmp_path, s3))


@pytest.mark.parametrize("data", [b"", b"some bytes", os.urandom(300_000)], ids=["empty", "short", "long"])
def test_what_is_put_is_got(store: Store, data: bytes) -> None:
    store.put("jobs/public/1/image", data)
    assert store.get("jobs/public/1/image") == data


def test_putting_again_replaces(store: Store) -> None:
    store.put("a/b", b"longer than the next one")
    store.put("a/b", b"short")
    assert store.get("a/b") == b"short"
    assert list(store.keys("")) == ["a/b"]


@pytest.mark.parametrize("name", ["a", "a/b", "a/b/c", "a/c"])
def test_an_absent_key_is_missing(store: Store, name: str) -> None:
    store.put("a/b/d", b"a neighbour")
    with pytest.raises(Missing) as caught:
        store.get(name)
    assert caught.value.status == 404


def test_deleting(store: Store) -> None:
    store.put("a/b", b"x")
    store.put("a/c", b"y")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")
    with pytest.raises(Missing):
        store.get("a/b")
    assert list(store.keys("a/")) == ["a/c"]


KEYS = ["jobs/a/1", "jobs/a/10/x", "jobs/a/2", "jobs/ab/1", "jobs.old", "pending/a/1", "pending/a.b/1", "pending/a-b/1"]


@pytest.mark.parametrize(
    "prefix", ["", "jobs/", "jobs/a/", "jobs/a", "jobs", "pending/a/1", "nothing/", "jobs/a/10/x/"]
)
def test_keys_are_those_with_the_prefix_in_order(store: Store, prefix: str) -> None:
    for name in KEYS:
        store.put(name, b"x")
    assert list(store.keys(prefix)) == sorted(name for name in KEYS if name.startswith(prefix))


def test_keys_may_be_deleted_while_they_are_listed(store: Store) -> None:
    for name in KEYS:
        store.put(name, b"x")
    for name in store.keys("jobs"):
        store.delete(name)
    assert list(store.keys("")) == sorted(name for name in KEYS if not name.startswith("jobs"))


def test_a_url_gives_the_bytes_with_their_type_or_there_is_none(store: Store) -> None:
    store.put("a/b", b"bytes", "image/png")
    address = store.url("a/b", 60)
    if isinstance(store, FolderStore):
        assert address is None
        return
    assert address is not None
    answer = httpx2.get(address)
    assert (answer.content, answer.headers["content-type"]) == (b"bytes", "image/png")


# --- the folder


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def _files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_fails_half_way_leaves_the_old_bytes_and_nothing_else(
    failing: str, folder: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put("a/b", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), full)
    for name in ("a/b", "a/new"):
        with pytest.raises(NotReady, match="No space left on device") as caught:
            folder.put(name, b"new")
        assert caught.value.retry_after
        assert str(tmp_path) not in caught.value.detail
    assert _files(tmp_path / "store") == ["a/b"]
    assert folder.get("a/b") == b"old"


def test_a_folder_in_the_way_of_a_key(folder: FolderStore) -> None:
    folder.put("a/b/c", b"x")
    with pytest.raises(NotReady):
        folder.put("a/b", b"y")
    with pytest.raises(NotReady):
        folder.put("a/b/c/d", b"y")
    assert list(folder.keys("")) == ["a/b/c"]


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(NotReady):
        FolderStore(tmp_path / "store")


def test_a_store_whose_folder_went_away(folder: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "store" / ".staging").rmdir()
    (tmp_path / "store").rmdir()
    with pytest.raises(NotReady):
        folder.get("a/b")
    with pytest.raises(NotReady):
        folder.put("a/b", b"x")


@pytest.mark.parametrize("name", ["", "/", "/etc/passwd", "../out", "a/../../out", "a//b", "a/", "./a", ".staging/x"])
def test_names_that_are_no_keys(folder: FolderStore, name: str) -> None:
    for call in (lambda: folder.put(name, b"x"), lambda: folder.get(name), lambda: folder.delete(name)):
        with pytest.raises(ValueError, match="not a key"):
            call()


def test_a_half_written_file_is_no_key(folder: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "store" / ".staging" / "left-by-a-crash").write_bytes(b"half")
    assert list(folder.keys("")) == []


def test_a_reader_never_sees_half_of_a_write(folder: FolderStore) -> None:
    sizes = (1, 200_000)
    folder.put("a/b", b"0" * sizes[0])
    over = threading.Event()

    def write() -> None:
        for round in range(40):
            folder.put("a/b", str(round % 10).encode() * sizes[round % 2])
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        seen = folder.get("a/b")
        assert len(seen) in sizes
        assert len(set(seen)) == 1
    writer.join()


# --- S3


def test_more_keys_than_s3_tells_at_once(s3: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # a thousand elsewhere
    store = open_store(s3())
    names = [f"pending/public/{number:04}" for number in range(31)]
    for name in names:
        store.put(name, b"")
    assert list(store.keys("pending/")) == names


def test_a_bucket_that_is_not_there(s3: Callable[..., Settings]) -> None:
    settings = s3()
    store = open_store(settings.model_copy(update={"store_url": "s3://no-such-bucket"}))
    calls = (lambda: store.put("a", b""), lambda: store.get("a"), lambda: list(store.keys("")))
    for call in calls:
        with pytest.raises(NotReady, match="NoSuchBucket") as caught:
            call()
        assert caught.value.retry_after


def test_an_s3_that_does_not_answer(s3: Callable[..., Settings]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and never listening: connections are refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = open_store(s3().model_copy(update={"s3_endpoint_url": address}))
        with pytest.raises(NotReady, match="cannot be reached") as caught:
            store.get("a")
    assert address not in caught.value.detail


def test_without_credentials_the_store_is_away(s3: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = s3()
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it remembers credentials
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = open_store(settings)
    for call in (lambda: store.get("a"), lambda: store.url("a", 60)):
        with pytest.raises(NotReady):
            call()
