"""What several of the engine's commands take: a picture, an output in a format that its name tells, the models.

Imported by every `immunize` call, so heavy imports stay inside the functions.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from service.contracts.catalog import Model
from service.contracts.errors import BadField
from service.contracts.settings import Settings

if TYPE_CHECKING:
    from worker.models.pool import Pool

FORMATS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}


def add_files(command: argparse.ArgumentParser) -> None:
    """The picture that is read and the one that is written."""
    command.add_argument("input", type=Path, metavar="IN")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=f"{', '.join(FORMATS)}")


def output_format(path: Path) -> str:
    """The format that the file's name asks for. Raises BadField for a name without one of them."""
    format = FORMATS.get(path.suffix.lower())
    if format is None:
        raise BadField(f"-o: {path.name} must end in {', '.join(FORMATS)}", field="output")
    return format


def make_pool(settings: Settings, models: Mapping[str, Model]) -> Pool:
    """The models on the device of the settings, none of them loaded yet."""
    from worker.models.pool import Pool, pick_device

    return Pool(models, pick_device(settings.device), settings.models_memory)
