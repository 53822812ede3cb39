"""Pictures as bytes: what we read, what we refuse, and the one form in which the house handles them.

A `Picture` is upright, 8 bits a channel, RGB, with its alpha beside it. Both the gateway (which only checks) and the
engine (which works on the pixels) come through here, so that both say the same of the same file.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace

from PIL import Image, ImageCms

from service.contracts.embedded import NOTHING, Embedded, find_embedded, orientation, saving
from service.contracts.errors import BadField, NotAnImage, TooLarge

READ = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
READ_SENTENCE = "PNG, JPEG, WebP, AVIF, TIFF, BMP or a one-frame GIF"
SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}
CONTENT_TYPES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
LONGEST_SIDES = {"webp": 16383, "jpeg": 65500}  # of the formats, or of their libraries
MAX_PROFILE = 4 * 2**20  # bytes; a JPEG holds 16 MB, and real ones have one at most
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """A still picture, upright: `pixels` in mode RGB, `alpha` in mode L or None, an RGB ICC profile or None, and what
    its file says about it, unchecked. `profile_dropped`: it had a profile that is none."""

    pixels: Image.Image
    alpha: Image.Image | None = None
    icc_profile: bytes | None = None
    embedded: Embedded = NOTHING
    profile_dropped: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.size


def read_picture(data: bytes, *, max_pixels: int, field: str = "image") -> Picture:
    """Decode `data`. The header's size is judged before any pixel is decoded.

    Raises NotAnImage (not a format we read, or more than one frame), TooLarge (more than `max_pixels`), BadField
    (damaged). 16-bit grey is scaled to 8 bits; CMYK and grey ICC profiles are applied (to sRGB), RGB ones are kept.
    EXIF that cannot be read turns nothing.
    """
    source = _header(data, max_pixels, field)
    try:
        source.load()
        turn = UPRIGHT.get(orientation(source))
        picture = _canonical(source if turn is None else source.transpose(turn), source.info.get("icc_profile"), field)
        return replace(picture, embedded=find_embedded(source, data))
    except NotAnImage:
        raise
    except MemoryError:
        raise TooLarge(
            f"{field}: there is not enough memory to decode it; send a smaller picture", field=field
        ) from None
    except Exception as error:  # decoders raise nearly anything on hostile bytes, and all of it means the same
        raise BadField(
            f"{field}: the file is damaged: its header says {source.format}, {source.width}x{source.height}, "
            "but its pixels cannot be decoded; send the whole file again",
            field=field,
        ) from error


def read_mask(data: bytes, size: tuple[int, int], *, max_pixels: int) -> Image.Image:
    """Decode a mask of exactly `size` (width, height): mode L, 255 inside the sensitive region (white), 0 outside."""
    mask = read_picture(data, max_pixels=max_pixels, field="mask")
    if mask.size != size:
        raise BadField(
            f"mask: it is {mask.size[0]}x{mask.size[1]} but the image is {size[0]}x{size[1]} (upright, after its EXIF "
            "orientation); a mask has the image's size",
            field="mask",
        )
    white = mask.pixels.convert("L")
    if mask.alpha is not None:  # a hole in the mask's own alpha is not white
        white = Image.composite(white, Image.new("L", size), mask.alpha)
    return white.point([0] * 128 + [255] * 128)


def covers(mask: Image.Image) -> tuple[bool, bool]:
    """Whether the mask has any white, and whether it has any black."""
    low, high = mask.getextrema()
    return high == 255, low == 0


def check_mask(mask: Image.Image | None, *, needed: bool) -> None:
    """Refuse a mask, as `read_mask` gives it, with which nothing can be done. `needed`: what is to be protected."""
    if mask is None:
        if needed:
            raise BadField(
                "mask: this method protects one region and needs it; send a mask, white where repainting must fail",
                field="mask",
            )
        return
    any_white, any_black = covers(mask)
    if needed and not any_white:
        raise BadField("mask: it is black everywhere; paint the region white that is to be protected", field="mask")
    if not any_black:
        why = "edits elsewhere are to go on" if needed else "the perturbation lies outside the mask"
        raise BadField(f"mask: it covers the whole picture, and {why}; leave some of it black", field="mask")


def write_picture(
    pixels: Image.Image, like: Picture, format: str, *, quality: int = 95, metadata: Embedded = NOTHING
) -> bytes:
    """Encode RGB `pixels` with the alpha and ICC profile of `like`, and `metadata`; png and webp are lossless.

    jpeg is written 4:4:4 at `quality` and cannot hold alpha.
    """
    if like.alpha is not None and format != "jpeg":
        pixels = pixels.convert("RGBA")
        pixels.putalpha(like.alpha)
    out = io.BytesIO()
    options = saving(metadata, format) | {"icc_profile": like.icc_profile}  # even None: else Pillow looks for another
    if format == "png":
        pixels.save(out, "PNG", **options)
    elif format == "webp":
        pixels.save(out, "WEBP", lossless=True, exact=True, **options)
    else:
        pixels.save(out, "JPEG", quality=quality, subsampling=0, **options)
    return out.getvalue()


def check_format(format: str, picture: Picture, size: tuple[int, int] | None = None) -> None:
    """Refuse a delivery format that cannot hold this picture, at that `size` if it is another than its own."""
    longest, (width, height) = LONGEST_SIDES.get(format), size or picture.size
    if longest is not None and max(width, height) > longest:
        raise BadField(
            f"format: {format} holds at most {longest} pixels a side and the image is {width}x{height}; ask for png",
            field="format",
        )
    if format == "jpeg" and picture.alpha is not None:
        raise BadField("format: jpeg cannot hold the image's alpha channel; ask for png or webp", field="format")


def _header(data: bytes, max_pixels: int, field: str) -> Image.Image:
    not_read = NotAnImage(
        f"{field}: the file is not an image we read, or not a whole one; send {READ_SENTENCE}", field=field
    )
    if not data:
        raise NotAnImage(f"{field}: the file is empty; send {READ_SENTENCE}", field=field)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit is judged below; metadata that is odd is no news here
            source = Image.open(io.BytesIO(data), formats=READ)
    except Image.DecompressionBombError:
        raise TooLarge(
            f"{field}: its header claims more pixels than the limit of {max_pixels}; send a smaller picture",
            field=field,
        ) from None
    except Exception as error:  # as above: any failure to parse the header means that we do not read it
        raise not_read from error
    if source.width * source.height > max_pixels:
        raise TooLarge(
            f"{field}: {source.width}x{source.height} is {source.width * source.height} pixels, over the limit of "
            f"{max_pixels}; send a smaller picture",
            field=field,
        )
    if source.width < 1 or source.height < 1:
        raise not_read
    frames = _frames(source)
    if frames > 1:
        raise NotAnImage(
            f"{field}: it holds {frames} frames or pages; send a still picture, one frame at a time", field=field
        )
    return source


def _frames(source: Image.Image) -> int:
    if source.format == "MPO":  # a phone's JPEG: further frames are previews or gain maps, the first is the photograph
        return 1
    try:
        return int(getattr(source, "n_frames", 1))
    except Exception:  # noqa: BLE001 - counting frames walks the whole file; a damaged one is reported when it is decoded
        return 1


def _canonical(source: Image.Image, profile: bytes | None, field: str) -> Picture:
    if source.mode in {"I", "F"}:
        raise NotAnImage(
            f"{field}: it has 32-bit samples, whose range is not fixed; send 8 or 16 bits a channel", field=field
        )
    if source.mode in SIXTEEN_BIT:
        source = source.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    alpha = None
    if source.has_transparency_data:
        source = source.convert("RGBA")
        alpha = source.getchannel("A")
        if alpha.getextrema() == (255, 255):
            alpha = None
    dropped = bool(profile) and not _is_profile(profile)
    if dropped:
        profile = None
    if profile and profile[16:20] != b"RGB ":
        source, profile = _to_srgb(source, profile), None
    pixels = source.convert("RGB")
    pixels.info = {}  # what Pillow would write into the next file
    return Picture(pixels, alpha, profile, profile_dropped=dropped)


def _is_profile(profile: object) -> bool:
    """Whether it has the size and the mark that its header must have."""
    return (
        isinstance(profile, bytes)
        and 128 < len(profile) <= MAX_PROFILE
        and profile[36:40] == b"acsp"
        and int.from_bytes(profile[:4], "big") <= len(profile)
    )


def _to_srgb(source: Image.Image, profile: bytes) -> Image.Image:
    """Apply a CMYK or grey profile; one that does not fit its picture is ignored, as viewers do."""
    if source.mode == "RGBA":
        source = source.convert("L" if profile[16:20] == b"GRAY" else "RGB")
    try:
        converted = ImageCms.profileToProfile(
            source, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return source
    return converted if converted is not None else source
