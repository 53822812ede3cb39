"""Memory that runs out, said plainly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from service.contracts.errors import OutOfMemory


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises OutOfMemory where it runs out inside, on a GPU or in the CPU's allocator."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory("the device ran out of memory; send a smaller picture or ask for fewer models") from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise OutOfMemory(
                "the machine ran out of memory; send a smaller picture or ask for fewer models"
            ) from error
        raise
