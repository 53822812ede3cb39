"""A photograph as a phone sends it: on its side, with EXIF, GPS, a thumbnail, maker notes, XMP, IPTC and a profile.

The EXIF is put together here by hand, so that what writes it is not what is tested.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping

from PIL import Image, ImageCms

from tests.helpers import encoded

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
Tags = Mapping[int, tuple[int, bytes]]
NOTES_AT = 400  # the maker notes' offset, from the begin of the TIFF structure
NOTES = b"Maker\0" + bytes(range(200))
COPYRIGHT = "© Müller"
SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1}


def short(value: int) -> tuple[int, bytes]:
    return SHORT, struct.pack(">H", value)


def long(value: int) -> tuple[int, bytes]:
    return LONG, struct.pack(">L", value)


def text(value: str) -> tuple[int, bytes]:
    return ASCII, value.encode() + b"\0"


def degrees(value: float) -> tuple[int, bytes]:
    return RATIONAL, struct.pack(">6L", int(value), 1, int(value * 60) % 60, 1, 7, 1)


def structure(directories: Mapping[str, Tags], thumbnail: bytes = b"", notes: bytes = NOTES) -> bytes:
    """A big-endian TIFF structure of the directories `main`, `exif`, `gps` and `thumbnail`."""
    made = bytearray(NOTES_AT) + notes + thumbnail
    made[:4] = b"MM\0*"

    def put(tags: Tags, following: int = 0) -> int:
        head, values = struct.pack(">H", len(tags)), b""
        at = len(made)
        beyond = at + 2 + 12 * len(tags) + 4
        for tag, (kind, value) in sorted(tags.items()):
            place = value.ljust(4, b"\0")
            if tag == 0x927C:
                place = struct.pack(">L", NOTES_AT)
            elif len(value) > 4:
                place = struct.pack(">L", beyond + len(values))
                values += value
            head += struct.pack(">HHL", tag, kind, len(value) // SIZES[kind]) + place
        made.extend(head + struct.pack(">L", following) + values)
        return at

    main = dict(directories["main"])
    for name, tag in (("exif", 0x8769), ("gps", 0x8825)):
        if name in directories:
            main[tag] = long(put(directories[name]))
    second = put(directories["thumbnail"]) if "thumbnail" in directories else 0
    made[4:8] = struct.pack(">L", put(main, second))
    return bytes(made)


def exif(preview: bytes, size: tuple[int, int], *, pages: int = 2, **more: Tags) -> bytes:
    """EXIF of a picture of that (stored) size whose thumbnail is `preview`. `more`: further entries by directory.

    pages: 1 for no directory of the thumbnail.
    """
    directories: dict[str, dict[int, tuple[int, bytes]]] = {
        "main": {
            0x010F: text("Camera"),
            0x0112: short(6),
            0x0100: long(size[0]),
            0x0101: long(size[1]),
            0x8298: text(COPYRIGHT),
            0xC4A5: (UNDEFINED, b"PrintIM\0unknown to most"),
        },
        "exif": {
            0x829A: (RATIONAL, struct.pack(">2L", 1, 250)),
            0x927C: (UNDEFINED, NOTES),
            0xA002: long(size[0]),
            0xA003: long(size[1]),
            0xA434: text("A lens"),
        },
        "gps": {0: (BYTE, b"\2\3\0\0"), 1: text("N"), 2: degrees(52.5), 3: text("E"), 4: degrees(13.4)},
        "thumbnail": {0x0103: short(6), 0x0201: long(NOTES_AT + len(NOTES)), 0x0202: long(len(preview))},
    }
    for name, tags in more.items():
        directories[name] |= tags
    if pages == 1:
        del directories["thumbnail"]
    return structure(directories, preview)


def xmp(preview: bytes, size: tuple[int, int], more: str = "") -> bytes:
    """A packet that says who made the picture, where, and how it looks."""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
 <rdf:Description rdf:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
   xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
   xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:x1="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   xmlns:g="http://ns.adobe.com/xap/1.0/g/img/" xmlns:c="http://ns.google.com/photos/1.0/camera/"
   tiff:Orientation="6" tiff:ImageWidth="{size[0]}" exif:PixelYDimension="{size[1]}" xmp:Rating="4" c:MotionPhoto="1"
   exif:GPSLatitude="52,30.5N" photoshop:City="Berlin" photoshop:Credit="A. Müller &amp; Co">
  <dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{COPYRIGHT}</rdf:li></rdf:Alt></dc:rights>
  <exif:GPSLongitude>13,24.1E</exif:GPSLongitude>
  <x1:LocationShown><rdf:Bag><rdf:li rdf:parseType="Resource"><x1:City>Berlin</x1:City></rdf:li></rdf:Bag>
  </x1:LocationShown>
  <xmp:Thumbnails><rdf:Alt><rdf:li rdf:parseType="Resource"><g:format>JPEG</g:format>
    <g:image>{base64.b64encode(preview).decode()}</g:image></rdf:li></rdf:Alt></xmp:Thumbnails>
  <dc:source>{base64.encodebytes(preview).decode()}</dc:source>{more}
 </rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()


def dataset(kind: int, value: bytes, record: int = 2) -> bytes:
    return struct.pack(">BBBH", 0x1C, record, kind, len(value)) + value


def iptc(preview: bytes) -> bytes:
    return (
        dataset(90, b"\x1b%G", 1)
        + dataset(80, "Müller".encode())
        + dataset(90, b"Berlin")
        + dataset(101, b"Germany")
        + dataset(202, preview)
        + dataset(116, COPYRIGHT.encode())
    )


def resources(records: bytes, preview: bytes) -> bytes:
    """Photoshop's image resources, as a JPEG's APP13 holds them: a thumbnail, and IPTC."""

    def resource(kind: int, value: bytes) -> bytes:
        return b"8BIM" + struct.pack(">HHL", kind, 0, len(value)) + value + bytes(len(value) % 2)

    block = b"Photoshop 3.0\0" + resource(0x040C, bytes(28) + preview) + resource(0x0404, records)
    return b"\xff\xed" + struct.pack(">H", len(block) + 2) + block


def thumbnail(photograph: Image.Image) -> bytes:
    return encoded(photograph.resize((24, 20)), "JPEG")


def phone(photograph: Image.Image, **parts: bytes) -> bytes:
    """The JPEG. `parts`: `exif`, `xmp`, `iptc` or `icc_profile` in place of its own."""
    preview = thumbnail(photograph)
    stored = photograph.transpose(Image.Transpose.ROTATE_90)  # what orientation 6 sets upright
    options = {
        "exif": b"Exif\0\0" + parts.get("exif", exif(preview, stored.size)),
        "xmp": parts.get("xmp", xmp(preview, stored.size)),
        "icc_profile": parts.get("icc_profile", PROFILE),
        "extra": resources(parts.get("iptc", iptc(preview)), preview),
    }
    return encoded(stored, "JPEG", quality=95, subsampling=0, **options)
