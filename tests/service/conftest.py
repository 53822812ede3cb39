"""The gateway, answered in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.app import create_app
from service.contracts.settings import Settings
from tests.helpers import png


@pytest.fixture
def open_gateway(settings: Settings) -> Iterator[Callable[..., TestClient]]:
    """Opens a gateway with some settings changed. An error inside it is answered with 500, as in production."""
    with ExitStack() as stack:

        def opened(**changed: Any) -> TestClient:
            app = create_app(settings.model_copy(update=changed))
            return stack.enter_context(TestClient(app, raise_server_exceptions=False, follow_redirects=False))

        yield opened


@pytest.fixture
def gateway(open_gateway: Callable[..., TestClient]) -> TestClient:
    return open_gateway()


@pytest.fixture
def image(photograph: Image.Image) -> bytes:
    return png(photograph)
