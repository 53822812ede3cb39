"""What the delivered file says about its picture: EXIF, XMP and IPTC of what was sent, as far as they may go out.

Thumbnails and previews never may: they show the picture that is not immunized. What cannot be read does not either.
"""

from __future__ import annotations

from dataclasses import replace

from service.contracts.delivery import DataMining, ExifPolicy
from service.contracts.embedded import NOTHING, Embedded, too_long
from service.contracts.pictures import Picture
from worker.metadata import exif, iptc, xmp
from worker.metadata.found import Unreadable


def outgoing(
    picture: Picture, format: str, *, policy: ExifPolicy, reservation: DataMining
) -> tuple[Embedded, list[str]]:
    """The metadata of a delivered file of that picture and format, and sentences about what was left out of need."""
    found = NOTHING if policy == "strip" else picture.embedded
    location, size = policy == "keep", picture.size
    lost: dict[str, str] = {}
    made = NOTHING
    if found.exif:
        try:
            kept, damaged = exif.rewrite(found.exif, size=size, location=location)
            made = replace(made, exif=kept)
            if damaged:
                lost["EXIF"] = "parts of it could not be read and were left out"
        except Unreadable:
            lost["EXIF"] = "it could not be read and was left out"
    if found.xmp:
        try:
            made = replace(made, xmp=xmp.rewrite(found.xmp, size=size, location=location, reservation=reservation))
        except Unreadable:
            lost["XMP"] = "it could not be read and was left out"
    if made.xmp is None and reservation != "none":
        made = replace(made, xmp=xmp.rewrite(None, size=size, location=location, reservation=reservation))
    if found.iptc:
        try:
            kept, damaged = iptc.rewrite(found.iptc, location=location)
            made = replace(made, iptc=kept)
            if damaged:
                lost["IPTC"] = "parts of it could not be read and were left out"
        except Unreadable:
            lost["IPTC"] = "it could not be read and was left out"
    for name in too_long(made, format):
        made = replace(made, **{name.lower(): None})
        lost[name] = f"{format} cannot hold it" if format == "webp" else f"it is too long for {format}"
        if name == "XMP" and reservation != "none":  # then the reservation alone
            made = replace(made, xmp=xmp.rewrite(None, size=size, location=location, reservation=reservation))
    if picture.profile_dropped:
        lost["ICC profile"] = "it could not be read and was left out"
    return made, [f"{name}: {why}." for name, why in lost.items()]
