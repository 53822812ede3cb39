"""Pictures of every sort that the tests of this folder read."""

from __future__ import annotations

import struct
import zlib

from PIL import Image, ImageCms

from tests.helpers import encoded

LIMIT = 1_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]


def colours(width: int = 24, height: int = 16) -> Image.Image:
    """Every pixel different, so that a turned or shifted picture shows."""
    across, down = Image.linear_gradient("L").rotate(90).resize((width, height)), Image.linear_gradient("L")
    return Image.merge("RGB", (across, down.resize((width, height)), Image.new("L", (width, height), 90)))


def ramp() -> Image.Image:
    return Image.linear_gradient("L").rotate(90).resize((24, 16))


def translucent() -> Image.Image:
    picture = colours().convert("RGBA")
    picture.putalpha(ramp())
    return picture


def sixteen_bit() -> Image.Image:
    """0, 257, ..., 65535: 16 bits whose 8-bit values are 0..255."""
    return Image.frombytes("I;16", (256, 1), struct.pack("<256H", *(value * 257 for value in range(256))))


def eight_bit() -> Image.Image:
    return Image.frombytes("L", (256, 1), bytes(range(256)))


def paletted() -> Image.Image:
    return colours().quantize(32)


def see_through_palette() -> bytes:
    return encoded(paletted(), "PNG", transparency=bytes([0, 128]) + bytes([255] * 30))


def oriented(orientation: int, format: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(colours(), format, exif=exif)


def header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
