"""`immunize keys`: what it makes, shows and ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from service import cli, keyfile
from service.apikeys import matches

Said = tuple[int, str, str]


class Command:
    """Runs `immunize keys ...` on a file; its exit status, stdout and stderr."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = file
        self._capsys = capsys

    def __call__(self, text: str) -> Said:
        try:
            status = cli.main(["keys", *text.split()])
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 0
        told = self._capsys.readouterr()
        return status, told.out, told.err

    def list(self) -> dict[str, list[dict[str, str]]]:
        status, out, _ = self("list --json")
        assert status == 0
        found: dict[str, list[dict[str, str]]] = json.loads(out)
        return found


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    file = tmp_path / "keys.jsonl"
    monkeypatch.setenv("IMMUNIZE_API_KEYS_FILE", str(file))
    return Command(file, capsys)


def test_a_key_from_its_making_to_its_end(command: Command) -> None:
    status, out, err = command("create --tenant acme")
    assert status == 0
    key = out.removesuffix("\n")
    assert re.fullmatch(r"imz_[0-9a-f]{12}_[0-9a-f]{64}", key), "the key alone, so that it can be piped on"
    name, secret = key[4:16], key[17:]
    assert err == f"immunize: key {name} of acme; what follows is shown only now\n"
    assert matches(key, keyfile.read(command.file)[0].keys[name])

    told = command("list")[1]
    (listed,) = command.list()["keys"]
    assert (listed["key"], listed["tenant"], listed["state"]) == (name, "acme", "valid")
    assert listed["scopes"] == ["submit", "read", "cancel", "delete"]
    assert re.fullmatch(rf"{name}  valid   acme +submit,read,cancel,delete  without end\n", told)

    assert command(f"revoke {name}") == (0, "", "")
    (ended,) = command.list()["keys"]
    assert ended["state"] == "revoked"
    assert command(f"revoke {name}") == (0, "", "")
    assert command.list()["keys"] == [ended], "it was revoked when it was, not when it was said again"
    for text in (told, json.dumps(listed), json.dumps(ended), command.file.read_text()):
        assert secret not in text
        assert "sha256" not in text or text == command.file.read_text()


def test_all_that_can_be_said_of_a_key(command: Command) -> None:
    arguments = "--scopes metrics,read --expires 2999-01-31 --rate 90/m --daily 1000 --waiting 0"
    assert command(f"create --tenant acme {arguments}")[0] == 0
    assert command("create --tenant acme --daily 2000")[0] == 0
    assert command("create --tenant other")[0] == 0
    found = command.list()
    assert (found["keys"][0]["scopes"], found["keys"][0]["expires"]) == (["read", "metrics"], "2999-01-31T00:00:00Z")
    assert found["limits"] == {"acme": {"rate": 1.5, "daily": 2000, "waiting": 0}}
    assert "limits of acme: rate 1.5, daily 2000, waiting 0\n" in command("list")[1]
    assert command("limit acme --daily 5")[0] == 0
    assert command.list()["limits"] == {"acme": {"daily": 5}}
    assert command("limit acme")[0] == 0
    assert command.list()["limits"] == {}
    assert len(command.list()["keys"]) == 3


def test_a_key_for_a_while(command: Command) -> None:
    for text, days in (("36h", 1.5), ("90d", 90.0), ("4w", 28.0)):
        command(f"create --tenant acme --expires {text}")
        kept = list(keyfile.read(command.file)[0].keys.values())[-1]
        assert kept.expires is not None
        assert (kept.expires - kept.created).total_seconds() == days * 86400


def test_another_file(command: Command, tmp_path: Path) -> None:
    assert command(f"create --tenant acme --file {tmp_path / 'other'}")[0] == 0
    assert not command.file.exists()
    assert "acme" in command(f"list --file {tmp_path / 'other'}")[1]


def test_no_file(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMMUNIZE_API_KEYS_FILE")
    for action in ("create --tenant acme", "list", "revoke 0", "limit acme"):
        status, out, err = command(action)
        assert (status, out) == (2, "")
        assert err == "immunize: which key file? Set IMMUNIZE_API_KEYS_FILE, or name it with --file\n"


WRONG = {
    "no action": ("", "ACTION"),
    "no tenant": ("create", "--tenant"),
    "a tenant like a path": ("create --tenant ../x", "'../x' is not a name of a-z, 0-9 and -"),
    "a tenant in capitals": ("create --tenant Acme", "'Acme' is not a name"),
    "an unknown scope": ("create --tenant a --scopes read,fly", "'read,fly' is not a list of submit, read, "),
    "no scopes": ("create --tenant a --scopes ,", "is not a list of submit"),
    "a rate in words": ("create --tenant a --rate fast", "'fast' is not a rate like 50/s"),
    "a rate below 0": ("create --tenant a --rate=-1", "is not a rate"),
    "a rate a year": ("create --tenant a --rate 1/y", "is not a rate"),
    "too high a rate": ("create --tenant a --rate 100001/s", "at most 100000/s"),
    "half a picture": ("create --tenant a --daily 0.5", "'0.5' is not a whole number"),
    "too many pictures": ("create --tenant a --daily 1" + "0" * 13, "is not a whole number"),
    "no date": ("create --tenant a --expires soon", "'soon' is no date like 2027-01-31"),
    "a date that has passed": ("create --tenant a --expires 2020-01-01", "'2020-01-01' has passed"),
    "already": ("create --tenant a --expires 0d", "'0d' is no date like 2027-01-31, and no time like 90d"),
    "an unknown key": ("revoke 000000000000", "there is no key '000000000000'; `immunize keys list` shows the ids"),
    "nothing to list": ("list", "cannot be read (No such file or directory); `immunize keys create` makes it"),
    "a file in no folder": ("create --tenant a --file nowhere/keys", "the key file cannot be used"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_usage_is_status_2_and_one_line(case: str, command: Command, tmp_path: Path) -> None:
    text, told = WRONG[case]
    status, out, err = command(text)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("immunize")
    assert told in err
    assert not command.file.exists() or command.file.read_text() == ""


def test_a_broken_file(command: Command) -> None:
    command.file.write_text("{")
    for action in ("create --tenant acme", "list", "revoke 0", "limit acme"):
        status, out, err = command(action)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("immunize: line 1 of the key file: ")
    assert command.file.read_text() == "{"
