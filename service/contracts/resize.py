"""Pictures and masks made smaller."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from service.contracts.pictures import Picture


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture at another size, antialiased (Lanczos); what is under transparent pixels does not bleed out."""
    if picture.size == size:
        return picture
    if picture.alpha is None:
        return replace(picture, pixels=picture.pixels.resize(size, Image.Resampling.LANCZOS))
    whole = picture.pixels.convert("RGBA")
    whole.putalpha(picture.alpha)
    whole = whole.resize(size, Image.Resampling.LANCZOS)  # with its colours multiplied by alpha meanwhile
    return replace(picture, pixels=whole.convert("RGB"), alpha=whole.getchannel("A"))


def resized_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask, as `read_mask` gives it, at another size: white where at least half of the area was white."""
    if mask.size == size:
        return mask
    return mask.resize(size, Image.Resampling.BOX).point([0] * 128 + [255] * 128)
