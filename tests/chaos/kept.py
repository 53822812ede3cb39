"""Jobs as they lie in the store: read as plain JSON, so that a mistake in the service's reading cannot hide another."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INPUTS = {"image", "mask", "target"}


@dataclass(frozen=True)
class Kept:
    """A job's folder as it lies in the store."""

    folder: Path
    record: dict[str, Any]

    @property
    def others(self) -> set[str]:
        """What lies there beside record and inputs: results, and whatever should not be."""
        return {path.name for path in self.folder.iterdir()} - INPUTS - {"job.json", "cancel"}


def read_jobs(root: Path, ids: Iterable[str] = ("*",)) -> dict[str, Kept]:
    """The jobs of the store whose record can be read, by id; all of them, or those of these ids."""
    found = {}
    for file in (file for job_id in ids for file in root.glob(f"jobs/*/{job_id}/job.json")):
        try:
            record = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            found[file.parent.name] = Kept(file.parent, record)
    return found
