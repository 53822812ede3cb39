"""The command line: exit status 0, 2 or 1, and one line on stderr. What its engine's commands do: tests/worker."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import cli
from service.contracts.errors import NotReady
from service.contracts.settings import Settings

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Runs `immunize ARGUMENTS` in a folder of its own; its exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    environ, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    (tmp_path / "a-file").write_text("")

    def ran(*arguments: str) -> tuple[int, str, str]:
        try:
            status = cli.main(arguments)
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 0
        told = capsys.readouterr()
        return status, told.out, told.err

    yield ran
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGTERM, handler)


COMMANDS = [
    "serve",
    "gateway",
    "keys",
    "worker",
    "demo",
    "image",
    "edit",
    "models",
    "reconstruct",
    "bench",
    "webhook-secret",
]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help(arguments: list[str], run: Run) -> None:
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert out.strip()


def test_the_gateways_help_lists_every_setting(run: Run) -> None:
    status, out, _ = run("gateway", "--help")
    assert status == 0
    for name, field in Settings.model_fields.items():
        assert f"IMMUNIZE_{name.upper()} " in out
        assert field.description
        assert field.description in out


WRONG = {
    "no command": ("", "COMMAND"),
    "unknown command": ("vaccinate", "vaccinate"),
    "unknown option": ("serve --colour red", "--colour"),
    "port a word": ("serve --port eighty", "'eighty' is not a port"),
    "port too high": ("serve --port 70000", "'70000' is not a port"),
    "port below 0": ("gateway --port=-1", "'-1' is not a port"),
    "no workers": ("serve --workers 0", "'0' is not a whole number above 0"),
    "half a worker": ("serve --workers 0.5", "'0.5' is not a whole number above 0"),
    "data is a file": ("serve --port 0 --data a-file", "--data: the folder cannot be written"),
    "data in a file": ("serve --port 0 --data a-file/data", "--data: the folder cannot be written"),
    "a host for all, no keys": ("serve --port 0 --host 0.0.0.0", "--host: other machines may reach 0.0.0.0"),
    "a host for all, no keys, alone": ("gateway --port 0 --host ::", "set IMMUNIZE_ALLOW_ANONYMOUS=true"),
    "demo into a file": ("demo --out a-file", "--out: a-file cannot be made"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_usage_is_status_2_and_one_line(case: str, run: Run) -> None:
    command, told = WRONG[case]
    status, out, err = run(*command.split())
    assert (status, out) == (2, ""), err
    assert told in err
    assert err.splitlines()[-1].startswith("immunize")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "gateway"])
@pytest.mark.parametrize("host", ["300.300.300.300", "192.0.2.1"], ids=["no such host", "somebody else's"])
def test_a_host_where_it_cannot_listen(command: str, host: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMUNIZE_ALLOW_ANONYMOUS", "true")
    status, out, err = run(command, "--port", "0", "--host", host)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert f"cannot listen on {host}" in err


@pytest.mark.parametrize("command", ["serve", "gateway"])
def test_a_port_in_use(command: str, run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMUNIZE_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("IMMUNIZE_STORE_URL", settings.store_url)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, err = run(command, "--port", str(port))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in err


@pytest.mark.parametrize(("name", "value"), [("IMMUNIZE_COLOUR", "red"), ("IMMUNIZE_MAX_PIXELS", "0")])
@pytest.mark.parametrize("command", ["gateway --port 0", "worker", "serve --port 0 --data data"])
def test_a_wrong_setting(command: str, name: str, value: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    status, out, err = run(*command.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"immunize: {name}: ")


def test_a_worker_without_redis(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMUNIZE_REDIS_URL", "unix:///nowhere/redis.sock")
    assert run("worker") == (1, "", "immunize: the queue cannot be used just now; try again\n")


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (NotReady("the queue\ncannot be used"), 1, "immunize: the queue cannot be used\n"),
        (
            RuntimeError("first\nsecond"),
            1,
            "immunize: internal error: RuntimeError: first second (immunize --trace shows where)\n",
        ),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            1,
            "immunize: torch is not installed; install immunize[worker] for the engine's commands\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value)[:12],
)
def test_what_else_goes_wrong_is_status_1_and_one_line(
    raised: BaseException, status: int, told: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "_demo", broken)
    assert run("demo") == (status, "", told)


def test_a_trace_for_who_asks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("where?")

    monkeypatch.setattr(cli, "_demo", broken)
    with pytest.raises(RuntimeError, match=r"where\?"):
        run("--trace", "demo")
