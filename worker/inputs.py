"""What was sent, read from the store and decoded, in the sizes that are made of it."""

from __future__ import annotations

from service.contracts.pictures import read_mask, read_picture
from service.contracts.records import Record, Records, place
from service.contracts.renditions import Rendition, own_sizes, renditions
from service.contracts.resize import resized, resized_mask
from worker.immunization import Item, check


def read_items(records: Records, record: Record, max_pixels: int) -> tuple[tuple[Item, ...], tuple[Rendition, ...]]:
    """An item for each size, the largest first, and which name has which size. Raises what is wrong with the inputs."""
    plan, sent = record.plan, records.store.get
    picture = read_picture(sent(place(record, "image")), max_pixels=max_pixels)
    mask = read_mask(sent(place(record, "mask")), picture.size, max_pixels=max_pixels) if record.mask else None
    target = None
    if plan.target == "image":
        target = read_picture(sent(place(record, "target")), max_pixels=max_pixels, field="target_image").pixels
    items = []
    for size in own_sizes(plan.sizes, picture.size):
        smaller, its_mask = resized(picture, size), None if mask is None else resized_mask(mask, size)
        check(smaller, its_mask, plan)
        items.append(Item(smaller, plan, its_mask, target))
    return tuple(items), renditions(plan.sizes, picture.size)
