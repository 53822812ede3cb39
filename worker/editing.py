"""A picture edited as somebody who misuses it would: one prompt, one region, one seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from service.contracts.errors import BadField
from worker.core.view import WorkingSize, resize
from worker.models.abilities import DEFAULT_OPTIONS, EditOptions, Edits


def edit(
    x: Tensor,
    mask: Tensor | None,
    prompt: str,
    model: Any,
    *,
    seed: int | Sequence[int] = 0,
    options: EditOptions = DEFAULT_OPTIONS,
) -> Tensor:
    """What the editor makes of images (N,3,H,W) in [0,1], at their own size; nothing of the originals is put back.

    mask: (N,1,H,W) or (1,1,H,W), 1 where the editor paints; None: everywhere. The model sees the pictures at its
    working size, and its answer is brought back to theirs. seed: one for all, or one per image. Raises BadField for a
    model that does not edit.
    """
    if not isinstance(model, Edits):
        raise BadField(f"models: {getattr(model, 'name', 'this model')} does not edit", field="models")
    height, width = x.shape[-2:]
    view = WorkingSize(getattr(model, "size", None), getattr(model, "multiple", 8))
    seeds = [seed] * len(x) if isinstance(seed, int) else list(seed)
    generators = [torch.Generator().manual_seed(value) for value in seeds]
    region = None if mask is None else view.region(mask).to(x)
    with torch.no_grad():
        seen = view(x).clamp(0, 1)  # a bicubic filter overshoots, and editors take that for another range
        made = model.edit(seen, region, [prompt] * len(x), generators, options)
        down, right = view.shape(height, width)
        made = made[..., :down, :right]
        return made if (down, right) == (height, width) else resize(made, (height, width)).clamp(0, 1)
