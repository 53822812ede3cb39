"""Small things that many tests need and that are no fixtures."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    """The picture as a file's bytes."""
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def png(picture: Image.Image) -> bytes:
    return encoded(picture, "PNG")


def opened(data: bytes) -> Image.Image:
    """A file's picture, decoded."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def on_this_machine(app: FastAPI, **options: Any) -> TestClient:
    """A client of the gateway at a loopback address, as one that needs no key where there are none."""
    from fastapi.testclient import TestClient  # only where it is needed: it takes a while

    return TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50_000), **options)


def wait_for(condition: Callable[[], Any], what: str, *, seconds: float = 30.0) -> Any:
    """The first true thing that `condition` gives. Fails after `seconds`, saying `what` was awaited."""
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {seconds:g} seconds")
        time.sleep(0.05)
