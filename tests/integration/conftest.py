"""What the tests of the whole service share."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import png


@pytest.fixture(scope="session")
def environ(models_file: Path) -> dict[str, str]:
    """A service with the tiny model on the CPU that looks after its queue every second."""
    return {
        "IMMUNIZE_MODELS_FILE": str(models_file),
        "IMMUNIZE_DEVICE": "cpu",
        "IMMUNIZE_RECONCILE_SECONDS": "1",
        "IMMUNIZE_MAX_UPLOAD_BYTES": "1000000",
    }


@pytest.fixture(scope="session")
def image(photograph: Image.Image) -> bytes:
    return png(photograph)


@pytest.fixture(scope="session")
def mask(photograph: Image.Image) -> Image.Image:
    """White over the face."""
    made = Image.new("L", photograph.size)
    made.paste(255, (30, 10, 70, 60))
    return made
