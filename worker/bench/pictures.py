"""The photographs that a benchmark measures on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from service.contracts.errors import BadField, InputError
from service.contracts.pictures import read_picture
from worker.images import to_tensor

CARRIED = (  # by scikit-image
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
)
MAX_PIXELS = 100_000_000


def load_crops(folder: Path | None, count: int, size: int, *, whole: bool = False) -> Tensor:
    """Centre crops (n,3,size,size) in [0,1], n at most `count`, of the pictures in `folder`, in order of name.

    With `whole` the largest centre square, reduced to that size.

    Without a folder they are cut from photographs inside scikit-image. What is no picture, or smaller than `size`, is
    passed over. Raises BadField where none is left.
    """
    crops: list[Tensor] = []
    for path in _files(folder):
        if len(crops) == count:
            break
        try:
            picture = read_picture(path.read_bytes(), max_pixels=MAX_PIXELS).pixels
        except (InputError, OSError):
            continue
        width, height = picture.size
        if min(width, height) >= size:
            side = min(width, height) if whole else size
            left, top = (width - side) // 2, (height - side) // 2
            crop = picture.crop((left, top, left + side, top + side))
            crops.append(to_tensor(crop.resize((size, size), Image.Resampling.LANCZOS) if whole else crop))
    if not crops:
        where = "scikit-image" if folder is None else folder
        raise BadField(f"images: {where} holds no picture of at least {size}x{size} pixels", field="images")
    return torch.cat(crops)


def _files(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        package = find_spec("skimage")
        assert package is not None
        assert package.origin is not None
        yield from (Path(package.origin).parent / "data" / name for name in CARRIED)
        return
    if not folder.is_dir():
        raise BadField(f"images: {folder} is no folder", field="images")
    yield from sorted(path for path in folder.iterdir() if path.is_file())
