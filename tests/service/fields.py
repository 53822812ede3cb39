"""A strict reader of structured fields (RFC 9651), as far as RateLimit needs it: Lists of Strings with parameters."""

from __future__ import annotations

import re

ITEM = re.compile(r'"(?P<name>[\x20\x21\x23-\x5b\x5d-\x7e]*)"(?P<parameters>(?:;[a-z*][a-z0-9_.*-]*=-?\d{1,15})*)')
BETWEEN = re.compile(r"[ \t]*,[ \t]*")


def parsed(text: str) -> dict[str, dict[str, int]]:
    """Name -> parameters. Raises ValueError where the text is no such List, or a name comes twice."""
    found: dict[str, dict[str, int]] = {}
    place = 0
    while True:
        item = ITEM.match(text, place)
        if item is None or item["name"] in found:
            raise ValueError(f"no item at {place} of {text!r}")
        pairs = [pair.split("=") for pair in item["parameters"].split(";")[1:]]
        found[item["name"]] = {key: int(value) for key, value in pairs}
        place = item.end()
        if place == len(text):
            return found
        between = BETWEEN.match(text, place)
        if between is None:
            raise ValueError(f"no comma at {place} of {text!r}")
        place = between.end()
