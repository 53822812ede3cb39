"""Networks read from files, and a sentence for whatever the libraries raise over files that are damaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from service.contracts.errors import BadField
from worker.models.folders import precise

log = logging.getLogger(__name__)
DAMAGE = (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError)


def network(folder: Path, kind: str) -> Any:
    """A network of diffusers, of the class `kind`, in its file's precision. Raises what `reading` takes care of."""
    import diffusers  # seven seconds, so only when it is needed

    found, told = getattr(diffusers, kind).from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        low_cpu_mem_usage=False,  # that way needs accelerate
        variant=None if any(precise(file) for file in folder.glob("*.safetensors")) else "fp16",
        output_loading_info=True,
    )
    if told["missing_keys"]:  # diffusers leaves these as the memory happened to be
        raise ValueError(f"{folder.name} lacks {', '.join(told['missing_keys'])}")
    return found


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Makes a sentence of whatever the libraries raise over files that are cut off or do not fit together."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except DAMAGE as error:
        log.warning("model %s cannot be read: %s", name, error)
        raise BadField(
            f"models: {name} cannot be read: its files are damaged or do not fit together; fetch them again",
            field="models",
        ) from error
