"""The gateway, answered in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.app import create_app
from service.contracts.settings import Settings
from tests.helpers import on_this_machine, png
from tests.service.keys import SOMEWHERE, KeyFile


@pytest.fixture
def open_gateway(settings: Settings) -> Iterator[Callable[..., TestClient]]:
    """Opens a gateway with some settings changed. An error inside it is answered with 500, as in production."""
    with ExitStack() as stack:

        def opened(**changed: Any) -> TestClient:
            app = create_app(settings.model_copy(update=changed))
            return stack.enter_context(on_this_machine(app, raise_server_exceptions=False, follow_redirects=False))

        yield opened


@pytest.fixture
def gateway(open_gateway: Callable[..., TestClient]) -> TestClient:
    return open_gateway()


@pytest.fixture
def image(photograph: Image.Image) -> bytes:
    return png(photograph)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    """An empty key file."""
    return KeyFile(tmp_path / "keys.jsonl")


@pytest.fixture
def keyed(settings: Settings, keys: KeyFile, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TestClient]]:
    """Opens a gateway that uses the key file, with some settings changed, for a client on another machine. It looks at
    the file each time."""
    monkeypatch.setattr("service.keyring.LOOK_SECONDS", 0)
    with ExitStack() as stack:

        def opened(**changed: Any) -> TestClient:
            app = create_app(settings.model_copy(update={"api_keys_file": keys.path} | changed))
            return stack.enter_context(
                TestClient(app, raise_server_exceptions=False, follow_redirects=False, client=SOMEWHERE)
            )

        yield opened
