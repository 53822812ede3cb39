"""What is asked for of the file that comes back: its format, what it says of the picture, its signature, its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from service.contracts.errors import BadField
from service.contracts.renditions import parse_sizes
from service.contracts.words import integer, word

ExifPolicy = Literal["strip-location", "keep", "strip"]
DataMining = Literal["none", "reserved", "reserved-except-search", "reserved-ai-training"]

FORMATS = ("png", "webp", "jpeg")
EXIF_POLICIES: tuple[ExifPolicy, ...] = get_args(ExifPolicy)
DATA_MINING: tuple[DataMining, ...] = get_args(DataMining)
QUALITY = 95  # of a jpeg
DELIVERY = ("format", "quality", "exif", "data_mining", "sign", "sizes")  # the fields

NO_CERTIFICATE = (
    "sign: this deployment has no certificate to sign with; leave the field out, or have its operator set "
    "IMMUNIZE_C2PA_CERTIFICATE and IMMUNIZE_C2PA_KEY"
)


def make_delivery(fields: Mapping[str, str]) -> dict[str, Any]:
    """The part of a plan that is about the file. Raises BadField."""
    format = word("format", fields.get("format", "png"), FORMATS)
    quality = None
    if format == "jpeg":
        quality = integer("quality", fields.get("quality", str(QUALITY)), 1, 100)
    elif "quality" in fields:
        raise BadField(f"quality: {format} is lossless and takes none; leave it out or ask for jpeg", field="quality")
    return {
        "format": format,
        "quality": quality,
        "exif": word("exif", fields.get("exif", EXIF_POLICIES[0]), EXIF_POLICIES),
        "data_mining": word("data_mining", fields.get("data_mining", "none"), DATA_MINING),
        "sign": word("sign", fields.get("sign", "false").lower(), ("true", "false")) == "true",
        "sizes": parse_sizes(fields["sizes"]) if "sizes" in fields else (),
    }


def check_sign(wanted: bool, *, able: bool) -> None:
    """Refuse a signature where there is no certificate to sign with."""
    if wanted and not able:
        raise BadField(NO_CERTIFICATE, field="sign")
