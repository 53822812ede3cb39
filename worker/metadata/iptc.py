"""IPTC-IIM (version 4.2): which of its datasets are delivered. Its XMP counterpart is in `worker.metadata.xmp`."""

from __future__ import annotations

from worker.metadata.found import Unreadable, holds_picture

MAX_BYTES = 2**18
MARK = 0x1C
ENVELOPE, APPLICATION = 1, 2  # the records that describe; the others hold objects
PREVIEWS = {200, 201, 202}
PLACES = {26, 27, 90, 92, 95, 100, 101}  # content location (code, name), city, sublocation, state, country (code, name)


def rewrite(data: bytes, *, location: bool) -> tuple[bytes | None, bool]:
    """The datasets without previews; without `location` also without places.

    Returns them (None where there are none) and whether something could not be read. Raises Unreadable.
    """
    if len(data) > MAX_BYTES or data[:1] != bytes([MARK]):
        raise Unreadable
    unwanted = PREVIEWS | (set() if location else PLACES)
    kept, place = b"", 0
    while place < len(data) and data[place] == MARK:
        record, kind = data[place + 1 : place + 2], data[place + 2 : place + 3]
        length = int.from_bytes(data[place + 3 : place + 5], "big")
        end = place + 5 + length
        if length >= 2**15 or end > len(data) or not kind:
            return kept or None, True
        if record[0] in {ENVELOPE, APPLICATION} and not (record[0] == APPLICATION and kind[0] in unwanted):
            kept += b"" if holds_picture(data[place + 5 : end]) else data[place:end]
        place = end
    return kept or None, any(data[place:])  # what is left is padding
