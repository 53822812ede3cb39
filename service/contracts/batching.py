"""What may be optimised together: jobs of one key, which the gateway computes and writes into the job."""

from __future__ import annotations

import hashlib
import json

from service.contracts.delivery import DELIVERY
from service.contracts.plan import Plan
from service.contracts.renditions import own_sizes

OWN = {"seed", "epsilon", *DELIVERY}  # of a plan: what each picture of a batch may have for itself


def batch_key(plan: Plan, size: tuple[int, int], *, mask: bool, target: bytes | None) -> str:
    """16 hexadecimal digits, the same for jobs that one optimisation can take together.

    `size` is width and height in pixels. What counts are the sizes that are made of it, exactly: to pad pictures to a
    common size would change what the model sees of them, and a result must not depend on who else was in the batch.
    Platforms' renditions have few sizes. The encoder attack takes pictures with and without a mask together, the others
    look at the masked region.
    """
    parts = plan.model_dump(mode="json", exclude=OWN) | {"sizes": own_sizes(plan.sizes, size)}
    if plan.method not in {"encoder", "noise"}:
        parts["mask"] = mask
    if target is not None:
        parts["target"] = hashlib.sha256(target).hexdigest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
