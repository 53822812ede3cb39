"""EXIF: which of its entries are delivered, each as it stands.

A reader and writer of our own, because Pillow's writer puts "?" for letters outside ASCII, guesses the types of what it
does not know, and moves maker notes, whose inner offsets then point nowhere. Here entries are taken over byte for byte,
maker notes stay where they were, and the second directory, which holds the thumbnail, is not even read.

The structure is TIFF's (TIFF 6.0, section 2), its tags are those of CIPA DC-008 (Exif 3.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from worker.metadata.found import Unreadable, holds_picture

Order = Literal["little", "big"]
Entries = dict[int, "Entry"]

MAX_BYTES = 2**20  # of all values together
SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    129: 1,
}  # of a value, by type
SHORT, LONG = 3, 4
EXIF, GPS, INTEROP = 0x8769, 0x8825, 0xA005  # entries that point to further directories
WIDTH, HEIGHT, ORIENTATION, EXIF_WIDTH, EXIF_HEIGHT, MAKER_NOTE = 0x100, 0x101, 0x112, 0xA002, 0xA003, 0x927C
ABOUT_SIZE = {WIDTH, HEIGHT, ORIENTATION}
NEVER = {
    *(0x014A, *range(0x5012, 0x5036), 0xC634),  # further pictures, Windows' thumbnails, a raw file's private data
    *(0x02BC, 0x83BB, 0x8649, 0x8773),  # XMP, IPTC, Photoshop's resources and ICC, which have places of their own
    0xEA1C,  # padding: what stood there before
    # how the pixels lay in the file that was sent, and where its thumbnail
    *(0x00FE, 0x00FF, 0x0102, 0x0103, 0x0106, 0x010A, 0x0111, 0x0115, 0x0116, 0x0117, 0x011C, 0x013D, 0x0140),
    *(0x0142, 0x0143, 0x0144, 0x0145, 0x0152, 0x0153, 0x015B, *range(0x0200, 0x020A), 0x0211, 0x0212, 0x0214),
}
PLACES = {0x830E, 0x8482, 0x85D8, 0x87AF, 0x87B0, 0x87B1, 0xA480}  # what GeoTIFF writes


@dataclass(frozen=True)
class Entry:
    type: int
    value: bytes
    offset: int  # where the value lay


@dataclass
class Exif:
    order: Order
    main: Entries = field(default_factory=dict)
    further: dict[int, Entries] = field(default_factory=dict)  # EXIF, GPS, INTEROP
    damaged: bool = False  # some entry could not be read


def rewrite(data: bytes, *, size: tuple[int, int], location: bool) -> tuple[bytes | None, bool]:
    """EXIF for an upright picture of that size without previews; without `location` also without places and notes.

    Returns it (None where nothing is left that says anything) and whether something could not be read. Raises
    Unreadable where nothing can.
    """
    exif = read(data)
    unwanted = {EXIF, GPS, INTEROP} | (set() if location else {*PLACES, MAKER_NOTE})  # the first: pointers, followed
    for entries in (exif.main, *exif.further.values()):
        for tag in [tag for tag, entry in entries.items() if tag in unwanted or holds_picture(entry.value)]:
            del entries[tag]
    if not location:
        exif.further.pop(GPS, None)
    if not set(exif.main) - ABOUT_SIZE and not any(exif.further.values()):
        return None, exif.damaged
    if ORIENTATION in exif.main:
        exif.main[ORIENTATION] = Entry(SHORT, (1).to_bytes(2, exif.order), 0)
    told = ((exif.main, (WIDTH, HEIGHT)), (exif.further.get(EXIF, {}), (EXIF_WIDTH, EXIF_HEIGHT)))
    for entries, tags in told:
        for tag, pixels in zip(tags, size, strict=True):
            if tag in entries:
                entries[tag] = Entry(LONG, pixels.to_bytes(4, exif.order), 0)
    return write(exif), exif.damaged


def read(data: bytes) -> Exif:
    """The first directory and those that EXIF knows below it. Raises Unreadable."""
    orders: dict[bytes, Order] = {b"II*\0": "little", b"MM\0*": "big"}
    if data[:4] not in orders:
        raise Unreadable
    exif = Exif(orders[data[:4]])
    left = MAX_BYTES

    def directory(offset: int) -> Entries:
        nonlocal left
        entries: Entries = {}
        for tag, entry in _entries(data, offset, exif):
            left -= len(entry.value)
            if left < 0:
                raise Unreadable
            entries.setdefault(tag, entry)
        return entries

    exif.main = directory(int.from_bytes(data[4:8], exif.order))
    for tag in (EXIF, GPS, INTEROP):
        pointer = (exif.further.get(EXIF, {}) if tag == INTEROP else exif.main).pop(tag, None)
        if pointer is not None:
            exif.further[tag] = directory(int.from_bytes(pointer.value[:4], exif.order))
    return exif


def write(exif: Exif) -> bytes:
    """The structure anew. Maker notes stay at their offset, counted from its begin."""
    space = _Space(exif.further.get(EXIF, {}).get(MAKER_NOTE))
    main, number = dict(exif.main), exif.order
    exif_entries = dict(exif.further.get(EXIF, {}))
    if exif.further.get(INTEROP):
        exif_entries[INTEROP] = _pointer(space.directory(exif.further[INTEROP], number), number)
    if exif_entries:
        main[EXIF] = _pointer(space.directory(exif_entries, number), number)
    if exif.further.get(GPS):
        main[GPS] = _pointer(space.directory(exif.further[GPS], number), number)
    first = space.directory(main, number)
    mark = b"II*\0" if number == "little" else b"MM\0*"
    return mark + first.to_bytes(4, number) + bytes(space.data[8:])


class _Space:
    """Bytes that are given out one after another, around the maker notes, which have their place."""

    def __init__(self, notes: Entry | None) -> None:
        self.data = bytearray(8)
        self._notes = notes if notes is not None and 8 <= notes.offset < 2**16 and len(notes.value) > 4 else None
        if self._notes is not None:
            self._put(self._notes.offset, self._notes.value)
        self._next = 8

    def place(self, value: bytes) -> int:
        """Put it where there is room; its offset."""
        notes, at = self._notes, self._next + self._next % 2
        if notes is not None and at < notes.offset + len(notes.value) and at + len(value) > notes.offset:
            at = notes.offset + len(notes.value)
            at += at % 2
        self._put(at, value)
        self._next = at + len(value)
        return at

    def directory(self, entries: Entries, order: Order) -> int:
        """Put a directory with all its values; its offset."""
        out = len(entries).to_bytes(2, order)
        for tag, entry in sorted(entries.items()):
            value = entry.value
            out += tag.to_bytes(2, order) + entry.type.to_bytes(2, order)
            out += (len(value) // SIZES[entry.type]).to_bytes(4, order)
            if len(value) <= 4:
                out += value.ljust(4, b"\0")
            else:
                at = entry.offset if entry is self._notes else self.place(value)
                out += at.to_bytes(4, order)
        return self.place(out + bytes(4))

    def _put(self, at: int, value: bytes) -> None:
        self.data.extend(bytes(max(0, at + len(value) - len(self.data))))
        self.data[at : at + len(value)] = value


def _pointer(offset: int, order: Order) -> Entry:
    return Entry(LONG, offset.to_bytes(4, order), 0)


def _entries(data: bytes, offset: int, exif: Exif) -> Iterator[tuple[int, Entry]]:
    """What a directory holds; what of it reaches beyond the data is passed over."""

    def number(at: int, length: int) -> int:
        return int.from_bytes(data[at : at + length], exif.order)

    if not 8 <= offset <= len(data) - 2:
        exif.damaged = True
        return
    for at in range(offset + 2, offset + 2 + 12 * number(offset, 2), 12):
        if at + 12 > len(data):
            exif.damaged = True
            return
        tag, kind, count = number(at, 2), number(at + 2, 2), number(at + 4, 4)
        if tag in NEVER:
            continue
        length = SIZES.get(kind, 0) * count
        place = at + 8 if length <= 4 else number(at + 8, 4)
        if not length or place + length > len(data):
            exif.damaged = exif.damaged or bool(count)
            continue
        yield tag, Entry(kind, data[place : place + length], place)
