"""A store made by hand, in which everything is as it should be: what the proof is tried on."""

from __future__ import annotations

import hashlib
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from tests.chaos.ledger import Ledger, Promise
from tests.chaos.outage import StoreFolder
from tests.helpers import png

T0 = datetime(2030, 1, 1, tzinfo=UTC)
MASKED, PLAIN, FAILED, CANCELED = (digit * 32 for digit in "abcd")


def write(path: Path, data: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


class Handmade:
    """A store made by hand, in which everything is as it should be, and the ledger of its promises."""

    def __init__(self, root: Path) -> None:
        self.root, self.ledger = StoreFolder(root).root, Ledger()
        picture = Image.frombytes("RGB", (64, 48), random.Random(1).randbytes(64 * 48 * 3))
        self.picture = picture
        moved = self.moved_by(3)
        mask = Image.new("L", picture.size)
        mask.paste(255, (0, 0, 20, 20))
        half = moved.copy()
        half.paste(picture, (0, 0), mask)
        self._job(MASKED, half, mask=mask)
        self._job(PLAIN, moved)
        self._job(FAILED, None, status="failed", error={"type": "poison", "detail": "two died"}, deaths=2)
        self._job(CANCELED, None, status="canceled")
        self.ledger.ask(CANCELED)
        self.ledger.canceled[CANCELED] = T0 + timedelta(seconds=5)
        (self.home(CANCELED) / "cancel").touch()
        (self.root / "pending" / "public").mkdir(parents=True)

    def moved_by(self, levels: int) -> Image.Image:
        """The picture, so much brighter."""
        return self.picture.point([min(255, value + levels) for value in range(256)] * 3)

    def home(self, job_id: str) -> Path:
        return self.root / "jobs" / "public" / job_id

    def result(self, job_id: str) -> Path:
        return self.home(job_id) / str(self.record(job_id)["result"]["sha256"])

    def record(self, job_id: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.home(job_id) / "job.json").read_text())
        return record

    def change(self, job_id: str, **fields: Any) -> None:
        (self.home(job_id) / "job.json").write_text(json.dumps(self.record(job_id) | fields))

    def deliver(self, job_id: str, data: bytes) -> None:
        """As if this had been the result all along."""
        name = hashlib.sha256(data).hexdigest()
        (self.home(job_id) / name).write_bytes(data)
        place = f"jobs/public/{job_id}/{name}"
        self.change(job_id, result={"key": place, "sha256": name, "bytes": len(data)})

    def redeliver(self, job_id: str, data: bytes) -> None:
        self.result(job_id).unlink()
        self.deliver(job_id, data)

    def _job(self, job_id: str, made: Image.Image | None, *, mask: Image.Image | None = None, **fields: Any) -> None:
        self.home(job_id).mkdir(parents=True)
        (self.home(job_id) / "image").write_bytes(png(self.picture))
        if mask is not None:
            (self.home(job_id) / "mask").write_bytes(png(mask))
        record = {
            "id": job_id,
            "status": "finished",
            "plan": {"norm": "linf", "epsilon": 4.0},
            "mask": mask is not None,
            "ended_at": (T0 + timedelta(seconds=6)).isoformat(),
            "begun": [{"worker": "host-12-aa", "at": T0.isoformat()}],
            "report": {"linf_255": 3} if made else None,
        }
        (self.home(job_id) / "job.json").write_text(json.dumps(record | fields))
        if made is not None:
            self.deliver(job_id, png(made))
        self.ledger.promised(Promise(job_id, 4.0))
