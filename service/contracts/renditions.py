"""Several sizes of one picture, each to be immunized at its own: what `sizes` names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from service.contracts.errors import BadField, shown

MAX_RENDITIONS = 8
ORIGINAL = "original"
_BOX = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_SIDE = re.compile(r"([1-9][0-9]{0,4})([wh]?)")
_TOLD = "give sizes like 1024 (the longer side), 512x512 (fits into that box), 256w, 256h or original"


@dataclass(frozen=True)
class Rendition:
    name: str
    size: tuple[int, int]  # width and height in pixels


def parse_sizes(text: str) -> tuple[str, ...]:
    """The names in a comma-separated list. Raises BadField."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise BadField(f"sizes: it names none; {_TOLD}", field="sizes")
    if len(names) > MAX_RENDITIONS:
        raise BadField(f"sizes: there are {len(names)}; at most {MAX_RENDITIONS} go into one job", field="sizes")
    for name in names:
        if name != ORIGINAL and not _BOX.fullmatch(name) and not _SIDE.fullmatch(name):
            raise BadField(f"sizes: {shown(name)} is no size; {_TOLD}", field="sizes")
    return names


def renditions(names: Iterable[str], size: tuple[int, int]) -> tuple[Rendition, ...]:
    """What `names` ask for of a picture of that width and height: its own shape, and never larger than it is."""
    return tuple(Rendition(name, _fitted(name, size)) for name in names)


def own_sizes(names: Iterable[str], size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The sizes in which such a picture is immunized, each once, the largest first; without names its own."""
    wanted = {rendition.size for rendition in renditions(names, size)} or {size}
    return tuple(sorted(wanted, key=lambda each: (each[0] * each[1], each), reverse=True))


def _fitted(name: str, size: tuple[int, int]) -> tuple[int, int]:
    if name == ORIGINAL:
        return size
    width, height = size
    box = _BOX.fullmatch(name)
    if box:
        scale = min(int(box[1]) / width, int(box[2]) / height)
    else:
        side = _SIDE.fullmatch(name)
        if side is None:
            raise ValueError(f"not a size: {name}")
        scale = int(side[1]) / {"w": width, "h": height, "": max(size)}[side[2]]
    if scale >= 1:
        return size
    return max(1, round(width * scale)), max(1, round(height * scale))
