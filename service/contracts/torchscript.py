"""What a TorchScript file does not say of itself: the conventions that whoever exported it chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


def _known(value: Any) -> tuple[float, float]:
    for known in RANGES:
        if isinstance(value, list | tuple) and tuple(value) == known:
            return known
    raise ValueError("expected [0, 1], [-1, 1] or [0, 255]")


Range = Annotated[tuple[float, float], BeforeValidator(_known)]


class InpaintOptions(BaseModel):
    """Options of kind torchscript-inpaint, whose files are `forward(image, mask) -> image`.

    range, output_range: of the pixels that the network takes and gives (by default the same). mask: whether 1 is the
    hole or what is known. multiple: what height and width must divide by. square: takes pictures of size × size alone.
    blank: does not hide the hole's pixels itself, so they are 0, in its own range, before it sees them. random: draws
    noise from torch's global generator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    range: Range = RANGES[0]
    output_range: Range | None = None
    mask: Literal["hole", "known"] = "hole"
    multiple: Annotated[int, Field(ge=1, le=1024)] = 8
    square: bool = False
    blank: bool = False
    random: bool = False


def inpaint_options(options: Mapping[str, Any], size: int | None) -> InpaintOptions:
    """An entry's options, for its working size. Raises ValueError, whose sentence says which is wrong."""
    try:
        made = InpaintOptions.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("options", *first["loc"]))
        raise ValueError(f"{where}: {str(first['msg']).removeprefix('Value error, ')}") from None
    if made.square and size is None:
        raise ValueError("options.square: say the size of these squares: size")
    if made.square and size is not None and size % made.multiple:
        raise ValueError(f"options.multiple: {made.multiple} does not divide the size {size} of its squares")
    return made
