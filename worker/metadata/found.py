"""What all of a file's metadata has in common: it may be unreadable, and it may hide a picture."""

from __future__ import annotations

import re

# JPEG (also without its first byte, which some maker notes change), PNG, WebP, HEIF
_PICTURE = re.compile(rb"\xd8\xff[\xc0\xc4\xdb\xdd-\xe2\xee\xfe]|\x89PNG\r\n|WEBPVP8|ftyp(?:heic|heix|mif1|avif)")
_AS_TEXT = re.compile(r"(?:/9j/|iVBORw0KGgo|UklGR)[A-Za-z0-9+/]{60}")  # the same in base64
_SPACE = re.compile(r"\s+")


class Unreadable(Exception):
    """It cannot be read; it is not delivered."""


def holds_picture(value: bytes) -> bool:
    """Whether another picture begins in there: a preview of what was sent."""
    return _PICTURE.search(value) is not None


def text_holds_picture(text: str) -> bool:
    return len(text) > 60 and _AS_TEXT.search(_SPACE.sub("", text)) is not None
