"""Small things that many tests need and that are no fixtures."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from PIL import Image


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
