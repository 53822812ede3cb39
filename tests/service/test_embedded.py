"""The Redis that `immunize serve` brings along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.contracts.errors import NotReady
from service.embedded import LONGEST_SOCKET, EmbeddedRedis, find_server
from tests.helpers import wait_for


@pytest.fixture(params=["short", "long"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder for a server; the long one's path does not fit into a Unix socket's address."""
    made = tmp_path / "redis" if request.param == "short" else tmp_path / ("x" * 100) / ("y" * 100) / "redis"
    assert (len(bytes(made)) > LONGEST_SOCKET) == (request.param == "long")
    return made


def pid_of(url: str) -> int:
    with redis.Redis.from_url(url) as connection:
        return int(connection.info("server")["process_id"])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_is_found() -> None:
    assert os.access(find_server(), os.X_OK)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_one_on_the_path_will_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotReady, match=r"install immunize\[local\]"):
        find_server()
    (tmp_path / name).touch(0o755)
    assert find_server() == str(tmp_path / name)


def test_it_keeps_its_data(folder: Path) -> None:
    for number in range(3):
        with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as connection:
            assert connection.incr("started") == number + 1
            pid = pid_of(server.url)
        assert not is_running(pid)
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(server.url) as connection:
        connection.ping()


def test_its_socket_is_ours_alone_and_it_listens_on_no_port(folder: Path) -> None:
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as connection:
        socket = Path(server.url.removeprefix("unix://"))
        assert socket.stat().st_mode & 0o077 == 0
        assert connection.config_get("port") == {"port": "0"}
        assert connection.config_get("appendonly") == {"appendonly": "yes"}


@pytest.fixture
def orphan(folder: Path) -> Iterator[int]:
    """The process id of a server whose owner was killed; it holds a key."""
    code = (
        "import os, sys, pathlib, redis\n"
        "from service.embedded import EmbeddedRedis\n"
        "server = EmbeddedRedis(pathlib.Path(sys.argv[1])).__enter__()\n"
        "connection = redis.Redis.from_url(server.url)\n"
        "connection.set('kept', 'yes')\n"
        "print(connection.info('server')['process_id'], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    assert is_running(pid)
    yield pid
    if is_running(pid):
        os.kill(pid, signal.SIGKILL)


def test_an_orphan_is_shut_down_first_with_its_data_kept(orphan: int, folder: Path) -> None:
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as connection:
        wait_for(lambda: not is_running(orphan), "the orphan has gone", seconds=10)
        assert connection.get("kept") == b"yes"
        connection.set("kept", "still")
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as connection:
        assert connection.get("kept") == b"still"


def test_the_socket_of_a_server_that_was_killed_is_no_obstacle(
    orphan: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(orphan, signal.SIGKILL)
    wait_for(lambda: not is_running(orphan), "the orphan has gone")
    monkeypatch.setattr("service.embedded.START_SECONDS", 3.0)  # nothing is there that could be waited for
    with EmbeddedRedis(folder) as server, redis.Redis.from_url(server.url) as connection:
        assert connection.get("kept") == b"yes"


def test_it_leaves_nothing_beside_its_data(
    folder: Path, orphan: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with EmbeddedRedis(folder):
        pass
    assert sorted(path.name for path in folder.iterdir()) == ["appendonly.aof", "redis.log"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("immunize-")] == []


def test_one_that_cannot_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.embedded.find_server", lambda: "/bin/false")
    with pytest.raises(NotReady, match=r"did not start; its redis\.log says why"):
        EmbeddedRedis(tmp_path).__enter__()
