"""The proof of one finished job: its result is the one, opens, and is within its budget of the stored input."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

from PIL import Image, ImageChops

from tests.chaos.kept import Kept
from tests.chaos.ledger import Promise


def finished(kept: Kept, promise: Promise, results: set[str]) -> Iterator[str]:
    if promise.fate != "good":
        yield f"it was {promise.fate}, and finished"
    if not results:
        yield "it is finished, and its result is gone"
        return
    if len(results) > 1:
        yield f"it has {len(results)} results"
    told = kept.record.get("result") or {}
    name = told.get("sha256", "")
    if name not in results:
        yield "its result is not the one that its record names"
        return
    data = (kept.folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != name:
        yield "its result's hash is not its name"
    if told.get("bytes") != len(data) or told.get("key") != f"jobs/{kept.folder.parent.name}/{promise.id}/{name}":
        yield "its record says another size or place of its result"
    yield from _picture(kept, promise, data)


def _picture(kept: Kept, promise: Promise, data: bytes) -> Iterator[str]:
    """The delivered pixels against the stored input."""
    plan, report = kept.record.get("plan", {}), kept.record.get("report") or {}
    if (plan.get("norm"), plan.get("epsilon")) != ("linf", promise.epsilon):
        yield f"{promise.epsilon:g} was asked for, and planned was {plan.get('norm')} {plan.get('epsilon')}"
    try:
        delivered = Image.open(io.BytesIO(data)).convert("RGB")
        original = Image.open(io.BytesIO((kept.folder / "image").read_bytes())).convert("RGB")
    except (OSError, SyntaxError) as error:
        yield f"its result does not open ({error})"
        return
    if delivered.size != original.size:
        yield f"its result is {delivered.size}, and it was {original.size}"
        return
    difference = ImageChops.difference(delivered, original)
    largest = max(difference.tobytes())
    if largest > promise.epsilon:
        yield f"it is over its budget: {largest} > {promise.epsilon:g}"
    if largest == 0:
        yield "nothing in it was changed"
    if report.get("linf_255") != largest:
        yield f"its report says {report.get('linf_255')}, and it is {largest}"
    if (kept.folder / "mask").is_file():
        mask = Image.open(io.BytesIO((kept.folder / "mask").read_bytes())).convert("RGB")
        if ImageChops.multiply(difference, mask).getbbox() is not None:
            yield "what lies under its mask was changed"
