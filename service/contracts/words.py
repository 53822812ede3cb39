"""Values of text fields: one of some words, or a whole number. The same wrong value gets the same sentence."""

from __future__ import annotations

import re

from service.contracts.errors import BadField, shown


def word(field: str, value: str, known: tuple[str, ...]) -> str:
    """`value`, which must be one of `known`. Raises BadField."""
    if value not in known:
        raise BadField(f"{field}: {shown(value)} is not one of {', '.join(known)}", field=field)
    return value


def integer(field: str, text: str, least: int, most: int) -> int:
    """The number that `text` is, which must lie in those bounds. Raises BadField."""
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text.strip()) or not least <= int(text) <= most:
        raise BadField(f"{field}: {shown(text)} is not a whole number from {least} to {most}", field=field)
    return int(text)
